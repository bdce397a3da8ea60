"""What has no gradient stays frozen, and every refusal names the module, the operator and what to do about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CLASSES, blob_folder
from torch import nn

import edgeplast
from edgeplast.errors import InputError, UsageError
from edgeplast.plans import plan_by_names
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.options import TrainingOptions
from edgeplast_exporters.capture import capture
from edgeplast_exporters.capture.parity import check_parity

LOOK = Preprocessing(image_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)


class Ranks(nn.Module):
    """Sorts in the middle: the order of numbers has no gradient here, what comes before cannot train."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.stages = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.rank = nn.Identity()
        self.rank.forward = lambda x: torch.topk(x, 12, dim=1)[0]
        self.head = nn.Linear(16, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).reshape(x.shape[0], -1, 16)[:, :16]
        x = self.stages[1](self.stages[0](x).relu()).relu()
        x = torch.cat([x, x], 1)
        x = self.rank(x)
        return self.head(self.stages[3](self.stages[2](x).relu()).relu().mean(1))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Ranks().eval()


def test_before_such_an_operator_nothing_can_train_and_the_message_says_what_can(
    model: nn.Module, tmp_path: Path
) -> None:
    plan = plan_by_names(capture(model, (3, 16, 16)).outline, "all", classes=CLASSES)
    with pytest.raises(
        InputError,
        match=r"^\S+: the operator TopK has no gradient here, and what trains lies before it\. "
        r"Freeze stem, stages\.0, stages\.1\. What lies behind it can train: --train stages\.2,stages\.3,head\.$",
    ):
        edgeplast.export(model, plan, into=tmp_path / "b", classes=CLASSES, preprocessing=LOOK)
    assert not (tmp_path / "b").exists()


def test_behind_it_everything_works(model: nn.Module, tmp_path: Path) -> None:
    captured = capture(model, (3, 16, 16))
    assert check_parity(model, captured) < 1e-5
    plan = plan_by_names(captured.outline, "stages.2,stages.3,head", classes=CLASSES)
    bundle = edgeplast.export(model, plan, into=tmp_path / "b", classes=CLASSES, preprocessing=LOOK)
    photos = blob_folder(tmp_path / "photos", train=6, test=2)
    adapted = edgeplast.adapt(bundle, photos, into=tmp_path / "a", options=TrainingOptions(epochs=3))
    assert adapted.history[-1].training_loss < adapted.history[0].training_loss


@pytest.mark.parametrize("strategy", ["focus", "summed", "uniform", "last-k:1"])
def test_plans_leave_out_what_cannot_train(model: nn.Module, blobs: Path, strategy: str) -> None:
    scores = edgeplast.score(model, blobs, pairs=2, preprocessing=LOOK)
    plan = edgeplast.plan(scores, edgeplast.Budget(memory_bytes=1 << 30), strategy=strategy)
    trained = {name for name, c in plan.components.items() if c.trainable}
    assert "head" in trained and not trained & {"stem", "stages.0", "stages.1"}
    assert any("TopK" in note and "stays frozen (3 components)" in note for note in plan.notes)


def test_what_cannot_train_is_not_planned_by_name(model: nn.Module, blobs: Path) -> None:
    scores = edgeplast.score(model, blobs, pairs=2, preprocessing=LOOK)
    with pytest.raises(UsageError, match=r"stages\.1 cannot train: .*TopK.*Freeze it; what can train is .*--train "):
        edgeplast.plan(scores, train="stages.1,head")


class Multiplies(nn.Module):
    """Refused whatever is frozen: the forward pass itself has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.part.forward = lambda x: torch.cumprod(x, -1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(x.mean((2, 3))))


def test_an_operator_without_a_graph_is_refused_with_the_word_that_freezing_does_not_help() -> None:
    with pytest.raises(
        InputError,
        match=r"^part: the operator cumprod has no translation here\. Write around it there .*"
        r"Freezing does not help: the device computes the whole forward pass, whatever trains\.$",
    ):
        capture(Multiplies(), (3, 8, 8))


def test_a_dilated_pool_trains_as_in_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, stride=2, padding=1, dilation=2), nn.Flatten(), nn.LazyLinear(3)
    )
    model(torch.zeros(2, 3, 16, 16))
    model.eval()
    captured = capture(model, (3, 16, 16))
    assert check_parity(model, captured) < 1e-5
    assert np.isfinite([a.sum() for a in captured.parameters.values()]).all()
