"""What was signed, by whom and when, in DSSE envelopes: one a line, the bundle's own first, then its parents'.

DSSE (https://github.com/secure-systems-lab/dsse) signs a payload together with its type, so that a signature for one
purpose is none for another, and lets bytes be verified before they are parsed. It is the envelope of in-toto, sigstore
and OpenSSF's model signing; several in one file are in-toto's attestation bundle (JSON Lines).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec

from edgeplast.documents import Document
from edgeplast.errors import DamagedError, InputError
from edgeplast.files import write_bytes
from edgeplast.printable import printable
from edgeplast.stamps import opened, read_up_to, shortened
from edgeplast.stored_files import StoredFile, signatures_beside
from edgeplast.trust.keys import PrivateKey

MOST_LINES = 64
"""Generations of a chain; what is older is left out."""

_PAYLOAD_TYPE = "application/vnd.edgeplast.signature.v1+json"
_MOST_BYTES = 128 << 10

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Statement(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a signature says.

    Attributes:
        subject: ``bundle``, whose manifest holds size and hash of every file; or ``model``, one deployed file.
        file: the manifest, or the deployed file.
        report: of an adaptation, where there is one beside the manifest.
        parent: SHA-256 of the manifest of the bundle that this was adapted, or deployed, from.
        key_id: of the key that signed.
        signed_at: when, by the clock of who signed, but never before the parent.
        expires_at: until when it holds.
    """

    KIND: ClassVar[str] = "signature"
    MOST_BYTES: ClassVar[int] = 8 << 10

    subject: Literal["bundle", "model"]
    file: StoredFile
    report: StoredFile | None = None
    parent: str | None = None
    key_id: str
    signed_at: Moment
    expires_at: Moment | None = None


class Mark(msgspec.Struct, frozen=True):
    """One signature of an envelope."""

    keyid: str
    sig: bytes


class Envelope(msgspec.Struct, frozen=True):
    """A payload and its signatures, as DSSE 1.0 writes them; bytes are base64."""

    payload: bytes
    payloadType: str  # noqa: N815
    signatures: tuple[Mark, ...]

    @classmethod
    def over(cls, statement: Statement, key: PrivateKey) -> Envelope:
        """Sign a statement."""
        payload = msgspec.json.encode(statement)
        return cls(payload, _PAYLOAD_TYPE, (Mark(key.public.id, key.sign(_signed_bytes(payload))),))

    @property
    def signed(self) -> bytes:
        """What its signatures are over: type and payload, each with its length before it."""
        return _signed_bytes(self.payload)

    def statement(self, where: str) -> Statement:
        """Decode the payload, once it is verified.

        Raises:
            DamagedError: it is none, or of a newer format.
        """
        try:
            found = Statement.from_json(self.payload, where=where)
        except InputError as error:
            raise DamagedError(str(error)) from error
        if found.key_id != self.signatures[0].keyid:
            raise DamagedError(f"{where} names two keys, {found.key_id} and {printable(self.signatures[0].keyid)}.")
        return found


def _signed_bytes(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def read_envelopes(path: Path) -> tuple[Envelope, ...]:
    """Read the signatures of a bundle's folder or of a deployed file; none where there is no such file.

    Nothing in them is verified.

    Raises:
        DamagedError: the file holds something else.
    """
    place = signatures_beside(path)
    try:
        with opened(place) as file:
            data = read_up_to(file, _MOST_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DamagedError(f"The signatures {shortened(place)} cannot be read: {error.strerror}.") from error
    lines = data.splitlines()
    if len(data) > _MOST_BYTES or len(lines) > MOST_LINES:
        raise DamagedError(f"{shortened(place)} is larger than signatures are. Copy it again, or sign again.")
    try:
        found = tuple(msgspec.json.decode(line, type=Envelope) for line in lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(
            f"{shortened(place)} holds no signatures: {str(error)[:200]}. Copy it again, or sign again."
        ) from error
    for envelope in found:
        if (
            envelope.payloadType != _PAYLOAD_TYPE
            or len(envelope.signatures) != 1
            or len(envelope.signatures[0].sig) != 64
        ):
            raise DamagedError(
                f"{shortened(place)} holds a signature of another kind ({printable(envelope.payloadType[:100])}); "
                f"edgeplast's are {_PAYLOAD_TYPE}, each with one Ed25519 signature."
            )
    return found


def write_envelopes(path: Path, envelopes: tuple[Envelope, ...]) -> None:
    """Write the signatures of a bundle's folder, or of a deployed file; the oldest are dropped where they are many."""
    write_bytes(signatures_beside(path), b"".join(msgspec.json.encode(e) + b"\n" for e in envelopes[:MOST_LINES]))
