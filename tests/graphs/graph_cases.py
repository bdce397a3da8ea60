"""Small graphs against torch: build, differentiate from a given seed, run, compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeplast.contract import gradient_input, gradient_output
from edgeplast.graphs.checking import check
from edgeplast.graphs.differentiate import differentiate
from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.passes.expand_activations import expand_activations
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.onnx_writer import to_onnx

onnxruntime = import_quietly()


@dataclass(frozen=True)
class Case:
    """One operator in a graph and in torch.

    Attributes:
        inputs: float32 arrays, whole (of all images).
        build: from inputs to the value whose gradient is given.
        torch: the same in torch.
        batched: per input, how many rows an image has; 0 for one that does not grow with the batch.
        images: in a batched array.
        wanted: inputs to differentiate with respect to; all by default.
    """

    inputs: Sequence[np.ndarray]
    build: Callable[..., Value]
    torch: Callable[..., Tensor]
    batched: Sequence[bool] = (True,)
    images: int = 2
    wanted: Sequence[int] | None = None


def numbers(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray:
    """Random float32; away from zero and below on request."""
    array = np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)
    return np.asarray(np.abs(array) + np.float32(0.5) if positive else array, np.float32)


def session(graph: Graph) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = to_onnx(graph, "graph", {})
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def written(case: Case, wanted: Sequence[int]) -> tuple[Graph, Value]:
    """Build a case's graph with gradients of some inputs."""
    g = Graph()
    values = []
    for i, array in enumerate(case.inputs):
        batched = i < len(case.batched) and case.batched[i]
        shape = (array.shape[0] // case.images, *array.shape[1:]) if batched else array.shape
        values.append(g.input(f"x{i}", shape, batched=batched))
    with g.serving("part"):
        out = case.build(g, *values)
    if out.name in g.inputs:
        out = g.node("Identity", [out])[0]
    names = [f"x{i}" for i in wanted]
    if names:
        seed = g.input("seed", out.shape, batched=out.batched)
        for name in names:
            g.input(gradient_input(name), g.values[name].shape, batched=g.values[name].batched)
        for value in differentiate(g, {out.name: seed}, names).values():
            g.output(value)
    g.output(out)
    return check(expand_activations(check(g))), out


def run(
    case: Case, wanted: Sequence[int], upstream: np.ndarray, start: float = 0.0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the output and the gradients, each added to arrays of ``start``."""
    graph, out = written(case, wanted)
    feeds = {f"x{i}": array for i, array in enumerate(case.inputs)} | {"seed": upstream}
    feeds |= {gradient_input(f"x{i}"): np.full_like(case.inputs[i], start) for i in wanted}
    opened = session(graph)
    read = {i.name for i in opened.get_inputs()}
    asked = [out.name, *(gradient_output(f"x{i}") for i in wanted)]
    found = opened.run(asked, {k: v for k, v in feeds.items() if k in read})
    return found[0], [g - np.float32(start) for g in found[1:]]


def assert_case(case: Case, *, tolerance: float = 1e-4) -> None:
    """Output and gradients as torch has them, all together and each alone."""
    wanted = list(range(len(case.inputs))) if case.wanted is None else list(case.wanted)
    tensors = [torch.from_numpy(a).requires_grad_(i in wanted) for i, a in enumerate(case.inputs)]
    expected = case.torch(*tensors)
    upstream = numbers(*expected.shape, seed=1)
    gradients = torch.autograd.grad(expected, [tensors[i] for i in wanted], torch.from_numpy(upstream))
    everything = [wanted] if len(wanted) == 1 else [wanted, *([i] for i in wanted)]
    for some in everything:
        out, found = run(case, some, upstream)
        close(out, expected.detach().numpy(), tolerance)
        for index, mine in zip(some, found, strict=True):
            close(mine, gradients[wanted.index(index)].numpy(), tolerance)


def close(mine: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Within a tolerance of the largest entry."""
    assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
    scale = max(float(np.abs(theirs).max(initial=0)), 1e-3)
    assert float(np.abs(mine - theirs).max(initial=0)) <= tolerance * scale
