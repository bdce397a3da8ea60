"""Whom a device believes: public keys, what of theirs was revoked, and what a signature is worth at this moment."""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from edgeplast.errors import DamagedError, FallbackWarning, InputError, UntrustedError
from edgeplast.files import possible
from edgeplast.stamps import Stamp, hashed, kind_at, opened, shortened, stamp_of
from edgeplast.stored_files import signatures_beside
from edgeplast.trust.keys import PublicKey, read_public, refuse_writable, signing_library
from edgeplast.trust.signatures import Envelope, Statement, read_envelopes

REVOKED = "revoked.txt"
"""In a folder of keys: a line for each key (its id) or bundle (its fingerprint) that is trusted no more, then why."""

_KEY_FILES = (".pub", ".pem")
_MOST_REVOKED_BYTES = 1 << 20
_REVOKED_LINE = re.compile(r"([0-9a-f]{16}|[0-9a-f]{64})(?:\s+(.*))?")
_CLOCK_SECONDS = 24 * 3600.0
"""By how much two clocks may differ before it is worth a word."""


@dataclass(frozen=True)
class Link:
    """One generation of a chain.

    Attributes:
        fingerprint: SHA-256 of the bundle's manifest (of a deployed model: of the file).
        key_id: of the key that says to have signed it.
        signed_at: when, as it says.
        expires_at: until when that holds.
        verified_by: the trusted key that did; empty for an ancestor whose key is not trusted here, of which only the
            hash is known for sure.
    """

    fingerprint: str
    key_id: str
    signed_at: datetime
    expires_at: datetime | None
    verified_by: str = ""


@dataclass(frozen=True)
class Signature:
    """A verified signature, and those of what the bundle was made from.

    Attributes:
        statement: what was signed.
        key: who signed.
        chain: the bundle itself, then its parent, and so on as far as signatures lead.
        beyond: fingerprint of the parent of the last one, of which nothing else is known; None for none.
    """

    statement: Statement
    key: PublicKey
    chain: tuple[Link, ...]
    beyond: str | None = None


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys, each good for any bundle and any deployed model.

    Attributes:
        keys: of whom signatures are accepted.
        source: where they come from, for messages.
        revoked: key ids and fingerprints that are not accepted, and why.
        clock: seconds since 1970.
    """

    keys: tuple[PublicKey, ...]
    source: str
    revoked: dict[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.time

    @classmethod
    def read(cls, path: str | Path) -> TrustedKeys:
        """Read a file with one or several public keys, or a folder of such files (``*.pub``, ``*.pem``).

        A folder may hold ``revoked.txt``.

        Raises:
            InputError: there is nothing, no key in it, something that is none, or anyone may write it.
            MissingExtraError: PyNaCl is not installed.
        """
        signing_library()  # rather now than after a bundle of gigabytes was looked at
        path = possible(path)
        if kind_at(path) != "folder":
            return cls(read_public(path), str(path))
        refuse_writable(path, path.stat().st_mode)
        files = sorted(
            entry for entry in path.iterdir() if entry.suffix in _KEY_FILES and not entry.name.startswith(".")
        )
        keys = tuple(key for file in files for key in read_public(file))
        if not keys:
            raise InputError(
                f"There is no public key in {path} (NAME.pub or NAME.pem). Make a pair: edgeplast keygen NAME"
            )
        return cls(keys, str(path), _revoked(path / REVOKED))

    def including(self, key: PublicKey) -> TrustedKeys:
        """Return these and one more: a device's own, for what it wrote itself."""
        return replace(self, keys=(*self.keys, key))

    def check_bundle(self, folder: Path, manifest: bytes) -> Signature:
        """Verify that a manifest, read and not yet parsed, was signed by someone who is trusted.

        Args:
            folder: of the bundle.
            manifest: content of its ``bundle.json``.

        Raises:
            UntrustedError: it was not, or no longer counts; or it was changed since.
            DamagedError: there is something else where signatures should be.
        """
        found = self._verified(folder, "bundle")
        size, digest = len(manifest), hashlib.sha256(manifest).hexdigest()
        if (found.statement.file.bytes, found.statement.file.sha256) != (size, digest):
            raise UntrustedError(
                f"{folder / 'bundle.json'} is not what {found.key} signed on {_day(found.statement.signed_at)}: it was "
                "changed, or the signature is another bundle's. Nothing of it was read. Copy the bundle again."
            )
        return found

    def check_model(self, named: Path, file: Path | None = None) -> tuple[Signature, Stamp]:
        """Verify that a deployed file was signed by someone who is trusted.

        Args:
            named: the file; its signatures lie beside it.
            file: what is read, where ``named`` is a link to it.

        Returns:
            who signed, and the stamp of the file that was hashed, to be compared once it is open.

        Raises:
            UntrustedError: it was not, or no longer counts; or it was changed since.
            DamagedError: there is something else where signatures should be.
        """
        file = file or named
        found = self._verified(named, "model")
        try:
            with opened(file) as content:
                stamp, size = stamp_of(content), os.fstat(content.fileno()).st_size
                same = size == found.statement.file.bytes and hashed(content) == found.statement.file.sha256
                same = same and stamp_of(content) == stamp
        except OSError as error:
            raise InputError(f"The model {shortened(file)} cannot be read: {error.strerror}.") from error
        if not same or stamp is None:
            raise UntrustedError(
                f"{file} is not what {found.key} signed on {_day(found.statement.signed_at)}: it was changed. It was "
                "not opened. Copy it again, or deploy it again."
            )
        return found, stamp

    def _verified(self, path: Path, subject: str) -> Signature:
        envelopes = read_envelopes(path)
        if not envelopes:
            how = f"edgeplast sign {shortened(path)} --key NAME.key"
            raise UntrustedError(
                f"{shortened(path)} is not signed (there is no {signatures_beside(path).name}), and only what a key of "
                f"{self.source} signed is trusted. Nothing of it was read. Sign it where it was made: {how}"
            )
        key = self._signer(envelopes[0], path)
        where = f"The signature of {shortened(path)}"
        statement = envelopes[0].statement(where)
        if statement.subject != subject:
            raise UntrustedError(
                f"{where} is one of a {statement.subject}, not of a {subject}. Sign it: edgeplast sign"
            )
        found = self._followed(statement, key, envelopes, where)
        self._check_revoked(found, path)
        self._check_time(statement, key, path)
        return found

    def _signer(self, envelope: Envelope, path: Path) -> PublicKey:
        """Return the trusted key whose signature an envelope bears."""
        key_id = envelope.signatures[0].keyid
        candidates = [key for key in self.keys if key.id == key_id]
        for key in candidates:
            if key.verifies(envelope.signed, envelope.signatures[0].sig):
                return key
        if candidates:
            raise UntrustedError(
                f"The signature of {shortened(path)} is not one of {candidates[0]}: it, or what it says, was changed. "
                "Nothing of it was read. Copy it again from where it was made."
            )
        raise UntrustedError(
            f"{shortened(path)} says to be signed by the key {key_id[:80]}, which is not trusted. Nothing of it was "
            f"read. Trusted are those of {self.source}: {', '.join(map(str, self.keys[:8]))}. If you know that key, "
            "put its public half there."
        )

    def _followed(self, own: Statement, key: PublicKey, envelopes: tuple[Envelope, ...], where: str) -> Signature:
        """Follow parents as far as signatures lead."""
        links, parent = [_link(own, key)], own.parent
        for envelope in envelopes[1:]:
            statement = envelope.statement(f"{where}, generation {len(links)},")
            if statement.file.sha256 != parent:
                raise DamagedError(f"{where} has a chain that is broken: line {len(links) + 1} is not its parent's.")
            by = next((k for k in self.keys if k.id == statement.key_id), None)
            if by is not None and not by.verifies(envelope.signed, envelope.signatures[0].sig):
                raise UntrustedError(f"{where} has a chain that was changed: line {len(links) + 1} is not {by}'s.")
            links.append(_link(statement, by))
            parent = statement.parent
        return Signature(own, key, tuple(links), parent)

    def _check_revoked(self, found: Signature, path: Path) -> None:
        """Refuse what a revoked key signed, and whatever was made from a revoked bundle."""
        key = found.key
        if key.id in self.revoked:
            raise UntrustedError(
                f"{shortened(path)} is signed by {key}, which was revoked{_reason(self.revoked[key.id])}. Take one "
                "that another key signed."
            )
        own, *ancestors = [*(link.fingerprint for link in found.chain), found.beyond]
        for fingerprint in (own, *ancestors):
            if fingerprint is not None and fingerprint in self.revoked:
                what = "was revoked" if fingerprint == own else f"was made from {fingerprint[:16]}…, which was revoked"
                raise UntrustedError(f"{shortened(path)} {what}{_reason(self.revoked[fingerprint])}. Take a newer one.")

    def _check_time(self, statement: Statement, key: PublicKey, path: Path) -> None:
        """Refuse what has expired; a clock that is behind the signature itself cannot tell, and that is said."""
        now, signed = self.clock(), statement.signed_at.timestamp()
        if now < signed - _CLOCK_SECONDS:
            until = (
                ""
                if statement.expires_at is None
                else f"; whether it has expired ({_day(statement.expires_at)}) cannot be told"
            )
            warnings.warn(
                f"this machine's clock says {_day(_moment(now))}, which is before {shortened(path)} was signed "
                f"({_day(statement.signed_at)}){until}. Set the clock.",
                FallbackWarning,
                stacklevel=2,
            )
        if statement.expires_at is not None and max(now, signed) > statement.expires_at.timestamp():
            raise UntrustedError(
                f"The signature of {shortened(path)} by {key} expired on {_day(statement.expires_at)}, and this "
                f"machine's clock says {_day(_moment(now))}. Take a newer bundle, let it be signed again, or set the "
                "clock if it is wrong."
            )


Trusted = TrustedKeys | str | Path | None
"""Keys as a verb takes them: opened, or the file or folder where they lie; None asks for no signature."""


def trusted_keys(given: Trusted) -> TrustedKeys | None:
    """Return keys as a verb takes them: opened, or where they lie."""
    return given if given is None or isinstance(given, TrustedKeys) else TrustedKeys.read(given)


def _revoked(path: Path) -> dict[str, str]:
    """Read a list of what is trusted no more; one that cannot be understood is no reason to trust."""
    if not os.path.lexists(path):
        return {}
    try:
        with path.open("rb") as file:
            refuse_writable(path, os.fstat(file.fileno()).st_mode)
            data = file.read(_MOST_REVOKED_BYTES + 1)
        lines = data.decode().splitlines() if len(data) <= _MOST_REVOKED_BYTES else None
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    if lines is None:
        raise InputError(f"{path} is larger than 1 MiB. Take out what no device has any more.")
    found = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        match = _REVOKED_LINE.fullmatch(text)
        if match is None:
            raise InputError(
                f"Line {number} of {path} is {text[:80]!r}. A line is a key's id (16 hex digits) or a bundle's "
                "fingerprint (64), then a reason."
            )
        found[match[1]] = match[2] or ""
    return found


def _link(statement: Statement, key: PublicKey | None) -> Link:
    by = "" if key is None else str(key)
    return Link(statement.file.sha256, statement.key_id, statement.signed_at, statement.expires_at, by)


def _reason(text: str) -> str:
    return f" ({text})" if text else ""


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d}"
