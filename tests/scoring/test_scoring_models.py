"""Which models can be scored, which are refused by name, and that the model comes out as it went in."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scoring_models import Pictures, score, tiny
from torch import nn

from edgeplast.errors import EdgeplastError, InputError, UsageError
from edgeplast.models import import_timm
from edgeplast.scores import ScoreTable
from edgeplast.scoring import METHODS

import_timm()
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import (  # noqa: E402
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)

FAMILY = {
    "q and k norms": {"qk_norm": True},
    "norms inside attention and MLP": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "layer scale": {"init_values": 0.1},
    "GluMlp": {"mlp_layer": GluMlp},
    "SwiGLU packed": {"mlp_layer": SwiGLUPacked},
    "SwiGLU": {"mlp_layer": SwiGLU},
    "norms last": {"block_fn": ResPostBlock},
    "register tokens": {"reg_tokens": 4},
    "average pooling": {"class_token": False, "global_pool": "avg"},
    "norm before the blocks": {"pre_norm": True},
    "RMS norms": {"norm_layer": "rmsnorm"},
    "no biases": {"qkv_bias": False, "proj_bias": False},
}


@pytest.mark.parametrize("options", FAMILY.values(), ids=FAMILY)
def test_every_method_scores_the_family(options: dict) -> None:
    model, images = tiny(**options), Pictures(9)
    left_out = {"bound"} if {"qk_norm", "scale_attn_norm"} & set(options) else set()
    left_out |= {"cls-delta"} if "class_token" in options else set()
    table = score(model, images, others=[m for m in METHODS if m not in left_out], pairs=4)
    for method in table.methods:
        kinds = {n.split(".")[2] for n in table.by(method)}
        assert kinds == ({"attn", "fc1", "fc2"} if method == "plasticity-branch" else
                         {"norm1", "attn", "norm2", "fc1", "fc2"})  # fmt: skip
        assert all(np.isfinite([e.score, e.standard_error]).all() for e in table.by(method).values()), method
    assert ScoreTable.from_json(table.to_json(), where="memory") == table


def test_a_distillation_token_is_one_more_token() -> None:
    model = VisionTransformerDistilled(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=3)
    nn.init.normal_(model.head.weight, std=0.1)
    table = score(model.eval(), Pictures(8), others=["rgn", "activation-fisher"], pairs=4)
    assert table.outline.blocks == 2
    assert all(e.score > 0 for e in table.by("rgn").values())


def test_gated_layers_are_measured_whole() -> None:
    images = Pictures(8)
    model = tiny(mlp_layer=SwiGLU)
    fc1 = score(model, images, pairs=4).components["blocks.0.fc1"].score
    mlp = model.blocks[0].mlp
    both = nn.Linear(32, 256)
    with torch.no_grad():
        both.weight.copy_(torch.cat([mlp.fc1_g.weight, mlp.fc1_x.weight]))
        both.bias.copy_(torch.cat([mlp.fc1_g.bias, mlp.fc1_x.bias]))
    packed = tiny(mlp_layer=partial(GluMlp, act_layer=nn.SiLU, gate_last=False), mlp_ratio=8)
    packed.load_state_dict({k: v for k, v in model.state_dict().items() if ".mlp." not in k}, strict=False)
    packed.blocks[0].mlp.fc1 = both
    assert score(packed, images, pairs=4).components["blocks.0.fc1"].score == pytest.approx(fc1, rel=1e-5)


@pytest.mark.parametrize("block", [ParallelScalingBlock, ParallelThingsBlock])
def test_blocks_that_cannot_be_taken_apart_are_scored_as_they_were_traced(block: type) -> None:
    table = score(tiny(block_fn=block), Pictures(8), method="plasticity", pairs=4)
    inner = [c.name for c in table.outline.components if c.role == "inner"]
    assert list(table.components) == inner and all(e.score > 0 for e in table.components.values())
    with pytest.raises(UsageError, match=r"Granularity 'head' needs a plain vision transformer"):
        score(tiny(block_fn=block), Pictures(8), granularity="head")


def test_bound_refuses_q_and_k_norms_by_name() -> None:
    with pytest.raises(InputError, match=r"blocks\.0\.attn\.q_norm: no bound is known"):
        score(tiny(qk_norm=True), Pictures(8), method="bound")


@pytest.mark.parametrize("method", METHODS)
def test_the_model_comes_out_as_it_went_in(method: str) -> None:
    model = tiny().train()
    model.blocks[0].eval()
    model.blocks[1].mlp.fc1.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    images = Pictures(9)
    score(model, images, method=method, pairs=4)
    broken = Pictures(9, size=24)
    if METHODS[method].needs != "nothing":
        with pytest.raises(EdgeplastError):
            score(model, broken, method=method, pairs=4)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.blocks[1].mlp.fc1.weight.requires_grad and model.blocks[0].mlp.fc1.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["plasticity", "plasticity-embedding", "plasticity-branch", "jacobian", "rgn"])
def test_values_that_are_not_finite_name_the_component(method: str, value: float) -> None:
    model = tiny()
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[3] = value
    where = r"blocks\.\d+\.\w+: its gradient" if method == "rgn" else r"blocks\.1\.fc1: its \w+ is NaN or infinite"
    with pytest.raises(InputError, match=where):
        score(model, Pictures(8), method=method, pairs=4)
    with torch.no_grad():
        model.patch_embed.proj.bias[0] = value
    if method != "rgn":
        with pytest.raises(InputError, match=r"patch_embed: the embedded tokens are NaN or infinite"):
            score(model, Pictures(8), method=method, pairs=4)


@pytest.mark.parametrize("method", ["plasticity", "fps", "rgn"])
def test_pictures_of_another_size_name_the_embedding_and_both_sizes(method: str) -> None:
    with pytest.raises(InputError, match=r"patch_embed: picture \d has shape 3×24×24, but the model takes 3×32×32"):
        score(tiny(), Pictures(8, size=24), method=method, pairs=4)


@pytest.mark.parametrize("method", ["plasticity", "plasticity-branch", "jacobian", "fps", "activation-fisher"])
def test_a_component_that_never_ran_is_named(method: str) -> None:
    model = tiny()
    block = model.blocks[1]
    block.forward = lambda tokens, **_: tokens + block.attn(block.norm1(tokens))
    named = "fc1" if method == "plasticity-branch" else "norm2"
    with pytest.raises(InputError, match=rf"blocks\.1\.{named} never ran while blocks\.1 computed its output"):
        score(model, Pictures(8), method=method, pairs=4)


def test_a_forward_pass_that_fails_names_the_block() -> None:
    model = tiny()
    model.blocks[1].norm2 = nn.LayerNorm(31)
    with pytest.raises(InputError, match=r"blocks\.1: the forward pass failed: .*31"):
        score(model, Pictures(8), pairs=4)


def test_words_and_numbers_that_mean_nothing_are_usage_errors() -> None:
    model, images = tiny(), Pictures(8)
    with pytest.raises(UsageError, match=r"Unknown score method 'plastic'.*Did you mean.*Known: plasticity, .*first-k"):
        score(model, images, method="plastic")
    with pytest.raises(UsageError, match=r"Unknown score method 'fisherr'. Did you mean 'fisher'"):
        score(model, images, others=["fisherr"])
    with pytest.raises(UsageError, match=r"Unknown granularity 'layer'.*component, head, branch"):
        score(model, images, granularity="layer")
    with pytest.raises(UsageError, match=r"'branch' exists for the method plasticity-branch alone"):
        score(model, images, method="plasticity", granularity="branch")
    with pytest.raises(UsageError, match=r"--pairs 1: .*at least 2 pairs"):
        score(model, images, pairs=1)
    with pytest.raises(UsageError, match=r"Unknown device 'gpu'.*auto, cpu, cuda"):
        score(model, images, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"'cuda' was asked for, but torch sees no CUDA device"):
            score(model, images, device="cuda")


def test_too_few_pictures_and_missing_labels_are_said() -> None:
    with pytest.raises(InputError, match=r"The data set has 3 pictures; scoring pairs of pictures needs at least 4"):
        score(tiny(), Pictures(3))
    with pytest.raises(InputError, match=r"The reference set has 1 pictures"):
        score(tiny(), Pictures(4), reference=Pictures(1))
    with pytest.raises(
        InputError, match=r"'rgn' needs labelled pictures of at least two classes; the data has class 0"
    ):
        score(tiny(), Pictures(8, classes=1), method="rgn")
    with pytest.raises(InputError, match=r"'cls-delta' needs a class token"):
        score(tiny(class_token=False, global_pool="avg"), Pictures(8), method="cls-delta")


def test_pairs_of_equal_pictures_say_nothing() -> None:
    images = Pictures(8)
    images.pixels[:] = images.pixels[0]
    table = score(tiny(), images, pairs=4)
    assert all(e.score == 0 and e.samples == 0 for e in table.components.values())
    assert "the same for all pictures" in table.notes[-1]


def test_ties_are_the_neighbours_that_cannot_be_told_apart() -> None:
    table = score(tiny(), Pictures(12), pairs=6, others=["last-k"])
    order = table.ranking()
    for upper, lower in table.ties():
        assert order.index(lower) == order.index(upper) + 1
    assert len(table.ties("last-k")) == 8  # five equal components in each of two blocks
