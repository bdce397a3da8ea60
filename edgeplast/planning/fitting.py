"""How to run a given set of components inside a budget, and what to say when it cannot be."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from edgeplast.budget import Budget
from edgeplast.components import HEAD
from edgeplast.errors import BudgetError
from edgeplast.planning.estimating import Estimate, Workload, base_bytes
from edgeplast.recomputation import RECOMPUTE
from edgeplast.units import format_bytes

MIB = 1024**2


def rungs(workload: Workload, trainable: Collection[str], micro_batches: Iterable[int]) -> list[Estimate]:
    """Return every way to run a set: micro-batch sizes, and recomputation wherever more of it saves memory."""
    found: list[Estimate] = []
    for size in micro_batches:
        least = math.inf
        for way in (workload.estimate(trainable, size, recompute) for recompute in RECOMPUTE):
            if way.peak_bytes < least:
                found.append(way)
                least = way.peak_bytes
    return found


def fits(e: Estimate, budget: Budget, *, ignore: str = "") -> bool:
    """Whether an estimate stays within every limit of a budget but the ignored one."""
    pairs = {
        "memory": (e.peak_bytes, budget.memory_bytes),
        "time": (e.step_seconds, budget.step_seconds),
        "disk": (e.disk_bytes, budget.disk_bytes),
    }
    return all(limit is None or value <= limit for name, (value, limit) in pairs.items() if name != ignore)


def fastest(estimates: Iterable[Estimate], budget: Budget) -> Estimate | None:
    """Return the fastest way that fits; of equally fast ones the largest micro-batch. None: none fits."""
    fitting = [e for e in estimates if fits(e, budget)]
    return min(fitting, key=lambda e: (e.step_seconds, -e.micro_batch_size, e.peak_bytes), default=None)


def smallest(estimates: Iterable[Estimate], budget: Budget) -> Estimate | None:
    """Return the way with the smallest peak within the budget's other limits; None: they forbid all."""
    allowed = [e for e in estimates if fits(e, budget, ignore="memory")]
    return min(allowed, key=lambda e: e.peak_bytes, default=None)


def nothing_fits(workload: Workload, budget: Budget, micro_batches: Sequence[int]) -> BudgetError:
    """Return the error for a budget in which not even the head alone can train; it names the smallest that would do."""
    below = ""
    if budget.memory_bytes is not None and budget.memory_bytes < base_bytes(workload.architecture.depth):
        below = f" The runtime alone takes about {format_bytes(base_bytes(workload.architecture.depth))}."
    return BudgetError(
        f"Nothing of {workload.architecture.model} can be trained within {budget}.{below} "
        f"The head alone needs {_need(workload, [HEAD], budget, micro_batches)}."
    )


def does_not_fit(
    workload: Workload, what: str, trainable: Collection[str], budget: Budget, micro_batches: Sequence[int]
) -> BudgetError:
    """Return the error for a choice made by hand that the budget forbids; it names the smallest that would do."""
    return BudgetError(
        f"{what} does not fit {workload.architecture.model} into {budget}. Training its {len(trainable)} components "
        f"needs {_need(workload, trainable, budget, micro_batches)}. Or let --strategy best choose what fits."
    )


def _need(workload: Workload, trainable: Collection[str], budget: Budget, micro_batches: Sequence[int]) -> str:
    """Say what the limit that stands in the way would have to be, and which settings would lower the need."""
    ways = rungs(workload, trainable, micro_batches)
    limits = {"memory": budget.memory_bytes, "time": budget.step_seconds, "disk": budget.disk_bytes}
    given = [name for name, limit in limits.items() if limit is not None]
    # One limit is in the way if the others leave some way to run; where two are, the first is named first.
    limit = next((name for name in given if any(fits(e, budget, ignore=name) for e in ways)), given[0])
    ways = [e for e in ways if fits(e, budget, ignore=limit)] or ways
    if limit == "time":
        seconds = math.ceil(min(e.step_seconds for e in ways) * 1000) / 1000
        return f"at least {seconds:g} s a step: give --time-per-step {seconds:g} or more, or a smaller --batch"
    hints = ["--weight-bits 8"] if 32 in workload.weight_bits.values() else []
    if limit == "disk":
        size = math.ceil(min(e.disk_bytes for e in ways) / MIB)
        return f"at least {size} MiB on disk: give --disk {size}MiB or more{_or(hints)}"
    way = min(ways, key=lambda e: e.peak_bytes)
    how = f"micro-batch {way.micro_batch_size}{', recomputation' if way.recompute != 'none' else ''}"
    size = math.ceil(way.peak_bytes / MIB)
    hints += ["a smaller --micro-batch"] if min(micro_batches) > 1 else []
    moment_bytes = 4 * sum(workload.architecture.parameters[name] for name in trainable)
    hints += ["--optimizer sgd"] if workload.optimizer == "adamw" and moment_bytes > MIB else []
    return f"at least {size} MiB of memory ({how}): give --memory {size}MiB or more{_or(hints)}"


def _or(hints: list[str]) -> str:
    return f", or lower the need by {' and '.join(hints)}" if hints else ""
