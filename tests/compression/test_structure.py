"""What hangs on a head or a hidden unit: exactly that goes, in every kind of block of the family."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import small_vit
from timm_layers import variants

from edgeplast.compression.costs import costs_of
from edgeplast.compression.structure import Structure, parts_of
from edgeplast.errors import InputError
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast_exporters.capture import capture


def without(model: Any, part: Any, units: list[int]) -> Any:
    """The model with what units give set to zero, which must equal the model without them."""
    silent = copy.deepcopy(model)
    block = silent.blocks[part.block]
    last = block.attn.proj if part.heads else block.mlp.fc2
    for unit in units:
        last.weight.data[:, unit * part.channels : (unit + 1) * part.channels] = 0
    return silent


@pytest.mark.parametrize("options", variants(normed_inside=False), ids=str)
def test_taking_units_out_equals_silencing_them(options: dict):
    model = small_vit(num_heads=4, **options)
    images = torch.randn(2, 3, 32, 32)
    pruned, silent = copy.deepcopy(model), model
    structure = Structure(pruned)
    for part in structure.parts:
        units = [1, 2] if part.heads else [0, 5, 17]
        silent = without(silent, part, units)
        structure.remove(part, units)
    with torch.no_grad():
        assert torch.allclose(pruned(images), silent(images), atol=1e-5)
    left = parts_of(pruned)
    assert [(p.units, p.channels) for p in left if p.heads] == [(2, 8)] * 2
    assert [a.units - b.units for a, b in zip(structure.parts, left, strict=True) if not a.heads] == [3, 3]


@pytest.mark.parametrize("options", variants(), ids=str)
def test_costs_are_those_of_the_graph_that_runs_and_of_the_parameters(options: dict):
    model = small_vit(num_heads=4, **options)
    structure = Structure(model)
    for _ in range(2):
        costs = costs_of(model, parts_of(model))
        assert costs.macs == flops_per_image(capture(model, (3, 32, 32)).graph) / 2
        assert costs.parameters == sum(p.numel() for p in model.parameters())
        part = structure.parts[0]
        before = costs
        structure.remove(part, [0])
        after = costs_of(model, parts_of(model))
        assert before.macs - after.macs == before.unit_macs[part.component]
        assert before.parameters - after.parameters == before.unit_parameters[part.component]
        structure = Structure(model)


def test_heads_that_cannot_be_told_apart_are_refused_by_name():
    model: Any = small_vit()
    model.blocks[1].attn.num_heads = 3
    with pytest.raises(InputError, match=r"blocks\.1\.attn: its 32 channels cannot be divided into 3 equal heads"):
        parts_of(model)


def test_an_mlp_of_another_build_is_refused_by_name():
    model: Any = small_vit()
    model.blocks[0].mlp = torch.nn.Sequential()
    model.blocks[0].mlp.fc2 = torch.nn.Identity()
    with pytest.raises(InputError, match=r"blocks\.0 is built of Attention and Sequential, which cannot be pruned"):
        parts_of(model)


def test_a_model_that_cannot_be_traced_is_refused():
    model: Any = small_vit()
    model.forward = lambda images: images.nonsense()
    with pytest.raises(InputError, match="torch-pruning cannot trace VisionTransformer"):
        Structure(model)


def test_blocks_that_hang_together_are_refused():
    model: Any = small_vit()
    first, second = model.blocks
    second.mlp.register_forward_hook(lambda _, given, out: out + second.mlp.fc2(first.mlp.fc1(given[0])))
    structure = Structure(model)
    with pytest.raises(InputError, match=r"blocks\.0\.fc1 cannot be pruned alone: blocks\.1\.mlp"):
        structure.remove(structure.parts[1], [0])


def test_tracing_leaves_the_attention_kernel_as_it_was():
    model: Any = small_vit()
    before = [block.attn.fused_attn for block in model.blocks]
    Structure(model)
    assert [block.attn.fused_attn for block in model.blocks] == before
