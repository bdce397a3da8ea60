"""Recurrent layers become training graphs: torch's logits and gradients, in every form that has one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import assert_gradients_agree, labels, mean_targets, run_graph
from torch import nn

from edgeplast.errors import InputError
from edgeplast_exporters.capture import capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.training import promote, training_graph


class ReadsRows(nn.Module):
    """Reads the rows of a picture one after another; the logits see every output and the last state."""

    def __init__(self, kind: str, **how: Any) -> None:
        super().__init__()
        self.first = nn.Linear(24, 6)
        self.rnn = getattr(nn, kind)(6, 5, **how)
        self.head = nn.Linear((how.get("proj_size") or 5) * (1 + self.rnn.bidirectional) + 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.permute(0, 2, 3, 1).flatten(2))
        outputs, last = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))
        last = last[0].sum(-1, keepdim=True) + last[1] if isinstance(last, tuple) else last
        outputs = outputs if self.rnn.batch_first else outputs.transpose(0, 1)
        return self.head(torch.cat([outputs.mean(1), last[-1]], 1))


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("LSTM", {"batch_first": True, "bidirectional": True}),
        ("LSTM", {"num_layers": 2}),
        ("LSTM", {"bias": False, "batch_first": True}),
        ("GRU", {"batch_first": True, "bidirectional": True, "num_layers": 2}),
        ("GRU", {"bias": False}),
        ("RNN", {"batch_first": True}),
        ("RNN", {"nonlinearity": "relu"}),
    ],
)
def test_logits_and_gradients_are_those_of_torch(kind: str, how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ReadsRows(kind, **how).eval()
    captured = capture(model, (3, 8, 8))
    assert captured.outline.names == ("first", "rnn", "head")
    assert check_parity(model, captured) < 1e-5
    names = [*captured.parameters]
    images, answers = np.random.default_rng(0).standard_normal((3, 3, 8, 8), dtype=np.float32), labels(3)
    training = training_graph(promote(captured.graph, names), names)
    found = run_graph(training, captured.weights, images, mean_targets(answers))
    loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(answers))
    chosen = dict(model.named_parameters())
    gradients = zip(chosen, torch.autograd.grad(loss, list(chosen.values())), strict=True)
    assert_gradients_agree(found.gradients, {n: g.numpy().reshape(found.gradients[n].shape) for n, g in gradients})


@pytest.mark.parametrize(
    ("how", "height", "message"),
    [
        ({"proj_size": 2}, 8, r"rnn: the operator lstm .*projections of the state have no form"),
        ({}, 300, r"rnn: the operator lstm .*a sequence of 300 steps, of 256 at most"),
    ],
)
def test_what_has_no_form_is_refused(how: dict[str, Any], height: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(ReadsRows("LSTM", **how).eval(), (3, height, 8))
