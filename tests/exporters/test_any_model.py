"""Models of every kind become training graphs: torch's logits, torch's gradients, and they learn on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exporter_models import assert_gradients_agree, labels, mean_targets, run_graph
from small_models import CLASSES, blob_folder
from torch import nn

import edgeplast
from edgeplast.errors import InputError
from edgeplast.models import import_timm
from edgeplast.plans import plan_by_names
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.options import TrainingOptions
from edgeplast_exporters.capture import Captured, capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.training import promote, training_graph

SIZE = 32


class OwnNet(nn.Module):
    """A module that no library knows: tied kernels, a branch, a bare scale, grey pictures that are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.norm(self.first(x)))
        x = x + self.scale * self.twice(nn.functional.silu(self.twice(x)))
        return self.head(nn.functional.max_pool2d(x, 2).mean((2, 3)))


def timm_model(name: str, **options: object) -> nn.Module:
    model: nn.Module = import_timm().create_model(name, num_classes=3, **options)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "SigLIP": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=SIZE, patch_size=8, embed_dim=16, depth=1, num_heads=2,
                           global_pool="map", class_token=False), (3, SIZE, SIZE)),
    "DINOv3": (lambda: timm_model("vit_small_patch16_dinov3", img_size=SIZE, embed_dim=32, depth=1, num_heads=2),
               (3, SIZE, SIZE)),
    "Swin": (lambda: timm_model("swin_tiny_patch4_window7_224", img_size=SIZE, embed_dim=12, depths=(2, 1),
                                num_heads=(2, 2), window_size=4), (3, SIZE, SIZE)),
    "ConvNeXt": (lambda: timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), (3, SIZE, SIZE)),
    "TinyViT": (lambda: timm_model("tiny_vit_5m_224", embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1),
                                   num_heads=(1, 1, 2, 2), window_sizes=(4, 4, 4, 2)), (3, 64, 64)),
    "EfficientNet": (lambda: timm_model("test_efficientnet"), (3, SIZE, SIZE)),
    "ResNet": (lambda: timm_model("test_resnet"), (3, SIZE, SIZE)),
    "MobileViT": (lambda: timm_model("mobilevit_xxs"), (3, 64, 64)),
    "a module of one's own": (OwnNet, (1, 24, 16)),
}  # fmt: skip


def made(kind: str) -> tuple[nn.Module, Captured]:
    """A model none of whose numbers is zero or one, statistics of norms included, and how it is captured."""
    build, shape = MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
        for name, p in model.named_parameters():
            if p.ndim == 1 or not p.detach().any():
                nn.init.normal_(p.data, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(std=0.3)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 2.0)
    return model, capture(model, shape, name=kind)


@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_all_gradients_are_those_of_torch(kind: str) -> None:
    model, captured = made(kind)
    assert check_parity(model, captured) < 1e-4
    names = [*captured.parameters]
    assert names and {*names} == {name for name, _ in model.named_parameters()}
    images = np.random.default_rng(0).standard_normal((3, *captured.outline.input_shape), dtype=np.float32)
    answers = labels(3)
    training = training_graph(promote(captured.graph, names), names)
    found = run_graph(training, captured.weights, images, mean_targets(answers))
    twin = copy.deepcopy(model)
    loss = nn.functional.cross_entropy(twin(torch.from_numpy(images)), torch.from_numpy(answers))
    chosen = dict(twin.named_parameters())
    gradients = zip(chosen, torch.autograd.grad(loss, list(chosen.values())), strict=True)
    expected = {name: g.numpy().reshape(captured.parameters[name].shape) for name, g in gradients}
    assert_gradients_agree(found.gradients, expected)
    assert found.loss == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["Swin", "ResNet"])
def test_they_learn_on_the_device_and_are_deployed(kind: str, tmp_path: Path) -> None:
    model, captured = made(kind)
    outline = captured.outline
    look = Preprocessing(image_size=outline.input_shape[1:], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    plan = plan_by_names(outline, f"blocks:{outline.blocks - 1}", classes=CLASSES)
    bundle = edgeplast.export(model, plan, into=tmp_path / "bundle", classes=CLASSES, preprocessing=look)
    assert {p.component for p in bundle.manifest.parameters.values()} == {*outline.names}
    photos = blob_folder(tmp_path / "photos", train=8, test=4)
    adapted = edgeplast.adapt(bundle, photos, into=tmp_path / "adapted", options=TrainingOptions(epochs=3))
    assert adapted.history[-1].training_loss < adapted.history[0].training_loss
    before = edgeplast.evaluate(tmp_path / "adapted", photos)
    deployed = edgeplast.deploy(tmp_path / "adapted", tmp_path / "model.onnx")
    assert edgeplast.evaluate(deployed, photos).accuracy == pytest.approx(before.accuracy)


class Picks(nn.Module):
    """Refused: which branch runs depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))


class Mixes(nn.Module):
    """Refused: images of a batch attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = lambda x: (x @ x.t()).softmax(-1) @ x
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x.mean((2, 3))))


class Several(nn.Module):
    """Refused: features beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(x.mean((2, 3))), x


class Multiplies(Several):
    """Refused: an operator without a graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.head(torch.cumprod(x.flatten(2), -1).mean(-1))


class Branches(Several):
    """Refused: what it computes depends on the values of images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        if x.sum() > 0:
            x = x * 2
        return self.head(x.mean((2, 3)))


def test_where_a_model_branches_is_named_and_nothing_else_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        InputError, match=r"Branches cannot be traced by torch\.export at test_any_model\.py, line \d+ \(if x\.sum"
    ):
        capture(Branches(), (3, 8, 8))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Picks, r"cannot be traced.*depends on the values of images.*torch\.where"),
        (Mixes, r"inner: the operator matmul cannot be written.*mixes images.*Write around it"),
        (Several, r"returns a tuple.*Wrap it in a module whose forward method picks the logits"),
        (Multiplies, r"own forward method: the operator cumprod has no translation here"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_what_to_write(module: type[nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(module(), (3, 8, 8))


class Grid(nn.Module):
    """A trained convolution reads a constant grid of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Conv2d(2, 4, 1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        self.register_buffer("grid", torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.first(x) * self.positions(self.grid)).mean((2, 3)))


def test_a_constant_may_stand_where_an_operator_reads_images() -> None:
    model = Grid().eval()
    captured = capture(model, (3, 8, 8))
    assert check_parity(model, captured) < 1e-5
    assert {*captured.parameters} == {name for name, _ in model.named_parameters()}


class NoPrefix(nn.Module):
    """Tokens before the patches are cut off and joined again, though there are none: what rotary attention does."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix, self.first, self.head = prefix, nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1, 2))
        x = torch.cat([x[:, : self.prefix], torch.tanh(x[:, self.prefix :])], dim=1)
        return self.head(x.mean(1))


@pytest.mark.parametrize("prefix", [0, 5, 24, -1, -5])
def test_an_empty_cut_that_is_joined_again_adds_nothing(prefix: int) -> None:
    model = NoPrefix(prefix).eval()
    assert check_parity(model, capture(model, (3, 8, 8))) < 1e-5
