"""Every plain vision transformer of timm is captured: parity, gradients, and no more nodes than a graph by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from exporter_models import (
    assert_gradients_agree,
    labels,
    mean_targets,
    pictures,
    randomised,
    run_graph,
    torch_step,
)

from edgeplast.components import component_of
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.models import import_timm
from edgeplast_exporters.capture import capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.training import promote, training_graph

BY_HAND: dict[str, list[int]] = json.loads(Path(__file__).with_name("graphs_by_hand.json").read_text())
"""Of each model's small version: nodes, bytes alive at one image and operations of a forward graph written by hand."""

DEFAULT = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_giant_patch14_reg4_dinov2")


def tiny_version(name: str, depth: int = 2) -> torch.nn.Module:
    """The model with few blocks, narrow, and a few patches, as far as timm lets it be shrunk."""
    patch = int(match.group(1)) if (match := re.search(r"patch(\d+)", name)) else 16
    smallest: dict[str, Any] = {
        "num_classes": 3, "img_size": 2 * patch, "depth": depth, "embed_dim": 32, "num_heads": 4,
    }  # fmt: skip
    for left_out in ((), ("embed_dim", "num_heads"), ("embed_dim", "num_heads", "img_size")):
        try:
            options = {k: v for k, v in smallest.items() if k not in left_out}
            return randomised(import_timm().create_model(name, **options))
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            reason = error
    raise reason


def sweep() -> list[Any]:
    return [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in sorted({*BY_HAND, *DEFAULT})]


@pytest.mark.parametrize("name", sweep())
def test_a_captured_graph_is_as_good_as_one_by_hand(name: str) -> None:
    model = tiny_version(name)
    captured = capture(model, (3, *model.patch_embed.img_size), name=name)
    graph = captured.graph
    assert check_parity(model, captured) < 1e-4
    costs = len(graph.nodes), max(line.at(1) for line in transient_lines(graph)), flops_per_image(graph)
    assert all(a <= b for a, b in zip(costs, BY_HAND[name], strict=True)), f"{costs} against {BY_HAND[name]}"
    assert captured.owner == {p: component_of(p) for p in captured.parameters}
    assert {*captured.parameters} == {*graph.weights}
    chosen = [p for p, owner in captured.owner.items() if owner.split(".")[-1] in ("attn", "norm1", "fc1", "head")]
    images, answers = pictures(model, 2), labels(2)
    training = training_graph(promote(graph, chosen), chosen)
    found = run_graph(training, captured.parameters, images, mean_targets(answers))
    assert_gradients_agree(found.gradients, torch_step(model, chosen, images, answers).gradients)


@pytest.mark.slow
def test_the_others_are_captured_too() -> None:
    timm = import_timm()
    registered = {*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")}
    assert len(BY_HAND) == 151
    for name in sorted(registered - BY_HAND.keys()):
        model = tiny_version(name)
        assert check_parity(model, capture(model, (3, *model.patch_embed.img_size))) < 1e-4, name
