"""Small frozen records that read and write their own JSON file with a ``format_version``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import msgspec

from edgeplast.errors import EdgeplastError, InputError
from edgeplast.files import possible, write_bytes
from edgeplast.stamps import shortened
from edgeplast.units import format_bytes

D = TypeVar("D", bound="Document")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""How many, or how many bytes: nothing below zero, nor more than JSON's numbers carry exactly."""

Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""The same, where the record itself says what is allowed."""

AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
"""A size that cannot be zero."""

ENVELOPE = ("kind", "output")
"""What ``--json`` prints beside a record's own fields."""

_LONGEST_REASON = 500


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the nouns that live in a file of their own.

    Subclasses set ``KIND`` (the word used in messages), ``FORMAT`` (the version they write), ``OLD`` where an older
    format cannot be read (what to do then), and ``MOST_BYTES`` where they are larger than other records.
    """

    KIND: ClassVar[str] = "document"
    FORMAT: ClassVar[int] = 1
    OLD: ClassVar[str] = ""
    MOST_BYTES: ClassVar[int] = 16 << 20
    format_version: int = 1

    def write(self, path: str | Path) -> None:
        """Write this record as indented JSON, whole or not at all."""
        write_bytes(possible(path), self.to_json())

    def to_json(self) -> bytes:
        """Return this record as indented JSON with a final newline."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def read(cls: type[D], path: str | Path) -> D:
        """Read and check a record.

        Raises:
            InputError: the file is missing, larger than such a record can be, of a newer format, or not what its type
                says.
        """
        return cls.from_json(cls.read_bytes(Path(path)), where=str(path))

    @classmethod
    def read_bytes(cls, path: Path) -> bytes:
        """Read a record's file, unless it is too large: parsed, it would take many times its size.

        Raises:
            InputError: the file is missing or too large.
        """
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                # Not of the largest size: room for what is asked for is made first, and a budget may have none.
                data = file.read(size + 1) if size <= cls.MOST_BYTES else b""
        except (OSError, ValueError) as error:  # the latter for a zero byte in the name
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"Cannot read the {cls.KIND} {shortened(path)}: {reason}.") from error
        cls._check_size(max(size, len(data)), str(path))
        return data

    @classmethod
    def _check_size(cls, size: int, where: str) -> None:
        if size > cls.MOST_BYTES:
            raise InputError(
                f"{where} has {format_bytes(size)}; a {cls.KIND} has {format_bytes(cls.MOST_BYTES)} at most, and this "
                "one was not read. Copy it again from where it was made, or make it again."
            )

    @classmethod
    def from_json(cls: type[D], data: bytes, *, where: str) -> D:
        """Decode and check a record; ``where`` names its source in messages.

        Raises:
            InputError: see :meth:`read`.
        """
        cls._check_size(len(data), where)
        version = 0
        try:
            head = msgspec.json.decode(data, type=_Versioned)
            version = head.format_version
            if head.kind:  # saved from what a command printed
                fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
                data = msgspec.json.encode({k: v for k, v in fields.items() if k not in ENVELOPE})
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # what is wrong is said below
        if version > cls.FORMAT:
            raise InputError(
                f"The {cls.KIND} {where} has format {version}; this edgeplast reads up to {cls.FORMAT}. "
                "Upgrade with: pip install --upgrade edgeplast"
            )
        if cls.OLD and 0 < version < cls.FORMAT:
            raise InputError(
                f"The {cls.KIND} {where} has format {version}; this edgeplast reads {cls.FORMAT}. {cls.OLD}"
            )
        try:  # into its type at once: a mapping of anything would hold whatever a stranger nested in it
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, EdgeplastError) as error:
            raise cls._invalid(where, error) from error  # EdgeplastError: from a record's own checks

    @classmethod
    def _invalid(cls, where: str, error: Exception) -> InputError:
        reason = str(error).rstrip(".")
        if len(reason) > _LONGEST_REASON:  # it quotes the file
            reason = f"{reason[:_LONGEST_REASON]}…"
        return InputError(f"{where} is not a valid {cls.KIND}: {reason}.")


class _Versioned(msgspec.Struct):
    """The one field that every format has, and what ``--json`` puts beside it; all others are passed over."""

    format_version: int = 0
    kind: str = ""
