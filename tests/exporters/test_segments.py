"""Where a graph can be cut: against the definition, by taking values away."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
from hypothesis import given

from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.segments import articulation_values, segments


def connected(graph: Graph, without: str) -> bool:
    """Whether a path leads from images to logits that does not go through one value."""
    reached = {"images"} - {without}
    for node in graph.nodes:
        if node.op != "Shape" and any(name in reached for name in node.inputs):
            reached.update(name for name in node.outputs if name and name != without)
    return "logits" in reached


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Sums, pieces and activations of what was there before, in any order; a parameter here and there."""
    g = Graph()
    values = [g.input("images", (1, 4), batched=True)]
    weight = g.weight("w", (4,))
    for _ in range(draw(st.integers(1, 12))):
        recent = values[-4:]
        a, b = draw(st.sampled_from(recent)), draw(st.sampled_from([*recent, weight]))
        kind = draw(st.sampled_from(["add", "relu", "split"]))
        if kind == "add":
            values.append(g.add(a, b))
        elif kind == "relu":
            values.append(g.unary("Relu", a))
        else:
            left, right = g.split(a, 1, 2) if a.shape == (1, 4) else (a, a)
            values.append(g.concat([left, right], 1) if left is not right else g.unary("Tanh", a))
    g.output(g.unary("Relu", values[-1]), "logits")
    return g


@given(graphs())
def test_a_cut_is_a_value_without_which_no_path_is_left(graph: Graph) -> None:
    named = ["images", *(name for node in graph.nodes for name in node.outputs if name)]
    expected = [name for name in named if not connected(graph, name)]
    assert articulation_values(graph, "images", "logits") == expected


@given(graphs())
def test_segments_hold_every_node_once_and_read_nothing_of_the_inside_of_others(graph: Graph) -> None:
    graph.remove_dead()
    parts = segments(graph, "images", "logits")
    assert sorted(i for part in parts for i in part.nodes) == list(range(len(graph.nodes)))
    for before, after in itertools.pairwise(parts):
        assert before.end == after.start
    for part in parts:
        made = {name for i in part.nodes for name in graph.nodes[i].outputs}
        for i in part.nodes:
            assert {*graph.nodes[i].inputs} <= made | {part.start, *graph.weights, *graph.constants}


def test_a_residual_network_is_cut_at_its_sums_and_a_shape_is_no_path() -> None:
    g = Graph()
    x = g.input("images", (1, 4), batched=True)
    w = g.weight("w", (4, 4))
    token = g.expand_to_batch(g.weight("token", (1, 4)), x)
    h = g.add(g.gemm(x, w, trans_b=True), token)
    out: Value = h
    for _ in range(2):
        out = g.add(out, g.unary("Relu", g.gemm(out, w, trans_b=True)))
    g.output(g.gemm(out, w, trans_b=True), "logits")
    cuts = articulation_values(g, "images", "logits")
    assert [n.op for n in g.nodes if n.outputs[0] in cuts] == ["Gemm", "Add", "Add", "Add", "Gemm"]
    first = segments(g, "images", "logits")[1]
    assert {g.nodes[i].op for i in first.nodes} == {"Shape", "Concat", "Expand", "Add"}
