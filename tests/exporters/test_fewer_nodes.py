"""Passes over forward graphs that compute the same from less: fewer rows, fewer views, fewer slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from exporter_models import session_of

from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.passes.cancel_layouts import cancel_layouts
from edgeplast.graphs.passes.join_slices import join_slices
from edgeplast.graphs.passes.narrow_rows import narrow_rows

TOKENS, WIDTH = 6, 4


def run(graph: Graph) -> np.ndarray:
    rng = np.random.default_rng(0)
    stored = {n: rng.standard_normal(graph.values[n].shape, dtype=np.float32) for n in sorted(graph.weights)}
    images = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH), dtype=np.float32)
    found: np.ndarray = session_of(graph, stored).run(None, {"images": images})[0]
    return found


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def block(g: Graph, x: Value, number: int, gated: bool = False) -> Value:
    """A block of a transformer on rows (tokens, width), with a gated MLP if asked for."""
    gamma = g.weight(f"{number}.gamma", (WIDTH,))
    h = g.layer_norm(x, gamma, None, 1e-6)[0]
    qkv = g.gemm(h, g.weight(f"{number}.qkv", (3 * WIDTH, WIDTH)), trans_b=True)
    parts = g.split(g.transpose(g.reshape(qkv, (1, TOKENS, 6, 2)), (0, 2, 1, 3)), 1, 3)
    weights = g.unary("Softmax", g.matmul(parts[0], parts[1], trans_b=True), axis=-1)
    mixed = g.transpose(g.matmul(weights, parts[2]), (0, 2, 1, 3))
    x = g.add(x, g.gemm(g.reshape(mixed, (TOKENS, WIDTH)), g.weight(f"{number}.proj", (WIDTH, WIDTH)), trans_b=True))
    up = g.gemm(x, g.weight(f"{number}.fc1", (2 * WIDTH, WIDTH)), trans_b=True)
    if gated:
        gate, value = g.split(up, 1, 2)
        h = g.mul(g.unary("Sigmoid", gate), value)
    else:
        h = g.unary("Gelu", up)
    return g.add(x, g.gemm(h, g.weight(f"{number}.fc2", (WIDTH, h.shape[1])), trans_b=True))


def transformer(read: Callable[[Graph, Value], Value], gated: bool = False) -> Graph:
    g = Graph()
    x = g.reshape(g.input("images", (1, TOKENS, WIDTH), batched=True), (TOKENS, WIDTH))
    for number in range(2):
        x = block(g, x, number, gated)
    g.output(read(g, g.reshape(x, (1, TOKENS, WIDTH))), "logits")
    return g


def first(g: Graph, x: Value) -> Value:
    return g.unary("Relu", g.reshape(g.slice(x, 1, 0, 1), (1, WIDTH)))


def two_in_the_middle(g: Graph, x: Value) -> Value:
    a, b = g.slice(x, 1, 2, 3), g.slice(x, 1, 3, 4)
    return g.reshape(g.add(a, b), (1, WIDTH))


def most(g: Graph, x: Value) -> Value:
    return g.reduce("ReduceMean", g.slice(x, 1, 1, TOKENS), 1, keep=False)


def both(g: Graph, x: Value) -> Value:
    return g.add(first(g, x), g.reduce("ReduceMean", x, 1, keep=False))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("read", [first, two_in_the_middle])
def test_the_last_block_computes_only_the_rows_that_are_read(read: Callable, gated: bool) -> None:
    graph = transformer(read, gated)
    before = run(graph)
    fewer = cancel_layouts(narrow_rows(cancel_layouts(graph)))
    np.testing.assert_allclose(run(fewer), before, rtol=1e-5, atol=1e-6)
    assert flops_per_image(fewer) < 0.8 * flops_per_image(graph)
    assert run(graph).tolist() == before.tolist(), "the input was changed"


@pytest.mark.parametrize("read", [most, both])
def test_what_is_read_whole_stays_whole(read: Callable) -> None:
    graph = transformer(read)
    fewer = narrow_rows(graph)
    assert ops(fewer) == ops(graph)
    assert flops_per_image(fewer) == flops_per_image(graph)


def test_neighbouring_views_cancel_and_equal_ones_are_one() -> None:
    g = Graph()
    x = g.input("images", (1, TOKENS, WIDTH), batched=True)
    there = g.reshape(g.reshape(x, (TOKENS, WIDTH)), (1, TOKENS, WIDTH))
    g.output(g.add(g.add(there, x), g.reshape(g.reshape(x, (1, 24)), (1, TOKENS, WIDTH))), "logits")
    fewer = cancel_layouts(g)
    assert ops(fewer) == {"Add": 2}
    assert run(fewer).tolist() == run(g).tolist()


def test_slices_that_tile_are_one_split_and_joined_again_nothing() -> None:
    g = Graph()
    x = g.input("images", (1, TOKENS, WIDTH), batched=True)
    late, early = g.slice(x, 1, 2, TOKENS), g.slice(x, 1, 0, 2)
    again = g.concat([early, late], 1)
    g.output(g.add(g.unary("Relu", again), g.concat([late, early], 1)), "logits")
    fewer = join_slices(g)
    assert ops(fewer) == {"Split": 1, "Relu": 1, "Concat": 1, "Add": 1}
    assert run(fewer).tolist() == run(g).tolist()
    g = Graph()
    x = g.input("images", (1, TOKENS, WIDTH), batched=True)
    g.output(g.concat([g.slice(x, 1, 0, 2), g.slice(x, 1, 3, TOKENS)], 1), "logits")
    assert ops(join_slices(g)) == {"Slice": 2, "Concat": 1}, "a gap is no tiling"
