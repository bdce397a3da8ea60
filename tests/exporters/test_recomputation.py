"""Recomputation: the same gradients from fewer bytes, and no way for a runtime to undo it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from exporter_models import (
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    run_graph,
    small,
    training_graph_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.graphs.graph import Graph, Node
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.recompute import _computed_again, recompute
from edgeplast.recomputation import FLOPS_PER_BYTE, RECOMPUTE, Recompute

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "average pooling": ("vit_tiny_patch16_224", {"global_pool": "avg", "reg_tokens": 2, "init_values": 0.3}),
    "distillation token": ("deit_tiny_distilled_patch16_224", {}),
    "RMS norms and SwiGLU": ("vit_giant_patch14_dinov2", {"norm_layer": "rmsnorm", "qk_norm": True}),
}


def bytes_alive(graph: Graph, micro_batch: int = 4) -> int:
    return max(line.at(micro_batch) for line in transient_lines(graph))


@pytest.mark.parametrize("how", RECOMPUTE[1:])
@pytest.mark.parametrize("pattern", ["all", "attn", "fc1", "norm2:1,head"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_bit_identical(kind: str, pattern: str, how: Recompute) -> None:
    name, options = KINDS[kind]
    model = small(name, depth=3, **options)
    graph = training_graph_of(model, parameters_of(model, pattern))
    images, targets = pictures(model, 3), mean_targets(labels(3))
    kept = run_graph(graph, parameters(model), images, targets)
    again = run_graph(recompute(graph, how), parameters(model), images, targets)
    assert kept.loss == again.loss
    np.testing.assert_array_equal(kept.logits, again.logits)
    for parameter, gradient in kept.gradients.items():
        np.testing.assert_array_equal(again.gradients[parameter], gradient, err_msg=parameter)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_bytes_are_alive_and_they_hardly_grow_with_depth(kind: str) -> None:
    name, options = KINDS[kind]

    def graphs(depth: int) -> tuple[Graph, Graph]:
        model = small(name, depth=depth, **options)
        kept = training_graph_of(model, parameters_of(model, "attn"))
        return kept, recompute(kept)

    (kept, again), (deep_kept, deep_again) = graphs(4), graphs(8)
    assert bytes_alive(again) < 0.6 * bytes_alive(kept)
    last = [n for n in again.nodes if n.phase == "forward" and n.block == 0][-1]
    block_input = 4 * again.values[last.outputs[0]].bytes
    assert bytes_alive(deep_again) - bytes_alive(again) <= 4 * block_input * 1.01
    assert bytes_alive(deep_kept) - bytes_alive(kept) > 4 * 5 * block_input


@pytest.mark.parametrize("how", RECOMPUTE[1:])
def test_every_second_computation_waits_for_the_incoming_gradient(how: Recompute) -> None:
    """Each clone depends on a gradient: no scheduler can run it early, no common-subexpression pass can merge it."""
    model = small(depth=3)
    graph = recompute(training_graph_of(model, parameters_of(model, "all")), how)
    after_gradient: set[str] = set()
    clones = 0
    for node in graph.nodes:
        depends = node.phase == "backward" or any(name in after_gradient for name in node.inputs)
        if node.phase == "recompute":
            clones += 1
            assert depends, f"{node.op} of {node.component} could run in the forward pass"
        if depends:
            after_gradient.update(node.outputs)
    assert clones > (20 if how == "full" else 6)


def test_the_backward_pass_of_a_recomputed_block_reads_nothing_that_its_forward_pass_made() -> None:
    model = small(depth=3)
    graph = recompute(training_graph_of(model, parameters_of(model, "all")))
    for block in (0, 1):
        nodes = [n for n in graph.nodes if n.block == block]
        inside = {name for n in nodes if n.phase == "forward" for name in n.outputs}
        for node in nodes:
            assert node.phase == "forward" or not inside & set(node.inputs), node


def test_only_what_gradients_need_is_computed_again() -> None:
    """With attention alone trained, nothing after the MLP's activation is needed a second time."""
    model = small(depth=3)
    again = recompute(training_graph_of(model, parameters_of(model, "attn")))
    ops = {(n.component, n.op) for n in again.nodes if n.phase == "recompute"}
    assert ("blocks.1.fc1", "Gemm") in ops
    assert ("blocks.1.fc2", "Gemm") not in ops
    assert not any(n.component == "patch_embed" for n in again.nodes if n.phase == "recompute")


@pytest.mark.parametrize("pattern", ["all", "attn", "fc2"])
def test_selective_recomputation_repeats_norms_and_attention_weights_and_no_product_with_a_parameter(
    pattern: str,
) -> None:
    model = small(depth=5, img_size=96)  # 145 tokens: over so many, the product with the values is worth keeping
    kept = training_graph_of(model, parameters_of(model, pattern))
    partly, again = (recompute(kept, how) for how in RECOMPUTE[1:])
    ops = [n.op for n in partly.nodes if n.phase == "recompute"]
    norms = ops.count("LayerNormalization")
    assert ops.count("Softmax") == ops.count("MatMul") == 4 - (pattern == "fc2")  # which ends in block 0
    assert norms == {"all": 8, "attn": 3, "fc2": 0}[pattern] and "Gemm" not in ops
    assert bytes_alive(again) < bytes_alive(partly) < bytes_alive(kept)


@pytest.mark.parametrize("head_width", [64, 128])
def test_attention_weights_are_kept_where_they_cost_more_than_their_bytes_are_worth(head_width: int) -> None:
    model = small(depth=3, embed_dim=128, num_heads=128 // head_width)
    graph = recompute(training_graph_of(model, parameters_of(model, "attn")), "selective")
    ops = {n.op for n in graph.nodes if n.phase == "recompute"}
    assert ("Softmax" in ops) == (head_width == 64)


def brute_force(graph: Graph, nodes: list[Node], read: set[str], price: int) -> int:
    """The least cost over all sets of nodes to compute again."""
    made = {name: i for i, n in enumerate(nodes) for name in n.outputs}
    best = None
    for again in itertools.product([False, True], repeat=len(nodes)):
        wanted = read | {name for n, chosen in zip(nodes, again, strict=True) if chosen for name in n.inputs}
        kept = [name for name in wanted if name not in made or not again[made[name]]]
        cost = price * sum(graph.values[name].bytes for name in kept if graph.values[name].batched)
        cost += sum(16 * graph.values[n.outputs[0]].elements for n, chosen in zip(nodes, again, strict=True) if chosen)
        best = cost if best is None else min(best, cost)
    assert best is not None
    return best


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_cut_costs_no_more_than_any_other_choice(data: st.DataObject) -> None:
    g = Graph()
    values = [g.input("images", (1, 8), batched=True)]
    stem = g.unary("Tanh", values[0])
    values = [stem]
    for i in range(data.draw(st.integers(2, 7))):
        a, b = (values[data.draw(st.integers(0, len(values) - 1))] for _ in range(2))
        width = data.draw(st.sampled_from([1, 2, 64]))
        joined = g.add(g.slice(a, 1, 0, 1), g.slice(b, 1, 0, 1)) if i % 2 else g.slice(a, 1, 0, 1)
        values.append(g.node("Tile", [joined, g.constant([1, width])])[0])
    nodes = g.nodes[1:]
    read = {v.name for v in values[1:] if data.draw(st.booleans())} or {values[-1].name}
    again = _computed_again(g, nodes, read, "selective")
    made = {name: n for n in again for name in n.outputs}
    wanted = read | {name for n in again for name in n.inputs if name not in g.constants}
    bytes_kept = sum(g.values[name].bytes for name in wanted if name not in made)
    effort = sum(16 * g.values[n.outputs[0]].elements for n in again)
    inputs = [replace(n, inputs=tuple(i for i in n.inputs if i not in g.constants)) for n in nodes]
    assert FLOPS_PER_BYTE * bytes_kept + effort == brute_force(g, inputs, read, FLOPS_PER_BYTE)


def test_a_view_beside_what_it_views_is_kept_once() -> None:
    """A product of 300 operations an element is cheaper than two arrays and dearer than one."""
    g = Graph()
    a, b = g.input("a", (8, 150), batched=True), g.input("b", (1, 150, 16), batched=True)
    product = g.matmul(g.reshape(a, (1, 8, 150)), b)
    view = g.reshape(product, (8, 16))
    other = g.scale(view, 2.0)
    assert _computed_again(g, g.nodes, {product.name, view.name}, "selective") == []
    again = _computed_again(g, g.nodes, {product.name, other.name}, "selective")
    assert [n.op for n in again] == ["Mul"]


def test_the_last_block_is_left_alone() -> None:
    model = small(depth=3)
    graph = training_graph_of(model, parameters_of(model, "all"))
    again = recompute(graph)
    assert {n.block for n in again.nodes if n.phase == "recompute"} == {0, 1}
    assert [n for n in again.nodes if n.block == 2] == [n for n in graph.nodes if n.block == 2]


@pytest.mark.parametrize("pattern", ["head", "attn:2", "norm,head"])
def test_where_one_block_or_none_is_crossed_nothing_changes(pattern: str) -> None:
    model = small(depth=3)
    graph = training_graph_of(model, parameters_of(model, pattern))
    assert recompute(graph).nodes == graph.nodes


def test_the_input_is_not_changed() -> None:
    model = small(depth=3)
    graph = training_graph_of(model, parameters_of(model, "all"))
    before = graph.copy()
    recompute(graph)
    assert graph == before
