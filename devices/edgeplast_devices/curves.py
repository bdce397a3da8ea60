"""A figure of each step in bounded memory: every value while there are few, means of neighbours when there are many."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from edgeplast.adaptation import EpochReport
from edgeplast_devices.metrics import MOST

MOST_VALUES = 16_384
"""Of one curve: 128 KiB, and what a page of a report can show."""

MOST_EPOCHS = 4_096
"""Whose figures are kept: all of the later ones, of the earlier ones fewer and fewer."""


class Curve:
    """Values that are appended one by one; when there are too many, each pair becomes its mean.

    Which values are kept depends on how many were appended alone, so a run that was resumed has the same curve.

    Args:
        values: so far, each the mean of ``every`` steps.
        every: steps that one value stands for, a power of two.
        pending: of the steps after the last value.
        most: values to keep.

    Attributes:
        every: steps that one value stands for.
    """

    def __init__(
        self, values: Iterable[float] = (), every: int = 1, pending: Iterable[float] = (), most: int = MOST_VALUES
    ) -> None:
        self._values, self.every, self._pending, self._most = array("d", values), every, list(pending), most

    def append(self, value: float) -> None:
        """Take the figure of one step; :data:`~.metrics.MOST` stands for one that is not finite."""
        self._pending.append(value)
        if len(self._pending) < self.every:
            return
        self._values.append(_mean(self._pending))
        self._pending.clear()
        if len(self._values) >= self._most:
            pairs = zip(self._values[::2], self._values[1::2], strict=True)
            self._values = array("d", map(_mean, pairs))
            self.every *= 2

    @property
    def values(self) -> list[float]:
        """The values, without the steps after the last of them."""
        return self._values.tolist()

    @property
    def pending(self) -> list[float]:
        """Figures of the steps after the last value."""
        return list(self._pending)

    def whole(self) -> tuple[float, ...]:
        """Return the values; the last one stands for what is pending, if anything is."""
        return (*self._values, *([_mean(self._pending)] if self._pending else []))


def thin(history: list[EpochReport], most: int = MOST_EPOCHS) -> None:
    """Drop every other epoch of a history that has grown too long; the last one stays."""
    if len(history) > most:
        del history[len(history) % 2 :: 2]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are finite; MOST if none is."""
    finite = [value for value in values if value < MOST]
    return sum(finite) / len(finite) if finite else MOST
