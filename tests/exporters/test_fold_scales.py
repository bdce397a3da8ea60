"""Scales folded into matrix products: fewer passes over memory, the same numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from exporter_models import forward_graph, parameters_of, session_of, small

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.fold_scales import fold_scales
from edgeplast_exporters.training import promote, training_graph

HALF = math.sqrt(0.5)


def products(graph: Graph) -> list[dict[str, Any]]:
    return [n.attributes for n in graph.nodes if n.op == "Gemm"]


def run(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    stored = {n: rng.standard_normal(graph.values[n].shape, dtype=np.float32) for n in ("w", "v", "b")}
    x = rng.standard_normal((6, 5), dtype=np.float32)
    found: list[np.ndarray] = session_of(graph, stored).run(None, {"x": x})
    return found


def chain(bias: bool = True) -> tuple[Graph, Any, Any]:
    g = Graph()
    x = g.input("x", (2, 5), batched=True)
    w, v, b = g.weight("w", (4, 5)), g.weight("v", (3, 4)), g.weight("b", (4,))
    return g, g.gemm(x, w, b if bias else None, trans_b=True, alpha=2.0), v


@pytest.mark.parametrize("bias", [True, False])
def test_a_scale_after_a_product_and_before_one_are_both_taken_in(bias: bool) -> None:
    g, y, v = chain(bias)
    scaled = g.scale(y, HALF)
    g.output(g.gemm(g.scale(g.unary("Tanh", scaled), 3.0), v, trans_b=True))
    folded = fold_scales(g)
    assert [round(a["alpha"], 6) for a in products(folded)] == [round(2 * HALF, 6), 3.0]
    muls = [n for n in folded.nodes if n.op == "Mul"]
    assert [folded.values[n.outputs[0]].shape for n in muls] == ([(4,)] if bias else [])
    np.testing.assert_allclose(run(folded)[0], run(g)[0], rtol=1e-5)


def test_a_product_that_somebody_else_reads_is_not_scaled() -> None:
    g, y, _ = chain()
    g.output(g.add(g.unary("Tanh", g.scale(y, HALF)), y))
    assert fold_scales(g).nodes == g.nodes


def test_a_scaled_value_that_more_than_products_read_is_still_computed() -> None:
    g, y, v = chain()
    scaled = g.scale(g.unary("Tanh", y), HALF)
    g.output(g.gemm(scaled, v, trans_b=True))
    g.output(g.unary("Exp", scaled))
    assert fold_scales(g).nodes == g.nodes


def test_only_single_numbers_are_folded() -> None:
    g, y, v = chain()
    g.output(g.gemm(g.mul(g.unary("Tanh", y), g.constant([1.0, 2.0, 3.0, 4.0])), v, trans_b=True))
    assert fold_scales(g).nodes == g.nodes


def test_the_input_is_not_changed() -> None:
    g, y, _ = chain()
    g.output(g.unary("Tanh", g.scale(y, HALF)))
    before = g.copy()
    fold_scales(g)
    assert g == before


def test_training_graphs_multiply_no_large_array_by_a_number_where_a_product_can() -> None:
    """The derivative of GELU: x/sqrt 2, the prediction's factor and the half of the slope are all in products."""
    model = small(depth=3)
    names = parameters_of(model, "attn,head")
    graph = training_graph(promote(forward_graph(model), names), names)
    hidden = (17, 128)
    scaled = [n for n in graph.nodes if n.op == "Mul" and n.inputs[1] in graph.constants]
    inside = [n for n in scaled if n.block == 1 and graph.values[n.outputs[0]].shape == hidden]
    assert len(inside) == 1  # 2/sqrt pi of the density
    assert sum(n.op == "Erf" for n in graph.nodes if n.block == 1) == 1
