"""How to run a given set of components inside a budget, and what to say when it cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from edgeplast.budget import Budget
from edgeplast.errors import BudgetError
from edgeplast.planning.estimates import Estimate
from edgeplast.planning.estimating import ARENA_STRETCH, Workload, process_bytes
from edgeplast.recomputation import RECOMPUTE, Recompute
from edgeplast.units import format_bytes

MIB = 1024**2


def ways(workload: Workload, trainable: Collection[str], micro_batches: Iterable[int]) -> list[Estimate]:
    """Return every way to run a set by its estimate: micro-batch sizes, and recomputation wherever it saves memory."""
    return _worth_having(workload.estimate, trainable, micro_batches)


def measured_ways(workload: Workload, trainable: Collection[str], micro_batches: Iterable[int]) -> list[Estimate]:
    """Return every way to run a set by the graphs that would be written."""
    return _worth_having(workload.measured, trainable, micro_batches)


def _worth_having(
    cost: Callable[[Collection[str], int, Recompute], Estimate],
    trainable: Collection[str],
    micro_batches: Iterable[int],
) -> list[Estimate]:
    found: list[Estimate] = []
    for size in micro_batches:
        least = math.inf
        for way in (cost(trainable, size, recompute) for recompute in RECOMPUTE):
            if way.peak_bytes < least:
                found.append(way)
                least = way.peak_bytes
    return found


def fastest_measured(
    workload: Workload, trainable: Collection[str], micro_batches: Sequence[int], budget: Budget
) -> Estimate | None:
    """Return the fastest way to run a set that fits by the graphs that would be written; None: none fits.

    The graphs of one degree of recomputation are built only where no faster way fits.
    """
    rough = sorted(ways(workload, trainable, micro_batches), key=_slowness)
    for recompute in dict.fromkeys(way.recompute for way in rough if fits(_at_best(way), budget)):
        sizes = [way.micro_batch_size for way in rough if way.recompute == recompute]
        way = fastest([workload.measured(trainable, size, recompute) for size in sizes], budget)
        if way is not None:
            return way
    return None


def _at_best(way: Estimate) -> Estimate:
    """Return an estimate without what it allows for the arena's holes."""
    spare = round(way.transient_bytes * (1 - 1 / ARENA_STRETCH))
    return msgspec.structs.replace(way, peak_bytes=way.peak_bytes - 2 * spare)


def _slowness(way: Estimate) -> tuple[float, int, int]:
    return way.step_seconds, -way.micro_batch_size, way.peak_bytes


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
    return min(fitting, key=_slowness, default=None)


def smallest(estimates: Iterable[Estimate], budget: Budget) -> Estimate | None:
    """Return the way with the smallest peak within the budget's other limits; None: they forbid all."""
    allowed = [e for e in estimates if fits(e, budget, ignore="memory")]
    return min(allowed, key=lambda e: e.peak_bytes, default=None)


def nothing_fits(workload: Workload, budget: Budget, micro_batches: Sequence[int]) -> BudgetError:
    """Return the error for a budget in which not even the head alone can train; it names the smallest that would do."""
    below = ""
    base = process_bytes(workload.evaluation_graph_bytes)
    if budget.memory_bytes is not None and budget.memory_bytes < base:
        below = f" The runtime alone takes about {format_bytes(base)}."
    return BudgetError(
        f"Nothing of {workload.outline.model} can be trained within {budget}.{below} "
        f"The head alone needs {_need(workload, workload.outline.head, budget, micro_batches)}."
    )


def does_not_fit(
    workload: Workload, what: str, trainable: Collection[str], budget: Budget, micro_batches: Sequence[int]
) -> BudgetError:
    """Return the error for a choice made by hand that the budget forbids; it names the smallest that would do."""
    return BudgetError(
        f"{what} does not fit {workload.outline.model} into {budget}. Training its {len(trainable)} components "
        f"needs {_need(workload, trainable, budget, micro_batches)}. Or let --strategy best choose what fits."
    )


def _need(workload: Workload, trainable: Collection[str], budget: Budget, micro_batches: Sequence[int]) -> str:
    """Say what the limit that stands in the way would have to be, and which settings would lower the need."""
    possible = measured_ways(workload, trainable, micro_batches)
    limits = {"memory": budget.memory_bytes, "time": budget.step_seconds, "disk": budget.disk_bytes}
    given = [name for name, limit in limits.items() if limit is not None]
    # One limit is in the way if the others leave some way to run; where two are, the first is named first.
    limit = next((name for name in given if any(fits(e, budget, ignore=name) for e in possible)), given[0])
    possible = [e for e in possible if fits(e, budget, ignore=limit)] or possible
    if limit == "time":
        seconds = math.ceil(min(e.step_seconds for e in possible) * 1000) / 1000
        return f"at least {seconds:g} s a step: give --time-per-step {seconds:g} or more, or a smaller --batch"
    hints = ["--weight-bits 8"] if 32 in workload.weight_bits.values() else []
    if limit == "disk":
        size = math.ceil(min(e.disk_bytes for e in possible) / MIB)
        return f"at least {size} MiB on disk: give --disk {size}MiB or more{_or(hints)}"
    way = min(possible, key=lambda e: e.peak_bytes)
    how = f"micro-batch {way.micro_batch_size}{', recomputation' if way.recompute != 'none' else ''}"
    size = math.ceil(way.peak_bytes / MIB)
    hints += ["a smaller --micro-batch"] if min(micro_batches) > 1 else []
    moment_bytes = 4 * sum(workload.sizes[name] for name in trainable)
    hints += ["--optimizer sgd"] if workload.optimizer == "adamw" and moment_bytes > MIB else []
    return f"at least {size} MiB of memory ({how}): give --memory {size}MiB or more{_or(hints)}"


def _or(hints: list[str]) -> str:
    return f", or lower the need by {' and '.join(hints)}" if hints else ""
