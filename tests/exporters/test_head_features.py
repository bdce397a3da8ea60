"""What the head multiplies is handed back, where there is such a thing."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeplast.contract import FEATURES, LOGITS  # noqa: E402
from edgeplast.graphs.passes.head_features import with_features  # noqa: E402
from edgeplast.models import import_timm  # noqa: E402
from edgeplast_exporters.calibration import run_float  # noqa: E402
from edgeplast_exporters.capture import capture  # noqa: E402


def _model(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return import_timm().create_model(name, num_classes=5, **options).eval()


@pytest.mark.parametrize(
    ("name", "size"), [("mobilenetv3_small_050", 64), ("convnext_atto", 64), ("resnet10t", 64), ("test_vit", 160)]
)
def test_logits_are_one_linear_layer_of_them(name: str, size: int) -> None:
    captured = capture(_model(name), (3, size, size), name=name)
    graph = with_features(captured.graph, captured.outline.head, captured.owner)
    assert graph.outputs == [LOGITS, FEATURES] and captured.graph.outputs == [LOGITS]
    picture = np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)
    ((logits, features),) = run_float(graph, captured.weights, [picture], [LOGITS, FEATURES])
    (component,) = [c for c in captured.outline.components if c.role == "head"]
    weight, bias = (captured.parameters[name] for name in component.parameters)
    np.testing.assert_allclose(features @ weight.T + bias, logits, atol=1e-4)


def test_two_heads_whose_mean_the_logits_are_have_none() -> None:
    model = _model("deit_tiny_distilled_patch16_224", img_size=32)
    captured = capture(model, (3, 32, 32), name="distilled")
    assert with_features(captured.graph, captured.outline.head, captured.owner) is captured.graph
