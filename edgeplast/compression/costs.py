"""What a model and each of its units cost: multiply–accumulates of the graph that devices run, and parameters.

Both grow in a straight line with the heads and hidden units that are kept. Counted are matrix products, as in the
exporter's graph: with token pooling the last block computes queries, projection and MLP for the pooled tokens only,
so its hidden units cost next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgeplast.compression.structure import Part
from edgeplast.models import describe


@dataclass(frozen=True)
class Costs:
    """Multiply–accumulates of one image, and parameters.

    Attributes:
        macs: of the whole model.
        parameters: of the whole model.
        unit_macs: component to those of one unit.
        unit_parameters: component to those of one unit.
    """

    macs: int
    parameters: int
    unit_macs: dict[str, int]
    unit_parameters: dict[str, int]


def costs_of(model: torch.nn.Module, parts: list[Part]) -> Costs:
    """Count a model.

    Args:
        model: of the family.
        parts: its parts (:func:`~edgeplast.compression.structure.parts_of`).
    """
    m: Any = model
    a = describe(model)
    patches, head = int(m.patch_embed.num_patches), a.pooled_tokens == 2
    embed = patches * m.patch_embed.proj.weight.numel()
    fixed = embed + (2 if head else 1) * a.width * a.classes
    unit_macs, unit_parameters = {}, {}
    for part in parts:
        block = m.blocks[part.block]
        last = part.block == a.depth - 1
        queries = (a.pooled_tokens or a.tokens) if last else a.tokens
        if part.heads:
            gate = getattr(block.attn, "gate", None)
            product = 2 * queries * a.tokens + queries * a.width * (2 if gate is not None else 1)
            unit_macs[part.component] = part.channels * (3 * a.tokens * a.width + product)
            layers = [block.attn.qkv, block.attn.proj, gate, getattr(block.attn, "norm", None)]
        else:
            first = [getattr(block.mlp, name, None) for name in ("fc1", "fc1_g", "fc1_x")]
            layers = [*first, block.mlp.fc2, getattr(block.mlp, "norm", None)]
            rows = sum(layer.out_features for layer in first if layer is not None) // part.units
            unit_macs[part.component] = queries * a.width * (rows + 1)
        shared = block.attn.proj.bias if part.heads else block.mlp.fc2.bias
        held = sum(p.numel() for layer in layers if layer is not None for p in layer.parameters())
        unit_parameters[part.component] = (held - (0 if shared is None else shared.numel())) // part.units
    return Costs(
        macs=fixed + sum(part.units * unit_macs[part.component] for part in parts),
        parameters=sum(a.parameters.values()),
        unit_macs=unit_macs,
        unit_parameters=unit_parameters,
    )
