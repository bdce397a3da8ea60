"""Pruning small models: how small they get, what guides it, what is refused, and that the input stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from compression_models import Noise, table
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import small_vit

from edgeplast.compression import Target, prune
from edgeplast.compression.constants import fold, mean_inputs
from edgeplast.compression.structure import Structure, parts_of
from edgeplast.errors import BudgetError, InputError, UsageError
from edgeplast.models import import_timm

SIZES: dict = {"embed_dim": 32, "num_heads": 4}


@pytest.fixture(scope="module")
def model() -> Any:
    return small_vit(**SIZES)


def kept(model: Any) -> dict[str, int]:
    return {part.component: part.units for part in parts_of(model)}


@settings(max_examples=8, deadline=None)
@given(st.floats(0.5, 0.95), st.integers(0, 3))
def test_what_is_kept_is_what_was_asked_for_and_every_block_keeps_a_head(keep: float, seed: int):
    model = small_vit(seed, **SIZES)
    pruned = prune(model, Noise(), Target(keep=keep), importance="magnitude")
    before, after = pruned.record.before.macs, pruned.record.after.macs
    assert after <= keep * before
    assert after > (keep - 0.05) * before  # of such a small model a head is 4 %
    assert all(block.heads >= 1 and block.hidden >= 16 for block in pruned.record.blocks)
    assert pruned.model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_given_model_is_not_changed(model: Any):
    before, mode = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    asked = [p.requires_grad for p in model.parameters()]
    prune(model, Noise(), Target(keep=0.7), scores=table(model, {}), distill_steps=2, steps=2)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert kept(model)["blocks.0.attn"] == 4 and mode == [m.training for m in model.modules()]
    assert asked == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_smooth_components_give_more(model: Any, importance: str):
    smooth = {"blocks.0.fc1": 0.25, "blocks.0.fc2": 0.25}
    plain = prune(model, Noise(), Target(keep=0.8), importance=importance)
    guided = prune(model, Noise(), Target(keep=0.8), importance=importance, scores=table(model, smooth))
    assert kept(guided.model)["blocks.0.fc1"] < kept(plain.model)["blocks.0.fc1"]
    assert guided.record.method == "by hand" and plain.record.method == ""


def test_heads_go_by_their_own_plasticity():
    model: Any = small_vit(**SIZES)
    heads = {f"blocks.0.attn.head.{h}": 1.0 for h in range(4)} | {"blocks.0.attn.head.2": 1e-6, "blocks.0.attn": None}
    silent = prune(model, Noise(), Target(keep=0.95), scores=table(model, heads), importance="magnitude").model
    qkv = model.blocks[0].attn.qkv.weight.detach()
    rows = [r for r in range(96) if not 16 <= r % 32 < 24]  # all but those of head 2
    assert torch.equal(silent.blocks[0].attn.qkv.weight.detach(), qkv[rows])


def test_a_given_ratio_goes_before_the_worth(model: Any):
    ratios = {"blocks.1.fc2": 0.5, "blocks.0.attn": 0.0}
    pruned = prune(model, Noise(), Target(keep=0.7), ratios=ratios)
    assert kept(pruned.model)["blocks.1.fc1"] == 64 and kept(pruned.model)["blocks.0.attn"] == 4


def test_a_ratio_that_would_take_every_head_leaves_one(model: Any):
    pruned = prune(model, Noise(), Target(keep=0.9), ratios={"blocks.1.attn": 0.99})
    assert kept(pruned.model)["blocks.1.attn"] == 1
    assert "The ratio 0.99 would take all 4 units of blocks.1.attn; one stays." in pruned.record.notes


def test_ratios_that_reach_the_target_alone_are_noted(model: Any):
    pruned = prune(model, Noise(), Target(keep=0.95), ratios={"blocks.0.fc1": 0.9})
    assert kept(pruned.model) == {"blocks.0.attn": 4, "blocks.0.fc1": 13, "blocks.1.attn": 4, "blocks.1.fc1": 128}
    assert "The given ratios alone reach the target; nothing else was taken out." in pruned.record.notes


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"blocks.0.norm1": 0.5}, r"'blocks\.0\.norm1' has nothing to take out\. Heads are in blocks\.0\.attn to"),
        ({"blocks.9.fc1": 0.5}, r"'blocks\.9\.fc1' has nothing to take out.*blocks\.1\.attn"),
        ({"blocks.0.fc1": 1.0}, r"--ratio blocks\.0\.fc1=1: the share to take out must be 0 or more and below 1"),
        ({"blocks.0.fc1": -0.1}, "must be 0 or more"),
        ({"blocks.0.fc1": 0.2, "blocks.0.fc2": 0.3}, r"gives 0\.2 and 0\.3 for the hidden units of blocks\.0\.fc1"),
    ],
)
def test_ratios_that_mean_nothing_are_refused(model: Any, ratios: dict, message: str):
    with pytest.raises(UsageError, match=message):
        prune(model, Noise(), Target(keep=0.7), ratios=ratios)


def test_rounds_end_where_one_does_and_distillation_is_spread_over_them(model: Any):
    once = prune(model, Noise(), Target(keep=0.6), scores=table(model, {}))
    thrice = prune(model, Noise(), Target(keep=0.6), scores=table(model, {}), steps=3, distill_steps=7)
    assert thrice.record.after.macs == pytest.approx(once.record.after.macs, rel=0.05)
    assert thrice.record.distill_steps == 7 and thrice.record.steps == 3


def test_distillation_brings_the_features_back(model: Any):
    images = torch.from_numpy(np.stack([Noise().tensor(i) for i in range(12)]))

    def error(other: Any) -> float:
        with torch.no_grad():
            there, here = (m.forward_head(m.forward_features(images), pre_logits=True) for m in (model, other))
        return float((here - there).square().sum() / (there - there.mean(0)).square().sum())

    rough = prune(model, Noise(), Target(keep=0.6))
    smooth = prune(model, Noise(), Target(keep=0.6), distill_steps=60)
    assert error(smooth.model) < 0.5 * error(rough.model)
    first, last = smooth.record.distill_loss
    assert last < first


def test_units_that_always_say_the_same_can_go_without_a_trace():
    model: Any = small_vit(**SIZES)
    mlp = model.blocks[0].mlp
    torch.nn.init.zeros_(mlp.fc1.weight[:64])
    mlp.fc1.bias.data[:64] = 2.0
    pruned = copy.deepcopy(model)
    structure = Structure(pruned)
    part = structure.parts[1]
    fold(pruned, part, range(64), mean_inputs(pruned, structure.parts, Noise(), 0)[part.component])
    structure.remove(part, range(64))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(pruned(images), model(images), atol=1e-5)


def test_a_dead_component_goes_first_and_is_noted():
    model: Any = small_vit(**SIZES)
    torch.nn.init.zeros_(model.blocks[0].attn.proj.weight)
    for parameter in model.blocks[0].attn.qkv.parameters():
        torch.nn.init.zeros_(parameter)
    pruned = prune(model, Noise(), Target(keep=0.8), scores=table(model, {}))
    assert kept(pruned.model)["blocks.0.attn"] == 1
    assert any(note.startswith("blocks.0.attn is dead") for note in pruned.record.notes)


def test_a_component_without_a_score_counts_as_median_and_is_noted(model: Any):
    pruned = prune(model, Noise(), Target(keep=0.8), scores=table(model, {"blocks.1.attn": None}))
    assert any("by hand has no score for blocks.1.attn" in note for note in pruned.record.notes)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"keep": 0.05}, r"Pruning to 5% of the multiply–accumulates is not possible: .* are left"),
        ({"macs": 1000}, r"Pruning to 1 k multiply–accumulates is not possible"),
        ({"size_bytes": 2000}, r"Pruning to 1\.95 KiB of weights is not possible: .*KiB of weights are left"),
    ],
)
def test_a_target_out_of_reach_names_what_is_left(model: Any, target: dict, message: str):
    with pytest.raises(BudgetError, match=message):
        prune(model, Noise(), Target(**target))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, r"one way; 0 were given\. One of: --keep 0\.7"),
        ({"keep": 0.5, "macs": 3}, "one way; 2 were given"),
        ({"keep": 1.0}, "A fraction of 1 cannot be kept"),
        ({"size_bytes": 0}, "A target of 0 size_bytes cannot be reached"),
    ],
)
def test_targets_that_mean_nothing_are_refused(target: dict, message: str):
    with pytest.raises(UsageError, match=message):
        Target(**target)


def test_a_model_that_is_small_enough_is_left_alone(model: Any):
    with pytest.raises(UsageError, match=r"The model has .* multiply–accumulates already"):
        prune(model, Noise(), Target(macs=10**9))


def test_bytes_as_a_target(model: Any):
    pruned = prune(model, Noise(), Target(size_bytes=80_000), importance="magnitude")
    assert 0.9 * 80_000 < 4 * pruned.record.after.parameters <= 80_000


class Clock:
    """A machine that takes a fixed time and one that grows with the hidden units, and remembers what it measured."""

    def __init__(self) -> None:
        self.measured: list[int] = []

    def __call__(self, models: Any) -> list[float]:
        self.measured.append(len(models))
        return [1.0 + sum(block.mlp.fc2.in_features / 128 for block in m.blocks) for m in models]


class Slower(Clock):
    """A machine that grows slow after the search."""

    def __call__(self, models: Any) -> list[float]:
        factor = 1.5 if len(self.measured) >= 3 else 1.0
        return [factor * seconds for seconds in super().__call__(models)]


def test_a_latency_is_searched_for_with_the_clock_that_was_handed_in(model: Any):
    clock = Clock()
    pruned = prune(model, Noise(), Target(latency_seconds=2.5), latency=clock, importance="magnitude")
    assert 2.2 < pruned.record.after.latency_seconds <= 2.5 and pruned.record.before.latency_seconds == 3.0
    assert len(clock.measured) <= 9
    pruned = prune(model, Noise(), Target(latency_seconds=2.5), latency=Slower(), importance="magnitude")
    assert any(note.startswith("Measured at the end, an image takes 3.") for note in pruned.record.notes)
    with pytest.raises(BudgetError, match=r"Pruning to 1\.10 s an image is not possible on this machine: .* unpruned"):
        prune(model, Noise(), Target(latency_seconds=1.1), latency=clock, importance="magnitude")
    with pytest.raises(UsageError, match=r"The model takes 3\.00 s an image already"):
        prune(model, Noise(), Target(latency_seconds=4.0), latency=clock)
    with pytest.raises(UsageError, match="needs something to measure with"):
        prune(model, Noise(), Target(latency_seconds=2.5))


def test_other_options_that_mean_nothing_are_refused(model: Any):
    for options, message in (
        ({"steps": 0}, "--prune-steps 0 must be 1 or more"),
        ({"distill_steps": -1}, "--distill-steps -1 0 or more"),
        ({"importance": "gut feeling"}, "Unknown importance 'gut feeling'"),
        ({"device": "abacus"}, "Unknown device 'abacus'"),
    ):
        with pytest.raises(UsageError, match=message):
            prune(model, Noise(), Target(keep=0.8), **options)
    with pytest.raises(InputError, match="There are no pictures to prune with"):
        prune(model, Noise(0), Target(keep=0.8))
    with pytest.raises(InputError, match=r"Picture \d has shape \(3, 16, 16\), the model takes"):
        prune(model, Noise(side=16), Target(keep=0.8))


def test_weights_that_are_not_finite_and_scores_of_another_model_are_refused(model: Any):
    broken = copy.deepcopy(model)
    broken.blocks[1].mlp.fc1.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"blocks\.1\.mlp\.fc1\.weight: the weights are not finite"):
        prune(broken, Noise(), Target(keep=0.8))
    with pytest.raises(InputError, match=r"a model with 3 blocks \(.*\), and this one has 2"):
        prune(model, Noise(), Target(keep=0.8), scores=table(small_vit(depth=3), {}))


def test_norms_that_the_graph_does_not_understand_are_refused_by_name():
    import_timm()
    from timm.layers import RmsNorm

    with pytest.raises(InputError, match=r"does not understand how blocks\.0\.attn hangs together with its norms"):
        prune(small_vit(**SIZES, norm_layer=RmsNorm, qk_norm=True), Noise(), Target(keep=0.8))
    kept_norms = prune(small_vit(**SIZES, norm_layer=RmsNorm, scale_mlp_norm=True), Noise(), Target(keep=0.8))
    assert kept_norms.model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_model_outside_the_family_is_refused():
    with pytest.raises(InputError, match="is no plain vision transformer"):
        prune(torch.nn.Linear(3, 3), Noise(), Target(keep=0.8))
