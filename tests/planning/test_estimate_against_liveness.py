"""The closed formulas against the exporter's liveness walk over the graphs that would really run."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_models import workload

from edgeplast.components import all_components, component_of, select
from edgeplast.planning.sizes import block_sizes, image_bytes
from edgeplast.recomputation import RECOMPUTE, Recompute

torch = pytest.importorskip("torch")
if find_spec("timm") is None:  # timm itself imports only after import_timm has mended torchvision
    pytest.skip("timm is not installed", allow_module_level=True)

from edgeplast.compression.structure import Structure  # noqa: E402
from edgeplast.graphs.graph import Graph  # noqa: E402
from edgeplast.graphs.measures.flops import flops_per_image  # noqa: E402
from edgeplast.graphs.measures.liveness import transient_lines  # noqa: E402
from edgeplast.graphs.passes.recompute import recompute  # noqa: E402
from edgeplast.models import describe, import_timm  # noqa: E402
from edgeplast_exporters.capture import capture  # noqa: E402
from edgeplast_exporters.quantization import quantizable, quantize_frozen  # noqa: E402
from edgeplast_exporters.training import promote, training_graph  # noqa: E402

TOLERANCE = 0.1
SETS = (
    "head", "attn,norm,head", "fc1,norm,head", "fc2,norm,head", "norm1,norm2,norm,head",
    "blocks.1.norm2,norm,head", "blocks.1.fc1,head", "blocks.1.fc2,head", "blocks.2.attn,blocks.0.fc2,norm,head", "all",
)  # fmt: skip


class Model:
    """A timm model, its forward graph, and both estimates of what a set costs."""

    def __init__(self, prune: dict[str, list[int]] | None = None, **options: object) -> None:
        import_timm()
        from timm.models.vision_transformer import VisionTransformer

        self.module = VisionTransformer(num_classes=7, **options).eval()
        if prune:
            structure = Structure(self.module)
            for part in structure.parts:
                structure.remove(part, prune.get(part.component, []))
        self.architecture = describe(self.module, "tested")
        self.forward = capture(self.module, (3, *self.module.patch_embed.img_size)).graph

    def graph(self, chosen: list[str], how: Recompute, weight_bits: int) -> Graph:
        names = [n for n, _ in self.module.named_parameters() if component_of(n) in chosen]
        promoted = promote(self.forward, names)
        graph = training_graph(promoted, names)
        graph = recompute(graph, how)
        return quantize_frozen(graph, quantizable(promoted)) if weight_bits == 8 else graph

    def gaps(self, chosen: list[str], weight_bits: int) -> dict[str, float]:
        """Relative difference of transient bytes and of operations, for every way to run a set."""
        w = workload(self.architecture, weight_bits)
        gaps = {}
        for how in RECOMPUTE:
            graph = self.graph(chosen, how, weight_bits)
            lines = transient_lines(graph)
            for size in (1, 16):
                true = max(line.at(size) for line in lines)
                e = w.estimate(chosen, size, how)
                gaps[f"bytes, {size} images, {how}"] = e.transient_bytes / true - 1
            gaps[f"flops, {how}"] = e.flops_per_image / flops_per_image(graph) - 1
        return gaps


def _three_blocks(width: int, heads: int, **options: object) -> Model:
    return Model(img_size=224, patch_size=16, embed_dim=width, depth=3, num_heads=heads, **options)


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4)


@pytest.mark.parametrize("weight_bits", [32, 8])
@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"width": 768, "heads": 12}, id="ViT-Base's sizes"),
        pytest.param({"width": 192, "heads": 3, "global_pool": "avg", "class_token": False}, id="average pooling"),
        pytest.param({"width": 192, "heads": 3, "mlp_ratio": 2.0, "qkv_bias": False}, id="narrow MLP, no qkv bias"),
    ],
)
def test_estimates_agree_with_the_graphs_that_run(model: dict, weight_bits: int):
    tested = _three_blocks(**model)
    for pattern in SETS:
        gaps = tested.gaps(select(pattern, 3), weight_bits)
        assert max(map(abs, gaps.values())) < TOLERANCE, (pattern, gaps)


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.sampled_from(all_components(3)), max_size=12).map(lambda names: sorted({*names, "head"})),
    st.sampled_from([32, 8]),
)
def test_estimates_agree_for_any_set(tiny: Model, chosen: list[str], weight_bits: int):
    gaps = tiny.gaps(chosen, weight_bits)
    assert max(map(abs, gaps.values())) < TOLERANCE, gaps


def test_full_vit_tiny_agrees_within_one_percent():
    model = Model(img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3)
    for pattern in ("head", "attn,head", "attn:8-11,head", "all"):
        gaps = model.gaps(select(pattern, 12), 32)
        assert max(map(abs, gaps.values())) < 0.01, (pattern, gaps)


@pytest.mark.parametrize("weight_bits", [32, 8])
def test_estimates_agree_where_blocks_have_different_heads_and_hidden_widths(weight_bits: int):
    gone = {"blocks.0.attn": [0, 2], "blocks.0.fc1": list(range(400)), "blocks.2.attn": [1], "blocks.1.fc1": [5, 6, 7]}
    pruned = Model(prune=gone, img_size=224, patch_size=16, embed_dim=192, depth=3, num_heads=3)
    assert pruned.architecture.heads == (1, 3, 2) and pruned.architecture.mlp_width == (368, 765, 768)
    assert [b.attention for b in block_sizes(pruned.architecture)] == [64, 192, 128]
    for pattern in SETS:
        gaps = pruned.gaps(select(pattern, 3), weight_bits)
        assert max(map(abs, gaps.values())) < TOLERANCE, (pattern, gaps)


def test_sizes_are_read_off_the_parameter_counts(tiny: Model):
    first, *_, last = block_sizes(tiny.architecture)
    assert (first.tokens, first.queries, last.queries) == (17, 17, 1)
    assert (first.width, first.attention, first.hidden, first.gates) == (32, 32, 128, 1)
    assert image_bytes(tiny.architecture) == 4 * 3 * 32 * 32
