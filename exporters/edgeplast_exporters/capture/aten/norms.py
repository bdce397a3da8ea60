"""Normalisations. Statistics of a BatchNorm never change on a device: it is a scale and a shift there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import BATCH, Size, Tensor, UnfitError, standard_order


@writes("layer_norm")
def layer_norm(
    s: Any,
    x: Tensor,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Normalise the last dimensions, as rows."""
    del cudnn_enable
    e = s.emit
    tail = tuple(a for dim in x.dims[len(x.dims) - len(shape) :] for a in dim)
    x, _, groups = e.ending_in(x, [tail])
    rows = e.shaped(x, groups)
    width = rows.shape[-1]
    gamma = e.lift(np.ones(width, np.float32) if weight is None else weight)
    beta = None if bias is None else e.vector(e.lift(bias))
    y = e.graph.layer_norm(rows, e.vector(gamma), beta, eps)[0]
    return e.seen_as(y, x.stored, x.dims)


@writes("rms_norm")
def rms_norm(s: Any, x: Tensor, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    """``x/√(mean x² + ε)·γ`` over the last dimension."""
    e = s.emit
    over = list(range(len(x.dims) - len(shape), len(x.dims)))
    x, _, groups = e.ending_in(x, [tuple(a for d in over for a in x.dims[d])])
    x = replace(x, value=e.shaped(x, groups))
    epsilon = torch.finfo(torch.float32).eps if eps is None else float(eps)
    square = e.reduce("ReduceMean", e.mul(x, x), over, keep=True)
    normal = e.binary("Div", x, e.unary("Sqrt", e.add(square, epsilon)))
    return normal if weight is None else e.mul(normal, weight)


@writes("batch_norm")
def batch_norm(
    s: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    """``(x − μ)/√(σ² + ε)·γ + β`` with fixed μ and σ²; statistics of the data at hand only where no image is in it."""
    del momentum, cudnn_enabled
    e = s.emit
    channels = x.sizes[1].count
    if training or mean is None:
        return _standardised(s, x, weight, bias, eps)
    gamma, beta = (
        e.lift(np.full(channels, number, np.float32)) if p is None else e.lift(p)
        for p, number in ((weight, 1.0), (bias, 0.0))
    )
    x, value, dims = _channels_second(e, x)
    vectors = [e.vector(t) for t in (gamma, beta, e.lift(mean), e.lift(variance))]
    y = e.graph.node("BatchNormalization", [value, *vectors], [value.shape], epsilon=eps)[0]
    return e.seen_as(y, x.stored, dims)


def _channels_second(e: Any, x: Tensor) -> tuple[Tensor, Any, Sequence[Any]]:
    """Return a tensor as (rows, C) where channels are stored last, else as (B, C, rest)."""
    x = e.declared(x)
    channels = x.dims[1]
    if x.stored[len(x.stored) - len(channels) :] == channels and len(x.stored) > len(channels) + 1:
        before = x.stored[: len(x.stored) - len(channels)]
        return x, e.shaped(x, [before, channels]), x.dims
    found = e.partition(x)
    if found and len(found) > 1 and found[1] == channels and BATCH in found[0] and x.stored[:1] == found[0]:
        return x, x.value, x.dims
    rest = tuple(a for i, d in enumerate(x.dims) if i != 1 for a in d if a is not BATCH)
    order = standard_order((*x.dims[0], *channels, *(a for a in rest if a not in x.dims[0])))
    x = e.stored_in(x, order)
    tail = order[len(x.dims[0]) + len(channels) :]
    return x, e.shaped(x, [x.dims[0], channels, *([tail] if tail else [])]), x.dims


def _standardised(s: Any, x: Tensor, weight: Any, bias: Any, eps: float) -> Tensor:
    """Statistics over everything but dimension 1: of weights, or within an image."""
    if x.batched and BATCH not in x.dims[1]:
        raise UnfitError("statistics over the batch: images of a micro-batch would depend on each other")
    e = s.emit
    over = [d for d in range(len(x.dims)) if d != 1 and x.dims[d]]
    y = standardise(e, x, over, eps)
    shape = [1] * len(x.dims)
    shape[1] = -1
    for parameter, op in ((weight, "Mul"), (bias, "Add")):
        if parameter is not None:
            t = e.lift(parameter)
            y = e.binary(op, y, t.with_dims([d if i == 1 else () for i, d in enumerate([(), t.dims[0], *x.dims[2:]])]))
    return y


def standardise(e: Any, x: Tensor, over: Sequence[int], eps: float) -> Tensor:
    """``(x − mean)/√(var + ε)`` over some dimensions, in plain operators."""
    centred = e.binary("Sub", x, e.reduce("ReduceMean", x, over, keep=True))
    variance = e.reduce("ReduceMean", e.mul(centred, centred), over, keep=True)
    return e.binary("Div", centred, e.unary("Sqrt", e.add(variance, eps)))


@writes("instance_norm")
def instance_norm(s: Any, x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, use_input: bool, momentum: float,
                  eps: float, cudnn_enabled: bool = True) -> Tensor:  # fmt: skip
    """Normalise each channel of each image."""
    if not use_input:
        return batch_norm(s, x, weight, bias, mean, variance, False, momentum, eps, cudnn_enabled)
    return group_norm(s, x, x.sizes[1].count, weight, bias, eps)


@writes("group_norm")
def group_norm(
    s: Any, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True
) -> Tensor:
    """Normalise groups of channels of each image, in plain operators."""
    del cudnn
    e = s.emit
    sizes = list(x.sizes)
    channels = sizes[1].count
    split = e.reshape(x, [sizes[0], Size(groups), Size(channels // groups), *sizes[2:]])
    y = standardise(e, split, list(range(2, len(split.dims))), eps)
    y = e.reshape(y, sizes)
    for parameter, op in ((weight, "Mul"), (bias, "Add")):
        if parameter is not None:
            t = e.lift(parameter)
            y = e.binary(op, y, t.with_dims((*t.dims, *([()] * (len(sizes) - 2)))))
    return y


@writes("linalg_vector_norm", "norm")
def vector_norm(
    s: Any, x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """``√Σx²`` over some dimensions, or ``Σ|x|``."""
    del dtype
    e = s.emit
    over = [dim] if isinstance(dim, int) else list(dim or range(1, len(x.dims)))
    if order == 1:
        return e.reduce("ReduceSum", e.unary("Abs", x), over, keepdim)
    if order != 2:
        raise UnfitError(f"the norm of order {order} has no form; 1 and 2 have one")
    return e.unary("Sqrt", e.reduce("ReduceSum", e.mul(x, x), over, keepdim))
