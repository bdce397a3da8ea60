"""The rivals: formulas against values worked out by hand on a two-layer toy, and whole runs against slow loops."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scoring_models import Pictures, found, score, tiny
from torch import nn

from edgeplast.models import with_classes
from edgeplast.scoring.baselines import weight_norm_formula
from edgeplast.scoring.forward_rivals import cls_delta_formula, fps_formula
from edgeplast.scoring.gradients import (
    activation_fisher_formula,
    elastic_formula,
    fisher_formula,
    rgn_formula,
    sensitivity_formula,
    snr_formula,
)
from edgeplast.scoring.heads import logistic_probe, with_useful_head
from edgeplast.scoring.job import Job

# The toy: z = b·(a·x) with a = 2, b = 0.5, loss ½(z - y)². Picture 1: x = 1, y = 0, so z = 1, dL/dz = 1 and
# dL/da = b·x = 0.5, dL/db = a·x = 2. Picture 2: x = 2, y = 1, so z = 2, dL/dz = 1, dL/da = 1, dL/db = 4.
A, B = 2.0, 0.5


def toy(x: float, y: float, a: float = A, b: float = B) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (torch.tensor([v], requires_grad=True) for v in (a, b))
    loss = 0.5 * (second * (first * x) - y) ** 2
    return torch.autograd.grad(loss, [first, second])


def test_the_toy_has_the_gradients_worked_out_above() -> None:
    assert [float(g) for g in toy(1, 0)] == [0.5, 2.0]
    assert [float(g) for g in toy(2, 1)] == [1.0, 4.0]


def test_rgn_by_hand() -> None:
    mean = [(p + q) / 2 for p, q in zip(toy(1, 0), toy(2, 1), strict=True)]  # 0.75 and 3
    assert rgn_formula(mean[:1], [torch.tensor([A])]) == pytest.approx(0.375)
    assert rgn_formula(mean[1:], [torch.tensor([B])]) == pytest.approx(6.0)
    assert rgn_formula(mean, [torch.tensor([A]), torch.tensor([B])]) == pytest.approx((0.5625 + 9) ** 0.5 / 4.25**0.5)


def test_snr_by_hand() -> None:
    # a: mean 0.75, variance (0.25² + 0.25²) / 1 = 0.125, ratio 4.5; b: mean 3, variance 2, ratio 4.5
    assert snr_formula([torch.tensor([0.75])], [torch.tensor([0.125])]) == pytest.approx(4.5, rel=1e-6)
    both = snr_formula(
        [torch.tensor([0.75]), torch.tensor([3.0, 3.0])], [torch.tensor([0.125]), torch.tensor([2.0, 9.0])]
    )
    assert both == pytest.approx((4.5 + 4.5 + 1.0) / 3, rel=1e-6)


def test_fisher_by_hand() -> None:
    assert fisher_formula(toy(1, 0)) == pytest.approx((0.25 + 4) / 2)
    assert np.mean([fisher_formula(toy(1, 0)[:1]), fisher_formula(toy(2, 1)[:1])]) == pytest.approx(0.625)


def test_sensitivity_by_hand() -> None:
    assert sensitivity_formula(toy(1, 0)) + sensitivity_formula(toy(2, 1)) == pytest.approx(4.25 + 17)


def test_elastic_by_hand() -> None:
    # One step of rate 0.1 on picture 1: Δa = -0.05, Δb = -0.2; then a = 1.95, b = 0.3, z = 0.585,
    # dL/da = z·b = 0.1755, dL/db = z·a = 1.14075, so -gΔ = 0.008775 for a and 0.22815 for b.
    update = [-0.1 * g for g in toy(1, 0)]
    after = toy(1, 0, A - 0.05, B - 0.2)
    assert elastic_formula(after[:1], update[:1]) == pytest.approx(0.008775, rel=1e-5)
    assert elastic_formula(after[1:], update[1:]) == pytest.approx(0.22815, rel=1e-5)


def test_activation_fisher_by_hand() -> None:
    # Two pictures, two tokens, two channels. Picture 1: Σ a·g = 1·1 + 2·3 = 7 and 0·1 + 1·(-1) = -1: ½(49 + 1).
    activations = torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    gradient = torch.tensor([[[1.0, 1.0], [3.0, -1.0]], [[1.0, 2.0], [1.0, 2.0]]])
    assert activation_fisher_formula(activations, gradient).tolist() == [25.0, 10.0]


def test_fps_cls_delta_and_weight_norm_by_hand() -> None:
    weight, inputs = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[0.5, 2.0]])
    assert fps_formula(weight, inputs).tolist() == [4 * 0.5 + 2 * 2.0]
    assert fps_formula(torch.tensor([-1.0, 2.0]), inputs).tolist() == [4.5]
    assert cls_delta_formula(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]])).tolist() == [5.0]
    assert weight_norm_formula([torch.tensor([3.0]), torch.tensor([[4.0, 0.0]])]) == pytest.approx(5 / 3**0.5)


def per_component(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All entries of each component of the tiny model, in one flat vector."""
    flat: dict[str, list[torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("blocks"):
            key = ".".join(name.replace("mlp.", "").split(".")[:3])
            flat.setdefault(key, []).append(tensor.flatten())
    return {k: torch.cat(v) for k, v in flat.items()}


def gradients_of(model: nn.Module, images: Pictures, index: list[int]) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(model)
    logits = model(torch.from_numpy(images.pixels[index]))
    nn.functional.cross_entropy(logits, torch.from_numpy(images.labels[index])).backward()
    return per_component(model, {k: p.grad for k, p in model.named_parameters() if p.grad is not None})


def test_gradient_rivals_against_plain_backward_passes() -> None:
    model, images = tiny(), Pictures(8)
    table = score(model, images, method="rgn", others=["sensitivity", "snr", "elastic"], pairs=8)
    whole = gradients_of(model, images, list(range(8)))  # eight pictures are one batch
    single = [gradients_of(model, images, [i]) for i in range(8)]
    weights = per_component(model, {k: p.detach() for k, p in model.named_parameters()})
    moved = copy.deepcopy(model)
    named = {k: p.grad for k, p in with_gradient(model, images).named_parameters()}
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if name.startswith("blocks"):
                parameter -= 1e-4 * named[name]
    after = gradients_of(moved, images, list(range(8)))
    for name in table.components:
        stack = torch.stack([s[name] for s in single])
        snr = (stack.mean(0) ** 2 / (stack.var(0) + 1e-8)).mean()
        assert table.by("rgn")[name].score == pytest.approx(float(whole[name].norm() / weights[name].norm()), rel=1e-4)
        assert table.by("sensitivity")[name].score == pytest.approx(float(whole[name].square().sum()), rel=1e-4)
        assert table.by("snr")[name].score == pytest.approx(float(snr), rel=1e-3)
        assert table.by("elastic")[name].score == pytest.approx(
            float((after[name] * 1e-4 * whole[name]).sum()), rel=1e-3
        )


def with_gradient(model: nn.Module, images: Pictures) -> nn.Module:
    model = copy.deepcopy(model)
    logits = model(torch.from_numpy(images.pixels))
    nn.functional.cross_entropy(logits, torch.from_numpy(images.labels)).backward()
    return model


def test_activation_fisher_against_one_picture_at_a_time() -> None:
    model, images = tiny(init_values=0.5), Pictures(4)
    table = score(model, images, method="activation-fisher", pairs=4)
    for place, module in (("attn", "ls1"), ("norm2", "norm2"), ("fc2", "ls2")):
        found = []
        for i in range(4):
            kept = []
            handle = getattr(model.blocks[1], module).register_forward_hook(
                lambda m, a, out, kept=kept: kept.append(out)
            )
            logits = model(torch.from_numpy(images.pixels[i : i + 1]))
            handle.remove()
            loss = nn.functional.cross_entropy(logits, torch.tensor([images.labels[i]]))
            (g,) = torch.autograd.grad(loss, kept)
            found.append(0.5 * float(((kept[0].detach() * g)[0].sum(0) ** 2).sum()))
        assert table.components[f"blocks.1.{place}"].score == pytest.approx(np.mean(found), rel=1e-4)


def test_activation_fisher_of_a_model_whose_head_is_for_other_classes() -> None:
    """Its values are heard at the copy that has a head for these, as if that copy had been given."""
    model, images = tiny(num_classes=11), Pictures(6)
    job = Job(model, images, found(model), plain=True, pairs=6)
    assert job.labelled is not model
    mine, theirs = (score(m, images, method="activation-fisher", pairs=6).components for m in (model, job.labelled))
    assert {n: e.score for n, e in mine.items()} == pytest.approx({n: e.score for n, e in theirs.items()}, rel=1e-6)


def test_sensitivity_adds_over_batches_while_rgn_averages() -> None:
    model, images = tiny(), Pictures(24)
    one, three = (score(model, images, method="sensitivity", pairs=n).components for n in (8, 24))
    assert {e.samples for e in one.values()} == {1} and {e.samples for e in three.values()} == {3}
    assert np.mean([three[k].score / one[k].score for k in one]) > 1.5


def test_fisher_needs_no_labels_where_the_model_has_a_head() -> None:
    images = Pictures(20, classes=1)
    table = score(tiny(), images, method="fisher", pairs=20)
    assert all(e.score > 0 and e.standard_error > 0 for e in table.components.values())


def test_a_model_with_another_head_gets_a_probe_and_stays_as_it_was() -> None:
    model, images = tiny(num_classes=10), Pictures(12)
    headed = with_useful_head(Job(model, images, found(model), plain=True, pairs=12))
    assert headed is not model and headed.head.weight.shape == (3, 32) and model.head.weight.shape == (10, 32)
    logits = headed(torch.from_numpy(images.pixels))
    assert float((logits.argmax(1).numpy() == images.labels).mean()) > 0.8
    own = tiny(num_classes=3)
    assert with_useful_head(Job(own, images, found(own), plain=True, pairs=12)) is own
    zero = with_classes(tiny(), 3)
    table = score(zero, images, method="rgn", pairs=12)
    assert all(e.score > 0 for e in table.components.values())


def test_the_probe_is_at_its_minimum() -> None:
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(30, 5, generator=rng), torch.arange(30) % 3
    weight, bias = logistic_probe(features, labels, 3)
    scale = float(features.square().mean().sqrt())
    w = (weight * scale).double().requires_grad_()
    b = bias.double().requires_grad_()
    loss = nn.functional.cross_entropy(features.double() / scale @ w.T + b, labels) + w.square().sum() / 60
    assert all(float(g.abs().max()) < 1e-5 for g in torch.autograd.grad(loss, [w, b]))


def test_heads_share_out_what_they_own() -> None:
    model, images = tiny(), Pictures(8)
    whole = score(model, images, method="sensitivity", pairs=8)
    heads = score(model, images, method="sensitivity", pairs=8, granularity="head", others=["weight-norm", "fps"])
    named = gradients_of(model, images, list(range(8)))["blocks.0.attn"]
    bias = named[-32:]  # the output projection's bias belongs to no head
    total = sum(heads.components[f"blocks.0.attn.head.{h}"].score for h in range(4))
    expected = whole.components["blocks.0.attn"].score - float(bias.square().sum())
    assert total == pytest.approx(expected, rel=1e-3)
    parameters = sum(heads.components[f"blocks.0.attn.head.{h}"].parameters for h in range(4))
    assert parameters == 32 * 96 + 32 * 32 + (96 if model.blocks[0].attn.qkv.bias is not None else 0)


def test_positions_and_chance() -> None:
    table = score(tiny(depth=3), Pictures(8), method="last-k", others=["first-k", "random"], seed=4)
    assert [table.components[f"blocks.{i}.attn"].score for i in range(3)] == [1, 2, 3]
    assert [table.by("first-k")[f"blocks.{i}.fc1"].score for i in range(3)] == [3, 2, 1]
    again = score(tiny(depth=3), Pictures(8), method="random", seed=4)
    assert again.components == table.by("random")
    assert score(tiny(depth=3), Pictures(8), method="random", seed=5).components != again.components
