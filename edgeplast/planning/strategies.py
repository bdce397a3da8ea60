"""Strategies: which components to train, as a rule instead of an optimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeplast.components import COMPONENT_TYPES, HEAD, NORM, all_components, block_components, in_order, select
from edgeplast.errors import UsageError, one_of

STRATEGIES: dict[str, str] = {
    "best": "the largest summed score that fits the budget",
    "uniform": "everything, patch embedding included",
    "freeze-low:FRACTION": "freeze that fraction of the scored components, lowest scores first",
    "focus-high:FRACTION": "train that fraction of the scored components, highest scores first",
    "last-k:BLOCKS": "the last so many blocks",
    **{kind: f"{kind} in all blocks" for kind in COMPONENT_TYPES},
    "names": "the components named by train",
}
"""Strategy to what trains beside norm and head."""


def names_of(strategy: str, train: str | Sequence[str] | None, scores: Mapping[str, float], depth: int) -> list[str]:
    """Return what a strategy other than ``best`` trains, in data-flow order.

    Norm and head always train, except that a list of names is taken as it is, with the head added.

    Args:
        strategy: a key of ``STRATEGIES``, with a number in the place of its capitals.
        train: patterns of :func:`edgeplast.components.select`, for ``names``.
        scores: component to score, of the scored components in blocks.
        depth: blocks of the model.

    Raises:
        UsageError: no such strategy, or its number or ``train`` means nothing.
    """
    kind, _, argument = strategy.strip().replace(" ", ":").partition(":")
    if kind == "names":
        if not train:
            raise UsageError("Strategy 'names' needs the names: give train, e.g. --train attn:8-11,norm,head.")
        return in_order([*select(train if isinstance(train, str) else ",".join(train), depth), HEAD], depth)
    if kind not in {name.partition(":")[0] for name in STRATEGIES}:
        raise one_of("strategy", strategy, tuple(STRATEGIES))
    takes_number = kind in ("freeze-low", "focus-high", "last-k")
    if argument and not takes_number:
        raise UsageError(f"Strategy {kind!r} takes no number; {strategy!r} was given. Write {kind!r}.")
    if kind == "uniform":
        return all_components(depth)
    if kind in COMPONENT_TYPES:
        return in_order([*select(kind, depth), NORM, HEAD], depth)
    if kind == "last-k":
        chosen = block_components(depth)[-len(COMPONENT_TYPES) * _blocks(strategy, argument, depth) :]
    else:
        chosen = _by_rank(kind, _fraction(strategy, argument), scores)
    return in_order([*chosen, NORM, HEAD], depth)


def _by_rank(kind: str, fraction: float, scores: Mapping[str, float]) -> list[str]:
    if not scores:
        raise UsageError(f"Strategy {kind!r} goes by scores, and this table scores no component of a block.")
    ranked = sorted(scores, key=lambda name: -scores[name])
    count = round(fraction * len(ranked))
    return ranked[: len(ranked) - count] if kind == "freeze-low" else ranked[: max(1, count)]


def _fraction(strategy: str, argument: str) -> float:
    try:
        fraction = float(argument)
    except ValueError:
        fraction = -1
    if not 0 < fraction < 1:
        raise UsageError(f"{strategy!r} needs a fraction between 0 and 1, e.g. {strategy.partition(':')[0]}:0.5.")
    return fraction


def _blocks(strategy: str, argument: str, depth: int) -> int:
    if not argument.isdecimal() or not 1 <= int(argument) <= depth:
        raise UsageError(f"{strategy!r} needs a number of blocks from 1 to {depth}, e.g. last-k:{min(4, depth)}.")
    return int(argument)
