"""Activation memory of one block in a training step, in closed form.

The formulas follow the exporter's graph and its liveness walk (``edgeplast.graphs.measures.liveness``), operator by
operator at the few instants that can be the peak; ``tests/planning/test_estimate_against_liveness.py`` holds the two
together. With N tokens, Q output tokens, D width, A attention width, H heads and M hidden width, one image holds

    a = 4·N·D    rows of the residual stream       s = 4·H·Q·N  attention weights
    h = 4·Q·M    rows inside the MLP

bytes. A block that the gradient crosses keeps its input, queries, keys, values, the attention weights and their
product with the values, the middle of the residual stream and the slope of its activation: 6·a + s + h. Training adds
the input of each trained layer: a for attn (qkv; the projection's is kept anyway), a for fc1, h for fc2, nothing for
norms. With selective recomputation s and the inputs that a norm makes are not kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgeplast.components import COMPONENT_TYPES
from edgeplast.footprint import MemoryLine
from edgeplast.planning.sizes import BlockSizes
from edgeplast.recomputation import ELEMENT_FLOPS, FLOPS_PER_BYTE, SOFTMAX_FLOPS, Recompute

NORM1, ATTN, NORM2, FC1, FC2 = range(len(COMPONENT_TYPES))

CROSSED, UNTOUCHED = -1, len(COMPONENT_TYPES)
"""Where the gradient ends in a block, beside the position of a type: it goes through, or never comes."""

GELU_BUFFERS = 3
"""Arrays of the MLP's hidden size that the backward pass of GELU holds at once: slope, incoming gradient, product. Its
slope takes as many to compute, and one more where the prediction is computed beside it."""

ATTENTION_BUFFERS = 3
"""Arrays of H·N² that the derivative of softmax holds at once: the weights, their gradient, and one."""


@dataclass(frozen=True)
class BlockMemory:
    """Bytes of one block on top of what earlier blocks keep.

    Attributes:
        kept: per image, from its forward pass to its backward pass.
        forward: candidates for the peak of its forward pass, the product with fc2 last.
        backward: candidates for the peak of its backward pass.
    """

    kept: int
    forward: tuple[MemoryLine, ...]
    backward: tuple[MemoryLine, ...]

    def peak(self, micro_batch: int, incoming: int = 0) -> int:
        """Return the most bytes alive while this block computes, in either direction.

        Args:
            micro_batch: images at once.
            incoming: bytes per image of the gradient that waits while the block is computed again; 0 where
                it is not.
        """
        most = max(line.at(micro_batch) for line in (*self.forward, *self.backward))
        if not incoming:
            return most
        again = max(line.at(micro_batch) for line in self.forward[:-1])  # all but the product with fc2
        return max(most, again + incoming * micro_batch)


def gradient_end(trained: Collection[str], entered: bool) -> int:
    """Return how far back the gradient goes in a block.

    Args:
        trained: component types of the block that train.
        entered: whether something before the block trains, so that the gradient crosses it.
    """
    if entered:
        return CROSSED
    return min((COMPONENT_TYPES.index(kind) for kind in trained), default=UNTOUCHED)


def scores_again(b: BlockSizes) -> bool:
    """Whether selective recomputation computes attention weights again, as the exporter decides it."""
    return 2 * b.attention / b.heads + SOFTMAX_FLOPS < 4 * FLOPS_PER_BYTE


def mixed_again(b: BlockSizes) -> bool:
    """Whether it also computes their product with the values again: only over few tokens."""
    return scores_again(b) and 2 * b.tokens + ELEMENT_FLOPS < 4 * FLOPS_PER_BYTE


def block_memory(
    b: BlockSizes, trained: Collection[str], end: int, copies: dict[str, int], recompute: Recompute = "none"
) -> BlockMemory:
    """Return what one block holds.

    Args:
        b: its sizes.
        trained: its component types that train.
        end: from :func:`gradient_end`.
        copies: component type to the bytes of its largest frozen matrix as float32 while it is being read, 0
            where it is stored as float32 already.
        recompute: how much of it is computed again. What is kept with ``full`` is its input alone; returned are the
            bytes while it is computed again.
    """
    rows, out = 4 * b.tokens * b.width, 4 * b.queries * b.width
    keys, queries = 4 * b.tokens * b.attention, 4 * b.queries * b.attention
    weights, hidden = 4 * b.heads * b.queries * b.tokens, 4 * b.queries * b.hidden
    x = rows if end <= NORM1 else 0
    normed = rows if "attn" in trained else 0
    inside = 2 * keys + 2 * queries + weights if end <= ATTN else 0
    middle = out if end <= NORM2 else 0
    normed2 = out if "fc1" in trained else 0
    fc1 = b.gates * hidden if end <= FC1 else 0
    active = hidden if "fc2" in trained else 0
    kept = x + normed + inside + middle + normed2 + fc1 + active
    attention = x + normed + inside
    if recompute == "selective":
        cheap = normed * (end <= NORM1)
        if end <= ATTN:
            cheap += weights * scores_again(b) + queries * mixed_again(b)
        kept -= cheap + normed2 * (end <= NORM2)
        attention -= cheap

    gelu = GELU_BUFFERS + (recompute != "full" or "fc2" in trained) if end <= FC1 else 2
    forward = [
        MemoryLine(0, rows + normed + 6 * keys),
        MemoryLine(copies["attn"], 2 * rows + 3 * keys),
        MemoryLine(0, rows + normed + (3 if end <= ATTN else 1) * keys + 2 * weights),
        MemoryLine(0, attention + out + normed2 + (b.gates - 1 + gelu) * hidden),
        MemoryLine(copies["fc1"], attention + 2 * out + b.gates * hidden),
        MemoryLine(copies["fc2"], attention + 2 * out + normed2 + fc1 + hidden),
    ]
    backward = []
    if end < UNTOUCHED:
        backward.append(MemoryLine(0, kept + out))
    if end <= FC1:
        residual = out if end <= ATTN else 0  # its gradient, which nothing before the norm asks for otherwise
        backward.append(MemoryLine(0, kept - active - fc1 + residual + (GELU_BUFFERS + b.gates - 1) * hidden))
        backward.append(MemoryLine(copies["fc2"], kept - active + out + hidden))
    if end <= ATTN:
        before = x + normed + rows  # the last is the gradient of the residual stream
        backward.append(MemoryLine(0, before + 2 * keys + 4 * queries + 2 * weights))
        backward.append(MemoryLine(0, before + 2 * keys + queries + ATTENTION_BUFFERS * weights))
        backward.append(MemoryLine(0, before + 6 * keys))
        backward.append(MemoryLine(copies["attn"], x + 2 * rows + 3 * keys))
    return BlockMemory(kept, tuple(forward), tuple(backward))
