"""The choice of what trains: the largest summed score that fits, by dynamic programming over units.

Objective: the sum of the scores of the trained components, each counted as it stands (a component without a score
counts 0, one with a negative score is never chosen). Scores are not multiplied by parameter counts: plasticity
and its rivals already are per-component figures, and size enters as what it costs, bytes. A cheap component with
a small score may therefore win over a large one with a large score; that is what "score per byte" means.

Why not greedily: the deepest trained component decides which units the gradient crosses, so costs do not
add up item by item. But given everything after a unit (its trained bytes W, its transient peak T, its score V),
a unit that keeps k bytes and peaks at p makes of them W + w, max(p, k + T), V + v. So units are visited from the
output to the input, each with all subsets of its scored components (of many, the ``subsets`` worth having), and of all
partial choices only those survive that no other beats in both W + T and V. The unit in which the trained part starts
differs (the gradient ends inside it), so every unit also ends the recursion once. This runs for each micro-batch size
and each degree of recomputation; what comes out is the whole curve of score against memory at once. What a unit keeps,
peaks at and computes is walked (``segment_costs.py``).

Exactness: where nothing is thinned out the result is exact but for one thing, that two partial choices of equal
W + T may differ in T. Fronts of more than ``FRONT`` choices are thinned to the best in each of ``FRONT`` equal cells
of bytes, so a choice may cost up to units/FRONT of the memory range too much. Where time or disk are limited too,
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
from edgeplast.outline import Outline
from edgeplast.planning.estimating import ARENA_STRETCH, TRAINING_GRAPHS, Workload, process_bytes
from edgeplast.progress import Progress, silent
from edgeplast.recomputation import RECOMPUTE, Recompute

FRONT = 1024
"""The most partial choices kept at a unit."""

FREE_COMPONENTS = 5
"""So many scored components of a unit are chosen from freely; of more, the rest joins by score or from the output."""

TRANSIENT = (process_bytes(0, 1 << 40) - process_bytes(0)) / (1 << 40) * ARENA_STRETCH
"""Bytes of the process for a byte alive at once."""

SAME_SCORE = 1e-9
"""Sums that differ relatively by less count as equal: they are the same scores added in another order."""


@dataclass(frozen=True)
class Options:
    """All ways to train one unit, as columns: bytes at one micro-batch size, score, operations.

    ``held_beside`` and ``peak_beside`` are those where the unit before keeps what this one reads; ``keeps_end`` says
    that this one keeps what the next one reads.
    """

    subsets: tuple[tuple[str, ...], ...]
    state: np.ndarray
    held: np.ndarray
    peak: np.ndarray
    held_beside: np.ndarray
    peak_beside: np.ndarray
    keeps_end: np.ndarray
    score: np.ndarray
    flops: np.ndarray
    disk: np.ndarray


@dataclass(frozen=True)
class Front:
    """Partial choices, from one unit to the last, as columns; ``parent`` and ``option`` tell how each was made."""

    state: np.ndarray
    peak: np.ndarray
    peak_beside: np.ndarray
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
    """Complete choices as columns; ``fronts[segment[i]].trained(row[i])`` are what choice i trains."""

    score: np.ndarray
    memory_bytes: np.ndarray
    step_seconds: np.ndarray
    disk_bytes: np.ndarray
    micro_batch_size: np.ndarray
    recompute: np.ndarray
    segment: np.ndarray
    row: np.ndarray
    fronts: tuple[Front, ...]
    outline: Outline

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
        return self.outline.in_order(self.fronts[self.segment[index]].trained(self.row[index]))


def candidates(
    workload: Workload,
    scores: Mapping[str, float],
    micro_batches: Sequence[int],
    *,
    limited: bool = False,
    progress: Progress = silent,
) -> Candidates:
    """Search all choices worth having, for any amount of memory.

    Args:
        workload: the model and how it trains.
        scores: component to score; those that are missing or not positive never train, norm and head always.
        micro_batches: sizes to try.
        limited: also keep choices that are short or small on disk (for limits on time or disk).
        progress: told of each way to run.
    """
    found: list[tuple[Front, dict[str, np.ndarray]]] = []
    ways = [(size, recompute) for recompute in RECOMPUTE for size in micro_batches]
    for done, (size, recompute) in enumerate(ways):
        progress("searching what to train", done, len(ways))
        found += _search(workload, scores, size, recompute, limited)
    progress("searching what to train", len(ways), len(ways))
    columns = {key: np.concatenate([c[key] for _, c in found]) for key in found[0][1]}
    lengths = [len(front.score) for front, _ in found]
    return Candidates(
        **columns,
        segment=np.repeat(np.arange(len(found)), lengths),
        row=np.concatenate([np.arange(n) for n in lengths]),
        fronts=tuple(front for front, _ in found),
        outline=workload.outline,
    )


def _search(
    w: Workload, scores: Mapping[str, float], micro_batch: int, recompute: Recompute, limited: bool
) -> Iterable[tuple[Front, dict[str, np.ndarray]]]:
    """Yield the complete choices that start at each unit (last first)."""
    front = _nothing()
    always = set(w.always)
    latest = min(i for i, unit in enumerate(w.units) if always.intersection(unit.components))
    for index in reversed(range(w.first_open, len(w.units))):
        if index <= latest:
            started = _extended(front, _options(w, scores, index, False, micro_batch, recompute), limited)
            if len(started.score):
                yield started, _complete(w, started, index, micro_batch, recompute)
        if index > w.first_open:
            front = _extended(front, _options(w, scores, index, True, micro_batch, recompute), limited)


def _nothing() -> Front:
    zero, none = np.zeros(1), np.zeros(1, dtype=int)
    return Front(zero, zero, zero, zero, zero, zero, none, none)


def _complete(w: Workload, front: Front, start: int, micro_batch: int, recompute: Recompute) -> dict[str, np.ndarray]:
    """Add what does not depend on the choice: runtime, frozen weights, the forward pass before the first unit."""
    ahead = [w.costs.cost(i, (), False) for i in range(start)]
    before = max((cost.memory.peak(micro_batch) for cost in ahead), default=0)
    prefix = w.prefix_of_units(start)
    graphs = sum(cost.graph_bytes for cost in ahead)
    frozen = w.constant_bytes + sum(w.stored.values())
    fixed = process_bytes(graphs, has_prefix=prefix is not None) + frozen + w.images_bytes(micro_batch)
    if prefix is not None:
        fixed += micro_batch * prefix.latent_bytes
    flops = sum(cost.flops for cost in ahead) + front.flops
    disk = w.frozen_disk_bytes() + TRAINING_GRAPHS * sum(cost.graph_bytes for cost in ahead)
    return {
        "score": front.score,
        "memory_bytes": fixed + front.state + TRANSIENT * np.maximum(front.peak, before),
        "step_seconds": w.step_seconds(1.0, micro_batch) * flops,
        "disk_bytes": disk + front.disk,
        "micro_batch_size": np.full(len(front.score), micro_batch),
        "recompute": np.full(len(front.score), recompute, dtype="U9"),
    }


def subsets_of(names: Sequence[str], scores: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Return the sets of a unit's components that are tried: all of few; of many those that scores and depth suggest.

    Args:
        names: components with a positive score, in the order in which data flows.
        scores: component to score.
    """
    ranked = sorted(names, key=lambda name: -scores[name])
    free = ranked[:FREE_COMPONENTS]
    chosen = list(chain.from_iterable(combinations([n for n in names if n in free], k) for k in range(len(free) + 1)))
    for count in range(1, len(names) + 1):
        best = set(ranked[:count])
        chosen += [tuple(n for n in names if n in best), tuple(names[-count:])]
    return list(dict.fromkeys(chosen))


def _options(
    w: Workload, scores: Mapping[str, float], index: int, entered: bool, micro_batch: int, recompute: Recompute
) -> Options:
    """List the sets of a unit's components that may train; without the empty one where the trained part starts."""
    unit = w.units[index]
    always = [name for name in unit.components if name in w.always]
    scored = [name for name in unit.components if name not in always and scores.get(name, 0) > 0]
    sets = [tuple(n for n in unit.components if n in {*always, *chosen}) for chosen in subsets_of(scored, scores)]
    sets = [names for names in sets if names or entered]
    costs = [w.costs.cost(index, names, entered, recompute) for names in sets]
    empty = process_bytes(0)
    return Options(
        subsets=tuple(sets),
        state=np.array(
            [
                sum(map(w.trained_bytes, n)) + process_bytes(c.graph_bytes) - empty
                for n, c in zip(sets, costs, strict=True)
            ],
            dtype=float,
        ),
        held=np.array([cost.memory.held.at(micro_batch) for cost in costs], dtype=float),
        peak=np.array([cost.memory.peak(micro_batch) for cost in costs], dtype=float),
        held_beside=np.array([cost.beside.held.at(micro_batch) for cost in costs], dtype=float),
        peak_beside=np.array([cost.beside.peak(micro_batch) for cost in costs], dtype=float),
        keeps_end=np.array([cost.keeps_end for cost in costs], dtype=bool),
        score=np.array([sum(scores.get(name, 0.0) for name in n if name not in always) for n in sets], dtype=float),
        flops=np.array([cost.flops for cost in costs], dtype=float),
        disk=np.array(
            [
                sum(map(w.trained_disk_bytes, n)) + TRAINING_GRAPHS * c.graph_bytes
                for n, c in zip(sets, costs, strict=True)
            ],
            dtype=float,
        ),
    )


def _extended(front: Front, o: Options, limited: bool) -> Front:
    """Combine every partial choice with every option of one more unit and keep those that nothing beats."""
    state = (front.state[:, None] + o.state).ravel()
    later = np.where(o.keeps_end, front.peak_beside[:, None], front.peak[:, None])
    peak = np.maximum(o.peak, o.held + later).ravel()
    beside = np.maximum(o.peak_beside, o.held_beside + later).ravel()
    score = (front.score[:, None] + o.score).ravel()
    flops = (front.flops[:, None] + o.flops).ravel()
    disk = (front.disk[:, None] + o.disk).ravel()
    if limited and len(score):
        costs = [cost / max(abs(cost).max(), 1) for cost in (state + TRANSIENT * peak, flops, disk)]
        sums = [sum(some) for n in (1, 2, 3) for some in combinations(costs, n)]
        chosen = np.unique(np.concatenate([_undominated(np.asarray(cost), score) for cost in sums]))
    else:
        chosen = _undominated(state + TRANSIENT * peak, score)
    parent, option = np.divmod(chosen, len(o.subsets) or 1)
    state, peak, beside = state[chosen], peak[chosen], beside[chosen]
    return Front(state, peak, beside, score[chosen], flops[chosen], disk[chosen], parent, option, o, front)


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
