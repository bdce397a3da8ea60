"""The choice of what trains: the largest summed score that fits, by dynamic programming over blocks.

Objective: the sum of the scores of the trained components, each counted as it stands (a component without a score
counts 0, one with a negative score is never chosen). Scores are not multiplied by parameter counts: plasticity
and its rivals already are per-component figures, and size enters as what it costs, bytes. A cheap component with
a small score may therefore win over a large one with a large score; that is what "score per byte" means.

Why not greedily: the deepest trained component decides which blocks the gradient crosses, so costs do not
add up item by item. But given everything after a block (its trained bytes W, its transient peak T, its score V),
a block that keeps k bytes and peaks at p makes of them W + w, max(p, k + T), V + v. So blocks are visited from the
output to the input, each with all subsets of its scored components (32 at most), and of all partial choices only
those survive that no other beats in both W + T and V. The block in which the trained part starts differs (the
gradient ends inside it), so every block also ends the recursion once. This runs for each micro-batch size
and each degree of recomputation; what comes out is the whole curve of score against memory at once.

Exactness: where nothing is thinned out the result is exact but for one thing, that two partial choices of equal
W + T may differ in T. Fronts of more than ``FRONT`` choices are thinned to the best in each of ``FRONT`` equal cells
of bytes, so a choice may cost up to depth/FRONT of the memory range too much. Where time or disk are limited too,
a partial choice survives if no other beats it in score and in one of seven costs: bytes, operations, bytes on disk,
their sums by two and the sum of all, each divided by its largest. That is no longer exact by construction. Against
brute force on 2,000 random small cases of each kind, no gap was found, with memory alone or all three limits;
``tests/planning/test_choosing.py`` repeats a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

import numpy as np

from edgeplast.budget import Budget
from edgeplast.components import COMPONENT_TYPES, in_order
from edgeplast.planning.estimating import ALWAYS, ARENA_MARGIN, Workload
from edgeplast.planning.flops import forward_flops, step_seconds
from edgeplast.recomputation import RECOMPUTE, Recompute

FRONT = 1024
"""The most partial choices kept at a block."""

SAME_SCORE = 1e-9
"""Sums that differ relatively by less count as equal: they are the same scores added in another order."""


@dataclass(frozen=True)
class Options:
    """All ways to train one block, as columns: bytes at one micro-batch size, score, operations."""

    subsets: tuple[tuple[str, ...], ...]
    state: np.ndarray
    held: np.ndarray
    peak: np.ndarray
    score: np.ndarray
    flops: np.ndarray
    disk: np.ndarray


@dataclass(frozen=True)
class Front:
    """Partial choices, from one block to the last, as columns; ``parent`` and ``option`` tell how each was made."""

    state: np.ndarray
    peak: np.ndarray
    score: np.ndarray
    flops: np.ndarray
    disk: np.ndarray
    parent: np.ndarray
    option: np.ndarray
    options: Options | None = None
    previous: Front | None = None

    def trained(self, index: int) -> list[str]:
        """Return the components that one choice trains."""
        front: Front = self
        names: list[str] = []
        while front.options is not None and front.previous is not None:
            names += front.options.subsets[front.option[index]]
            front, index = front.previous, front.parent[index]
        return names


@dataclass(frozen=True)
class Candidates:
    """Complete choices as columns; ``fronts[segment[i]].trained(row[i])`` are the block components of choice i."""

    score: np.ndarray
    memory_bytes: np.ndarray
    step_seconds: np.ndarray
    disk_bytes: np.ndarray
    micro_batch_size: np.ndarray
    recompute: np.ndarray
    segment: np.ndarray
    row: np.ndarray
    fronts: tuple[Front, ...]
    depth: int

    def within(self, budget: Budget) -> np.ndarray:
        """Return which choices a budget allows."""
        fits = np.ones(len(self.score), dtype=bool)
        for column, limit in (
            (self.memory_bytes, budget.memory_bytes),
            (self.step_seconds, budget.step_seconds),
            (self.disk_bytes, budget.disk_bytes),
        ):
            if limit is not None:
                fits &= column <= limit
        return fits

    def only(self, chosen: np.ndarray) -> Candidates:
        """Return the choices under a mask."""
        columns = ("score", "memory_bytes", "step_seconds", "disk_bytes", "micro_batch_size", "recompute")
        kept = {name: getattr(self, name)[chosen] for name in (*columns, "segment", "row")}
        return replace(self, **kept)

    def best(self, budget: Budget) -> int | None:
        """Return the choice with the largest score within a budget, of equal ones the fastest; None if none fits.

        Of equally fast ones the larger micro-batch is taken: fewer calls for the same work.
        """
        fits = np.flatnonzero(self.within(budget))
        if not len(fits):
            return None
        top = self.score[fits].max()
        fits = fits[self.score[fits] >= top - SAME_SCORE * abs(top)]
        order = np.lexsort((self.memory_bytes[fits], -self.micro_batch_size[fits], self.step_seconds[fits]))
        return int(fits[order[0]])

    def trained(self, index: int) -> list[str]:
        """Return everything one choice trains, in data-flow order."""
        names = self.fronts[self.segment[index]].trained(self.row[index])
        return in_order([*names, *ALWAYS], self.depth)


def candidates(
    workload: Workload, scores: Mapping[str, float], micro_batches: Sequence[int], *, limited: bool = False
) -> Candidates:
    """Search all choices worth having, for any amount of memory.

    Args:
        workload: the model and how it trains.
        scores: component to score; those that are missing or not positive never train, norm and head always.
        micro_batches: sizes to try.
        limited: also keep choices that are short or small on disk (for limits on time or disk).
    """
    found: list[tuple[Front, dict[str, np.ndarray]]] = []
    for size in micro_batches:
        for recompute in RECOMPUTE:
            found += _search(workload, scores, size, recompute, limited)
    columns = {key: np.concatenate([c[key] for _, c in found]) for key in found[0][1]}
    lengths = [len(front.score) for front, _ in found]
    return Candidates(
        **columns,
        segment=np.repeat(np.arange(len(found)), lengths),
        row=np.concatenate([np.arange(n) for n in lengths]),
        fronts=tuple(front for front, _ in found),
        depth=workload.architecture.depth,
    )


def _search(
    w: Workload, scores: Mapping[str, float], micro_batch: int, recompute: Recompute, limited: bool
) -> Iterable[tuple[Front, dict[str, np.ndarray]]]:
    """Yield the complete choices that start at each block (last first), after the choice of no block at all."""
    front = _nothing()
    depth = len(w.blocks)
    if recompute == "none":
        yield front, _complete(w, front, depth, micro_batch, recompute)
    for index in reversed(range(depth)):
        started = _extended(front, _options(w, scores, index, False, micro_batch, recompute), limited)
        if len(started.score):
            yield started, _complete(w, started, index, micro_batch, recompute)
        front = _extended(front, _options(w, scores, index, True, micro_batch, recompute), limited)


def _nothing() -> Front:
    zero, none = np.zeros(1), np.zeros(1, dtype=int)
    return Front(zero, zero, zero, zero, zero, none, none)


def _complete(w: Workload, front: Front, start: int, micro_batch: int, recompute: Recompute) -> dict[str, np.ndarray]:
    """Add what does not depend on the choice: runtime, frozen weights, the forward pass before the first block."""
    before = max([w.embedding_bytes(micro_batch), *(w.block(i, (), False).peak(micro_batch) for i in range(start))])
    fixed = w.fixed_bytes(micro_batch) + sum(map(w.trained_bytes, ALWAYS))
    flops = w.edge_flops(ALWAYS) + sum(map(forward_flops, w.blocks[:start])) + front.flops
    disk = w.frozen_disk_bytes(len(w.blocks) - start) + sum(map(w.trained_disk_bytes, ALWAYS))
    seconds = [step_seconds(f, w.batch_size, micro_batch, w.flops_per_second) for f in flops]
    return {
        "score": front.score,
        "memory_bytes": fixed + front.state + ARENA_MARGIN * np.maximum(front.peak, before),
        "step_seconds": np.array(seconds),
        "disk_bytes": disk + front.disk,
        "micro_batch_size": np.full(len(front.score), micro_batch),
        "recompute": np.full(len(front.score), recompute, dtype="U9"),
    }


def _options(
    w: Workload, scores: Mapping[str, float], index: int, entered: bool, micro_batch: int, recompute: Recompute
) -> Options:
    """List the subsets of a block's scored components; without the empty one where the trained part starts."""
    kinds = [kind for kind in COMPONENT_TYPES if scores.get(f"blocks.{index}.{kind}", 0) > 0]
    sizes = range(0 if entered else 1, len(kinds) + 1)
    subsets = tuple(chain.from_iterable(combinations(kinds, n) for n in sizes))
    names = [[f"blocks.{index}.{kind}" for kind in subset] for subset in subsets]
    bytes_ = [w.held_and_peak(index, subset, entered, micro_batch, recompute) for subset in subsets]
    return Options(
        subsets=tuple(map(tuple, names)),
        state=np.array([sum(map(w.trained_bytes, n)) for n in names], dtype=float),
        held=np.array([held for held, _ in bytes_], dtype=float),
        peak=np.array([peak for _, peak in bytes_], dtype=float),
        score=np.array([sum(scores[name] for name in n) for n in names], dtype=float),
        flops=np.array([w.block_flops(index, subset, entered, recompute) for subset in subsets], dtype=float),
        disk=np.array([sum(map(w.trained_disk_bytes, n)) for n in names], dtype=float),
    )


def _extended(front: Front, o: Options, limited: bool) -> Front:
    """Combine every partial choice with every option of one more block and keep those that nothing beats."""
    state = (front.state[:, None] + o.state).ravel()
    peak = np.maximum(o.peak, o.held + front.peak[:, None]).ravel()
    score = (front.score[:, None] + o.score).ravel()
    flops = (front.flops[:, None] + o.flops).ravel()
    disk = (front.disk[:, None] + o.disk).ravel()
    if limited and len(score):
        costs = [cost / max(abs(cost).max(), 1) for cost in (state + ARENA_MARGIN * peak, flops, disk)]
        sums = [sum(some) for n in (1, 2, 3) for some in combinations(costs, n)]
        chosen = np.unique(np.concatenate([_undominated(np.asarray(cost), score) for cost in sums]))
    else:
        chosen = _undominated(state + ARENA_MARGIN * peak, score)
    parent, option = np.divmod(chosen, len(o.subsets) or 1)
    return Front(state[chosen], peak[chosen], score[chosen], flops[chosen], disk[chosen], parent, option, o, front)


def _undominated(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the indices of choices that cost less than any of at least their score, at most about ``FRONT``."""
    order = np.lexsort((-score, cost))
    if not len(order):
        return order
    ranked = score[order]
    better = np.concatenate([[True], ranked[1:] > np.maximum.accumulate(ranked)[:-1]])
    kept = order[better]
    if len(kept) > FRONT:
        cell = ((cost[kept] - cost[kept[0]]) / (cost[kept[-1]] - cost[kept[0]]) * FRONT).astype(int)
        last_of_cell = np.concatenate([cell[1:] != cell[:-1], [True]])
        last_of_cell[0] = True
        kept = kept[last_of_cell]
    return kept
