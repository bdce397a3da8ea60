"""Convolutions: kernels that tile the picture, and 1×1 kernels on channels-last data, are products of rows."""

from __future__ import annotations

from typing import Any

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import Size, Tensor, UnfitError


def _several(x: Any, n: int) -> list[int]:
    return [x] * n if isinstance(x, int) else list(x) * n if len(x) == 1 else list(x)


@writes("conv2d", "conv1d")
def conv(
    s: Any,
    x: Tensor,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution over pictures or sequences."""
    e = s.emit
    weight = e.lift(weight)
    bias = None if bias is None else e.lift(bias)
    n = len(x.dims) - 2
    kernel = [k.count for k in weight.sizes[2:]]
    stride, dilation = _several(stride, n), _several(dilation, n)
    if isinstance(padding, str):
        spread = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        early, late = [p // 2 for p in spread], [p - p // 2 for p in spread]
    else:
        early = late = _several(padding, n)
    size = [d.count for d in x.sizes[2:]]
    tiles = groups == 1 and stride == kernel and not any((*early, *late))
    tiles = tiles and all(length % k == 0 for length, k in zip(size, kernel, strict=True))
    pointwise = all(k == 1 for k in kernel)
    if tiles and (not pointwise or _channels_last(x) or all(length == 1 for length in size)):
        return _patches(e, x, weight, bias, kernel)
    out = [
        (length + a + b - d * (k - 1) - 1) // st + 1
        for length, a, b, d, k, st in zip(size, early, late, dilation, kernel, stride, strict=True)
    ]
    value = e.picture(x)
    taken = e.picture(weight)
    shift = None if bias is None else e.vector(bias)
    inputs = [value, taken] if shift is None else [value, taken, shift]
    y = e.graph.node(
        "Conv",
        inputs,
        [(value.shape[0], taken.shape[0], *out)],
        kernel_shape=kernel,
        strides=stride,
        pads=[*early, *late],
        dilations=dilation,
        group=groups,
    )[0]
    return e.new_picture(y)


def _channels_last(x: Tensor) -> bool:
    channels = x.dims[1]
    return (
        bool(channels) and x.stored[len(x.stored) - len(channels) :] == channels and len(x.dims) > 2 and bool(x.dims[2])
    )


def _patches(e: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kernel: list[int]) -> Tensor:
    """Patches as rows (C, kh, kw), times the kernels as a matrix."""
    batch, channels, *size = x.sizes
    if any(k > 1 for k in kernel):
        split = [part for length, k in zip(size, kernel, strict=True) for part in (Size(length.count // k), Size(k))]
        x = e.reshape(x, [batch, channels, *split])
        n = len(kernel)
        x = x.permuted([0, *(2 + 2 * i for i in range(n)), 1, *(3 + 2 * i for i in range(n))])
        spatial = x.dims[1 : 1 + n]
        inside = tuple(a for dim in x.dims[1 + n :] for a in dim)
        x = e.stored_in(e.declared(x), (*(a for a in x.stored if a not in inside), *inside)) if inside else x
        rows = x.with_dims((x.dims[0], *spatial, inside))
    else:
        rows = x.with_dims((x.dims[0], *x.dims[2:], x.dims[1]))
    y = e.linear(rows, weight, bias)
    return y.with_dims((y.dims[0], y.dims[-1], *y.dims[1:-1]))


@writes("conv_transpose2d")
def conv_transpose(s: Any, x: Tensor, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
                   output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:  # fmt: skip
    """A transposed convolution: each pixel becomes a patch; overlapping patches add up where it is depthwise."""
    e = s.emit
    weight = e.lift(weight)
    kernel = [k.count for k in weight.sizes[2:]]
    stride, padding, extra = _several(stride, 2), _several(padding, 2), _several(output_padding, 2)
    if _several(dilation, 2) != [1, 1]:
        raise UnfitError("a dilated transposed convolution")
    value, taken = e.picture(x), e.picture(weight)
    out = [
        (n.count - 1) * st - 2 * p + k + o
        for n, st, p, k, o in zip(x.sizes[2:], stride, padding, kernel, extra, strict=True)
    ]
    inputs = [value, taken] if bias is None else [value, taken, e.vector(e.lift(bias))]
    y = e.graph.node(
        "ConvTranspose",
        inputs,
        [(value.shape[0], taken.shape[1] * groups, *out)],
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        output_padding=extra,
        group=groups,
    )[0]
    return e.new_picture(y)
