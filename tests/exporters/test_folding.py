"""Frozen batch normalizations are part of the convolutions of a bundle; what trains is as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exporter_models import labels, mean_targets, run_graph
from small_models import CLASSES
from torch import nn

import edgeplast
from edgeplast.errors import InputError
from edgeplast.plans import plan_by_names
from edgeplast.preprocessing import Preprocessing
from edgeplast_exporters.capture import Captured, capture
from edgeplast_exporters.capture.parity import run_once
from edgeplast_exporters.folding import with_folded_norms
from edgeplast_exporters.training import promote, training_graph


class Net(nn.Module):
    """Two convolutions with norms, a norm that two branches read, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        y = self.second(x)
        return self.head((x + y + self.norm2(y)).mean((2, 3)))


def made() -> tuple[Net, Captured]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().eval()
        for norm in (model.norm, model.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return model, capture(model, (3, 12, 12))


def test_only_a_frozen_norm_that_alone_reads_its_convolution_is_folded() -> None:
    model, captured = made()
    folded = with_folded_norms(captured, ["head.weight", "head.bias"])
    norms = [n.inputs[1] for n in folded.graph.nodes if n.op == "BatchNormalization"]
    assert norms == ["norm2.weight"], "somebody else reads what norm2 reads"
    assert {*captured.parameters} - {*folded.parameters} == {"norm.weight"}
    assert sum(n.op == "BatchNormalization" for n in captured.graph.nodes) == 2
    images = np.random.default_rng(1).standard_normal((2, 3, 12, 12), dtype=np.float32)
    expected = model(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(run_once(folded.graph, folded.weights, images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [["first.weight"], ["norm.weight", "norm.bias"], ["second.weight", "second.bias"]])
def test_gradients_of_what_trains_are_those_of_torch(trained: list[str]) -> None:
    model, captured = made()
    folded = with_folded_norms(captured, trained)
    images = np.random.default_rng(1).standard_normal((2, 3, 12, 12), dtype=np.float32)
    answers = labels(2)
    graph = training_graph(promote(folded.graph, trained), trained)
    found = run_graph(graph, folded.weights, images, mean_targets(answers))
    loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(answers))
    own = dict(model.named_parameters())
    for name, gradient in zip(trained, torch.autograd.grad(loss, [own[n] for n in trained]), strict=True):
        expected = gradient.numpy()
        assert np.abs(found.gradients[name] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_bundle_has_no_norm_left_where_all_is_frozen(tmp_path: Path) -> None:
    _, captured = made()
    plan = plan_by_names(captured.outline, "head", classes=CLASSES)
    look = Preprocessing(image_size=(12, 12), mean=(0.5,) * 3, std=(0.5,) * 3)
    model, _ = made()
    bundle = edgeplast.export(model, plan, into=tmp_path / "bundle", classes=CLASSES, preprocessing=look)
    assert "norm.weight" not in bundle.manifest.parameters
    assert {p.component for p in bundle.manifest.parameters.values()} == {*captured.outline.names}
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(tmp_path / "bundle" / "prefix.onnx", load_external_data=False).graph
    assert [n.op_type for n in graph.node].count("BatchNormalization") == 1


def test_a_norm_whose_factor_float32_cannot_hold_is_named() -> None:
    model, _ = made()
    model.norm.running_var.fill_(0)
    model.norm.eps = 1e-78
    model.norm.running_mean.zero_()
    with pytest.raises(InputError, match=r"logits change when frozen batch normalizations.*variance that is nearly 0"):
        captured = capture(model, (3, 12, 12))
        with_folded_norms(captured, ["head.weight", "head.bias"])
