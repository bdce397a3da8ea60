"""Writes ``telemetry.jsonl`` while a run runs, and takes back what a resumed run will tell again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from edgeplast.files import disk_errors
from edgeplast.telemetry import (
    TELEMETRY,
    AlsoLine,
    EpochLine,
    Line,
    RungLine,
    RunLine,
    ScoresLine,
    StepLine,
    encode,
    steps_per_line,
    telemetry_lines,
)

_THERMALS_EVERY_SECONDS = 5.0


class TelemetryWriter:
    """Appends lines to a file; each is handed to the system as it is made.

    Args:
        folder: of the run.
        clock: seconds since 1970.
        read_thermals: gives the fields of :class:`~edgeplast.telemetry.StepLine` on heat and power; asked every
            five seconds at most: power sensors sit on a slow bus.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.time,
        read_thermals: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.path = folder / TELEMETRY
        self._file: BinaryIO = self.path.open("ab", buffering=0)
        self._clock, self._read_thermals = clock, read_thermals or _sensors()
        self._last_thermals: dict[str, Any] = {}
        self._thermals_at = float("-inf")
        self._highest = 0

    def run(self, **figures: Any) -> None:
        """Write the head of a process of the run."""
        self._write(RunLine(time=self._now(), **figures))

    def step(self, **figures: Any) -> None:
        """Write one line on an optimizer step, with heat and power where the machine shows them.

        Of long runs some steps are left out (``edgeplast.telemetry.steps_per_line``); the largest resident set is that
        of all steps since the last line.
        """
        self._highest = max(self._highest, figures["resident_bytes"])
        if figures["step"] % steps_per_line(figures["step"]):
            return
        figures["resident_bytes"], self._highest = self._highest, 0
        now = self._now()
        if now - self._thermals_at >= _THERMALS_EVERY_SECONDS:
            self._last_thermals, self._thermals_at = self._read_thermals(), now
        self._write(StepLine(time=now, **figures, **self._last_thermals))

    def rung(self, **figures: Any) -> None:
        """Write one line on a change of rung."""
        self._write(RungLine(time=self._now(), **figures))

    def epoch(self, **figures: Any) -> None:
        """Write one line on the end of an epoch."""
        self._write(EpochLine(time=self._now(), **figures))

    def also(self, **figures: Any) -> None:
        """Write one line on another set that was measured."""
        self._write(AlsoLine(time=self._now(), **figures))

    def scores(self, **figures: Any) -> None:
        """Write one line on scores that were measured."""
        self._write(ScoresLine(time=self._now(), **figures))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _now(self) -> float:
        return round(self._clock(), 3)

    def _write(self, line: Line) -> None:
        """Write a line.

        Raises:
            DiskFullError: no space is left.
        """
        with disk_errors(self.path):
            self._file.write(encode(line) + b"\n")


def cut_telemetry(folder: Path, steps: int | None) -> None:
    """Take away what was written after a step that a run goes back to (all, if to none), and a half-written line.

    The file is read line by line and cut where it lies: that takes no memory, and no room on a full disk.
    """
    path = folder / TELEMETRY
    if steps is None:
        path.unlink(missing_ok=True)
    elif path.exists():
        end = at = 0
        for text, line in telemetry_lines(path):
            at += len(text)
            if line is not None and line.step <= steps:
                end = at
        with disk_errors(path):
            os.truncate(path, end)


def _sensors() -> Callable[[], dict[str, Any]]:
    """Find the sensors once, and return what reads the fields that go on every line."""
    from edgeplast_devices.thermals import Sensors

    sensors = Sensors()

    def read() -> dict[str, Any]:
        state = sensors.read()
        return {
            "celsius": state.hottest_celsius,
            "watts": state.power_watts,
            "clock_fraction": state.clock_fraction,
            "slowed_by": state.slowed_by,
        }

    return read
