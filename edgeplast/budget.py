"""What the device allows: memory, and if wanted time per step and disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgeplast.documents import Whole
from edgeplast.errors import UsageError
from edgeplast.units import format_bytes, parse_bytes


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits for one device process: ``Budget("256MiB")``.

    Bytes may be given as a text, in the units of the command line; they are numbers from then on.

    Attributes:
        memory_bytes: peak resident set of the whole process: interpreter, libraries, loading,
            training and checkpoint writing included. None: no limit.
        step_seconds: wanted time of one optimizer step. None: no limit.
        disk_bytes: size of the bundle on disk. None: no limit.
    """

    memory_bytes: Whole | None = None
    step_seconds: float | None = None
    disk_bytes: Whole | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            memory_bytes: int | str | None = None,
            step_seconds: float | None = None,
            disk_bytes: int | str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "disk_bytes"):
            given: object = getattr(self, name)
            if isinstance(given, str):
                msgspec.structs.force_setattr(self, name, parse_bytes(given))
        for name in ("memory_bytes", "step_seconds", "disk_bytes"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise UsageError(f"A budget's {name} must be positive; {limit} was given.")

    def __str__(self) -> str:
        parts = [] if self.memory_bytes is None else [f"{format_bytes(self.memory_bytes)} of memory"]
        if self.step_seconds is not None:
            parts.append(f"{self.step_seconds:g} s a step")
        if self.disk_bytes is not None:
            parts.append(f"{format_bytes(self.disk_bytes)} on disk")
        return ", ".join(parts) or "no limit"
