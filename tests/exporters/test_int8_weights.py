"""Frozen matrices as int8: rounding by the book, and graphs that compute with exactly the rounded weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import (
    forward_graph,
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    run_graph,
    small,
    torch_step,
    training_graph_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeplast.contract import quantized_name, scale_name
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.recompute import recompute
from edgeplast_exporters.quantization import quantizable, quantize_frozen, quantize_rows


def slowly(row: list[float]) -> tuple[list[int], float]:
    """One row in Python's own numbers: the largest magnitude becomes 127, halves round to even."""
    largest = max(abs(x) for x in row)
    scale = max(float(np.float32(largest / 127)), 2.0**-126) if largest > 0 else 1.0
    return [max(-127, min(127, round(x / scale))) for x in row], scale


matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32) | st.floats(-1, 1, width=32) | st.just(0.0),
)


@settings(deadline=None)
@given(matrices)
def test_rows_are_rounded_as_slow_arithmetic_rounds_them(weight: np.ndarray) -> None:
    quantized, scale = quantize_rows(weight)
    assert quantized.dtype == np.int8 and scale.dtype == np.float32
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert np.abs(quantized.astype(int)).max() <= 127
    for row, mine, factor in zip(weight.tolist(), quantized.tolist(), scale.tolist(), strict=True):
        expected, expected_scale = slowly(row)
        assert factor == pytest.approx(expected_scale, rel=1e-6)
        assert all(abs(a - b) <= 1 for a, b in zip(mine, expected, strict=True))
        for a, x in zip(mine, row, strict=True):  # off by at most half a step, give or take float32
            assert abs(a * factor - x) <= factor * 0.5001 or math.isclose(a * factor, x, rel_tol=1e-3)


def test_a_row_of_zeros_stays_zero() -> None:
    quantized, scale = quantize_rows(np.zeros((2, 3), np.float32))
    assert not quantized.any() and scale.tolist() == [1, 1]


def test_an_outlier_costs_its_own_row_alone() -> None:
    weight = np.full((2, 4), 0.01, np.float32)
    weight[0, 0] = 100
    quantized, scale = quantize_rows(weight)
    assert quantized[0].tolist() == [127, 0, 0, 0]
    np.testing.assert_allclose(quantized[1] * scale[1], weight[1], rtol=1e-6)


def test_the_smallest_numbers_there_are_do_not_divide_by_zero() -> None:
    tiny = np.full((1, 3), np.nextafter(np.float32(0), np.float32(1)), np.float32)
    quantized, scale = quantize_rows(tiny)
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert np.abs(quantized * scale[:, None] - tiny).max() <= 1e-40


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "average pooling": ("vit_tiny_patch16_224", {"global_pool": "avg", "init_values": 0.3}),
    "distillation token": ("deit_tiny_distilled_patch16_224", {}),
    "SwiGLU": ("vit_giant_patch14_dinov2", {}),
}


def rounded(model: torch.nn.Module, names: list[str]) -> torch.nn.Module:
    """The model with some matrices replaced by what their int8 form stands for."""
    result = copy.deepcopy(model)
    own = dict(result.named_parameters())
    for name in names:
        shape = own[name].shape
        quantized, scale = quantize_rows(own[name].detach().reshape(shape[0], -1).numpy())
        own[name].data = torch.from_numpy(quantized * scale[:, None]).reshape(shape)
    return result


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_equals_torch_with_the_rounded_weights(kind: str, again: bool) -> None:
    name, options = KINDS[kind]
    model = small(name, depth=3, **options)
    trained = parameters_of(model, "attn:1-2,norm1:1,head")
    graph = training_graph_of(model, trained)
    frozen = quantizable(graph)
    assert frozen
    images, answers = pictures(model, 4), labels(4)
    reference = torch_step(rounded(model, frozen), trained, images, answers)
    changed = quantize_frozen(recompute(graph) if again else graph, frozen)
    found = run_graph(changed, parameters(model), images, mean_targets(answers))
    assert found.loss == pytest.approx(reference.loss, rel=1e-5)
    for parameter, gradient in reference.gradients.items():
        mine = found.gradients[parameter]
        cosine = float((mine * gradient).sum() / np.linalg.norm(mine) / np.linalg.norm(gradient))
        assert cosine >= 0.99999, parameter
    plain = torch_step(model, trained, images, answers)
    assert plain.loss != pytest.approx(reference.loss, rel=1e-5)  # so the test can tell rounded from not


def frozen_int8(depth: int = 3, pattern: str = "attn,head", *, again: bool = True) -> tuple[Graph, Graph]:
    model = small(depth=depth)
    graph = training_graph_of(model, parameters_of(model, pattern))
    graph = recompute(graph) if again else graph
    return graph, quantize_frozen(graph, quantizable(graph))


def test_matrices_are_quantized_and_nothing_else() -> None:
    graph, quantized = frozen_int8()
    matrices = {n for n in graph.weights if n.endswith(("fc1.weight", "fc2.weight", "proj.weight"))}
    assert {n.removesuffix(".int8") for n in quantized.weights if n.endswith(".int8")} == matrices
    for name in quantized.weights:
        value = quantized.values[name]
        assert value.dtype == ("int8" if name.endswith(".int8") else "float32")
    assert set(graph.weights) - matrices < set(quantized.weights)
    for name in matrices:
        assert quantized.values[quantized_name(name)].shape == graph.values[name].shape
        assert quantized.values[scale_name(name)].shape == graph.values[name].shape[:1]


def test_each_reader_has_a_float_copy_of_its_own_right_before_it() -> None:
    _, graph = frozen_int8()
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(i)
    copies = [(i, n) for i, n in enumerate(graph.nodes) if n.op == "DequantizeLinear"]
    assert len(copies) > 2 * 3 * 2
    for i, node in copies:
        assert readers[node.outputs[0]] == [i + 1]
        assert graph.nodes[i + 1].op == "Gemm"


def test_copies_outside_the_forward_pass_wait_for_a_gradient() -> None:
    """Otherwise a runtime could share the float copy of the forward pass, and would have to keep it."""
    _, graph = frozen_int8()
    after_gradient: set[str] = set()
    waiting = 0
    for node in graph.nodes:
        depends = any(name in after_gradient for name in node.inputs)
        if node.op == "DequantizeLinear" and node.phase != "forward":
            assert depends, node.component
            waiting += 1
        if depends or (node.phase == "backward" and node.op not in ("Shape", "DequantizeLinear")):
            after_gradient.update(node.outputs)
    assert waiting > 3


def test_one_float_copy_lives_at_a_time() -> None:
    """Unbatched bytes alive grow by one matrix, however deep the model."""
    shallow, deep = (frozen_int8(depth)[1] for depth in (3, 6))
    largest = 4 * 32 * 128
    for graph in (shallow, deep):
        assert max(line.fixed_bytes for line in transient_lines(graph)) <= largest + 64


@pytest.mark.parametrize("again", [False, True])
def test_the_input_is_not_changed(again: bool) -> None:
    model = small()
    graph = training_graph_of(model, parameters_of(model, "attn"))
    graph = recompute(graph) if again else graph
    before = graph.copy()
    quantize_frozen(graph, quantizable(graph))
    assert graph == before


def test_weights_that_are_not_there_are_passed_over() -> None:
    forward = forward_graph(small())
    assert quantize_frozen(forward, ["blocks.9.mlp.fc1.weight"]).nodes == forward.nodes


def test_the_order_of_weights_is_the_graphs() -> None:
    forward = forward_graph(small())
    names = quantizable(forward)
    assert quantize_frozen(forward, names).weights == quantize_frozen(forward, names[::-1]).weights
