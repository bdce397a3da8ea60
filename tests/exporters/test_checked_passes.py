"""Graphs type-check after every pass, for every way of training and storing them."""

from __future__ import annotations

from typing import Any

import pytest
from exporter_models import forward_graph, parameters_of, small

from edgeplast.graphs.checking import check
from edgeplast.graphs.passes.dequantize import quantizable, quantize_frozen
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.graphs.training import promote, training_graph
from edgeplast_exporters.integer_products import IntegerProduct, compute_in_integers, integer_candidates

MODELS: dict[str, dict[str, Any]] = {
    "class token": {"depth": 3},
    "average pooling": {"depth": 3, "global_pool": "avg"},
    "norms of queries, layer scales, registers": {"depth": 3, "qk_norm": True, "init_values": 0.1, "reg_tokens": 2},
    "SiLU": {"depth": 3, "act_layer": "silu"},
}


@pytest.mark.parametrize("pattern", ["all", "attn", "head"])
@pytest.mark.parametrize("name", MODELS)
def test_graphs_type_check_after_every_pass(name: str, pattern: str) -> None:
    model = small(**MODELS[name])
    names = parameters_of(model, pattern)
    forward = check(forward_graph(model))
    promoted = check(promote(forward, names))
    training = check(training_graph(promoted, names))
    for graph in (training, *(check(recompute(training, how)) for how in ("selective", "full"))):
        matrices = quantizable(graph)
        check(quantize_frozen(graph, matrices))
        check(quantize_frozen(graph, [], four_bits=matrices))
        products = {w: IntegerProduct(0.1, 128) for w in integer_candidates(promoted)}
        check(compute_in_integers(graph, products))
