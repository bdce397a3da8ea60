"""What a contest writes down as it goes: the round that begins, a run that ended, one that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeplast import journal
from edgeplast.errors import InputError


class Begun(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="round"):
    """A round: its candidates, on how many pictures, for how many epochs; ``elapsed`` seconds were used by then."""

    round: int
    candidates: tuple[str, ...]
    pictures: int
    epochs: int
    elapsed: float


class Ran(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="run"):
    """A run that ended.

    Attributes:
        round: it was of.
        candidate: its name.
        seed: of the run.
        correct: a character a held-out picture: 1 right, 0 wrong, - not readable.
        accuracy: over those that were readable.
        calibration_error: expected, over 15 bins.
        peak_bytes: highest resident set of its process.
        seconds: of the process, from start to end.
        step_seconds: median of an optimizer step.
        picture_seconds: of a picture's forward pass.
        tier: in force at the end.
        runtime: which build ran.
        elapsed: seconds of the contest that were used by then.
        also: other sets to their accuracy before and after.
    """

    round: int
    candidate: str
    seed: int
    correct: str
    accuracy: float
    calibration_error: float
    peak_bytes: int
    seconds: float
    step_seconds: float
    picture_seconds: float
    tier: str = ""
    runtime: str = ""
    elapsed: float = 0.0
    also: dict[str, tuple[float | None, float | None]] = {}

    @property
    def right(self) -> np.ndarray:
        """Float (pictures,): 1 right, 0 wrong, NaN not readable."""
        return np.array([{"1": 1.0, "0": 0.0}.get(c, np.nan) for c in self.correct])


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="failed"):
    """A run that ended in an error, which ends its candidate."""

    round: int
    candidate: str
    seed: int
    reason: str
    exit_code: int
    elapsed: float = 0.0


Record = Begun | Ran | Failed


class Records:
    """The journal of a contest, read once and appended to.

    Args:
        path: of the journal; None keeps it in memory.

    Raises:
        InputError: a line is none that a contest writes.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        found: list[dict[str, Any]] = [] if path is None else journal.read(path)
        try:
            self._records: list[Record] = msgspec.convert(found, list[Record])
        except msgspec.ValidationError as error:
            raise InputError(f"{path} is not the journal of a contest: {error}. Remove its folder.") from error

    @property
    def elapsed(self) -> float:
        """Seconds that were used when the last piece was noted."""
        return max((record.elapsed for record in self._records), default=0.0)

    def note(self, record: Record) -> None:
        """Append a piece."""
        self._records.append(record)
        if self._path is not None:
            journal.note(self._path, msgspec.to_builtins(record))

    def begun(self, number: int) -> Begun | None:
        """Return how a round began, if it did."""
        return next((r for r in self._records if isinstance(r, Begun) and r.round == number), None)

    def of(self, number: int, candidate: str, seed: int) -> Ran | Failed | None:
        """Return what became of a run, if it ended."""
        key = (number, candidate, seed)
        pieces = (r for r in self._records if isinstance(r, Ran | Failed))
        return next((r for r in pieces if (r.round, r.candidate, r.seed) == key), None)

    def runs(self, candidate: str, number: int | None = None) -> list[Ran]:
        """Return the runs of a candidate that ended, of one round or all, in order."""
        own = [r for r in self._records if isinstance(r, Ran) and r.candidate == candidate]
        return [run for run in own if number is None or run.round == number]

    def failure(self, candidate: str) -> Failed | None:
        """Return why a candidate is out, if it failed."""
        return next((r for r in self._records if isinstance(r, Failed) and r.candidate == candidate), None)

    def __len__(self) -> int:
        return sum(isinstance(record, Ran) for record in self._records)
