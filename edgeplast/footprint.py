"""Footprint: the peak memory of a training graph as a function of the micro-batch, and what is added to it.

Pure arithmetic. The numbers come from the exporter's walk over the graph that will run; planner and device add them up
with the same function, :func:`peak_bytes`, one with an assumed and one with a measured process around them.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgeplast.documents import Count, Whole
from edgeplast.errors import InputError
from edgeplast.optimizers import optimizer_facts

ASSUMED_RESIDENT_BYTES = 64_000_000
"""What the command line holds once the runtime was read in and a picture decoded, before the bundle's graphs are
opened: 62 MB were measured with either build (Python 3.11, Linux on x86-64), for those who cannot measure it. Where
the system takes no pages of code back (macOS, Windows) it is a third more."""

FIRST_REGION_BYTES = 4 << 20
"""First region of the runtime's arena: what sessions keep of their own, and small tensors. It is never given back."""

_SESSIONS_KEEP_BYTES = 3 << 20
"""What sessions keep in it (biases, norms) and what a run touches of it beside its own region, at most."""

CODE_BYTES = 3 << 20
"""Pages of the runtime's library that are read in as kernels are first used: 1.6 MiB measured after ``read_in``."""

REGION_PER_TABLE_BYTE = 32
"""The arena keeps 8 bytes for each 256 of a region that it has room for, used or not (measured: 3.1 % of what is too
much)."""

STACK_BYTES = 1 << 20
"""Stacks grow as calls go deeper; the same for what else is mapped and was never touched so far."""

PICTURE_BYTES = 11 << 20
"""Decoding one picture of ordinary size; larger ones are decoded at a reduced scale, or with what is left over."""

LEAST_PICTURE_BYTES = 4 << 20
"""The same where a budget has no more: photos are read at a smaller scale sooner, what cannot be is left out sooner."""

_ARENA_MARGIN = 1.02
"""Margin on what the graphs hold alive, which already counts the holes of the arena."""

_SESSION_BYTES = 2_500_000
"""What a training session allocates beside its graph, kernels' scratch above all (2.2 MB measured, hardly more with 8
threads than with 1)."""

_FORWARD_SESSION_BYTES = 500_000
"""The same of a session that has no gradients, over an evaluation graph or a prefix: 0.3 MB measured."""

_GRAPH_FACTOR = 50
"""Memory of a loaded graph over its file size: nodes, kernels and the execution plan, 5 KB a node (30 to 57 on graphs
of 26 to 92 kB, onnxruntime 1.19 and 1.32)."""


def peak_bytes(
    *,
    resident_bytes: int,
    graph_bytes: int,
    mapped_bytes: int,
    state_bytes: int,
    pictures_bytes: int,
    transient_bytes: int,
    forward_sessions: int = 0,
    picture_bytes: int = PICTURE_BYTES,
) -> int:
    """Return the peak resident set of a process that trains and evaluates.

    The graph that trains and the one that evaluates each map the frozen weights for themselves, and both count as
    resident where they are open at once.

    Args:
        resident_bytes: before the graphs and weights are opened, the runtime loaded.
        graph_bytes: of all serialised graphs that are open at once.
        mapped_bytes: frozen weights as stored, once for each session that reads them.
        state_bytes: trainable parameters, gradients and optimizer state.
        pictures_bytes: one micro-batch of pictures as float32, and of their latents where there is a prefix.
        transient_bytes: the region in which the graphs place what is alive at once.
        forward_sessions: how many graphs are open beside the one that trains: one that evaluates, unless they are open
            in turns, and a prefix, whose weights the others do not read.
        picture_bytes: for decoding a picture.
    """
    return (
        resident_bytes
        + _SESSIONS_KEEP_BYTES
        + CODE_BYTES
        + STACK_BYTES
        + _SESSION_BYTES
        + forward_sessions * _FORWARD_SESSION_BYTES
        + _GRAPH_FACTOR * graph_bytes
        + mapped_bytes
        + state_bytes
        + pictures_bytes
        + picture_bytes
        + round(_ARENA_MARGIN * transient_bytes)
    )


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
        slots = 1 + len(optimizer_facts(optimizer).slots)
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
