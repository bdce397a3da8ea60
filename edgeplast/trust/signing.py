"""The verbs ``sign`` and ``verify``, and how what a device has learned gets its own signature."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from edgeplast.bundle import MANIFEST, REPORT, Bundle
from edgeplast.errors import DamagedError, UntrustedError, UsageError
from edgeplast.external_data import check_external_files
from edgeplast.progress import Progress, silent
from edgeplast.stamps import kind_at, shortened
from edgeplast.stored_files import StoredFile, describe_file, signatures_beside
from edgeplast.trust.keys import PrivateKey, read_private
from edgeplast.trust.signatures import Envelope, Statement, read_envelopes, write_envelopes
from edgeplast.trust.trusting import Signature, TrustedKeys

Seal = Callable[[Path], None]
"""Signs a bundle's folder, or a deployed file, that was made from a bundle."""

_MOST_DAYS = 36_525.0


@dataclass(frozen=True)
class Signer:
    """A key, and how long its signatures hold.

    Attributes:
        key: that signs.
        valid_days: after which a signature expires; None: never.
        clock: seconds since 1970.
    """

    key: PrivateKey
    valid_days: float | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if self.valid_days is not None and not 0 < self.valid_days <= _MOST_DAYS:
            raise UsageError(f"A signature is valid for up to {_MOST_DAYS:,.0f} days, not for {self.valid_days:g}.")

    def sealing(self, bundle: Bundle, *, again: bool = False, at: Path | None = None) -> Seal:
        """Return what signs the folder of a bundle that is adapted from another, or a model deployed from it.

        Args:
            bundle: that other.
            again: the folder is a later version of the bundle itself, and has the same parent.
            at: where the signatures of the bundle lie; by default in its folder.

        Raises:
            DamagedError: they are not its own: a chain with them would be broken.
        """
        parent, ancestors = bundle.fingerprint, ancestors_of(bundle, at)
        if again:
            parent, ancestors = bundle.manifest.adapted_from or parent, ancestors[1:]

        def seal(path: Path) -> None:
            signed = self.sign_bundle if path.is_dir() else self.sign_model
            signed(path, parent, ancestors)

        return seal

    def sign_bundle(self, folder: Path, parent: str | None, ancestors: tuple[Envelope, ...]) -> None:
        """Sign a bundle's folder as it lies there, its report included; what signed it before is replaced.

        Args:
            folder: with its manifest.
            parent: SHA-256 of the manifest of the bundle that it was adapted from.
            ancestors: signatures of that, then of what that was adapted from; see :func:`ancestors_of`.
        """
        report = describe_file(folder / REPORT) if (folder / REPORT).is_file() else None
        self._write(folder, "bundle", folder / MANIFEST, parent, ancestors, report)

    def sign_model(self, file: Path, parent: str | None, ancestors: tuple[Envelope, ...]) -> None:
        """Sign a deployed file; arguments as of :meth:`sign_bundle`."""
        self._write(file, "model", file, parent, ancestors, None)

    def _write(
        self,
        path: Path,
        subject: Literal["bundle", "model"],
        file: Path,
        parent: str | None,
        ancestors: tuple[Envelope, ...],
        report: StoredFile | None,
    ) -> None:
        now = datetime.fromtimestamp(int(self.clock()), timezone.utc)
        if ancestors:  # a device without a clock signs in 1970; its work is no older than what it began with
            now = max(now, ancestors[0].statement("The signature of its parent").signed_at)
        statement = Statement(
            subject=subject,
            file=describe_file(file),
            report=report,
            parent=parent,
            key_id=self.key.public.id,
            signed_at=now,
            expires_at=None if self.valid_days is None else now + timedelta(days=self.valid_days),
        )
        write_envelopes(path, (Envelope.over(statement, self.key), *ancestors))


Signs = Signer | PrivateKey | str | Path | None
"""A private key as a verb takes it: opened, or its file; None signs nothing."""


@dataclass(frozen=True)
class Verification:
    """What was verified.

    Attributes:
        path: as it was given.
        fingerprint: SHA-256 of the bundle's manifest, or of the deployed file.
        signature: who signed, when, and what it was made from.
        files: how many were hashed, and
        bytes: of what size.
        report: whether the report of an adaptation was signed with it; None where there is none.
    """

    path: Path
    fingerprint: str
    signature: Signature
    files: int
    bytes: int
    report: bool | None = None


def sign(
    path: Bundle | str | Path,
    key: Signer | PrivateKey | str | Path,
    *,
    valid_days: float | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> None:
    """Sign a bundle, whose files are checked against its manifest first, or a deployed model.

    Args:
        path: a bundle or its folder, or the ONNX file of a deployed model.
        key: a private key, or its file.
        valid_days: after which the signature expires; None: never.
        force: sign again what is signed; who signed what it was made from stays.
        progress: told of bytes that are verified.

    Raises:
        UsageError: it is signed already, or the key's file may be read by others.
        InputError: there is nothing, or the model reads weights from other files, which no signature would cover.
        DamagedError: the bundle is damaged.
        MissingExtraError: PyNaCl is not installed.
    """
    signer = signer_of(key, valid_days)
    bundle = path if isinstance(path, Bundle) else None
    place = path.path if isinstance(path, Bundle) else Path(path)
    model = bundle is None and kind_at(place) == "file"
    if model:
        check_external_files(place)
    else:
        bundle = bundle or Bundle.open(place, progress=progress)
    if signatures_beside(place).exists() and not force:
        raise UsageError(f"{shortened(place)} is signed already. Sign it again with --force (force=True).")
    parent = None if bundle is None else bundle.manifest.adapted_from
    ancestors: tuple[Envelope, ...] = ()
    if before := read_envelopes(place):
        statement = before[0].statement(f"The signature of {shortened(place)}")
        if statement.file == describe_file(place if model else place / MANIFEST):
            parent, ancestors = statement.parent, before[1:]
    if model:
        signer.sign_model(place, parent, ancestors)
    else:
        signer.sign_bundle(place, parent, ancestors)


def verify(path: str | Path, trusted: TrustedKeys | str | Path, *, progress: Progress = silent) -> Verification:
    """Verify that a trusted key signed a bundle or a deployed model, and hash every file of it.

    Args:
        path: a bundle's folder, or the ONNX file of a deployed model.
        trusted: public keys: a file, or a folder of such files.
        progress: told of bytes that are hashed.

    Raises:
        UntrustedError: none did, the signature no longer holds, or something was changed.
        DamagedError: a file of the bundle is missing or was changed.
        InputError: there is nothing, or no key.
        MissingExtraError: PyNaCl is not installed.
    """
    keys, path = TrustedKeys.read(trusted) if not isinstance(trusted, TrustedKeys) else trusted, Path(path)
    if kind_at(path) == "file":
        signature, stamp = keys.check_model(path)
        return Verification(path, signature.statement.file.sha256, signature, 1, stamp.bytes)
    bundle = Bundle.open(path, trusted=keys, progress=progress)
    assert bundle.signature is not None
    stated, there = bundle.signature.statement.report, kind_at(path / REPORT) == "file"
    if stated is not None and not (there and describe_file(path / REPORT) == stated):
        raise UntrustedError(f"{path / REPORT} is not the one that was signed. The bundle itself is what it was.")
    files = bundle.manifest.files
    size = sum(file.bytes for file in files.values()) + bundle.signature.statement.file.bytes
    signed_report = stated is not None if there else None
    return Verification(path, bundle.fingerprint, bundle.signature, len(files) + 1, size, signed_report)


def signer_of(key: Signer | PrivateKey | str | Path, valid_days: float | None = None) -> Signer:
    """Return who signs, from what a verb was given.

    Raises:
        UsageError: others may read the key, or no signature can hold for so long.
        InputError: there is no such key.
        MissingExtraError: PyNaCl is not installed.
    """
    if isinstance(key, Signer):
        return key
    return Signer(key if isinstance(key, PrivateKey) else read_private(key), valid_days)


def ancestors_of(bundle: Bundle, at: Path | None = None) -> tuple[Envelope, ...]:
    """Return a bundle's signatures, which become those of the parent of what is made from it.

    Args:
        bundle: opened.
        at: where its signatures lie; by default in its folder.

    Raises:
        DamagedError: they are not its own.
    """
    found = read_envelopes(at or bundle.path)
    if found and found[0].statement(f"The signature of {bundle.path}").file.sha256 != bundle.fingerprint:
        raise DamagedError(
            f"{signatures_beside(at or bundle.path)} is not the signature of that bundle, so that nothing made from it "
            "could be traced. Copy the bundle again, or sign it again."
        )
    return found
