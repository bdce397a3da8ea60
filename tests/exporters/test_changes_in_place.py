"""What a module changes in place is changed for whoever reads it later, a part of a tensor among it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from exporter_models import assert_gradients_agree, labels, mean_targets, run_graph
from torch import nn

from edgeplast.errors import InputError
from edgeplast_exporters.capture import capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.training import promote, training_graph


class Changes(nn.Module):
    """Tokens, changed by a function, then pooled."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.change = nn.Linear(3, 6), nn.Linear(6, 3), change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.change(self.first(x.flatten(2).transpose(1, 2)))
        return self.head((x * torch.linspace(-1, 1, x.shape[1]).reshape(1, -1, 1)).mean(1))


def assigned(x: torch.Tensor) -> torch.Tensor:
    x = x * 1.0
    x[:, 4:, 1:3] = torch.tanh(x[:, 4:, 1:3] + x[:, :12, 3:5])
    return x


def added(x: torch.Tensor) -> torch.Tensor:
    x = x * 1.0
    x[:, 2:5] += x[:, 5:8] * 2
    return x


def one_token(x: torch.Tensor) -> torch.Tensor:
    y = x * 1.0
    y[:, 0] = x[:, -1] * x[:, 3]
    y[:, -2] = 0.5
    return y


def whole(x: torch.Tensor) -> torch.Tensor:
    x = x * 1.0
    x[:] = torch.tanh(x)
    return x.neg_().add_(1.0)


@pytest.mark.parametrize("change", [assigned, added, one_token, whole])
def test_logits_and_gradients_are_those_of_torch(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = Changes(change).eval()
    captured = capture(model, (3, 4, 4))
    assert check_parity(model, captured) < 1e-5
    names = [*captured.parameters]
    images, answers = np.random.default_rng(0).standard_normal((3, 3, 4, 4), dtype=np.float32), labels(3)
    training = training_graph(promote(captured.graph, names), names)
    found = run_graph(training, captured.weights, images, mean_targets(answers))
    loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(answers))
    chosen = dict(model.named_parameters())
    gradients = zip(chosen, torch.autograd.grad(loss, list(chosen.values())), strict=True)
    assert_gradients_agree(found.gradients, {n: g.numpy() for n, g in gradients})


def seen_twice(x: torch.Tensor) -> torch.Tensor:
    x = x * 1.0
    other = x.reshape(-1, 4, 24)
    x[:, 0] = 0.0
    return x + other.reshape(-1, 16, 6)


def test_another_view_that_is_read_later_is_refused() -> None:
    with pytest.raises(InputError, match=r"own forward method: .*changes a tensor of which another view is read later"):
        capture(Changes(seen_twice).eval(), (3, 4, 4))
