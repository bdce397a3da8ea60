"""The sizes that planning arithmetic is written in, read off an Architecture, one record a block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from edgeplast.architecture import Architecture
from edgeplast.components import HEAD
from edgeplast.errors import UsageError


@dataclass(frozen=True)
class BlockSizes:
    """One block, in floats.

    Attributes:
        tokens: rows of the block's input (N).
        queries: rows of its output (Q): N, except in the last block of a model that pools by token.
        width: residual stream (D).
        attention: all heads together (A): D, unless heads were pruned.
        heads: attention heads (H).
        hidden: input width of fc2 (M).
        gates: 2 where fc1 feeds a gated activation (SwiGLU), else 1.
    """

    tokens: int
    queries: int
    width: int
    attention: int
    heads: int
    hidden: int
    gates: int


def block_sizes(architecture: Architecture) -> tuple[BlockSizes, ...]:
    """Return the sizes of every block; what the architecture does not say follows from its parameter counts."""
    a = architecture
    sizes = []
    for i in range(a.depth):
        # qkv and proj with biases hold 4·D·A + 3·A + D parameters; norms and scales inside are far smaller.
        heads = a.heads[i]
        size = (a.parameters[f"blocks.{i}.attn"] - a.width) / (4 * a.width + 3) / heads
        gated = a.parameters[f"blocks.{i}.fc1"] > 1.5 * (a.width + 1) * a.mlp_width[i]
        sizes.append(
            BlockSizes(
                tokens=a.tokens,
                queries=pooled_tokens(a) if i == a.depth - 1 else a.tokens,
                width=a.width,
                attention=heads * max(1, round(size)),
                heads=heads,
                hidden=a.mlp_width[i],
                gates=2 if gated else 1,
            )
        )
    return tuple(sizes)


def patches(architecture: Architecture) -> int:
    """Return the number of image patches: the most square patches that tile the image and leave N tokens or fewer."""
    height, width = architecture.image_size
    sides = (s for s in range(1, min(height, width) + 1) if height % s == 0 and width % s == 0)
    counts = [height * width // (s * s) for s in sides]
    return max((c for c in counts if c <= architecture.tokens), default=architecture.tokens)


def pooled_tokens(architecture: Architecture) -> int:
    """Return how many rows of the last block the head reads: all where it reads their average."""
    return architecture.pooled_tokens or architecture.tokens


def heads_of_model(architecture: Architecture) -> int:
    """Return 2 for a distilled model (class and distillation head), else 1."""
    one = (architecture.width + 1) * architecture.classes
    return 2 if architecture.parameters[HEAD] == 2 * one else 1


def with_classes(architecture: Architecture, classes: int | None) -> Architecture:
    """Return the architecture with a new head for that many classes; None leaves it as it is.

    Raises:
        UsageError: fewer than two classes.
    """
    if classes is None:
        return architecture
    if classes < 2:
        raise UsageError(f"classes={classes}: a head needs at least 2 classes to tell apart.")
    head = heads_of_model(architecture) * (architecture.width + 1) * classes
    return msgspec.structs.replace(architecture, classes=classes, parameters={**architecture.parameters, HEAD: head})


def image_bytes(architecture: Architecture) -> int:
    """Return the bytes of one preprocessed picture, float32 with three channels."""
    return 4 * 3 * math.prod(architecture.image_size)
