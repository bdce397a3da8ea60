"""Pictures and tables of positions that are resampled: every mode and direction, up and down, as torch does it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from exporter_models import assert_gradients_agree, labels, mean_targets, run_graph
from torch import nn

from edgeplast_exporters.capture import capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.training import promote, training_graph


class Resampled(nn.Module):
    """Adds a table of positions, brought to the size of the picture, and looks at another size of the sum."""

    def __init__(self, table: tuple[int, int], size: tuple[int, int], **how: object) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, *table, generator=torch.Generator().manual_seed(0)))
        self.size, self.how = size, how
        self.head = nn.Linear(3 * size[0] * size[1], 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + nn.functional.interpolate(self.table, x.shape[-2:], **self.how)
        x = nn.functional.interpolate(x * x, self.size, **self.how)
        return self.head(x.flatten(1))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("table", "size"), [((4, 16), (7, 3)), ((16, 4), (3, 7)), ((9, 9), (16, 24)), ((8, 12), (5, 12))]
)
def test_logits_and_gradients_are_torchs(
    mode: str, antialias: bool, table: tuple[int, int], size: tuple[int, int]
) -> None:
    if antialias and mode.startswith("nearest"):
        pytest.skip("torch has none")
    torch.manual_seed(0)
    model = Resampled(table, size, mode=mode, antialias=antialias).eval()
    captured = capture(model, (3, 8, 12))
    assert check_parity(model, captured) < 1e-5
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 12), dtype=np.float32)
    answers, names = labels(2), [*captured.parameters]
    found = run_graph(
        training_graph(promote(captured.graph, names), names), captured.weights, images, mean_targets(answers)
    )
    there = copy.deepcopy(model)
    loss = nn.functional.cross_entropy(there(torch.from_numpy(images)), torch.from_numpy(answers))
    chosen = dict(there.named_parameters())
    gradients = torch.autograd.grad(loss, list(chosen.values()))
    expected = {n: g.numpy().reshape(captured.parameters[n].shape) for n, g in zip(chosen, gradients, strict=True)}
    assert_gradients_agree(found.gradients, expected)
