"""The sizes of a plain vision transformer: what pruning and the scores that need one know of it."""

from __future__ import annotations

import msgspec

from edgeplast.documents import Count
from edgeplast.errors import InputError


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dimensions of one vision transformer.

    Attributes:
        model: name of the model, timm's where it has one.
        image_size: height and width of the input in pixels.
        tokens: tokens per image in the blocks, class, distillation and register tokens included (N).
        width: width of the residual stream (D).
        depth: number of blocks.
        heads: attention heads of each block, one entry per block.
        mlp_width: hidden width of each block's MLP, one entry per block.
        classes: number of outputs of the head.
        parameters: component name to number of parameters.
        pooled_tokens: leading tokens that the head reads (1: class token, 2: and distillation token); None when
            it reads the average of all, and the last block must compute them all.
        kept_fraction: component to its parameters over those before pruning; empty where nothing was pruned.
    """

    model: str
    image_size: tuple[Count, Count]
    tokens: Count
    width: Count
    depth: Count
    heads: tuple[Count, ...]
    mlp_width: tuple[Count, ...]
    classes: Count
    parameters: dict[str, Count]
    pooled_tokens: Count | None = None
    kept_fraction: dict[str, float] = {}

    def __post_init__(self) -> None:
        if min(self.tokens, self.width, self.depth, self.classes, *self.image_size, *self.heads, *self.mlp_width) < 1:
            raise InputError(f"The architecture of {self.model!r} has a size below 1: {self}.")
        if not len(self.heads) == len(self.mlp_width) == self.depth:
            raise InputError(
                f"{self.model!r} has {self.depth} blocks but {len(self.heads)} head counts "
                f"and {len(self.mlp_width)} MLP widths."
            )
