"""Models of every kind take two optimizer steps on the device as torch takes them, whatever the micro-batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_any_model import MODELS, made
from torch import nn
from two_steps import assert_two_steps_are_torchs

from edgeplast_exporters.capture import capture


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("kind", ["SigLIP", "Swin", "ConvNeXt", "TinyViT", "EfficientNet", "ResNet"])
def test_two_steps_are_those_of_torch(kind: str, share: float, tmp_path: Path) -> None:
    assert kind in MODELS
    model, captured = made(kind)
    assert_two_steps_are_torchs(model, captured, tmp_path, share=share)


class Scaled(nn.Module):
    """Swin-V2's way to scale attention: a parameter, bounded from above alone, within a block."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(12, 24), nn.Linear(24, 12)
        self.scale = nn.Parameter(torch.tensor([0.3, 3.0]).reshape(2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.clamp(self.scale, max=1.0).exp()
        y = (self.inner(x).unflatten(-1, (2, 12)) * scale).flatten(-2)
        return x + self.out(nn.functional.gelu(y))


def test_a_parameter_that_is_bounded_within_a_block_is_bounded_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 12, 4, stride=4))
    model.add_module("tokens", nn.Flatten(2))
    model.add_module("turned", nn.Identity())
    model.turned.forward = lambda x: x.transpose(1, 2)  # type: ignore[method-assign]
    model.add_module("blocks", nn.Sequential(*(Scaled() for _ in range(3))))
    model.add_module("pool", nn.Identity())
    model.pool.forward = lambda x: x.mean(1)  # type: ignore[method-assign]
    model.add_module("head", nn.Linear(12, 3))
    model.eval()
    captured = capture(model, (3, 16, 16))
    assert captured.outline.blocks == 3
    assert_two_steps_are_torchs(model, captured, tmp_path)
    assert (tmp_path / "bundle" / "train-full-recompute.onnx").exists()
