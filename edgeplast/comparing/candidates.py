"""Who competes: the plans of a contest, made of its scores and its arguments before the first run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeplast.comparing.workplace import Settings
from edgeplast.errors import UsageError
from edgeplast.merging import check_tokens
from edgeplast.plans import Plan
from edgeplast.progress import Progress
from edgeplast.scores import ScoreTable

if TYPE_CHECKING:
    import torch

Plans = dict[str, tuple[Plan, tuple[str, ...]]]
"""Name to plan, and the other names that come to the same plan."""


def plans_of(
    scores: ScoreTable, settings: Settings, model: torch.nn.Module, notice: Callable[[str], None], progress: Progress
) -> Plans:
    """Return the candidates: those that fit and leave what the export of the winner will need.

    Args:
        scores: of the model.
        settings: arguments of the contest.
        model: whose tokens may be merged later.
        notice: told of each that cannot compete, and why.
        progress: told of the search.

    Raises:
        BudgetError: none fits, or one that was named does not.
        UsageError: a name means nothing, or none leaves a block to merge tokens in.
        InputError: tokens of this model cannot be merged.
    """
    from edgeplast.planning import contest

    found = contest(
        scores,
        settings.budget,
        settings.candidates,
        alternatives=settings.alternatives,
        optimizer=settings.optimizer,
        batch_size=settings.batch_size,
        weight_bits=settings.weight_bits,
        classes=settings.classes,
        progress=progress,
    )
    left, refusal = Plans(), None
    for name, each in found.items():
        try:
            if settings.merge_tokens:
                check_tokens(model, settings.merge_tokens, each[0])
            left[name] = each
        except UsageError as error:
            refusal = error
            notice(f"{name} does not compete: {error}")
    if refusal is not None and not left:
        raise refusal
    return left
