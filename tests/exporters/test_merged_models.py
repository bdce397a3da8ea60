"""A model that merges tokens is captured, trained and written like any other; no gradient crosses what merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import (
    CLASSES,
    Result,
    assert_gradients_agree,
    labels,
    mean_targets,
    pictures,
    run_graph,
    session_of,
    small,
    torch_step,
)
from small_models import hand_made_plan, small_vit

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.compression.merging import with_merged_tokens
from edgeplast.errors import InputError, UsageError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.operators.record import ShapeError
from edgeplast.graphs.passes.halves import halves
from edgeplast_exporters.capture import Captured, capture
from edgeplast_exporters.capture.parity import TOLERANCE, check_parity
from edgeplast_exporters.training import promote, training_graph

SHAPES: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "an odd number of patches": {"img_size": (24, 40)},
    "query and key norms, layer scale": {"qk_norm": True, "init_values": 0.1},
}


def merged(count: int = 3, blocks: int = 2, **options: Any) -> tuple[torch.nn.Module, Captured]:
    model = with_merged_tokens(small(**{"depth": 4, **options}), count, blocks)
    height, width = model.patch_embed.img_size  # type: ignore[union-attr]
    return model, capture(model, (3, height, width), name="merged")


@pytest.mark.parametrize("kind", SHAPES)
def test_graph_and_module_agree_and_train_alike(kind: str) -> None:
    model, captured = merged(**SHAPES[kind])
    assert check_parity(model, captured) < TOLERANCE / 10
    names = [n for n, _ in model.named_parameters() if not n.startswith(("blocks.0", "blocks.1")) and "blocks" in n]
    images, answers = pictures(model, 3), labels(3)
    graph = training_graph(promote(captured.graph, names), names)
    found: Result = run_graph(graph, captured.weights, images, mean_targets(answers))
    expected = torch_step(model, names, images, answers)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert_gradients_agree(found.gradients, expected.gradients)


@pytest.mark.parametrize(("size", "blocks", "most"), [((32, 32), 1, 7), ((32, 32), 3, 3), ((24, 40), 2, 4)])
def test_the_most_that_can_be_merged_has_a_graph(size: tuple[int, int], blocks: int, most: int) -> None:
    model, captured = merged(most, blocks, img_size=size)
    check_parity(model, captured)
    with pytest.raises(UsageError, match=rf"can merge 0 to {most}\."):
        merged(most + 1, blocks, img_size=size)


def test_each_image_is_merged_by_itself() -> None:
    model, captured = merged()
    session = session_of(captured.graph, captured.weights)
    images = pictures(model, 5)
    together = session.run(None, {"images": images})[0]
    alone = np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5 * np.abs(alone).max())


def test_the_plain_graph_computes_the_same() -> None:
    model, captured = merged()
    images = pictures(model, 4)
    fused, plain = (
        session_of(captured.graph, captured.weights, plain=p, basic=not p).run(None, {"images": images})[0]
        for p in (False, True)
    )
    np.testing.assert_allclose(plain, fused, atol=1e-5 * np.abs(fused).max())


def test_blocks_and_components_are_those_of_the_model_as_it_was() -> None:
    model = small(depth=4)
    before, (_, after) = capture(model, (3, 32, 32), name="as it was").outline, merged()
    assert after.outline.blocks == before.blocks
    assert [(c.name, c.role, c.block, c.parameters) for c in after.outline.components] == [
        (c.name, c.role, c.block, c.parameters) for c in before.components
    ]


def test_what_is_handed_on_to_what_trains_is_fewer_tokens_without_their_sizes() -> None:
    _, captured = merged(count=3, blocks=2)
    cut = halves(promote(captured.graph, [n for n in captured.parameters if n.startswith(("blocks.2", "blocks.3"))]))
    assert cut is not None and cut.latents.elements == (17 - 2 * 3) * 32
    assert {"TopK", "GatherND"} <= {n.op for n in cut.prefix.nodes}
    assert not {"TopK", "GatherND"} & {n.op for n in cut.rest.nodes}


def test_what_lies_before_cannot_train() -> None:
    _, captured = merged(blocks=2)
    names = ["blocks.1.attn.qkv.weight"]
    with pytest.raises(InputError, match=r"blocks\.1\.\S+: the operator \w+ has no gradient here"):
        training_graph(promote(captured.graph, names), names)


def test_equal_similarities_are_merged_alike_by_module_and_graph() -> None:
    """Every patch of an empty picture is like every other: the lowest places count."""
    model, captured = merged(pos_embed="none")
    empty = np.zeros((2, 3, 32, 32), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(empty)).numpy()
    found = session_of(captured.graph, captured.weights).run(None, {"images": empty})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_same_model_and_plan_give_the_same_files_and_the_prediction_is_of_the_merged_one(tmp_path: Path) -> None:
    model = small_vit(depth=4)
    plan = hand_made_plan(model, "blocks:2-3,norm,head", 8)
    one, two = (edgeplast.export(model, plan, into=tmp_path / n, merge_tokens=3, keep_head=True) for n in ("1", "2"))
    assert {p.name: p.read_bytes() for p in one.path.iterdir()} == {p.name: p.read_bytes() for p in two.path.iterdir()}
    whole = edgeplast.export(model, plan, into=tmp_path / "whole", keep_head=True)
    assert one.manifest.plan.notes[-1].startswith(
        "3 tokens are merged into others in each of blocks 0 to 1: 17 at first, 11 where training begins."
    )
    for ours, theirs in zip(one.manifest.tiers, whole.manifest.tiers, strict=True):
        for graph, other in zip(ours.graphs, theirs.graphs, strict=True):
            assert graph.footprint.transient_bytes(4) < other.footprint.transient_bytes(4)
            assert graph.step_flops < other.step_flops
    assert (
        one.manifest.prefix and whole.manifest.prefix and one.manifest.prefix.shape[-2:] != whole.manifest.prefix.shape
    )
    assert one.manifest.plan.predicted_peak_bytes > 0
    assert _same_weights(one, whole)


def _same_weights(one: Bundle, other: Bundle) -> bool:
    return all((b.path / "trainable.safetensors").read_bytes() for b in (one, other)) and (
        one.manifest.files["trainable.safetensors"] == other.manifest.files["trainable.safetensors"]
    )


def test_low_rank_factors_behind_it_are_planned_and_trained(tmp_path: Path) -> None:
    model = small_vit(depth=4, img_size=64, patch_size=4)
    scores = edgeplast.score(model, _pictures(tmp_path / "data"), pairs=2)
    plan = edgeplast.plan(scores, train="lora:2@attn:2-3,head", batch_size=16)
    bundle = edgeplast.export(model, plan, into=tmp_path / "bundle", merge_tokens=40)
    assert "blocks.2.attn.lora" in bundle.manifest.plan.trainable
    assert bundle.manifest.plan.predicted_peak_bytes < plan.predicted_peak_bytes


def test_alternatives_leave_out_what_lies_before(tmp_path: Path) -> None:
    model = small_vit(depth=4)
    scores = edgeplast.score(model, _pictures(tmp_path / "data"), pairs=2)
    plan = edgeplast.plan(scores, train="attn:2-3,head", batch_size=4)
    bundle = edgeplast.export(model, plan, into=tmp_path / "bundle", merge_tokens=3, alternatives=True)
    sets = [tier.components for tier in bundle.manifest.alternatives]
    assert sets and not [name for names in sets for name in names if name.startswith(("blocks.0", "patch_embed"))]


def _pictures(folder: Path) -> Path:
    from small_models import blob_folder

    return blob_folder(folder, train=4, test=0)


def test_a_plan_of_another_model_is_refused_as_ever(tmp_path: Path) -> None:
    plan = hand_made_plan(small_vit(depth=5), "blocks:3-4,head")
    with pytest.raises(InputError, match=r"another model \(small_vit\): blocks\.2\.norm1 has 64 parameters there"):
        edgeplast.export(small_vit(depth=2), plan, into=tmp_path / "b", classes=CLASSES, merge_tokens=2)


@pytest.mark.parametrize(
    ("places", "dtype", "batched", "dims"),
    [
        ((1, 2), "int64", True, 1),
        ((1, 2, 1), "float32", True, 1),
        ((1, 2, 1), "int64", False, 1),
        ((1, 2, 1), "int64", True, 0),
    ],
)
def test_rows_are_named_by_numbers_of_each_image(places: tuple[int, ...], dtype: str, batched: bool, dims: int) -> None:
    g = Graph()
    x, where = g.input("x", (1, 5, 3), batched=True), g.input("where", places, batched=batched, dtype=dtype)
    with pytest.raises(ShapeError, match="names no rows of each image"):
        g.node("GatherND", [x, where], batch_dims=dims)
