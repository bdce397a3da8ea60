"""Ed25519 keys in PEM files, as ``openssl genpkey -algorithm ed25519`` writes them (RFC 8410)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeplast.errors import InputError, MissingExtraError, UsageError
from edgeplast.files import disk_errors, make_parent, possible, sync_folder
from edgeplast.stamps import shortened

PUBLIC, PRIVATE = ".pub", ".key"

_SEED_BYTES, _PUBLIC_BYTES = 32, 32
_PRIVATE_HEADER = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC_HEADER = bytes.fromhex("302a300506032b6570032100")
_MOST_BYTES = 64 << 10
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s+([A-Za-z0-9+/=\s]*?)-----END \1-----")


@dataclass(frozen=True)
class PublicKey:
    """What verifies signatures.

    Attributes:
        raw: 32 bytes.
        name: of the file that it was read from, for messages.
    """

    raw: bytes
    name: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of its DER form (``openssl pkey -pubin -outform der | sha256sum``)."""
        return hashlib.sha256(_PUBLIC_HEADER + self.raw).hexdigest()[:16]

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether a signature of 64 bytes over a message was made by the other half of this key.

        Raises:
            MissingExtraError: PyNaCl is not installed.
        """
        nacl = signing_library()
        try:
            nacl.signing.VerifyKey(self.raw).verify(message, signature)
        except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id


@dataclass(frozen=True)
class PrivateKey:
    """What signs; its secret is neither shown nor compared.

    Attributes:
        seed: 32 bytes.
        public: its other half.
    """

    seed: bytes = field(repr=False, compare=False)
    public: PublicKey

    @classmethod
    def of(cls, seed: bytes, name: str = "") -> PrivateKey:
        """Return the key that a seed of 32 bytes makes.

        Raises:
            MissingExtraError: PyNaCl is not installed.
        """
        return cls(seed, PublicKey(bytes(signing_library().signing.SigningKey(seed).verify_key), name))

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return bytes(signing_library().signing.SigningKey(self.seed).sign(message).signature)


def signing_library() -> Any:
    """Import PyNaCl, libsodium's Python package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import nacl.exceptions
        import nacl.signing
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "Signatures need PyNaCl, which is not installed. Install it: pip install 'edgeplast[signing]'"
        ) from error
    return nacl


def keygen(into: str | Path) -> PublicKey:
    """Make a key: ``NAME.key``, which signs and which its owner alone may read, and ``NAME.pub``, which verifies.

    Args:
        into: path and name of both, without ending.

    Returns:
        the public half.

    Raises:
        UsageError: one of the files is there; a key is never overwritten.
        MissingExtraError: PyNaCl is not installed.
    """
    private, public = key_files(into)
    for path in (private, public):
        if os.path.lexists(path):
            raise UsageError(
                f"{path} exists already, and a key is never overwritten: what it signed could not be signed again. "
                "Choose another name, or move it away."
            )
    key = PrivateKey.of(os.urandom(_SEED_BYTES), private.name)
    with disk_errors(private):
        make_parent(private)
        _create(private, _pem("PRIVATE KEY", _PRIVATE_HEADER + key.seed), 0o600)
        try:
            _create(public, _pem("PUBLIC KEY", _PUBLIC_HEADER + key.public.raw), 0o644)
        except BaseException:
            private.unlink()
            raise
        sync_folder(private.parent)
    return replace(key.public, name=public.name)


def key_files(name: str | Path) -> tuple[Path, Path]:
    """Return where :func:`keygen` writes the private and the public half."""
    base = possible(name)
    if base.suffix in (PUBLIC, PRIVATE):
        base = base.with_suffix("")
    return possible(base.with_name(base.name + PRIVATE)), possible(base.with_name(base.name + PUBLIC))


def read_private(path: str | Path) -> PrivateKey:
    """Read a private key, if its owner alone may.

    Raises:
        InputError: there is no such key, or it is of another kind.
        UsageError: others may read it.
        MissingExtraError: PyNaCl is not installed.
    """
    path = possible(path)
    data, mode = _read(path)
    if os.name == "posix" and mode & 0o077:
        raise UsageError(
            f"{path} is a private key that others may read or write (mode {mode & 0o777:o}). Make it its owner's "
            f"alone: chmod 600 {path}. If someone may have read it, make a new one and revoke this one."
        )
    kinds = dict(_blocks(data))
    if "ENCRYPTED PRIVATE KEY" in kinds:
        raise InputError(
            f"{path} is encrypted, which is not supported. Decrypt it for the time of signing: "
            f"openssl pkey -in {path} -out plain.key && chmod 600 plain.key"
        )
    content = kinds.get("PRIVATE KEY", b"")
    if len(content) != len(_PRIVATE_HEADER) + _SEED_BYTES or not content.startswith(_PRIVATE_HEADER):
        half = " It holds a public key, which verifies; the other half signs." if "PUBLIC KEY" in kinds else ""
        raise InputError(f"{path} is no private Ed25519 key in PEM.{half} Make a pair: edgeplast keygen NAME")
    return PrivateKey.of(content[len(_PRIVATE_HEADER) :], path.name)


def read_public(path: Path) -> tuple[PublicKey, ...]:
    """Read all public keys of a file.

    Raises:
        InputError: there is no such file, it holds none or others, or anyone may write it.
    """
    data, mode = _read(path)
    refuse_writable(path, mode)
    blocks = _blocks(data)
    keys = [
        PublicKey(content[len(_PUBLIC_HEADER) :], path.name)
        for kind, content in blocks
        if kind == "PUBLIC KEY"
        and content.startswith(_PUBLIC_HEADER)
        and len(content) == len(_PUBLIC_HEADER) + _PUBLIC_BYTES
    ]
    if any(kind.endswith("PRIVATE KEY") for kind, _ in blocks):
        raise InputError(
            f"{path} holds a private key. Whoever has that can sign; trust its public half, NAME{PUBLIC}, and keep "
            "this one off the device."
        )
    if not keys or len(keys) < len(blocks):
        raise InputError(f"{path} is no public Ed25519 key in PEM. Make a pair: edgeplast keygen NAME")
    return tuple(keys)


def refuse_writable(path: Path, mode: int) -> None:
    """Raise where anyone may write what decides whom to trust.

    Raises:
        InputError: anyone may.
    """
    if os.name == "posix" and mode & 0o002:
        raise InputError(f"Anyone may write {path}, and so decide whom to trust. Change that: chmod o-w {path}")


def _read(path: Path) -> tuple[bytes, int]:
    """Return what a file holds, and who may read and write it."""
    try:
        with path.open("rb") as file:
            data, mode = file.read(_MOST_BYTES + 1), os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Cannot read the key {shortened(path)}: {reason}.") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{shortened(path)} is larger than 64 KiB, which no key is.")
    return data, mode


def _blocks(data: bytes) -> list[tuple[str, bytes]]:
    """Return the blocks of a PEM file, each with its kind; one that is no base64 is empty."""
    found = []
    for kind, text in _BLOCK.findall(data):
        try:
            content = base64.b64decode(b"".join(text.split()), validate=True)
        except ValueError:
            content = b""
        found.append((kind.decode(), content))
    return found


def _pem(kind: str, content: bytes) -> bytes:
    return f"-----BEGIN {kind}-----\n{base64.b64encode(content).decode()}\n-----END {kind}-----\n".encode()


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a file that was not there, from its first byte on only for those who may read it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
