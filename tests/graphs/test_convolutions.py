"""Convolutions and pools against torch, for every combination of size, stride, padding, dilation and groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from graph_cases import Case, assert_case, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.operators.record import ShapeError


def convolution(
    x: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, ...],
    *,
    stride: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
    bias: bool = True,
) -> Case:
    rank = len(kernel)
    stride, dilation = stride or (1,) * rank, dilation or (1,) * rank
    pads = pads or (0,) * rank
    how: dict[str, Any] = {
        "kernel_shape": list(kernel),
        "strides": list(stride),
        "pads": [*pads, *pads],
        "dilations": list(dilation),
        "group": groups,
    }

    def build(g: Graph, *values: Value) -> Value:
        return g.node("Conv", values, **how)[0]

    def reference(a: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        conv = functional.conv2d if rank == 2 else functional.conv1d
        return conv(a, w, b, stride, pads, dilation, groups)  # type: ignore[arg-type]

    inputs = [numbers(*x), numbers(outputs, x[1] // groups, *kernel)]
    return Case([*inputs, numbers(outputs)] if bias else inputs, build, reference)


CASES = {
    "full 3×3": convolution((2, 3, 7, 6), 4, (3, 3), pads=(1, 1)),
    "full 3×3 without padding": convolution((2, 3, 7, 6), 4, (3, 3)),
    "stride 2": convolution((2, 3, 8, 7), 4, (3, 3), stride=(2, 2), pads=(1, 1)),
    "stem 7×7 stride 2": convolution((2, 3, 16, 16), 4, (7, 7), stride=(2, 2), pads=(3, 3)),
    "patches": convolution((2, 3, 8, 8), 5, (4, 4), stride=(4, 4)),
    "1×1": convolution((2, 3, 5, 4), 6, (1, 1)),
    "1×1 on few positions": convolution((2, 16, 2, 1), 24, (1, 1)),
    "1×1 stride 2": convolution((2, 3, 6, 5), 4, (1, 1), stride=(2, 2)),
    "depthwise": convolution((2, 4, 7, 6), 4, (3, 3), pads=(1, 1), groups=4),
    "depthwise 7×7": convolution((2, 3, 9, 8), 3, (7, 7), pads=(3, 3), groups=3),
    "depthwise stride 2": convolution((2, 4, 8, 8), 4, (3, 3), stride=(2, 2), pads=(1, 1), groups=4),
    "depthwise dilated": convolution((2, 4, 9, 8), 4, (3, 3), pads=(2, 2), dilation=(2, 2), groups=4),
    "two outputs a channel": convolution((2, 3, 7, 7), 6, (3, 3), stride=(2, 2), pads=(1, 1), groups=3),
    "groups": convolution((2, 4, 6, 6), 6, (3, 3), pads=(1, 1), groups=2),
    "dilated": convolution((2, 3, 8, 8), 4, (3, 3), pads=(2, 2), dilation=(2, 2)),
    "more outputs than positions": convolution((2, 5, 3, 3), 12, (3, 3), pads=(1, 1)),
    "more outputs than positions, stride 2": convolution((2, 5, 5, 4), 12, (3, 2), stride=(2, 2), pads=(1, 1)),
    "more outputs than positions, dilated": convolution((2, 3, 4, 4), 20, (3, 3), pads=(2, 2), dilation=(2, 2)),
    "more outputs than positions, one dimension": convolution((2, 3, 6), 9, (3,), pads=(1,)),
    "1×7": convolution((2, 3, 5, 9), 4, (1, 7), pads=(0, 3)),
    "more padding than the kernel reaches": convolution((2, 3, 4, 4), 2, (2, 2), pads=(2, 2)),
    "one dimension": convolution((2, 1, 9), 1, (3,), pads=(1,), bias=False),
    "one dimension, depthwise": convolution((2, 4, 9), 4, (3,), stride=(2,), pads=(1,), groups=4),
    "without bias": convolution((2, 3, 6, 6), 4, (3, 3), pads=(1, 1), bias=False),
}


@pytest.mark.parametrize("name", CASES)
def test_convolutions_equal_torch(name: str) -> None:
    assert_case(CASES[name])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_convolution_equals_torch(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    inputs, outputs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    rank = data.draw(st.integers(1, 2))
    kernel, stride, pads, dilation = (
        tuple(data.draw(st.integers(low, high)) for _ in range(rank)) for low, high in ((1, 4), (1, 3), (0, 2), (1, 2))
    )
    size = tuple(d * (k - 1) + 1 + data.draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True))
    x = (2, inputs, *size)
    case = convolution(x, outputs, kernel, stride=stride, pads=pads, dilation=dilation, groups=groups)
    assert_case(case, tolerance=2e-4)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more", "groups"),
    [(2, 2, 0, 0, 1), (3, 2, 1, 1, 1), (3, 1, 1, 0, 2), (4, 2, 1, 0, 4), (3, 3, 0, 2, 1)],
)
def test_transposed_convolutions_equal_torch(kernel: int, stride: int, padding: int, more: int, groups: int) -> None:
    def build(g: Graph, x: Value, w: Value, b: Value) -> Value:
        how = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4, "group": groups}
        return g.node("ConvTranspose", [x, w, b], output_padding=[more] * 2, **how)[0]  # type: ignore[arg-type]

    def reference(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, w, b, stride, padding, more, groups)

    assert_case(Case([numbers(2, 4, 5, 4), numbers(4, 8 // groups, kernel, kernel), numbers(8)], build, reference))


def pool(op: str, kernel: int, stride: int, padding: int, **how: Any) -> Any:
    def build(g: Graph, x: Value) -> Value:
        return g.node(op, [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4, **how)[0]

    return build


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 3, 0)])
def test_maximum_pools_equal_torch(kernel: int, stride: int, padding: int, dilation: int) -> None:
    def reference(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, kernel, stride, padding, dilation)

    build = pool("MaxPool", kernel, stride, padding, dilations=[dilation] * 2)
    assert_case(Case([numbers(2, 3, 8, 7)], build, reference))


def test_the_first_of_equal_elements_gets_the_gradient_of_a_maximum() -> None:
    flat = np.zeros((2, 1, 4, 4), np.float32)
    assert_case(Case([flat], pool("MaxPool", 2, 2, 0), lambda x: functional.max_pool2d(x, 2, 2)))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 3, 0)])
def test_average_pools_equal_torch(kernel: int, stride: int, padding: int, counted: int) -> None:
    def reference(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, kernel, stride, padding, count_include_pad=bool(counted))

    build = pool("AveragePool", kernel, stride, padding, count_include_pad=counted)
    assert_case(Case([numbers(2, 3, 8, 7)], build, reference))


def test_global_average_pools_equal_torch() -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.node("GlobalAveragePool", [x])[0]

    assert_case(Case([numbers(2, 3, 5, 4)], build, lambda x: x.mean((2, 3), keepdim=True)))


def test_a_kernel_that_does_not_fit_is_named() -> None:
    g = Graph()
    x, w = g.input("x", (1, 3, 4, 4), batched=True), g.weight("w", (8, 4, 3, 3))
    with (
        g.serving("stem.conv"),
        pytest.raises(ShapeError, match=r"stem\.conv: Conv: w\(8×4×3×3\) in 1 groups is no kernel for x\(B·1×3×4×4\)"),
    ):
        g.node("Conv", [x, w], kernel_shape=[3, 3])
    with pytest.raises(ShapeError, match="padding is given in numbers"):
        g.node("MaxPool", [x], kernel_shape=[2, 2], ceil_mode=1)


def test_gradients_of_a_kernel_need_no_more_than_a_few_copies_of_the_picture() -> None:
    """All patches at once would be k² copies."""
    from edgeplast.graphs.differentiate import differentiate, gradient_input
    from edgeplast.graphs.measures.liveness import transient_lines

    g = Graph()
    x, w = g.input("x", (1, 16, 20, 20), batched=True), g.input("w", (16, 16, 3, 3))
    out = g.node("Conv", [x, w], kernel_shape=[3, 3], pads=[1] * 4)[0]
    seed = g.input("seed", out.shape, batched=True)
    g.input(gradient_input("w"), w.shape)
    for value in differentiate(g, {out.name: seed}, ["w"]).values():
        g.output(value)
    assert max(line.per_image_bytes for line in transient_lines(g)) < 4.5 * x.bytes


def test_where_a_picture_has_fewer_positions_than_the_kernel_outputs_nothing_of_the_kernels_size_is_turned() -> None:
    """Where 512 channels pass 7² positions, turning kernels and putting them together took longer than all products."""
    from edgeplast.graphs.differentiate import differentiate, gradient_input

    g = Graph()
    x, w = g.input("x", (1, 64, 7, 7), batched=True), g.input("w", (64, 64, 3, 3))
    scale = g.input("scale", (64, 1, 1))
    out = g.node("Conv", [g.mul(x, scale), w], kernel_shape=[3, 3], pads=[1] * 4)[0]
    seed = g.input("seed", out.shape, batched=True)
    for value in (w, scale):
        g.input(gradient_input(value.name), value.shape)
    for value in differentiate(g, {out.name: seed}, ["w", "scale"]).values():
        g.output(value)
    turned = [n for n in g.nodes if n.op in ("Transpose", "Slice", "Concat")]
    assert turned and all(not g.values[n.inputs[0]].elements >= w.elements for n in turned)


def test_torch_and_the_graph_mean_the_same_shape() -> None:
    g = Graph()
    x, w = g.input("x", (1, 3, 17, 11), batched=True), g.weight("w", (5, 3, 3, 2))
    found = g.node("Conv", [x, w], kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 0, 1], dilations=[2, 1])[0]
    padded = functional.pad(torch.zeros(1, 3, 17, 11), (0, 1, 1, 0))
    assert found.shape == functional.conv2d(padded, torch.zeros(5, 3, 3, 2), None, (2, 3), 0, (2, 1)).shape
