"""Floating-point operations of a training step, and the seconds they take.

Counted are matrix products, 2·m·n·k each, as in ``edgeplast.graphs.measures.flops``.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from edgeplast.planning.activations import ATTN, FC1, NORM1, NORM2, UNTOUCHED, mixed_again, scores_again
from edgeplast.planning.sizes import BlockSizes
from edgeplast.recomputation import Recompute

FLOPS_PER_SECOND = 170e9
"""What onnxruntime reaches in a training step on the 2 x86-64 cores that facts.md was measured on: ViT-Tiny,
attention of all blocks, batch 16, 93 GFLOP in 0.55 s. Give the device's own figure where time matters."""

SMALL_MICRO_BATCHES = {1: 1.4, 2: 1.15}
"""Time per image relative to micro-batches of 4 and more, which all take the same (measured at 2 to 16)."""


@cache
def forward_flops(b: BlockSizes) -> float:
    """Return the operations of one block's forward pass, for one image."""
    return _qkv(b) + 2 * _scores(b) + _proj(b) + _fc1(b) + _fc2(b)


def backward_flops(b: BlockSizes, trained: Collection[str], end: int) -> float:
    """Return the operations of one block's backward pass, for one image.

    Args:
        b: its sizes.
        trained: its component types that train; each trained matrix costs its forward product once more.
        end: how far back the gradient goes (:func:`~edgeplast.planning.activations.gradient_end`); each
            product crossed costs its forward again, and those of attention, whose both factors vary, twice.
    """
    total = _fc2(b) * (end <= FC1) + _fc1(b) * (end <= NORM2)
    total += (_proj(b) + 4 * _scores(b)) * (end <= ATTN) + _qkv(b) * (end <= NORM1)
    total += (_qkv(b) + _proj(b)) * ("attn" in trained) + _fc1(b) * ("fc1" in trained)
    return total + _fc2(b) * ("fc2" in trained)


def recomputed_flops(b: BlockSizes, recompute: Recompute, end: int) -> float:
    """Return the operations of computing one block again for its backward pass, which fc2's output is not part of.

    Args:
        b: its sizes.
        recompute: how much of it is computed again.
        end: how far back the gradient goes.
    """
    if recompute == "none" or end == UNTOUCHED:
        return 0.0
    if recompute == "full":  # where the gradient ends behind attention, the middle of the block is kept, not its input
        return forward_flops(b) - _fc2(b) if end <= ATTN else _fc1(b)
    return _scores(b) * (scores_again(b) + mixed_again(b)) if end <= ATTN else 0.0


def step_seconds(flops_per_image: float, batch_size: int, micro_batch_size: int, flops_per_second: float) -> float:
    """Return the estimated time of one optimizer step."""
    slowdown = SMALL_MICRO_BATCHES.get(micro_batch_size, SMALL_MICRO_BATCHES[2] if micro_batch_size == 3 else 1.0)
    return flops_per_image * batch_size * slowdown / flops_per_second


def _qkv(b: BlockSizes) -> float:
    return 2.0 * b.tokens * b.width * 3 * b.attention


def _scores(b: BlockSizes) -> float:
    return 2.0 * b.queries * b.tokens * b.attention


def _proj(b: BlockSizes) -> float:
    return 2.0 * b.queries * b.attention * b.width


def _fc1(b: BlockSizes) -> float:
    return 2.0 * b.queries * b.width * b.gates * b.hidden


def _fc2(b: BlockSizes) -> float:
    return 2.0 * b.queries * b.hidden * b.width
