"""Folding what a removed unit says on average into the bias of the layer that read it.

A unit whose output hardly moves can be replaced by a constant: its mean over pictures and tokens times its column of
the next layer is added to that layer's bias (as An et al., "Fluctuation-based Adaptive Structured Pruning for Large
Language Models", arXiv 2312.11983, do). What is lost is the unit's variation alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgeplast.compression.pictures import Pictures, batch_of, sample
from edgeplast.compression.structure import Part
from edgeplast.models import describe
from edgeplast.progress import Progress, silent

_PICTURES, _BATCH = 64, 8


@torch.no_grad()
def mean_inputs(
    model: torch.nn.Module, parts: Sequence[Part], images: Pictures, seed: int, progress: Progress = silent
) -> dict[str, torch.Tensor]:
    """Return component to the mean input of its last layer, (channels,) float32.

    In the last block only the tokens that the head reads are counted.
    """
    m: Any = model
    pooled, depth = describe(model).pooled_tokens, len(m.blocks)
    sums: dict[str, torch.Tensor] = {}
    hooks = []
    for part in parts:
        block = m.blocks[part.block]
        counted = slice(pooled if part.block == depth - 1 else None)

        def listen(_: Any, given: Any, name: str = part.component, tokens: slice = counted) -> None:
            sums[name] = sums.get(name, torch.zeros(())) + given[0][:, tokens].mean(dim=1).sum(dim=0)

        hooks.append((block.attn.proj if part.heads else block.mlp.fc2).register_forward_pre_hook(listen))
    chosen = sample(images, _PICTURES, seed)
    try:
        for start in range(0, len(chosen), _BATCH):
            progress("measuring what units give on average", start, len(chosen))
            model(batch_of(model, images, chosen[start : start + _BATCH]))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / len(chosen) for name, total in sums.items()}


@torch.no_grad()
def fold(model: torch.nn.Module, part: Part, units: Sequence[int] | np.ndarray, mean: torch.Tensor) -> None:
    """Add to a layer's bias what units give on average; a layer without a bias is left as it is."""
    m: Any = model
    last = m.blocks[part.block].attn.proj if part.heads else m.blocks[part.block].mlp.fc2
    if last.bias is None or not len(units):
        return
    channels = [int(unit) * part.channels + c for unit in units for c in range(part.channels)]
    last.bias += last.weight[:, channels] @ mean[channels]
