"""Plans that leave room in their budget for weights of alternatives, which a device holds beside theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from edgeplast.alternatives import alternatives, held_beside
from edgeplast.budget import Budget
from edgeplast.errors import BudgetError
from edgeplast.plans import Plan
from edgeplast.units import format_bytes


def with_room(plan: Plan, made: Callable[[Budget], Plan] | None = None) -> Plan:
    """Return a plan that fits its budget beside the weights of alternatives, which a device holds in 32 bits.

    Its predicted peak stays that of a bundle without alternatives; an exporter that writes some adds what they take.

    Args:
        plan: made without them.
        made: makes one anew for another budget; None where the plan was given.

    Raises:
        BudgetError: there is no room; the message says how much they take.
        UsageError: see :func:`edgeplast.alternatives.alternatives`.
    """
    budget, first = plan.budget, held_beside(plan, alternatives(plan))
    needed = plan.predicted_peak_bytes + first
    if (limit := budget.memory_bytes) is None or needed <= limit:
        return plan
    # Less room than the first plan lacked may lead to one beside which more weights lie, so all of them at last.
    for more in (first, held_beside(plan, {"all": plan.components}) + 4 * plan.trainable_parameters):
        with contextlib.suppress(BudgetError):
            found = made(msgspec.structs.replace(budget, memory_bytes=limit - more)) if made and more < limit else None
            if found and found.predicted_peak_bytes + held_beside(found, alternatives(found)) <= limit:
                return msgspec.structs.replace(found, budget=budget)
    raise BudgetError(
        f"With alternatives the plan needs {format_bytes(needed)}, and its budget is {budget}: "
        f"{format_bytes(first)} of it are weights of theirs, which a device holds in 32 bits. Leave out "
        f"--alternatives, allow --memory {-(-needed // (1 << 20))}MiB, or give a plan that is made for less."
    )
