"""Batch normalizations folded into the products before them: the same numbers and gradients from fewer nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_cases import close, numbers
from torch import nn

from edgeplast.graphs.checking import check
from edgeplast.graphs.differentiate import differentiate, gradient_input, gradient_output
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.fold_batch_norms import fold_batch_norms
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.onnx_writer import to_onnx

PARAMETERS = ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def network(bias: bool, trained: set[str], size: int = 8) -> tuple[Graph, dict[str, np.ndarray], nn.Sequential]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=bias), nn.BatchNorm2d(4)).eval()
    names = [n for n in PARAMETERS if bias or n != "conv.bias"]
    arrays = {}
    for i, name in enumerate(names):
        part, tensor = model[0 if name.startswith("conv") else 1], name.partition(".")[2]
        array = numbers(*getattr(part, tensor).shape, seed=i, positive="var" in name or name == "bn.weight")
        getattr(part, tensor).data = torch.from_numpy(array.copy())
        arrays[name] = array
    g = Graph()
    x = g.input("x", (1, 3, size, size), batched=True)
    v = {n: (g.input if n in trained else g.weight)(n, arrays[n].shape) for n in names}
    how = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "dilations": [1, 1], "group": 1}
    with g.serving("stem"):
        y = g.node("Conv", [x, v["conv.weight"], v.get("conv.bias")], **how)[0]  # type: ignore[arg-type]
        g.output(g.node("BatchNormalization", [y, *(v[n] for n in PARAMETERS[2:])], epsilon=1e-3)[0], "y")
    model[1].eps = 1e-3
    return g, arrays, model


def run(
    graph: Graph, arrays: dict[str, np.ndarray], feeds: dict[str, np.ndarray], asked: list[str]
) -> list[np.ndarray]:
    graph = graph.copy()
    for name in graph.weights:
        graph.constants[name] = arrays[name]
    graph.weights = []
    ort = import_quietly()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(to_onnx(graph, "g", {}), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(asked, feeds)
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_pair_is_one_convolution(bias: bool) -> None:
    graph, arrays, model = network(bias, set())
    folded, stored = fold_batch_norms(graph, arrays)
    check(folded)
    assert [n.op for n in folded.nodes] == ["Conv"]
    assert set(stored) == set(folded.weights) == {"conv.weight", "bn.bias"}
    assert [n.op for n in graph.nodes] == ["Conv", "BatchNormalization"]
    x = numbers(2, 3, 8, 8)
    (y,) = run(folded, stored, {"x": x}, ["y"])
    close(y, model(torch.from_numpy(x)).detach().numpy(), 1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_trained_kernel_is_multiplied_and_its_gradient_with_it(bias: bool) -> None:
    trained = {"conv.weight", "conv.bias"} if bias else {"conv.weight"}
    graph, arrays, model = network(bias, trained, size=16)
    folded, stored = fold_batch_norms(graph, arrays)
    assert "BatchNormalization" not in [n.op for n in folded.nodes]
    seed = folded.input("seed", folded.values["y"].shape, batched=True)
    for name in sorted(trained):
        folded.input(gradient_input(name), folded.values[name].shape)
    for value in differentiate(folded, {"y": seed}, trained).values():
        folded.output(value)
    x, upstream = numbers(2, 3, 16, 16), numbers(2, 4, 8, 8, seed=3)
    feeds = {"x": x, "seed": upstream} | {n: arrays[n] for n in trained}
    feeds |= {gradient_input(n): np.zeros_like(arrays[n]) for n in trained}
    y, *gradients = run(check(folded), stored, feeds, ["y", *(gradient_output(n) for n in sorted(trained))])
    out = model(torch.from_numpy(x))
    out.backward(torch.from_numpy(upstream))
    close(y, out.detach().numpy(), 1e-5)
    expected = {"conv.weight": model[0].weight.grad, "conv.bias": model[0].bias.grad if bias else None}
    for name, mine in zip(sorted(trained), gradients, strict=True):
        close(mine, expected[name].numpy(), 1e-4)


@pytest.mark.parametrize("trained", [{"bn.weight"}, {"bn.bias", "conv.weight"}])
def test_a_norm_that_trains_stays(trained: set[str]) -> None:
    graph, arrays, _ = network(False, trained, size=16)
    folded, stored = fold_batch_norms(graph, arrays)
    assert [n.op for n in folded.nodes] == ["Conv", "BatchNormalization"]
    assert stored.keys() == arrays.keys()


def test_a_trained_kernel_larger_than_its_result_keeps_the_norm() -> None:
    graph, arrays, _ = network(False, {"conv.weight"}, size=2)
    assert [n.op for n in fold_batch_norms(graph, arrays)[0].nodes] == ["Conv", "BatchNormalization"]


def test_what_somebody_else_reads_too_is_not_folded() -> None:
    graph, arrays, _ = network(False, set())
    graph.output(graph.unary("Relu", graph.values[graph.nodes[0].outputs[0]]))
    folded, _ = fold_batch_norms(graph, arrays)
    assert "BatchNormalization" in [n.op for n in folded.nodes]


def test_statistics_that_are_constants_fold_too_and_a_norm_without_a_shift_gets_one() -> None:
    graph, arrays, model = network(False, set())
    for name in PARAMETERS[3:]:
        graph.weights.remove(name)
        graph.constants[name] = arrays.pop(name)
    folded, stored = fold_batch_norms(graph, arrays)
    check(folded)
    assert [n.op for n in folded.nodes] == ["Conv"]
    assert set(stored) == set(folded.weights) == {"conv.weight", "conv.weight.shift"}
    assert not folded.constants
    x = numbers(2, 3, 8, 8)
    (y,) = run(folded, stored, {"x": x}, ["y"])
    close(y, model(torch.from_numpy(x)).detach().numpy(), 1e-5)


def test_norms_that_share_their_statistics_are_folded_both() -> None:
    g = Graph()
    y = g.input("x", (1, 3, 8, 8), batched=True)
    arrays = {name: numbers(3, seed=i, positive=True) for i, name in enumerate(("gamma", "mean", "variance"))}
    shared = [g.weight(name, (3,)) for name in arrays]
    for i in range(2):
        arrays |= {f"{i}.kernel": numbers(3, 3, 1, 1, seed=3 + i), f"{i}.beta": numbers(3, seed=5 + i)}
        how = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
        with g.serving(f"conv{i}"):
            y = g.node("Conv", [y, g.weight(f"{i}.kernel", (3, 3, 1, 1))], **how)[0]
            beta = g.weight(f"{i}.beta", (3,))
            y = g.node("BatchNormalization", [y, shared[0], beta, *shared[1:]], epsilon=1e-3)[0]
    g.output(y, "y")
    folded, stored = fold_batch_norms(g, arrays)
    check(folded)
    assert [node.op for node in folded.nodes] == ["Conv", "Conv"]
    assert set(stored) == {"0.kernel", "0.beta", "1.kernel", "1.beta"}
    x = numbers(2, 3, 8, 8, seed=9)
    close(run(folded, stored, {"x": x}, ["y"])[0], run(g, arrays, {"x": x}, ["y"])[0], 1e-5)
