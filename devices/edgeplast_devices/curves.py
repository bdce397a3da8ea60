"""A figure of each step in bounded memory: every value while there are few, means of neighbours when there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from edgeplast.adaptation import EpochReport, Scored
from edgeplast.documents import AtLeastOne
from edgeplast_devices.metrics import MOST

MOST_VALUES = 16_384
"""Of one curve: half a MiB, and what a page of a report can show."""

MOST_EPOCHS = 4_096
"""Whose figures are kept: all of the later ones, of the earlier ones fewer and fewer."""


class Curve(msgspec.Struct, forbid_unknown_fields=True):
    """Values that are appended one by one; when there are too many, each pair becomes its mean.

    Which values are kept depends on how many were appended alone, so a run that was resumed has the same curve.

    Attributes:
        values: so far, each the mean of ``every`` steps.
        every: steps that one value stands for, a power of two.
        pending: of the steps after the last value.
    """

    values: Annotated[list[float], msgspec.Meta(max_length=MOST_VALUES - 1)] = []
    every: AtLeastOne = 1
    pending: list[float] = []

    def append(self, value: float, most: int = MOST_VALUES) -> None:
        """Take the figure of one step.

        Args:
            value: :data:`~.metrics.MOST` stands for one that is not finite.
            most: values at which pairs become one; even.
        """
        self.pending.append(value)
        if len(self.pending) < self.every:
            return
        self.values.append(_mean(self.pending))
        self.pending.clear()
        if len(self.values) >= most:
            self.values[:] = map(_mean, zip(self.values[::2], self.values[1::2], strict=True))
            self.every *= 2

    def whole(self) -> tuple[float, ...]:
        """Return the values; the last one stands for what is pending, if anything is."""
        return (*self.values, *([_mean(self.pending)] if self.pending else []))


def thin(history: list[EpochReport] | list[Scored], most: int = MOST_EPOCHS) -> None:
    """Drop every other epoch of a history that has grown too long; the last one stays."""
    if len(history) > most:
        del history[len(history) % 2 :: 2]


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are finite; MOST if none is."""
    finite = [value for value in values if value < MOST]
    return sum(finite) / len(finite) if finite else MOST
