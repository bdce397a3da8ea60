"""Token merging (ToMe, Bolya et al. 2023, arXiv 2210.09461): fewer tokens after each of the first blocks.

Between attention and MLP of a block, patch tokens fall into two sets by turns; each of the first set finds its most
similar one of the second by cosine similarity of their keys (mean of the heads), the ``count`` most similar pairs
become one token each, the average weighted by how many patches each stands for (its *size*), and attention counts a
token as often as its size (the logarithm is added to its logits). Class, distillation and register tokens are in
neither set. It is for blocks before everything that trains: no gradient crosses it.

A block hands its tokens on with their sizes as one more column, so that everything still goes through one value, and
the last one that merges without: what follows is timm's own block. Parameters keep timm's names.
"""

from __future__ import annotations

from typing import Any

import torch

from edgeplast.copying import copied
from edgeplast.errors import InputError, UsageError
from edgeplast.models import check_family, name_of

_LEAST_SQUARE = 1e-12
"""Added to the squared length of a key, so that a key of zeros is similar to none."""


def merge_tokens(
    tokens: torch.Tensor, keys: torch.Tensor, sizes: torch.Tensor | None, protected: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge pairs of similar tokens.

    Args:
        tokens: float (B, N, D).
        keys: float (B, N, d), by which they are similar.
        sizes: float (B, N, 1), how many tokens each one stands for; None for one.
        protected: how many in front stay as they are.
        count: pairs to merge, at least 1 and at most half of the others, rounded down.

    Returns:
        tokens (B, N − count, D), the protected ones first, then those of the first set that stay, in their order, then
        the second set; and their sizes (B, N − count, 1).
    """
    return _operator(tokens, keys, sizes, protected, count)


@torch.library.custom_op(
    "edgeplast::merge_tokens",
    mutates_args=(),
    schema="(Tensor tokens, Tensor keys, Tensor? sizes, int protected, int count) -> (Tensor, Tensor)",
)
def _operator(
    tokens: torch.Tensor, keys: torch.Tensor, sizes: torch.Tensor | None, protected: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One operator for ``torch.export``, so that the exporter can write it in the cheapest form."""
    if sizes is None:
        sizes = torch.ones_like(tokens[..., :1])
    keys = keys / (keys.square().sum(-1, keepdim=True) + _LEAST_SQUARE).sqrt()
    first, second = slice(protected, None, 2), slice(protected + 1, None, 2)
    similarity, partner = (keys[:, first] @ keys[:, second].mT).max(dim=-1)
    order = similarity.sort(dim=-1, descending=True, stable=True).indices
    gone, stay = order[:, :count], order[:, count:].sort(dim=-1).values
    joined = partner.gather(1, gone)[:, None] == torch.arange(tokens[0, second].shape[0])[:, None]  # (B, second, count)
    weights = joined * _rows(sizes[:, first], gone).mT
    total = sizes[:, second] + weights.sum(-1, keepdim=True)
    merged = tokens[:, second] * (sizes[:, second] / total) + (weights / total) @ _rows(tokens[:, first], gone)
    return (
        torch.cat([tokens[:, :protected], _rows(tokens[:, first], stay), merged], 1),
        torch.cat([sizes[:, :protected], _rows(sizes[:, first], stay), total], 1),
    )


@_operator.register_fake
def _(
    tokens: torch.Tensor, keys: torch.Tensor, sizes: torch.Tensor | None, protected: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    del keys, sizes, protected
    images, before, width = tokens.shape
    return tokens.new_empty(images, before - count, width), tokens.new_empty(images, before - count, 1)


_operator.register_autograd(lambda *_: (None,) * 5)


def _rows(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the rows (B, n, D) of x that places (B, n) name."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


class MergingAttention(torch.nn.Module):
    """timm's attention that counts tokens by their sizes, and also returns its keys."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        for name, part in attention.named_children():
            self.add_module(name, part)
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim

    def forward(self, x: torch.Tensor, sizes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            x: (B, N, D).
            sizes: (B, N, 1), or None where every token stands for itself alone.

        Returns:
            (B, N, D), and the mean of the heads' keys (B, N, d).
        """
        m: Any = self
        images, tokens, _ = x.shape
        qkv = m.qkv(x).reshape(images, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = m.q_norm(q), m.k_norm(k)
        counted = None if sizes is None else sizes.log().transpose(1, 2)[:, None]
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=counted)
        out = m.norm(out.transpose(1, 2).reshape(images, tokens, self.num_heads * self.head_dim))
        if getattr(m, "gate", None) is not None:
            out = out * m.gate(x).sigmoid()
        return m.proj_drop(m.proj(out)), k.mean(1)


class MergingBlock(torch.nn.Module):
    """timm's block with fewer tokens after it.

    Attributes:
        attn: as above.
        count: how many fewer.
        protected: tokens in front that stay.
        first: whether its input has no column of sizes.
        last: whether its output has none.
    """

    def __init__(self, block: Any, *, count: int, protected: int, first: bool, last: bool) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, MergingAttention(part) if name == "attn" else part)
        self.count, self.protected, self.first, self.last = count, protected, first, last

    def forward(self, x: torch.Tensor, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        """Return (B, N − count, D), with a column of sizes where there is another such block after this one."""
        if attn_mask is not None or is_causal:
            raise InputError("Tokens are merged where all look at all: give no attention mask.")
        m: Any = self
        tokens, sizes = (x, None) if self.first else (x[..., :-1], x[..., -1:])
        attended, keys = m.attn(m.norm1(tokens), sizes)
        tokens = tokens + m.drop_path1(m.ls1(attended))
        tokens, sizes = merge_tokens(tokens, keys, sizes, self.protected, self.count)
        tokens = tokens + m.drop_path2(m.ls2(m.mlp(m.norm2(tokens))))
        return tokens if self.last else torch.cat([tokens, sizes], -1)


def with_merged_tokens(model: torch.nn.Module, count: int, blocks: int) -> torch.nn.Module:
    """Return a copy of a model whose first blocks merge tokens; the input is not changed.

    Args:
        model: a plain vision transformer of timm's.
        count: tokens fewer after each of these blocks; 0 changes nothing.
        blocks: how many, from the first one on.

    Raises:
        UsageError: there are not so many tokens to merge.
        InputError: the model is no plain vision transformer.
    """
    check_count(count, check_mergeable(model), blocks)
    result = copied(model)
    m: Any = result
    for i in range(blocks if count else 0):
        m.blocks[i] = MergingBlock(
            m.blocks[i], count=count, protected=int(m.num_prefix_tokens), first=i == 0, last=i == blocks - 1
        )
    return result.eval()


def check_count(count: int, patches: int, blocks: int) -> None:
    """Raise unless each of some blocks can merge so many of an image's patches.

    The last needs twice as many and one more, so that a token of its first set stays: graphs hold no empty tensors.

    Raises:
        UsageError: it cannot; the message says how many can be.
    """
    most = (patches - 1) // (blocks + 1)
    if not 0 <= count <= most:
        where = "one block" if blocks == 1 else f"each of {blocks} blocks"
        raise UsageError(
            f"--merge-tokens {count}: of the {patches} patches of an image {where} can merge 0 to {most}. Give a "
            "number in that range."
        )


def check_mergeable(model: torch.nn.Module) -> int:
    """Return how many patches an image has in a model whose tokens can be merged.

    Raises:
        InputError: it is no plain vision transformer; the message says by which part.
    """
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block

    m: Any = model
    name = name_of(model)
    if not hasattr(m, "patch_embed"):
        check_family(model, name, what_for="Token merging")
    for i, block in enumerate(getattr(m, "blocks", ())):
        for part, kind in ((block, Block), (getattr(block, "attn", None), Attention)):
            if type(part) is not kind:
                raise InputError(
                    f"{name} is no plain vision transformer: blocks.{i} has a {_path(type(part))} where token merging "
                    f"knows {_path(kind)}. Export it without --merge-tokens."
                )
    check_family(model, name, what_for="Token merging")
    return int(m.patch_embed.num_patches)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"
