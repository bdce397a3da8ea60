"""Predicted memory of convolutional graphs, working space of kernels included, against onnxruntime's own arena."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.footprint import FIRST_REGION_BYTES, MemoryLine
from edgeplast.graphs.checking import check
from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.measures.arena import _closest_above, arena_lines
from edgeplast.graphs.measures.flops import flops_per_image, node_flops
from edgeplast.graphs.measures.liveness import steps, transient_lines
from edgeplast.graphs.training import LOGITS, training_graph
from edgeplast_exporters.onnx_writer import to_onnx

SCRIPT = Path(__file__).with_name("arena_run.py")


def conv(g: Graph, x: Value, name: str, channels: int, k: int, stride: int = 1, groups: int = 1) -> Value:
    w, b = g.input(f"{name}.weight", (channels, x.shape[1] // groups, k, k)), g.input(f"{name}.bias", (channels,))
    how = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [k // 2] * 4, "dilations": [1, 1], "group": groups}
    with g.serving(name):
        return g.node("Conv", [x, w, b], **how)[0]  # type: ignore[arg-type]


def network() -> Graph:
    """A stem, a residual block of full convolutions, an inverted residual, deep convolutions of few positions."""
    g = Graph()
    x = g.unary("Relu", conv(g, g.input("images", (1, 3, 96, 96), batched=True), "stem", 32, 3, 2))
    x = g.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)[0]
    x = g.add(x, conv(g, g.unary("Relu", conv(g, x, "a1", 32, 3)), "a2", 32, 3))
    h = g.unary("Silu", conv(g, x, "b1", 96, 1))
    h = g.unary("HardSwish", conv(g, h, "b2", 96, 5, groups=96))
    x = g.add(x, conv(g, h, "b3", 32, 1))
    x = g.unary("Relu", conv(g, x, "c1", 96, 3, 2))
    x = g.unary("Relu", conv(g, x, "c2", 256, 3, 2))
    x = g.unary("Relu", conv(g, x, "c3", 256, 3, 2))
    pooled = g.reduce("ReduceMean", x, [2, 3], keep=False)
    with g.serving("head"):
        logits = g.gemm(pooled, g.input("head.weight", (5, 256)), g.input("head.bias", (5,)), trans_b=True)
    g.output(logits, LOGITS)
    return g


@pytest.fixture(scope="module")
def trained() -> Graph:
    forward = network()
    return check(training_graph(forward, [name for name in forward.inputs if name != "images"]))


def fits(graph: Graph, folder: Path, micro_batch: int, region_bytes: int) -> bool:
    names = [n for n in graph.inputs if f"{n}.gradient" in graph.inputs]
    np.savez(folder / "parameters.npz", **{n: np.full(graph.values[n].shape, 0.01, np.float32) for n in names})
    (folder / "graph.onnx").write_bytes(to_onnx(graph, "graph", {}))
    arguments = [str(folder / "graph.onnx"), str(micro_batch), str(region_bytes), str(folder / "parameters.npz")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 4), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("micro_batch", [8, 16])
def test_a_convolutional_graph_runs_in_the_predicted_region_and_not_in_much_less(
    trained: Graph, tmp_path: Path, micro_batch: int
) -> None:
    """The arena may not grow beyond what is predicted, and fails with an eighth less, its first region included."""
    predicted = max(line.at(micro_batch) for line in arena_lines(trained))
    assert fits(trained, tmp_path, micro_batch, predicted)
    assert not fits(trained, tmp_path, micro_batch, int(0.875 * predicted) - FIRST_REGION_BYTES)


def test_what_a_kernel_takes_for_itself_is_alive_while_it_runs() -> None:
    g = Graph()
    x, w = g.input("x", (1, 64, 7, 7), batched=True), g.input("w", (64, 64, 3, 3))
    h = g.node("Conv", [x, w], kernel_shape=[3, 3], pads=[1] * 4)[0]
    g.output(g.unary("Relu", h))
    (made, freed), _ = steps(g)
    patches = 4 * 64 * 9 * 49
    assert [(v.bytes, v.batched) for v in made] == [(h.bytes, True), (patches, False)]
    assert [v.bytes for v in freed] == [patches]
    assert transient_lines(g)[0].at(3) == 3 * h.bytes + patches


@pytest.mark.parametrize(
    ("shape", "kernel", "how", "expected"),
    [
        ((1, 96, 28, 28), (192, 96, 1, 1), {}, 0),
        ((1, 96, 28, 28), (192, 96, 1, 1), {"strides": [4, 4]}, 4 * 96 * 49),
        ((1, 64, 56, 56), (64, 64, 3, 3), {"pads": [1] * 4}, 8 << 16),
        ((1, 96, 7, 7), (96, 1, 3, 3), {"pads": [1] * 4, "group": 96}, 8 << 16),
    ],
)
def test_working_space_of_convolutions(
    shape: tuple[int, ...], kernel: tuple[int, ...], how: dict[str, object], expected: int
) -> None:
    g = Graph()
    x, w = g.input("x", shape, batched=True), g.input("w", kernel)
    g.node("Conv", [x, w], kernel_shape=list(kernel[2:]), **how)  # type: ignore[arg-type]
    assert sum(v.bytes for v in steps(g)[0][0][1:]) == expected


def test_operations_of_convolutions_are_counted() -> None:
    g = Graph()
    x, w = g.input("x", (1, 8, 10, 10), batched=True), g.input("w", (6, 4, 3, 3))
    y = g.node("Conv", [x, w], kernel_shape=[3, 3], group=2)[0]
    g.node("ConvTranspose", [y, w], kernel_shape=[3, 3], group=2)
    forward = 2 * 6 * 8 * 8 * 4 * 9
    assert node_flops(g, g.nodes[0]) == node_flops(g, g.nodes[1]) == forward
    assert flops_per_image(g) == 2 * forward


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=6, max_size=6))
def test_two_lines_lie_above_any_needs(needs: list[int]) -> None:
    points = dict(zip((1, 2, 4, 8, 16, 32), map(float, needs), strict=True))
    lines = _closest_above(points)
    assert 1 <= len(lines) <= 2
    assert all(max(line.at(size) for line in lines) >= need for size, need in points.items())


def test_two_lines_through_needs_that_bend_are_found() -> None:
    bent = {size: float(max(1000 + 10 * size, 100 * size)) for size in (1, 2, 4, 8, 16, 32)}
    assert set(_closest_above(bent)) == {MemoryLine(1000, 10), MemoryLine(0, 100)}
