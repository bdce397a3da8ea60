"""Which sets of components get training graphs: nested ones from the head alone to the whole plan, and alternatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edgeplast.alternatives import held_beside
from edgeplast.graphs.closing import closed
from edgeplast.plans import Plan
from edgeplast_exporters.capture import Captured

NOTHING_SCORED = (
    "A device chooses among alternatives by scores, and nothing in {model} gets one: it has no component between its "
    "embedding and its head. Leave out --alternatives."
)


def tier_components(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """Return tier name and trainable components, largest first.

    Memory is decided by how deep the gradient goes, so tiers cut off the deepest part: half and a quarter of
    the planned blocks counted from the output, then the head alone. Sets that are equal appear once.
    """
    parts = {c.name: c for c in plan.outline.components}
    blocks = sorted({b for name in plan.trainable if (b := parts[name].block) is not None})
    tiers: list[tuple[str, tuple[str, ...]]] = [("full", plan.trainable)]
    for name, share in (("half", 2), ("quarter", 4)):
        kept = set(blocks[len(blocks) - len(blocks) // share :]) if blocks else set()
        if kept:
            tiers.append((name, _within(plan, kept)))
    tiers.append(("head", tuple(name for name in plan.trainable if parts[name].role == "head")))
    distinct: list[tuple[str, tuple[str, ...]]] = []
    for name, components in tiers:
        if components not in [c for _, c in distinct]:
            distinct.append((name, components))
    return distinct


def _within(plan: Plan, blocks: set[int]) -> tuple[str, ...]:
    parts = {c.name: c for c in plan.outline.components}
    return tuple(name for name in plan.trainable if parts[name].role in ("norm", "head") or parts[name].block in blocks)


def beside(alternatives: Mapping[str, Sequence[str]], plan: Plan, captured: Captured) -> dict[str, tuple[str, ...]]:
    """Return alternatives without what cannot train, in data-flow order, those that are equal to another left out.

    Args:
        alternatives: components by name.
        plan: beside which they stand.
        captured: the model as it will run.
    """
    named = {name for components in alternatives.values() for name in components}
    shut = closed(
        captured.graph, [p for p, owner in captured.owner.items() if owner in named and p in captured.parameters]
    )
    dead = {captured.owner[parameter] for parameter in shut}
    found: dict[str, tuple[str, ...]] = {}
    for name, components in alternatives.items():
        left = tuple(plan.outline.in_order([c for c in components if c not in dead]))
        if left not in (plan.trainable, *found.values()):
            found[name] = left
    return found


def stored_for(plan: Plan, sets: Mapping[str, Sequence[str]]) -> Plan:
    """Return a plan that says how what alternatives train is stored, as float32 also where the plan freezes it.

    Its predicted peak counts what a device holds more for that: plans are made, merged and given bits without it.
    """
    learning = {name for components in sets.values() for name in components}
    replace = msgspec.structs.replace
    components = {n: replace(c, weight_bits=32) if n in learning else c for n, c in plan.components.items()}
    peak = plan.predicted_peak_bytes + held_beside(plan, sets)
    return replace(plan, components=components, predicted_peak_bytes=peak) if sets else plan
