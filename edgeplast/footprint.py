"""Footprint: the peak memory of a training graph as a function of the micro-batch, and what is added to it.

Pure arithmetic; the numbers come from the exporter's walk over the graph that will run.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgeplast.documents import Count, Whole
from edgeplast.errors import InputError
from edgeplast.plans import OPTIMIZER_SLOTS


class MemoryLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate for the peak: ``fixed_bytes + per_image_bytes · micro_batch``."""

    fixed_bytes: Whole
    per_image_bytes: Count

    def at(self, micro_batch: int) -> int:
        """Return the bytes at one micro-batch size."""
        return self.fixed_bytes + self.per_image_bytes * micro_batch


class Footprint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one graph needs beside the process that opens it.

    Attributes:
        transient: bytes of the one region in which the session places what is alive, as the upper envelope of lines
            over the micro-batch size.
        frozen_bytes: frozen weights the graph reads, as stored (mapped from disk, resident once touched).
        trained_parameters: parameters with a gradient in this graph.
        held_parameters: parameters fed to the graph, trained in it or not.
        graph_bytes: the serialised graph.
    """

    transient: tuple[MemoryLine, ...]
    frozen_bytes: Count
    trained_parameters: Count
    held_parameters: Count
    graph_bytes: Count

    def __post_init__(self) -> None:
        if not self.transient:
            raise InputError("A footprint needs at least one line; here there is none.")

    def transient_bytes(self, micro_batch: int) -> int:
        """Return the bytes that one run of the graph needs for what is alive at once, holes included."""
        return max(line.at(micro_batch) for line in self.transient)

    def state_bytes(self, optimizer: str) -> int:
        """Return parameters, gradients and optimizer state, all float32."""
        slots = 1 + OPTIMIZER_SLOTS[optimizer]
        return 4 * (self.held_parameters + slots * self.trained_parameters)


def envelope(lines: Iterable[tuple[int, int]]) -> tuple[MemoryLine, ...]:
    """Return the lines ``(fixed, per_image)`` that are highest for some micro-batch of at least 1."""
    best: list[tuple[int, int]] = []
    for fixed, slope in sorted(set(lines), key=lambda line: (line[1], line[0])):
        while best and best[-1][0] + best[-1][1] <= fixed + slope:
            best.pop()  # a steeper line that is already higher at 1 hides it for good
        best.append((fixed, slope))
    upper: list[tuple[int, int]] = []
    for line in best:
        while len(upper) >= 2 and _meets(upper[-2], line) <= _meets(upper[-2], upper[-1]):
            upper.pop()
        upper.append(line)
    return tuple(MemoryLine(fixed, slope) for fixed, slope in upper)


def _meets(flat: tuple[int, int], steep: tuple[int, int]) -> float:
    """Return the micro-batch size at which the steeper of two lines overtakes the flatter one."""
    return (flat[0] - steep[0]) / (steep[1] - flat[1])
