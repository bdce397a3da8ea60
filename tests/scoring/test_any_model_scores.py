"""Scores of models that are no plain vision transformers, against what numpy and torch say of each component."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scoring_models import Pictures, score, tiny
from small_models import CLASSES, blob_folder
from torch import nn

import edgeplast
from edgeplast.errors import InputError, UsageError
from edgeplast.models import import_timm
from edgeplast.preprocessing import Preprocessing
from edgeplast.scores import ScoreTable
from edgeplast.scoring import METHODS
from edgeplast.scoring import score as score_model
from edgeplast.scoring.examples import draw_pairs
from edgeplast.scoring.job import Job
from edgeplast.scoring.plasticity import plasticity_branch
from edgeplast_devices.options import TrainingOptions
from edgeplast_exporters.outlining import traced

GENERAL = [name for name, method in METHODS.items() if not method.plain]


class Wide(Pictures):
    """Pictures of another shape than 3 × 32²."""

    def __init__(self, count: int, shape: tuple[int, int, int], classes: int = 3) -> None:
        super().__init__(count, classes=classes)
        rng = np.random.default_rng(1)
        self.pixels = rng.normal(size=(count, *shape)).astype(np.float32)
        self.pixels += self.labels[:, None, None, None] / 2


class ByHand(nn.Module):
    """Two channels, 6 × 4 pixels: a convolution with a frozen norm, a gated branch with a scale, a tied layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.blocks = nn.ModuleList([Gated(4), Gated(4)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 6)
        self.down = nn.Linear(6, width)
        self.gamma = nn.Parameter(torch.ones(width))
        self.twice = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + torch.relu(self.bn(self.conv(x)))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.gamma * self.down(nn.functional.silu(self.up(self.norm(tokens))))
        tokens = tokens + self.twice(torch.tanh(self.twice(tokens)))
        return tokens.transpose(1, 2).reshape(x.shape)


def by_hand() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = ByHand().eval()
        for p in model.parameters():
            nn.init.normal_(p, std=0.5)
        for b in model.modules():
            if isinstance(b, nn.BatchNorm2d):
                b.running_mean.normal_()
                b.running_var.uniform_(0.5, 2)
    return model


def passage(block: nn.Module, x: np.ndarray) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Component to (input, output) in numpy, of one picture (4, 6, 4); branches under 'branch …'."""
    p = {n: t.detach().double().numpy() for n, t in block.state_dict().items()}
    seen = {}
    conv = np.einsum("oi,ihw->ohw", p["conv.weight"][:, :, 0, 0], x)
    deviation = np.sqrt(p["bn.running_var"] + 1e-5)
    normed = (conv - p["bn.running_mean"][:, None, None]) / deviation[:, None, None]
    normed = normed * p["bn.weight"][:, None, None] + p["bn.bias"][:, None, None]
    seen |= {"conv": (x, conv), "bn": (conv, normed), "branch conv": (x, normed)}
    x = x + np.maximum(normed, 0)
    tokens = x.reshape(4, -1).T
    centred = tokens - tokens.mean(1, keepdims=True)
    flat = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * p["norm.weight"] + p["norm.bias"]
    up = flat @ p["up.weight"].T + p["up.bias"]
    active = up / (1 + np.exp(-up))
    down = p["gamma"] * (active @ p["down.weight"].T + p["down.bias"])
    seen |= {"norm": (tokens, flat), "up": (flat, up), "down": (active, down)}
    seen |= {"branch up": (tokens, up), "branch down": (up, down)}
    tokens = tokens + down
    once = np.tanh(tokens @ p["twice.weight"].T + p["twice.bias"])
    again = once @ p["twice.weight"].T + p["twice.bias"]
    seen |= {"twice": (tokens, again), "branch twice": (tokens, again)}
    return seen, (tokens + again).T.reshape(x.shape)


def test_plasticity_of_a_module_of_ones_own_is_its_definition_in_numpy() -> None:
    model, images = by_hand(), Wide(10, (2, 6, 4))
    expected: dict[str, list[float]] = {}
    stem = model.stem.weight.detach().double().numpy()[:, :, 0, 0]
    for (_, i), (_, j) in draw_pairs(images, None, 5, 0):
        a, b = (np.einsum("oi,ihw->ohw", stem, images.pixels[k].astype(float)) for k in (i, j))
        a, b = (x + model.stem.bias.detach().double().numpy()[:, None, None] for x in (a, b))
        for number, block in enumerate(model.blocks):
            (one, a), (two, b) = passage(block, a), passage(block, b)
            for name in one:
                ratio = np.linalg.norm(one[name][1] - two[name][1]) / np.linalg.norm(one[name][0] - two[name][0])
                expected.setdefault(f"{number} {name}", []).append(float(ratio))
    how = {"method": "plasticity", "others": ["plasticity-branch"], "pairs": 5}
    table = score_model(model, images, traced(model, (2, 6, 4)), **how)
    assert list(table.components) == [
        f"blocks.{i}.{k}" for i in range(2) for k in ("conv", "bn", "norm", "up", "down", "twice")
    ]
    for name, entry in table.components.items():
        _, number, kind = name.split(".")
        assert entry.score == pytest.approx(np.mean(expected[f"{number} {kind}"]), rel=1e-4), name
    branches = table.others["plasticity-branch"]
    assert list(branches) == [f"blocks.{i}.{k}" for i in range(2) for k in ("conv", "up", "down", "twice")]
    for name, entry in branches.items():
        _, number, kind = name.split(".")
        assert entry.score == pytest.approx(np.mean(expected[f"{number} branch {kind}"]), rel=1e-4), name


def test_jacobian_of_a_linear_component_is_its_frobenius_norm() -> None:
    model, images = by_hand(), Wide(60, (2, 6, 4))
    table = score_model(model, images, traced(model, (2, 6, 4)), method="jacobian", pairs=60)
    for kind, weight in (("conv", model.blocks[0].conv.weight), ("up", model.blocks[0].up.weight)):
        expected = float(weight.detach().norm()) / weight.shape[1] ** 0.5
        assert table.components[f"blocks.0.{kind}"].score == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("options", [{}, {"init_values": 0.5, "qk_norm": True}])
def test_a_plain_vision_transformer_has_the_same_scores_either_way(options: dict) -> None:
    model, images = tiny(2, **options), Pictures(10)
    found = traced(model)
    same = [m for m in GENERAL if m not in ("jacobian", "random", "fisher", "elastic", "fps")]
    same += [] if options else ["fps"]  # which leaves q/k norms and layer scales of plain vision transformers out
    table = score_model(model, images, found, method=same[0], others=same[1:], pairs=4)
    job = Job(model, images, found, plain=False, pairs=4)
    for method in same:
        estimates = METHODS[method].function(job)
        assert list(estimates) == list(table.by(method)), method
        for name, estimate in estimates.items():
            assert estimate.score == pytest.approx(table.by(method)[name].score, rel=1e-4, abs=1e-12), (method, name)


def test_moving_scale_into_a_norm_of_fixed_statistics_changes_no_branch() -> None:
    model, images = by_hand(), Wide(8, (2, 6, 4))
    before = plasticity_branch(Job(model, images, traced(model, (2, 6, 4)), plain=False, pairs=4))
    with torch.no_grad():
        for block in model.blocks:
            block.conv.weight *= 5
            block.bn.running_mean *= 5
            block.bn.weight /= 5
            block.norm.weight *= 3
            block.norm.bias *= 3
            block.up.weight /= 3
    after = plasticity_branch(Job(model, images, traced(model, (2, 6, 4)), plain=False, pairs=4))
    for name, estimate in before.items():
        assert after[name].score == pytest.approx(estimate.score, rel=1e-3), name


def timm_model(name: str, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = import_timm().create_model(name, num_classes=3, **options)
    return model.eval()


SMALL = {
    "SigLIP": lambda: timm_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2,
                                 global_pool="map", class_token=False),
    "DINOv3": lambda: timm_model("vit_small_patch16_dinov3", img_size=32, embed_dim=32, depth=1, num_heads=2),
    "Swin": lambda: timm_model("swin_tiny_patch4_window7_224", img_size=32, embed_dim=12, depths=(2, 1),
                               num_heads=(2, 2), window_size=4),
    "ConvNeXt": lambda: timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)),
    "TinyViT": lambda: timm_model("tiny_vit_5m_224", embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1),
                                  num_heads=(1, 1, 2, 2), window_sizes=(4, 4, 4, 2)),
    "EfficientNet": lambda: timm_model("test_efficientnet"),
    "ResNet": lambda: timm_model("test_resnet"),
    "MobileViT": lambda: timm_model("mobilevit_xxs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_every_inner_component_has_a_score_by_every_general_method(kind: str) -> None:
    model = SMALL[kind]()
    found = traced(model, (3, 64, 64) if kind in ("TinyViT", "MobileViT", "ConvNeXt") else (3, 32, 32))
    modes, before = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    images = Wide(8, found.outline.input_shape)
    table = score_model(model, images, found, method=GENERAL[0], others=GENERAL[1:], pairs=3)
    inner = [c.name for c in found.outline.components if c.role == "inner"]
    for method in GENERAL:
        entries = table.by(method)
        assert set(entries) <= set(inner) if method == "plasticity-branch" else list(entries) == inner, method
        assert all(np.isfinite([e.score, e.standard_error]).all() for e in entries.values()), method
        assert any(e.score != 0 for e in entries.values()), method
    moved = [e.score > 0 for e in table.by("plasticity").values()]  # what starts at zero moves nothing
    assert sum(moved) > len(moved) / 2 and all(e.score >= 0 for e in table.by("plasticity").values())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert ScoreTable.from_json(table.to_json(), where="memory") == table


@pytest.mark.parametrize("kind", ["Swin", "ResNet", "SigLIP"])
def test_from_scores_to_an_adapted_model(kind: str, tmp_path: Path) -> None:
    model = SMALL[kind]()
    photos = blob_folder(tmp_path / "photos", train=8, test=4)
    look = Preprocessing(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    scores = edgeplast.score(model, photos, preprocessing=look, pairs=4)
    plan = edgeplast.plan(scores, train="all" if kind == "SigLIP" else None, strategy="best")
    assert plan.outline == scores.outline and set(plan.trainable) > set(plan.outline.head)
    bundle = edgeplast.export(model, plan, into=tmp_path / "bundle", classes=CLASSES, preprocessing=look)
    adapted = edgeplast.adapt(bundle, photos, into=tmp_path / "adapted", options=TrainingOptions(epochs=3))
    assert adapted.history[-1].training_loss < adapted.history[0].training_loss


def test_what_needs_a_plain_vision_transformer_is_refused_at_once_by_name() -> None:
    model, images = by_hand(), Wide(8, (2, 6, 4))
    found = traced(model, (2, 6, 4))
    message = r"Score methods 'bound', 'cls-delta' need a plain vision transformer .* which ByHand is not.*plasticity, "
    with pytest.raises(UsageError, match=message):
        score_model(model, images, found, method="bound", others=["plasticity", "cls-delta"])
    with pytest.raises(UsageError, match=r"Granularity 'branch' needs a plain .* Leave --granularity out"):
        score_model(model, images, found, method="plasticity-branch", granularity="branch")
    assert images.asked == []


def test_a_model_of_an_embedding_and_a_head_alone_has_nothing_to_score() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"no component between its embedding and its head.*plan_by_names"):
        score_model(model, Wide(8, (3, 2, 2)), traced(model, (3, 2, 2)))


def test_pictures_of_another_shape_and_values_that_are_not_finite_name_the_component() -> None:
    model = by_hand()
    found = traced(model, (2, 6, 4))
    with pytest.raises(InputError, match=r"stem: picture \d has shape 3×6×4, but the model takes 2×6×4"):
        score_model(model, Wide(8, (3, 6, 4)), found, pairs=2)
    with torch.no_grad():
        model.blocks[1].up.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"blocks\.1\.up: its output is NaN or infinite"):
        score_model(model, Wide(8, (2, 6, 4)), found, pairs=2)


def test_scores_of_a_plain_model_still_come_in_their_old_order() -> None:
    table = score(tiny(), Pictures(8), method="plasticity", pairs=2)
    assert [n.rsplit(".", 1)[1] for n in table.components][:5] == ["norm1", "attn", "norm2", "fc1", "fc2"]
