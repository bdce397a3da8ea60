"""Plan: from scores and a budget to what trains, by walks over the graph that would run; needs no torch.

units → segment_costs → estimating → fitting (how to run a set) → focusing and choosing (which set) → planner
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edgeplast.budget import Budget
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.operators.record import ShapeError
from edgeplast.graphs.recording import restored
from edgeplast.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from edgeplast.planning.estimates import Estimate
from edgeplast.planning.estimating import FLOPS_PER_SECOND, Workload, resized
from edgeplast.planning.explaining import (
    MORE_BYTES,
    Alternative,
    Contestant,
    CurvePoint,
    Explanation,
    Missed,
    explained,
)
from edgeplast.planning.leaving_room import with_room
from edgeplast.planning.planner import HEAD, Planner
from edgeplast.planning.refining import refined
from edgeplast.planning.segment_costs import total_lines
from edgeplast.planning.strategies import STRATEGIES
from edgeplast.plans import Plan
from edgeplast.progress import Progress, silent
from edgeplast.scores import ScoreTable

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of typing from Python 3.11 on

    from edgeplast.planning.settings import Settings

__all__ = [
    "STRATEGIES",
    "Alternative",
    "Contestant",
    "CurvePoint",
    "Estimate",
    "Explanation",
    "Missed",
    "contest",
    "explain",
    "memory_alone",
    "peak_of",
    "plan",
    "with_room",
]


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Call a recorded graph whose tensors do not go together damaged; any walk may be the first to see it."""
    try:
        yield
    except (ShapeError, ArithmeticError, LookupError, AssertionError) as error:
        # What the rules of gradients rely on beyond types, and sizes that no machine counts.
        raise InputError(f"The recorded graph is damaged: {error}. Score the model again.") from error


@_damage_named()
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
    progress: Progress = silent,
) -> Plan:
    """Choose what trains under a budget, and the fastest step that fits it.

    Args:
        scores: of the model's components.
        budget: of the device.
        strategy: how to choose; one of :data:`STRATEGIES`.
        method: which of the table's methods to go by; by default its main one.
        train: components by name, as in :meth:`edgeplast.outline.Outline.select`, or finer parts, as in
            :func:`edgeplast.planning.refining.refined`; instead of a strategy.
        optimizer: ``adamw`` or ``sgd``.
        batch_size: images an optimizer step is computed from.
        micro_batch_size: images that pass through the graph at once; by default chosen.
        weight_bits: of frozen matrices: 32, 8 or 4. What trains, norms and biases are float32.
        component_weight_bits: component to bits, where they differ from ``weight_bits``.
        classes: names of the new head's classes, or how many; by default those of the scored images, or the
            model's own where they had none.
        flops_per_second: of the device, for the time of a step.
        progress: told of the search.

    Raises:
        BudgetError: the strategy, or anything at all, does not fit; the message names a budget that would do.
        UsageError: an option means nothing.
    """
    scores, parts = refined(scores, train)
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
        progress=progress,
    )
    return planner.plan(budget, strategy, parts, asked=train)


def peak_of(plan: Plan, graph: Graph) -> int:
    """Return the predicted peak in bytes of the step that a plan describes, by a graph of the model that will run.

    Args:
        plan: says what trains, how the rest is stored, and how the step is taken.
        graph: from images to logits, what trains as the plan groups it.
    """
    bits = {name: component.weight_bits for name, component in plan.components.items()}
    workload = Workload(plan.outline, graph, bits, plan.optimizer, plan.batch_size)
    return workload.measured(plan.trainable, plan.micro_batch_size, plan.recompute).peak_bytes


@_damage_named()
def memory_alone(scores: ScoreTable) -> dict[str, int]:
    """Return what training each scored component alone adds to inference of one image, in bytes.

    Activations kept and computed with (without recomputation), gradients, AdamW's two numbers a parameter; everything
    else stays float32.
    """
    outline, graph = resized(scores.outline, restored(scores.graph), None)
    workload = Workload(outline, graph, dict.fromkeys(outline.names, 32))
    inference = max(line.at(1) for line in total_lines(workload.unit_costs((), "none")))
    found: dict[str, int] = {}
    for unit in dict.fromkeys(name for method in scores.methods for name in scores.by(method)):
        where = next((c.name for c in outline.components if f"{unit}.".startswith(f"{c.name}.")), None)
        names = [where] if where else [n for n in outline.names if n.startswith(f"{unit.rpartition('.')[0]}.")]
        alive = max(line.at(1) for line in total_lines(workload.unit_costs(names, "none")))
        entry = next(scores.by(method)[unit] for method in scores.methods if unit in scores.by(method))
        found[unit] = max(alive - inference, 0) + 4 * (1 + len(OPTIMIZERS[DEFAULT_OPTIMIZER].slots)) * entry.parameters
    return found


@_damage_named()
def contest(
    scores: ScoreTable,
    budget: Budget,
    names: Sequence[str] = (),
    *,
    alternatives: bool = False,
    **how: Unpack[Settings],
) -> dict[str, tuple[Plan, tuple[str, ...]]]:
    """Return ways to choose by name, each different plan once, with the other names that come to the same plan.

    Args:
        scores: of the model's components.
        budget: of the device.
        names: of ways, as in :meth:`~edgeplast.planning.planner.Planner.rival`, or finer parts such as ``lora:8``; by
            default the usual ones that fit, those of :func:`explain`.
        alternatives: each leaves room in the budget for the weights of alternatives.
        **how: further arguments of :func:`plan`, without ``strategy`` and ``train``.

    Raises:
        BudgetError: one that was named, or of the usual ones not any, fits.
        UsageError: a name means nothing.
    """
    planner = Planner(scores, **how)
    made = {} if names else planner.usual(budget, alternatives=alternatives)
    for name in names:
        finer, parts = refined(scores, name.replace("+", ","))
        if finer is scores:
            made[name] = planner.rival(name, budget, alternatives=alternatives)
        else:
            made[name] = Planner(finer, **how).plan(budget, "names", parts, asked=name)
            if alternatives:
                with_room(made[name])  # raises: they are sets of whole components
    if not made:
        planner.rival(HEAD, budget, alternatives=alternatives)  # raises, and says what would do
    found: dict[tuple[str, ...], list[str]] = {}
    for name, plan in made.items():
        found.setdefault(plan.trainable, []).append(name)
    return {first: (made[first], tuple(more)) for first, *more in found.values()}


@_damage_named()
def explain(
    scores: ScoreTable,
    budget: Budget,
    *,
    strategy: str = "best",
    train: Sequence[str] | str | None = None,
    **how: Unpack[Settings],
) -> Explanation:
    """Plan, and say what was chosen, what else could be, what just missed, and what more memory would buy.

    Arguments and errors are those of :func:`plan`; ``how`` takes the rest of them.
    """
    scores, parts = refined(scores, train)
    planner = Planner(scores, **how)
    made = planner.plan(budget, strategy, parts, asked=train)
    more = None
    if budget.memory_bytes is not None:
        more = planner.plan(
            msgspec.structs.replace(budget, memory_bytes=budget.memory_bytes + MORE_BYTES), strategy, parts
        )
    return explained(
        made,
        planner.workload,
        planner.block_scores,
        budget,
        planner.micro_batches,
        others=tuple(planner.usual(budget).values()),
        with_more=more,
        found=planner.candidates(budget) if made.strategy == "summed" else None,
    )
