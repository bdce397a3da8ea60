"""Means, sums and extremes over dimensions; pooling; resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import BATCH, Axis, Tensor, UnfitError


def _over(x: Tensor, dim: Any) -> list[int]:
    return [dim] if isinstance(dim, int) else list(range(len(x.dims)) if dim is None or dim == [] else dim)


@writes("mean")
def mean(s: Any, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Mean over dimensions."""
    del dtype
    return s.emit.reduce("ReduceMean", x, _over(x, dim), keepdim)


@writes("sum")
def sum_(s: Any, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Sum over dimensions."""
    del dtype
    return s.emit.reduce("ReduceSum", x, _over(x, dim), keepdim)


@writes("amax", "max")
def amax(s: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Largest over dimensions; places of the largest have no form."""
    found = s.emit.reduce("ReduceMax", x, _over(x, dim), keepdim)
    return found if isinstance(s.node.meta["val"], torch.Tensor) else (found, None)


@writes("amin", "min")
def amin(s: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Smallest over dimensions, as the largest of the negative."""
    e = s.emit
    found = e.mul(e.reduce("ReduceMax", e.mul(x, -1.0), _over(x, dim), keepdim), -1.0)
    return found if isinstance(s.node.meta["val"], torch.Tensor) else (found, None)


@writes("var", "var_mean", "std", "std_mean")
def variance(s: Any, x: Tensor, dim: Any = None, *, correction: float | None = None, unbiased: bool = True,
             keepdim: bool = False) -> Any:  # fmt: skip
    """Variance, deviation, and the mean with them."""
    e, over = s.emit, _over(x, dim)
    count = int(np.prod([x.sizes[d].count for d in over]))
    correction = float(unbiased) if correction is None else correction
    average = e.reduce("ReduceMean", x, over, keep=True)
    centred = e.binary("Sub", x, average)
    found = e.mul(e.reduce("ReduceMean", e.mul(centred, centred), over, keepdim), count / (count - correction))
    name = str(s.node.target)
    found = e.unary("Sqrt", found) if "std" in name else found
    if "_mean" not in name:
        return found
    if not keepdim:
        gone = {d % len(x.dims) for d in over}
        average = average.with_dims(d for i, d in enumerate(average.dims) if i not in gone)
    return found, average


@writes("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool(s: Any, x: Tensor, size: Sequence[int]) -> Tensor:
    """Means of areas that tile the picture."""
    areas = [(n.count, wanted) for n, wanted in zip(x.sizes[-2:], size, strict=True)]
    if all(wanted == 1 for _, wanted in areas):
        return s.emit.reduce("ReduceMean", x, [-2, -1], True)
    if all(n == wanted for n, wanted in areas):
        return x
    if all(n % wanted == 0 for n, wanted in areas):
        kernel = [n // wanted for n, wanted in areas]
        return _pool(s, "AveragePool", x, kernel, kernel, [0, 0], ceil=False, count_include_pad=1)
    for dim, (n, wanted) in zip((-2, -1), areas, strict=True):
        weights = np.zeros((wanted, n), np.float32)
        for i in range(wanted):
            start, end = i * n // wanted, -(-(i + 1) * n // wanted)
            weights[i, start:end] = 1 / (end - start)
        x = along(s, x, dim, weights)
    return x


@writes("adaptive_max_pool2d")
def adaptive_max_pool(s: Any, x: Tensor, size: Sequence[int]) -> tuple[Tensor, None]:
    """Largest of areas that tile the picture."""
    areas = [(n.count, wanted) for n, wanted in zip(x.sizes[-2:], size, strict=True)]
    if all(wanted == 1 for _, wanted in areas):
        return s.emit.reduce("ReduceMax", x, [-2, -1], True), None
    if any(n % wanted for n, wanted in areas):
        raise UnfitError(f"areas of unequal size ({areas})")
    kernel = [n // wanted for n, wanted in areas]
    return _pool(s, "MaxPool", x, kernel, kernel, [0, 0], ceil=False), None


@writes("avg_pool2d")
def avg_pool(s: Any, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
             count_include_pad: bool = True, divisor: Any = None) -> Tensor:  # fmt: skip
    """Means of windows."""
    if divisor is not None:
        raise UnfitError("a divisor of one's own")
    kernel, padding = _pair(kernel), _pair(padding)
    stride = _pair(stride) if stride else kernel
    return _pool(s, "AveragePool", x, kernel, stride, padding, ceil, count_include_pad=int(count_include_pad))


@writes("max_pool2d", "max_pool2d_with_indices")
def max_pool(s: Any, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
             ceil: bool = False) -> Any:  # fmt: skip
    """Largest of windows."""
    kernel, padding = _pair(kernel), _pair(padding)
    dilation = _pair(dilation)
    stride = _pair(stride) if stride else kernel
    more = {} if dilation == [1, 1] else {"dilations": dilation}
    found = _pool(s, "MaxPool", x, kernel, stride, padding, ceil, **more)
    return found if isinstance(s.node.meta["val"], torch.Tensor) else (found, None)


@writes("avg_pool1d", "max_pool1d", "adaptive_avg_pool1d")
def pool_1d(s: Any, x: Tensor, kernel: Any, *more: Any) -> Tensor:
    """Pooling along one dimension, as pictures of height 1."""
    name = str(s.node.target)
    x = x.with_dims([*x.dims[:-1], (), x.dims[-1]])
    if "adaptive" in name:
        y = adaptive_avg_pool(s, x, [1, *kernel])
    else:
        stride = list(more[0]) if more and more[0] else list(kernel)
        padding = (
            list(more[1]) if len(more) > 1 and isinstance(more[1], list | tuple) else [more[1] if len(more) > 1 else 0]
        )
        op = "AveragePool" if "avg" in name else "MaxPool"
        extra = {"count_include_pad": 1} if "avg" in name else {}
        y = _pool(s, op, x, [1, *kernel], [1, *stride], [0, *padding], False, **extra)
    return y.with_dims([*y.dims[:-2], y.dims[-1]])


def _pair(x: Any) -> list[int]:
    return [x, x] if isinstance(x, int) else [*x, *x] if len(x) == 1 else list(x)


def _pool(s: Any, op: str, x: Tensor, kernel: Any, stride: Any, padding: Any, ceil: bool, **more: Any) -> Tensor:
    e = s.emit
    three = len(x.dims) == 3  # (channels, height, width) of one array
    if three:
        raise UnfitError("a picture without a batch dimension")
    if list(kernel) == [1, 1] and list(stride) == [1, 1]:
        return x
    spans = [d * (k - 1) + 1 for d, k in zip(more.get("dilations", [1, 1]), kernel, strict=True)]
    heights = [(n.count, k, st, p) for n, k, st, p in zip(x.sizes[-2:], spans, stride, padding, strict=True)]
    out, late = [], []
    for n, k, st, p in heights:
        if ceil:
            size = -(-(n + 2 * p - k) // st) + 1
            size -= (size - 1) * st >= n + p
        else:
            size = (n + 2 * p - k) // st + 1
        out.append(size)
        late.append(max((size - 1) * st + k - n - p, 0) if ceil else p)
    if op == "AveragePool" and ceil and late != list(padding):
        if more.get("count_include_pad") and any(padding):
            raise UnfitError("rounded up, padded means have no form")
        more["count_include_pad"] = 0  # windows that stand over the edge divide by what they hold
    value = e.picture(x)
    if more.get("count_include_pad") and not any(padding):
        more["count_include_pad"] = 0
    y = e.graph.node(
        op,
        [value],
        [(*value.shape[:2], *out)],
        kernel_shape=list(kernel),
        strides=list(stride),
        pads=[*padding, *late],
        **more,
    )[0]
    return e.new_picture(y)


@writes("sort")
def sort(s: Any, x: Tensor, dim: Any = -1, descending: bool = False, **_: Any) -> Any:
    """Elements of a dimension in order; by ``TopK``, which has no gradient, so that what lies before stays frozen."""
    return topk(s, x, x.sizes[dim].count, dim, descending)


@writes("topk")
def topk(s: Any, x: Tensor, count: int, dim: int = -1, largest: bool = True, in_order: bool = True) -> Any:
    """The largest or smallest elements of a dimension; as above."""
    del in_order
    e, dim = s.emit, dim % len(x.dims)
    x, _, groups = e.ending_in(x, [x.dims[dim]])
    if x.dims[dim] and BATCH in x.dims[dim]:
        raise UnfitError("an order of images")
    head = [(BATCH,), tuple(a for a in groups[0] if a is not BATCH)] if x.batched else [groups[0]]
    value, _ = e.graph.node("TopK", [e.shaped(x, [*head, groups[1]]), e.graph.constant([count])], largest=int(largest))
    found = Axis(count)
    stored = (*(a for a in x.stored if a not in groups[1]), found)
    return e.seen_as(value, stored, [(found,) if i == dim else d for i, d in enumerate(x.dims)]), None


def along(s: Any, x: Tensor, dim: int, weights: np.ndarray) -> Tensor:
    """Return sums along one dimension weighted by a constant matrix (out, in): a resampling."""
    e = s.emit
    dim %= len(x.dims)
    order = [*(d for d in range(len(x.dims)) if d != dim), dim]
    y = e.linear(x.permuted(order), e.lift(weights), None)
    return y.permuted([order.index(i) for i in range(len(order))])


@writes("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "upsample_nearest1d", "upsample_linear1d")  # fmt: skip
def upsample(s: Any, x: Tensor, *how: Any, **more: Any) -> Tensor:
    """Resample pictures: each direction is a sum with constant weights, which torch itself tells.

    Whole multiples of nearest neighbours are repetitions.
    """
    del more
    name, sizes = str(s.node.target), s.sizes
    spatial = list(range(2, len(x.dims)))
    exact = "nearest" in name
    if exact and all(sizes[d].count % x.sizes[d].count == 0 for d in spatial):
        for d in spatial:
            often = sizes[d].count // x.sizes[d].count
            if often > 1:
                x = x.with_dims([(*a, Axis(often)) if i == d else a for i, a in enumerate(x.dims)])
        return x
    for d in spatial:
        n, wanted = x.sizes[d].count, sizes[d].count
        if n == wanted:
            continue
        # The other direction has two rows: with one, torch's antialiased kernels take the first direction's weights for
        # all of its places from the first one's (2.13).
        probe = torch.eye(n).reshape(n, 1, *(n if d == k else 1 for k in spatial))
        probe = probe.repeat(1, 1, *(1 if d == k else 2 for k in spatial))
        arguments = list(how)
        arguments[0] = [wanted if d == k else 2 for k in spatial]
        if name.endswith(".vec"):
            arguments[-1] = None
        else:  # explicit scales follow the sizes
            arguments = [a if not isinstance(a, float) else None for a in arguments]
        resampled = s.node.target(probe, *arguments)
        for k in reversed(spatial):
            if k != d:
                resampled = resampled.select(k, 0)
        weights = resampled.reshape(n, wanted).T.contiguous().numpy()
        x = along(s, x, d, weights)
    return x


@writes("cumsum")
def cumsum(s: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Running sums along one dimension."""
    del dtype
    n = x.sizes[dim].count
    return along(s, x, dim, np.tril(np.ones((n, n), np.float32)))
