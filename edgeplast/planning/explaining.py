"""Explanation: what was chosen, what just missed, and the curve of score against memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from edgeplast.budget import Budget
from edgeplast.planning.choosing import Candidates
from edgeplast.planning.estimating import Estimate, Workload
from edgeplast.planning.fitting import smallest, ways
from edgeplast.plans import Plan

CURVE_POINTS = 24
MORE_BYTES = 50_000_000
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


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best summed score within an amount of memory, and how many components it takes."""

    memory_bytes: int
    score: float
    components: int


class Alternative(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The best choice at another amount of memory.

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
        missed: scored components that do not train, highest score first.
        curve: best score against memory, from the smallest plan to the one that trains all that has a score.
        next_step: the cheapest choice with a larger score than the plan's; None where there is none.
        with_more: the best choice with ``MORE_BYTES`` more memory; None without a limit on memory.
    """

    plan: Plan
    estimate: Estimate
    score: float
    missed: tuple[Missed, ...]
    curve: tuple[CurvePoint, ...]
    next_step: Alternative | None
    with_more: Alternative | None


def explained(
    plan: Plan,
    workload: Workload,
    found: Candidates,
    scores: Mapping[str, float],
    budget: Budget,
    micro_batches: Sequence[int],
) -> Explanation:
    """Explain a plan.

    Args:
        plan: as made.
        workload: it was made for.
        found: every choice worth having.
        scores: component to score, of the scored components in blocks.
        budget: as asked for.
        micro_batches: sizes that may be used.
    """
    score = sum(scores.get(name, 0.0) for name in plan.trainable)
    allowed = found.within(msgspec.structs.replace(budget, memory_bytes=None))
    higher = np.flatnonzero(allowed & (found.score > score + 1e-9 * abs(score)))
    cheapest = int(higher[found.memory_bytes[higher].argmin()]) if len(higher) else None
    more = None
    if budget.memory_bytes is not None:
        more = found.best(msgspec.structs.replace(budget, memory_bytes=budget.memory_bytes + MORE_BYTES))
    return Explanation(
        plan=plan,
        estimate=workload.measured(plan.trainable, plan.micro_batch_size, plan.recompute),
        score=score,
        missed=_missed(plan, workload, scores, budget, micro_batches),
        curve=_curve(found, budget),
        next_step=None if cheapest is None else _alternative(plan, found, cheapest),
        with_more=None if more is None else _alternative(plan, found, more),
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


def _alternative(plan: Plan, found: Candidates, index: int) -> Alternative:
    trained = found.trained(index)
    return Alternative(
        memory_bytes=math.ceil(found.memory_bytes[index]),
        score=float(found.score[index]),
        gained=tuple(name for name in trained if name not in plan.trainable),
        lost=tuple(name for name in plan.trainable if name not in trained),
    )
