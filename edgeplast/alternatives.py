"""Alternatives: sets of components that a device may train in place of the plan's, and which of them scores favour.

The planner's own objective, focus, over a few sets that are there instead of over all that could be: plasticity differs
between kinds of components far more than between blocks (arXiv 2602.06883), so what is chosen is kinds. Workstation and
device ask the same functions, and all of them are pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import median

from edgeplast.errors import UsageError
from edgeplast.medians import medians
from edgeplast.outline import Outline
from edgeplast.plans import Plan
from edgeplast.scores import ComponentScore

SHARE = 0.5
"""What a kind must reach of the top one's median score to be in focus. Between kinds lie factors: on ViT-Tiny fc1 3.0,
attn 0.4, fc2 0.2 with norms folded in; norm2 1.8, fc1 1.7, norm1 1.2, fc2 0.8, attn 0.2 without."""

ENOUGH = 4
"""Micro-batches from this size on take the same time an image."""

_MOST_KINDS = 5
_PART = 0.25
"""Of the blocks that ``late`` trains, and of the scored components that ``high`` and ``low`` do."""

_SURE = 1.96
"""Standard errors by which a set must be ahead of the one that trains."""

_FINER = ("lora", "lora_A", "bias")


def kinds_by_plasticity(outline: Outline, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the kinds to their median scores, the most plastic first.

    Args:
        outline: of the model.
        scores: component to score, of the scored components between embedding and norms; those that are not positive
            do not count.
    """
    kinds = {c.name: c.kind for c in outline.components}
    scored = {name: scores[name] for kind in dict.fromkeys(kinds.values()) for name in of_kind(outline, scores, kind)}
    return dict(sorted(medians(scored, kinds.__getitem__).items(), key=lambda item: -item[1]))


def of_kind(outline: Outline, scores: Mapping[str, float], kind: str) -> list[str]:
    """Return the components of a kind whose score is positive, in data-flow order."""
    return [c.name for c in outline.components if c.role == "inner" and c.kind == kind and scores.get(c.name, 0.0) > 0]


def errors_of_kinds(outline: Outline, scores: Mapping[str, ComponentScore]) -> dict[str, float]:
    """Return the kinds to the median standard errors of their scores: about those of the median scores, at most."""
    found = {name: entry.score for name, entry in scores.items()}
    return {
        kind: median(scores[name].standard_error for name in of_kind(outline, found, kind))
        for kind in kinds_by_plasticity(outline, found)
    }


def in_focus(kinds: Mapping[str, float]) -> list[str]:
    """Return the kinds that are at least half as plastic as the top one; arguments as the first function gives."""
    least = SHARE * max(kinds.values(), default=0.0)
    return [kind for kind, score in kinds.items() if score >= least]


def alternatives(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the sets that may train in place of a plan's, by name, in data-flow order; norms and head are in each.

    ``all-KIND`` is one kind in all blocks, of the most plastic kinds; ``late`` all of the last quarter of the blocks;
    ``high`` and ``low`` are the quarters of the scored components with the highest and the lowest scores. What is
    equal to the plan's own set, or to one before, is left out.

    Args:
        plan: made by scores.

    Raises:
        UsageError: it knows no scores, or trains parts that are finer than components.
    """
    outline = plan.outline
    if finer := [c.name for c in outline.components if c.kind in _FINER and c.name.endswith(f".{c.kind}")]:
        raise UsageError(
            f"Alternatives are sets of whole components, and this plan knows finer parts ({finer[0]}). "
            "Leave out --alternatives, or --train lora, lora-fa, bias and norms."
        )
    roles = {c.name: c.role for c in outline.components}
    scores = {n: c.score for n, c in plan.components.items() if c.score is not None and roles[n] == "inner"}
    if not any(score > 0 for score in scores.values()):
        raise UsageError(
            "Alternatives are chosen by scores, and this plan knows none. Make it of a table of scores: edgeplast plan "
            "scores.json -o plan.json, or export with --data and without --plan."
        )
    kinds = list(kinds_by_plasticity(outline, scores))[:_MOST_KINDS]
    ranked = sorted(scores, key=lambda name: -scores[name])
    part, last = max(1, round(_PART * len(ranked))), outline.blocks - max(1, round(_PART * outline.blocks))
    chosen: dict[str, Collection[str]] = {f"all-{kind}": of_kind(outline, scores, kind) for kind in kinds}
    chosen |= {
        "late": [c.name for c in outline.components if c.block is not None and c.block >= last],
        "high": ranked[:part],
        "low": ranked[-part:],
    }
    ends = [name for name in plan.trainable if roles[name] in ("norm", "head")]
    found: dict[str, tuple[str, ...]] = {}
    for name, inner in chosen.items():
        components = tuple(outline.in_order([*inner, *ends]))
        if components not in (plan.trainable, *found.values()) and len(components) > len(ends):
            found[name] = components
    return found


def held_beside(plan: Plan, sets: Mapping[str, Collection[str]]) -> int:
    """Return the bytes of memory that a device holds more where weights of alternatives lie beside a plan's.

    They are float32 and not as few bits as frozen ones, whichever set trains.
    """
    beside = {name for components in sets.values() for name in components} - {*plan.trainable}
    return sum(plan.components[n].parameters * (32 - plan.components[n].weight_bits) // 8 for n in beside)


def favoured(
    outline: Outline,
    scores: Mapping[str, ComponentScore],
    sets: Mapping[str, Collection[str]],
    at_once: Mapping[str, int],
    now: str,
) -> str:
    """Return the name of the set that a table of scores favours.

    As focus has it: the one that trains most of the plastic kinds, each component counted by the median of its kind.
    Of those that train as much of them the one with most beside them, or, where that is paid for by micro-batches
    below four, with least. The one that trains now stays unless another is ahead by more than chance (1.96 standard
    errors), or trains as much of the plastic kinds, more beside them, and images still pass four at a time.

    Args:
        outline: of the model.
        scores: of its components.
        sets: name to the components that train; those that fit the budget.
        at_once: images of a micro-batch, by set.
        now: the set that trains; one of them.
    """
    found = {name: entry.score for name, entry in scores.items()}
    kinds = kinds_by_plasticity(outline, found)
    plastic, errors = in_focus(kinds), errors_of_kinds(outline, scores)
    count = {name: _kinds_in(outline, components, kinds) for name, components in sets.items()}

    def value(name: str) -> float:
        return sum(kinds[kind] * count[name][kind] for kind in plastic)

    def beside(name: str) -> float:
        rest = sum(score * count[name][kind] for kind, score in kinds.items() if kind not in plastic)
        return rest if at_once[name] >= ENOUGH else -rest

    best = max(sets, key=lambda name: (value(name), beside(name), name == now))
    ahead = value(best) - value(now)
    error = math.hypot(*(errors[kind] * (count[best][kind] - count[now][kind]) for kind in plastic), 0.0)
    return best if ahead > _SURE * error or (ahead == 0 and beside(best) > beside(now)) else now


def _kinds_in(outline: Outline, components: Collection[str], kinds: Collection[str]) -> dict[str, int]:
    """Return how many components of each kind a set trains."""
    names = {*components}
    return {kind: sum(c.name in names for c in outline.components if c.kind == kind) for kind in kinds}
