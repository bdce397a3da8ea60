"""Plan: from scores and a budget to what trains. Pure arithmetic; standard library and numpy only.

sizes → activations, weights, flops → estimating → fitting (how to run a set) and choosing (which set) → planner
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeplast.budget import Budget
from edgeplast.planning.estimating import Estimate, base_bytes, estimate
from edgeplast.planning.explaining import Alternative, CurvePoint, Explanation, Missed, explained
from edgeplast.planning.flops import FLOPS_PER_SECOND
from edgeplast.planning.planner import Planner
from edgeplast.planning.strategies import STRATEGIES
from edgeplast.plans import Plan
from edgeplast.scores import ScoreTable

__all__ = [
    "STRATEGIES",
    "Alternative",
    "CurvePoint",
    "Estimate",
    "Explanation",
    "Missed",
    "base_bytes",
    "estimate",
    "explain",
    "plan",
]


def plan(
    scores: ScoreTable,
    budget: Budget,
    *,
    strategy: str = "best",
    method: str | None = None,
    train: Sequence[str] | str | None = None,
    optimizer: str = "adamw",
    batch_size: int = 16,
    micro_batch_size: int | None = None,
    weight_bits: int = 8,
    component_weight_bits: Mapping[str, int] | None = None,
    classes: int | Sequence[str] | None = None,
    flops_per_second: float = FLOPS_PER_SECOND,
) -> Plan:
    """Choose what trains under a budget, and with which step the device starts.

    Args:
        scores: of the model's components.
        budget: of the device.
        strategy: how to choose; one of :data:`STRATEGIES`.
        method: which of the table's methods to go by; by default its main one.
        train: components by name, in the short forms of :func:`edgeplast.components.select`; instead of a strategy.
        optimizer: ``adamw`` or ``sgd``.
        batch_size: images an optimizer step is computed from.
        micro_batch_size: images that pass through the graph at once; by default chosen.
        weight_bits: of frozen matrices: 32, 8 or 4. What trains, norms and biases are float32.
        component_weight_bits: component to bits, where they differ from ``weight_bits``.
        classes: names of the new head's classes, or how many; by default those of the scored images, or the
            model's own where they had none.
        flops_per_second: of the device, for the time of a step.

    Raises:
        BudgetError: the strategy, or anything at all, does not fit; the message names a budget that would do.
        UsageError: an option means nothing.
    """
    planner = Planner(
        scores,
        method=method,
        optimizer=optimizer,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        weight_bits=weight_bits,
        component_weight_bits=component_weight_bits,
        classes=classes,
        flops_per_second=flops_per_second,
    )
    return planner.plan(budget, strategy, train)


def explain(
    scores: ScoreTable,
    budget: Budget,
    *,
    strategy: str = "best",
    train: Sequence[str] | str | None = None,
    **how: Any,
) -> Explanation:
    """Plan, and say what was chosen, what just missed, and what more memory would buy.

    Arguments and errors are those of :func:`plan`; ``how`` takes the rest of them.
    """
    planner = Planner(scores, **how)
    made = planner.plan(budget, strategy, train)
    found = planner.candidates(budget)
    return explained(made, planner.workload, found, planner.block_scores, budget, planner.micro_batches)
