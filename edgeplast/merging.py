"""Merging tokens before export, as the verbs call it: a model and its plan in, the merged model and its plan out.

Like :mod:`edgeplast.compressing`: rooms are imported when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgeplast.errors import UsageError
from edgeplast.plans import Plan

if TYPE_CHECKING:
    import torch


def check_tokens(model: torch.nn.Module, tokens: int, plan: Plan | None) -> None:
    """Raise unless so many tokens can be merged, as far as that is known before there is a plan.

    Args:
        model: as given to :func:`merge_tokens`.
        tokens: as there.
        plan: None while there is none.

    Raises:
        UsageError: a number out of range, or a plan that leaves no block to merge in.
        InputError: the model is no plain vision transformer of timm's.
    """
    from edgeplast.compression.merging import check_count, check_mergeable
    from edgeplast.unwrapping import unwrapped

    check_count(tokens, check_mergeable(unwrapped(model)), 1 if plan is None else blocks_before(plan))


def merge_tokens(
    model: torch.nn.Module, plan: Plan, tokens: int, *, keep_head: bool = False
) -> tuple[torch.nn.Module, Plan]:
    """Merge tokens in the blocks before the first that trains; see :mod:`edgeplast.compression.merging`.

    Args:
        model: of timm's vision transformer family; not changed.
        plan: made for it as it is; its predicted peak is an upper bound then.
        tokens: how many fewer there are after each of those blocks; 0 changes nothing.
        keep_head: as in ``export``.

    Returns:
        the model, and the plan with the peak of that model and a note of what was merged.

    Raises:
        UsageError: the plan leaves no block to merge in, or there are not so many tokens.
        InputError: the model is no plain vision transformer of timm's, or the plan is of another.
    """
    from edgeplast.compression.merging import check_mergeable, with_merged_tokens
    from edgeplast.models import with_classes
    from edgeplast.unwrapping import unwrapped

    model = unwrapped(model)
    patches = check_mergeable(model)
    blocks = min(blocks_before(plan), len(model.blocks) - 1)  # type: ignore[arg-type]
    merged = with_merged_tokens(model, tokens, blocks)
    if not tokens:
        return merged, plan
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    before = patches + prefix
    where = f"each of blocks 0 to {blocks - 1}" if blocks > 1 else "block 0"
    note = (
        f"{tokens} tokens are merged into others in {where}: {before} at first, {before - blocks * tokens} where "
        "training begins. What trains was chosen for the model without that; the predicted peak is of the model "
        "with it."
    )
    peak = _peak_bytes(merged if keep_head else with_classes(merged, plan.outline.classes), plan)
    return merged, msgspec.structs.replace(plan, predicted_peak_bytes=peak, notes=(*plan.notes, note))


def blocks_before(plan: Plan) -> int:
    """Return how many blocks come before the first that trains; the model's last one is never among them.

    Raises:
        UsageError: none does.
    """
    outline = plan.outline
    trained = [component for component in outline.components if plan.components[component.name].trainable]
    numbers = [component.block for component in trained if component.block is not None]
    early = trained[0].role == "embedding"
    blocks = 0 if early else min([*numbers, outline.blocks - 1])
    if blocks > 0:
        return blocks
    last = f"blocks:{outline.blocks // 2}-{outline.blocks - 1}" if outline.blocks > 1 else "head"
    first = f"{trained[0].name} trains, before all blocks" if early else f"{trained[0].name} trains, in the first block"
    if outline.blocks < 2:
        first = f"{outline.model} has one block"
    raise UsageError(
        f"--merge-tokens merges tokens in the blocks before the first that trains, and none is left: {first}. Train "
        f"less deep, e.g. --train {last}, or leave --merge-tokens out."
    )


def _peak_bytes(model: torch.nn.Module, plan: Plan) -> int:
    """Return the predicted peak of a plan's step by the graph of the merged model."""
    from edgeplast.planning import peak_of
    from edgeplast_exporters.capture import capture
    from edgeplast_exporters.refining import regrouped, with_factors
    from edgeplast_exporters.writer import check_fit

    captured = regrouped(capture(model, plan.outline.input_shape, name=plan.outline.model), plan.outline)
    check_fit(plan, captured.outline)
    return peak_of(plan, with_factors(captured).graph)
