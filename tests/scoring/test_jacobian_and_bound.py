"""The local score against whole Jacobians, and the bounds against everything they must bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scoring_models import Pictures, embedding, passage, score, tiny

from edgeplast.errors import UsageError
from edgeplast.scoring.bound import attention_bound, norm_bound
from edgeplast.scoring.jacobian import direction


def test_jacobian_is_the_norm_of_the_whole_jacobian_times_a_direction() -> None:
    model, images = tiny(0, embed_dim=8, num_heads=2, init_values=0.3), Pictures(3, seed=2)
    table = score(model, images, method="jacobian", pairs=3, seed=9, granularity="component")
    found: dict[str, list[float]] = {}
    for index in range(3):
        tokens = embedding(model, images.pixels[index]).detach()
        for i, block in enumerate(model.blocks):
            seen = run_with_scale(block, tokens)
            for number, kind in enumerate(("norm1", "attn", "norm2", "fc1", "fc2")):
                function, start = seen[kind]
                whole = torch.autograd.functional.jacobian(function, start)
                v = direction(tuple(start.shape[1:]), (9, index, i, number))
                product = whole.reshape(-1, start.numel()) @ v.flatten()
                found.setdefault(f"blocks.{i}.{kind}", []).append(float(product.norm()))
            tokens = block(tokens).detach()
    for name, entry in table.components.items():
        assert entry.score == pytest.approx(np.mean(found[name]), rel=1e-4), name


def run_with_scale(block, tokens):
    """Component type to (function, its input), for a block with layer scale."""
    normed = block.norm1(tokens)
    middle = tokens + block.ls1(block.attn(normed))
    second = block.norm2(middle)
    active = block.mlp.act(block.mlp.fc1(second))
    return {
        "norm1": (block.norm1, tokens),
        "attn": (lambda t: block.ls1(block.attn(t)), normed),
        "norm2": (block.norm2, middle),
        "fc1": (block.mlp.fc1, second),
        "fc2": (lambda t: block.ls2(block.mlp.fc2(t)), active),
    }


def test_a_direction_has_length_one_and_comes_from_integers() -> None:
    one = direction((17, 32), (0, 1, 2, 3))
    assert float(one.norm()) == pytest.approx(1, rel=1e-6)
    assert torch.equal(one, direction((17, 32), (0, 1, 2, 3)))
    assert not torch.equal(one, direction((17, 32), (0, 1, 2, 4)))


@pytest.mark.parametrize("options", [{}, {"init_values": 0.5}, {"norm_layer": "rmsnorm"}, {"qkv_bias": True}])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_bound_what_is_measured(options: dict, seed: int) -> None:
    model, images = tiny(seed, **options), Pictures(16, seed=seed)
    table = score(model, images, method="bound", others=["plasticity"], pairs=8, seed=seed)
    for name, entry in table.components.items():
        assert entry.score >= table.by("plasticity")[name].score, name
        assert entry.standard_error == 0


@torch.no_grad()
def test_every_single_pair_stays_under_the_bounds_of_norms_and_attention() -> None:
    model = tiny(11, qkv_bias=True)
    rng = torch.Generator().manual_seed(0)
    block = model.blocks[0]
    for spread in (0.02, 0.3, 3.0):
        x, y = (spread * torch.randn(1, 6, 32, generator=rng) + 0.1 for _ in range(2))
        least = float(min((t.var(-1, correction=0) + block.norm1.eps).sqrt().min() for t in (x, y)))
        radius = float(max(t.norm(dim=-1).max() for t in (x, y)))
        for other in (y, x + 1e-3 * (y - x)):
            gap = float((x - other).norm())
            moved = {k: float((m(x) - m(other)).norm()) / gap for k, m in (("n", block.norm1), ("a", block.attn))}
            assert moved["n"] <= norm_bound(block.norm1, least) * 1.001
            assert moved["a"] <= attention_bound(block.attn, radius, 6) * 1.001


def test_the_bound_of_a_linear_layer_is_its_spectral_norm_and_of_a_norm_its_gain_over_the_spread() -> None:
    model, images = tiny(1), Pictures(8, seed=3)
    table = score(model, images, method="bound", pairs=4)
    block = model.blocks[0]
    for kind in ("fc1", "fc2"):
        weight = getattr(block.mlp, kind).weight.detach()
        assert table.components[f"blocks.0.{kind}"].score == pytest.approx(
            float(torch.linalg.norm(weight, 2)), rel=1e-5
        )
    with torch.no_grad():
        flattest = min(
            float((passage(block, embedding(model, p))["norm1"][0].var(-1, correction=0) + 1e-6).sqrt().min())
            for p in images.pixels
        )
    expected = float(block.norm1.weight.detach().abs().max()) / flattest
    assert table.components["blocks.0.norm1"].score == pytest.approx(expected, rel=1e-4)


def test_bound_has_no_heads() -> None:
    with pytest.raises(UsageError, match="'bound' knows granularity component, not 'head'"):
        score(tiny(), Pictures(8), method="bound", granularity="head")
