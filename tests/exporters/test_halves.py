"""A forward graph in two parts computes what it computes in one, and is cut where that is worth something."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exporter_models import session_of  # noqa: E402

from edgeplast.contract import IMAGES, LATENTS, LOGITS  # noqa: E402
from edgeplast.graphs.graph import Graph  # noqa: E402
from edgeplast.graphs.measures.flops import flops_per_image  # noqa: E402
from edgeplast.graphs.passes.halves import LEAST_SHARE, Halves, halves  # noqa: E402
from edgeplast.graphs.training import promote  # noqa: E402
from edgeplast.models import import_timm  # noqa: E402
from edgeplast_exporters.capture import Captured, capture  # noqa: E402


def captured(name: str, size: int, **options: object) -> Captured:
    torch.manual_seed(0)
    model = import_timm().create_model(name, num_classes=5, **options).eval()
    return capture(model, (3, size, size), name=name)


def cut(model: Captured, pattern: str) -> Halves | None:
    chosen = set(model.outline.select(pattern))
    return halves(promote(model.graph, [name for name, owner in model.owner.items() if owner in chosen]))


def run(graph: Graph, model: Captured, data: dict[str, np.ndarray]) -> np.ndarray:
    held = {name: model.parameters[name] for name in graph.inputs if name not in data}
    found: np.ndarray = session_of(graph, model.weights).run(None, data | held)[0]
    return found


@pytest.mark.parametrize(
    ("name", "size", "pattern"),
    [
        ("mobilenetv3_small_050", 64, "head"),
        ("convnext_atto", 64, "stages.3,head"),
        ("resnet10t", 64, "layer4,head"),
        ("test_vit", 160, "attn:5,norm,head"),
        ("swin_tiny_patch4_window7_224", 224, "layers.3,norm,head"),
        ("vit_base_patch16_siglip_gap_224", 224, "blocks:11,norm,head"),
        ("deit_tiny_distilled_patch16_224", 224, "head"),
    ],
)
def test_both_halves_compute_what_the_whole_does(name: str, size: int, pattern: str) -> None:
    model = captured(name, size)
    halved = cut(model, pattern)
    assert halved is not None
    assert (halved.prefix.inputs, halved.prefix.outputs) == ([IMAGES], [LATENTS])
    assert halved.rest.inputs[0] == LATENTS and halved.rest.outputs == [LOGITS]
    trained = set(halved.rest.inputs[1:])
    assert trained == {p for p, owner in model.owner.items() if owner in set(model.outline.select(pattern))}
    assert not trained & set(halved.prefix.values)
    assert flops_per_image(halved.prefix) + flops_per_image(halved.rest) == flops_per_image(model.graph)
    picture = np.random.default_rng(0).normal(size=(3, size, size)).astype(np.float32)
    expected = run(model.graph, model, {IMAGES: picture[None]})
    latents = run(halved.prefix, model, {IMAGES: picture[None]})
    assert latents.shape == halved.latents.shape
    found = run(halved.rest, model, {LATENTS: latents})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_where_little_comes_before_what_trains_there_is_one_graph() -> None:
    model = captured("vit_tiny_patch16_224", 224)
    assert cut(model, "all") is None
    assert cut(model, "attn,norm,head") is None  # the embedding alone would be the prefix
    first = cut(model, "blocks:2-11,norm,head")
    assert first is not None and flops_per_image(first.prefix) > LEAST_SHARE * flops_per_image(model.graph)


def test_of_cuts_that_cost_the_same_the_smallest_is_taken() -> None:
    model = captured("convnext_atto", 64)
    halved = cut(model, "head")
    assert halved is not None
    width = halved.latents.shape[1]
    assert halved.latents.elements == width  # pooled, not the map of 2 x 2
    tokens = cut(captured("test_vit", 160), "norm,head")
    assert tokens is not None and tokens.latents.shape[0] == 1  # the class token alone
