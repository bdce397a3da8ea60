"""What onnxruntime's arena needs to place everything that the liveness walk counts.

Bytes alive are not bytes held: an arena cuts one region into chunks, and a tensor needs a free chunk in one
piece. Left with too small a region it gets a second one, and the peak rises by a quarter to a half; so the device
sets up one region of the predicted size (``runtime.reserve_arena``), and here that size is found by playing the
walk through the arena's own rules: chunks in multiples of 256 bytes, the smallest free chunk that fits, cut where
it is twice as large or ``_KEPT_WHOLE`` larger, neighbours joined when freed (``bfc_arena.cc``, onnxruntime 1.19
to 1.32). What would break it: another placement rule; the peak measured in the tests would then leave the line.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence

from edgeplast.footprint import FIRST_REGION_BYTES, MemoryLine, envelope
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.liveness import Step, steps, transient_lines

_UNIT = 256
_KEPT_WHOLE = 1 << 16
"""``max_dead_bytes_per_chunk`` as ``runtime.reserve_arena`` sets it."""

_MICRO_BATCHES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
_FITTED = (1, 2, 4, 8, 16)
_STEP_BYTES = 1 << 16
_LOOSE_BYTES = 1 << 20
"""Lines that lie further above a need than this are replaced by closer ones."""

_MARGIN = 1.02
"""What kernels take for themselves is not in the walk; with less, one graph in ten was measured to overflow."""


def arena_lines(graph: Graph) -> tuple[MemoryLine, ...]:
    """Return the bytes of one region in which the graph runs, as lines over the micro-batch size.

    They are the lines of the liveness walk, stretched by a few percent and lifted by a fixed number of bytes: small
    tensors that cut up large chunks weigh most at micro-batch 1. Of the stretches that some micro-batch size
    asks for, the one that lies closest above all needs is taken; with it every size tried has been placed, and with
    the margin taken off again too. Where much of what is alive does not grow with the batch (gradients of large
    kernels), holes follow no such rule, and two lines through the needs themselves are taken.
    """
    live = transient_lines(graph)
    trace = _Trace(steps(graph), [array.nbytes for array in graph.constants.values()])
    needs = {size: _MARGIN * _smallest_region(trace, size, _at(live, size)) for size in _FITTED}
    candidates = []
    for stretch in {needs[size] / max(_at(live, size), 1) for size in _FITTED}:  # a head alone may hold nothing
        lift = max(0.0, *(need - stretch * _at(live, size) for size, need in needs.items()))
        lines = tuple(
            MemoryLine(math.ceil(line.fixed_bytes * stretch + lift), math.ceil(line.per_image_bytes * stretch))
            for line in live
        )
        candidates.append((sum(_at(lines, size) / max(need, 1) for size, need in needs.items()), lines))
    lines = min(candidates, key=lambda found: found[0])[1]
    if max(_at(lines, size) - need for size, need in needs.items()) > _LOOSE_BYTES:
        most = _MICRO_BATCHES[-1]
        needs[most] = _MARGIN * _smallest_region(trace, most, _at(live, most))
        lines = _closest_above(needs)
    untried = [(size, margin) for size in _MICRO_BATCHES for margin in (_MARGIN, 1)]
    at = 0
    while at < len(untried):
        size, margin = untried[at]
        if trace.fits(size, int(_at(lines, size) / margin)):
            at += 1
            continue
        lines = tuple(MemoryLine(line.fixed_bytes + _STEP_BYTES, line.per_image_bytes) for line in lines)
        untried.insert(0, untried.pop(at))  # what did not fit is the most likely not to fit again
        at = 0
    return lines


def _closest_above(needs: Mapping[int, float]) -> tuple[MemoryLine, ...]:
    """Return the two lines (or one) whose maximum lies closest above some points: through two of them, or lifted."""
    through = set()
    for (a, low), (b, high) in itertools.combinations(sorted(needs.items()), 2):
        slope = max(0.0, (high - low) / (b - a))
        lifts = (max(low - slope * a, high - slope * b), max(need - slope * size for size, need in needs.items()))
        through |= {MemoryLine(max(0, math.ceil(lift)), math.ceil(slope)) for lift in lifts}
    best: tuple[float, tuple[MemoryLine, ...]] | None = None
    for pair in itertools.combinations_with_replacement(sorted(through, key=lambda line: line.per_image_bytes), 2):
        lines = tuple(dict.fromkeys(pair))
        if all(_at(lines, size) >= need for size, need in needs.items()):
            excess = sum(_at(lines, size) / need for size, need in needs.items())
            if best is None or excess < best[0]:
                best = excess, lines
    assert best is not None  # a line lifted above all points is among them
    return envelope((line.fixed_bytes, line.per_image_bytes) for line in best[1])


def _at(lines: tuple[MemoryLine, ...], micro_batch: int) -> int:
    return max(line.at(micro_batch) for line in lines)


def _smallest_region(trace: _Trace, micro_batch: int, live_bytes: int) -> int:
    """Return a region that holds the walk, hardly larger than the smallest that does (found by bisection)."""
    low = high = live_bytes + _UNIT * len(trace.constants)
    while not trace.fits(micro_batch, high):
        low, high = high, high * 5 // 4 + _UNIT
    while high - low > low // 50 + _UNIT:
        middle = (low + high) // 2
        low, high = (low, middle) if trace.fits(micro_batch, middle) else (middle, high)
    return high


def fits(walk: Iterable[Step], constants: Iterable[int], micro_batch: int, region_bytes: int) -> bool:
    """Whether one region has room for a run of the walk, placed as the arena places it.

    It must have room both alone and beside the arena's first region, of which nobody knows how much sessions have left
    over: small tensors that find room there leave other holes here.

    Args:
        walk: from :func:`steps`.
        constants: bytes of each array that stays for good, placed first.
        micro_batch: images.
        region_bytes: size of the region.
    """
    return _Trace(walk, constants).fits(micro_batch, region_bytes)


class _Trace:
    """A walk as numbers, because it is played hundreds of times: what is taken and given back, in turn.

    Attributes:
        constants: bytes of each array that stays for good, placed first.
    """

    def __init__(self, walk: Iterable[Step], constants: Iterable[int]) -> None:
        self.constants = list(constants)
        number: dict[str, int] = {}
        self._events: list[int] = list(range(len(self.constants)))  # n: taken; ~n: given back
        self._bytes = [(size, False) for size in self.constants]
        for made, freed in walk:
            for value in made:
                number[value.name] = len(self._bytes)
                self._events.append(len(self._bytes))
                self._bytes.append((value.bytes, value.batched))
            self._events += [~number[value.name] for value in freed]
        self._units: dict[int, list[int]] = {}

    def fits(self, micro_batch: int, region_bytes: int) -> bool:
        """Whether a region has room; see :func:`fits`."""
        if micro_batch not in self._units:
            sizes = (size * (micro_batch if batched else 1) for size, batched in self._bytes)
            self._units[micro_batch] = [max(-(-size // _UNIT), 1) for size in sizes]
        region = -(-region_bytes // _UNIT)
        units = self._units[micro_batch]
        return all(_placed(self._events, units, some) for some in ((region,), (FIRST_REGION_BYTES // _UNIT, region)))


_ADDRESS_BITS = 40
"""A free chunk is one number: its size, then its address in so many bits, both in units."""


def _placed(events: Sequence[int], units: Sequence[int], regions: Iterable[int]) -> bool:
    """Play takings and givings back of so many units in regions that do not touch, best fit; False: no room."""
    free: list[int] = []  # size and address, sorted
    size_at: dict[int, int] = {}  # of free chunks, by their first address
    size_before: dict[int, int] = {}  # of free chunks, by the address after them
    held: dict[int, tuple[int, int]] = {}
    kept_whole, mask = _KEPT_WHOLE // _UNIT, (1 << _ADDRESS_BITS) - 1
    address = 0
    for size in regions:
        insort(free, size << _ADDRESS_BITS | address)
        size_at[address] = size_before[address + size] = size
        address += size + 1
    for event in events:
        if event >= 0:
            wanted = units[event]
            position = bisect_left(free, wanted << _ADDRESS_BITS)
            if position == len(free):
                return False
            chunk = free.pop(position)
            size, address = chunk >> _ADDRESS_BITS, chunk & mask
            del size_at[address], size_before[address + size]
            if size >= 2 * wanted or size - wanted >= kept_whole:
                size, rest, behind = wanted, size - wanted, address + wanted
                insort(free, rest << _ADDRESS_BITS | behind)
                size_at[behind] = size_before[behind + rest] = rest
            held[event] = size, address
        else:
            size, address = held.pop(~event)
            after = size_at.pop(address + size, 0)
            if after:
                behind = address + size
                del size_before[behind + after], free[bisect_left(free, after << _ADDRESS_BITS | behind)]
                size += after
            before = size_before.pop(address, 0)
            if before:
                address -= before
                del size_at[address], free[bisect_left(free, before << _ADDRESS_BITS | address)]
                size += before
            insort(free, size << _ADDRESS_BITS | address)
            size_at[address] = size_before[address + size] = size
    return True
