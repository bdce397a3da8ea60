"""Explanation: what was chosen, what else could be, what just missed, and what more memory would buy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from edgeplast.budget import Budget
from edgeplast.planning.choosing import Candidates
from edgeplast.planning.estimates import Estimate
from edgeplast.planning.estimating import Workload
from edgeplast.planning.fitting import smallest, ways
from edgeplast.plans import Plan

CURVE_POINTS = 24
EPOCH_IMAGES = 1000
"""Of how many pictures the predicted seconds of an epoch are."""
MORE_BYTES = 50 << 20
"""How much more memory an explanation asks about."""


class Missed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component that does not train.

    Attributes:
        component: its name.
        score: its score.
        memory_bytes: the smallest peak at which it could join what was chosen; None where time or disk forbid it.
        short_bytes: how much of that the budget lacks; None without a limit on memory.
    """

    component: str
    score: float
    memory_bytes: int | None
    short_bytes: int | None


class Contestant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another way to choose under the same budget, and what it takes.

    Attributes:
        strategy: how it chooses.
        components: how many train.
        parameters: how many numbers train.
        micro_batch_size: images that pass at once.
        recompute: how much is computed again.
        memory_bytes: its predicted peak.
        step_seconds: predicted time of one optimizer step.
        epoch_seconds: the same of an epoch of :data:`EPOCH_IMAGES` pictures that are seen for the first time.
        cached_epoch_seconds: of an epoch of as many whose latents come from the cache; the same where nothing of the
            model comes before what trains.
        score: its summed score.
        chosen: whether it is the plan.
    """

    strategy: str
    components: int
    parameters: int
    micro_batch_size: int
    recompute: str
    memory_bytes: int
    step_seconds: float
    epoch_seconds: float
    cached_epoch_seconds: float
    score: float
    chosen: bool


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best summed score within an amount of memory, and how many components it takes."""

    memory_bytes: int
    score: float
    components: int


class Alternative(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would be chosen at another amount of memory.

    Attributes:
        memory_bytes: its peak.
        score: its summed score.
        gained: components that train there and not in the plan.
        lost: components that train in the plan and not there.
    """

    memory_bytes: int
    score: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a plan is what it is.

    Attributes:
        plan: the plan.
        estimate: its cost by part.
        score: summed score of what trains.
        contest: the usual ways to choose that fit the budget, the plan's own among them.
        missed: scored components that do not train, highest score first.
        with_more: the choice with ``MORE_BYTES`` more memory; None without a limit on memory, or where it is the same.
        next_step: of ``summed``: the cheapest choice with a larger score than the plan's; None where there is none.
        curve: of ``summed``: best score against memory, from the smallest plan to the one that trains all that has a
            score.
    """

    plan: Plan
    estimate: Estimate
    score: float
    contest: tuple[Contestant, ...]
    missed: tuple[Missed, ...]
    with_more: Alternative | None
    next_step: Alternative | None = None
    curve: tuple[CurvePoint, ...] = ()

    @property
    def next_faster(self) -> Contestant | None:
        """Of the usual ways to choose that take less time than the plan, the one that saves least; None: none does."""
        faster = (other for other in self.contest if other.step_seconds < self.estimate.step_seconds)
        return max(faster, key=lambda other: other.step_seconds, default=None)


def explained(
    plan: Plan,
    workload: Workload,
    scores: Mapping[str, float],
    budget: Budget,
    micro_batches: Sequence[int],
    *,
    others: Sequence[Plan],
    with_more: Plan | None,
    found: Candidates | None,
) -> Explanation:
    """Explain a plan.

    Args:
        plan: as made.
        workload: it was made for.
        scores: component to score, of the scored components in blocks.
        budget: as asked for.
        micro_batches: sizes that may be used.
        others: plans by the usual ways to choose, under the same budget.
        with_more: the plan with ``MORE_BYTES`` more memory.
        found: every choice worth having, where the plan was the best of them.
    """

    def summed(names: Sequence[str]) -> float:
        return sum(scores.get(name, 0.0) for name in names)

    def measured(plan: Plan) -> Estimate:
        return workload.measured(plan.trainable, plan.micro_batch_size, plan.recompute)

    steps = math.ceil(EPOCH_IMAGES / plan.batch_size)

    def contestant(other: Plan) -> Contestant:
        way = measured(other)
        return Contestant(
            strategy=other.strategy,
            components=len(other.trainable),
            parameters=other.trainable_parameters,
            micro_batch_size=way.micro_batch_size,
            recompute=way.recompute,
            memory_bytes=way.peak_bytes,
            step_seconds=way.step_seconds,
            epoch_seconds=way.step_seconds * steps,
            cached_epoch_seconds=way.cached_step_seconds * steps,
            score=summed(other.trainable),
            chosen=other.trainable == plan.trainable,
        )

    rows = {p.trainable: contestant(p) for p in (*others, plan)}  # of equal ones the plan
    more = None
    if with_more is not None and with_more.trainable != plan.trainable:
        more = _alternative(plan, with_more.predicted_peak_bytes, summed(with_more.trainable), with_more.trainable)
    next_step = None
    if found is not None:
        allowed = found.within(msgspec.structs.replace(budget, memory_bytes=None))
        score = summed(plan.trainable)
        higher = np.flatnonzero(allowed & (found.score > score + 1e-9 * abs(score)))
        if len(higher):
            i = int(higher[found.memory_bytes[higher].argmin()])
            next_step = _alternative(
                plan, math.ceil(found.memory_bytes[i]), float(found.score[i]), tuple(found.trained(i))
            )
    return Explanation(
        plan=plan,
        estimate=measured(plan),
        score=summed(plan.trainable),
        contest=tuple(sorted(rows.values(), key=lambda row: row.memory_bytes)),
        missed=_missed(plan, workload, scores, budget, micro_batches),
        with_more=more,
        next_step=next_step,
        curve=() if found is None else _curve(found, budget),
    )


def _missed(
    plan: Plan, workload: Workload, scores: Mapping[str, float], budget: Budget, micro_batches: Sequence[int]
) -> tuple[Missed, ...]:
    left_out = sorted((name for name in scores if name not in plan.trainable), key=lambda name: -scores[name])
    result = []
    for name in left_out:
        way = smallest(ways(workload, [*plan.trainable, name], micro_batches), budget)
        need = None if way is None else way.peak_bytes
        short = None if need is None or budget.memory_bytes is None else need - budget.memory_bytes
        result.append(Missed(component=name, score=scores[name], memory_bytes=need, short_bytes=short))
    return tuple(result)


def _curve(found: Candidates, budget: Budget) -> tuple[CurvePoint, ...]:
    """Sample the staircase of best scores at equal distances of memory."""
    allowed = found.within(msgspec.structs.replace(budget, memory_bytes=None))
    if not allowed.any():
        return ()
    top = found.score[allowed].max()
    last = found.memory_bytes[allowed & (found.score >= top - 1e-9 * abs(top))].min()
    points = []
    for memory in np.linspace(found.memory_bytes[allowed].min(), last, CURVE_POINTS):
        best = found.best(msgspec.structs.replace(budget, memory_bytes=int(np.ceil(memory))))
        if best is not None:
            count = len(found.trained(best))
            point = CurvePoint(memory_bytes=int(np.ceil(memory)), score=float(found.score[best]), components=count)
            points.append(point)
    return tuple(points)


def _alternative(plan: Plan, memory_bytes: int, score: float, trained: Sequence[str]) -> Alternative:
    return Alternative(
        memory_bytes=memory_bytes,
        score=score,
        gained=tuple(name for name in trained if name not in plan.trainable),
        lost=tuple(name for name in plan.trainable if name not in trained),
    )
