"""Which nested sets of components get training graphs of their own: from the head alone to the whole plan."""

from __future__ import annotations

from edgeplast.plans import Plan


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
