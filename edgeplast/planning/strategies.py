"""Strategies: which components to train, as a rule instead of an optimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeplast.errors import UsageError, one_of
from edgeplast.outline import Outline

STRATEGIES: dict[str, str] = {
    "best": "the default, which is focus; edgeplast/scoring/README.md says by which table",
    "focus": "kinds at least half as plastic as the top one, in all blocks or the last that fit; with room, others",
    "summed": "the largest summed score that fits the budget, to its last byte",
    "uniform": "everything, the embedding included",
    "freeze-low:FRACTION": "freeze that fraction of the scored components, lowest scores first",
    "focus-high:FRACTION": "train that fraction of the scored components, highest scores first",
    "last-k:BLOCKS": "the last so many blocks",
    "KIND": "all components of one kind: attn, fc1 …, as the model has them",
    "names": "the components named by train",
}
"""Strategy to what trains beside norms and head."""

BEST = "focus"
"""What ``best`` means: scoring/README.md, "Equal memory, through the device's own loop"."""

SEARCHES = ("focus", "summed")
"""Strategies that choose by the budget; the others say what trains, whatever it takes."""

_WITH_A_NUMBER = ("freeze-low", "focus-high", "last-k")


def check_strategy(strategy: str, train: str | Sequence[str] | None) -> None:
    """Raise if it can be told without a model that a strategy means nothing.

    Raises:
        UsageError: ``train`` says something else, or a number is missing or out of range.
    """
    if train and strategy not in ("best", "names"):
        raise UsageError(f"Both strategy {strategy!r} and train={train!r} say what trains. Give one of them.")
    word, _, argument = _parts(strategy)
    if word in ("freeze-low", "focus-high"):
        _fraction(strategy, argument)
    elif word == "last-k":
        _blocks(strategy, argument)


def _parts(strategy: str) -> tuple[str, str, str]:
    return strategy.strip().replace(" ", ":").partition(":")


def is_strategy(strategy: str, outline: Outline) -> bool:
    """Whether a word is one of ``STRATEGIES`` for a model, ``names`` aside."""
    return _parts(strategy)[0] in ("best", *SEARCHES, "uniform", *_WITH_A_NUMBER, *_kinds(outline))


def _kinds(outline: Outline) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c.kind for c in outline.components if c.role == "inner"))


def names_of(
    strategy: str, train: str | Sequence[str] | None, scores: Mapping[str, float], outline: Outline
) -> list[str]:
    """Return what a strategy that goes by no budget trains, in data-flow order.

    Norms and head always train, except that a list of names is taken as it is, with the head added.

    Args:
        strategy: a key of ``STRATEGIES``, with a number in the place of its capitals, or a kind of component.
        train: patterns of :meth:`edgeplast.outline.Outline.select`, for ``names``.
        scores: component to score, of the scored components between embedding and norms.
        outline: of the model.

    Raises:
        UsageError: no such strategy, or its number or ``train`` means nothing.
    """
    word, _, argument = _parts(strategy)
    kinds = _kinds(outline)
    if word == "names":
        if not train:
            raise UsageError("Strategy 'names' needs the names: give train, e.g. --train attn:8-11,norm,head.")
        chosen = outline.select(train if isinstance(train, str) else ",".join(train))
        return outline.in_order([*chosen, *outline.head])
    if not is_strategy(strategy, outline):
        raise one_of("strategy", strategy, (*(name for name in STRATEGIES if name != "KIND"), *kinds))
    if argument and word not in _WITH_A_NUMBER:
        raise UsageError(f"Strategy {word!r} takes no number; {strategy!r} was given. Write {word!r}.")
    if word == "uniform":
        return list(outline.names)
    if word == "last-k":
        first = outline.blocks - _blocks(strategy, argument, outline.blocks)
        inner = [c.name for c in outline.components if c.block is not None and c.block >= first]
    elif word in _WITH_A_NUMBER:
        inner = _by_rank(word, _fraction(strategy, argument), scores)
    else:
        inner = [c.name for c in outline.components if c.role == "inner" and c.kind == word]
    ends = [c.name for c in outline.components if c.role in ("norm", "head")]
    return outline.in_order([*inner, *ends])


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


def _blocks(strategy: str, argument: str, most: int | None = None) -> int:
    """Read a number of blocks; ``most`` is how many there are, if that is known."""
    if not argument.isdecimal() or int(argument) < 1 or (most is not None and int(argument) > most):
        allowed, example = ("from 1", 4) if most is None else (f"from 1 to {most}", min(4, most))
        raise UsageError(f"{strategy!r} needs a number of blocks {allowed}, e.g. last-k:{example}.")
    return int(argument)
