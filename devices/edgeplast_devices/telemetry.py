"""Telemetry of a run: ``telemetry.jsonl``, one line a step, to follow while it runs and to draw afterwards.

Lines have a ``kind``: ``run`` (the head, again after each resumption), ``step``, ``rung`` (a change of rung),
``epoch``. Bytes, seconds and degrees Celsius; a figure that the machine does not show is null.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from edgeplast.adaptation import TELEMETRY
from edgeplast.files import disk_errors, write_bytes

_THERMALS_EVERY_SECONDS = 5.0


class Telemetry:
    """Appends lines to a file; each is handed to the system as it is made.

    Args:
        folder: of the run.
        read_thermals: gives temperature, power and throttling as a mapping; asked every five seconds at most.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        read_thermals: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = folder / TELEMETRY
        self._file: BinaryIO = self.path.open("ab", buffering=0)
        self._read_thermals, self._clock = read_thermals, clock
        self._thermals: Mapping[str, Any] = {}
        self._thermals_at = float("-inf")

    def step(self, **figures: Any) -> None:
        """Write one line on an optimizer step, with the temperature where the machine shows it."""
        now = self._clock()
        if now - self._thermals_at >= _THERMALS_EVERY_SECONDS:
            self._thermals, self._thermals_at = self._read_thermals(), now
        self.line("step", **figures, **self._thermals)

    def line(self, kind: str, **figures: Any) -> None:
        """Write one line of another kind.

        Raises:
            DiskFullError: no space is left.
        """
        record = {"kind": kind, "time": round(self._clock(), 3), **figures}
        with disk_errors(self.path):
            self._file.write(msgspec.json.encode(record) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def flat_thermals() -> dict[str, Any]:
    """Return the figures of :class:`~edgeplast_devices.thermals.ThermalState` that go on every line."""
    from edgeplast_devices.thermals import read_thermals  # by the first step the memory for it is in the budget

    state = read_thermals()
    return {
        "celsius": state.hottest_celsius,
        "watts": state.power_watts,
        "clock_fraction": state.clock_fraction,
        "slowed_by": list(state.slowed_by),
    }


def cut_telemetry(folder: Path, steps: int | None) -> None:
    """Take away what was written after a step that a run goes back to (all, if to none), and a half-written line."""
    path = folder / TELEMETRY
    if steps is None:
        path.unlink(missing_ok=True)
    if not path.exists() or steps is None:
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if record.get("step", 0) <= steps:
            kept.append(line)
    write_bytes(path, b"".join(kept))
