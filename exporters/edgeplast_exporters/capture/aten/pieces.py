"""Cutting, joining, shifting, looking up."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import Axis, Size, Tensor, UnfitError


@writes("unbind")
def unbind(s: Any, x: Tensor, dim: int = 0) -> list[Tensor]:
    """Every slice of one dimension."""
    dim %= len(x.dims)
    parts = s.emit.pieces(x, dim, [1] * x.sizes[dim].count)
    return [p.with_dims(d for i, d in enumerate(p.dims) if i != dim) for p in parts]


@writes("chunk")
def chunk(s: Any, x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """Parts of equal size, the last one smaller if need be."""
    return split(s, x, -(-x.sizes[dim].count // chunks), dim)


@writes("split")
def split(s: Any, x: Tensor, size: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """Parts of one size."""
    if not isinstance(size, int):
        return split_with_sizes(s, x, size, dim)
    length = x.sizes[dim].count
    return s.emit.pieces(x, dim, [min(size, length - at) for at in range(0, length, size)])


@writes("split_with_sizes")
def split_with_sizes(s: Any, x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Parts of given sizes."""
    return s.emit.pieces(x, dim, list(sizes))


@writes("tensor_split")
def tensor_split(s: Any, x: Tensor, parts: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """Parts of nearly equal size, or cut at given places."""
    length = x.sizes[dim].count
    if isinstance(parts, int):
        sizes = [length // parts + (i < length % parts) for i in range(parts)]
    else:
        sizes = np.diff([0, *parts, length]).tolist()
    return s.emit.pieces(x, dim, sizes)


@writes("select")
def select(s: Any, x: Tensor, dim: int, index: int) -> Tensor:
    """One slice of a dimension, which is dropped; where all are taken one by one, they are cut together."""
    dim %= len(x.dims)
    together = _taken_together(s, x, dim)
    if together is not None:
        part = together[index % x.sizes[dim].count]
        return part.with_dims(d for i, d in enumerate(part.dims) if i != dim)
    return s.emit.select(x, dim, index)


def _taken_together(s: Any, x: Tensor, dim: int) -> list[Tensor] | None:
    """Return the pieces of a tensor whose only readers take each slice of one dimension."""
    source = s.node.args[0]
    count = x.sizes[dim].count
    wanted = set()
    for reader in source.users:
        if reader.target is not torch.ops.aten.select.int or reader.args[1] % len(x.dims) != dim:
            return None
        wanted.add(reader.args[2] % count)
    if len(wanted) != count or count == 1:
        return None
    kept: dict[Any, list[Tensor]] = s.__dict__.setdefault("pieces", {})
    if source not in kept:
        kept[source] = s.emit.pieces(x, dim, [1] * count)
    return kept[source]


@writes("slice")
def slice_(s: Any, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """``x[start:end:step]``; an empty one is an empty torch tensor, which only a concatenation can read."""
    size = x.sizes[dim]
    if s.sizes[dim] == size:
        return x
    if size.batched:
        raise UnfitError("a cut through the batch")
    count = size.count
    start, end = (
        at if bound is None else min(max(bound + count if bound < 0 else bound, 0), count)
        for bound, at in ((start, 0), (end, count))
    )
    if start >= end:  # such as the tokens before the patches of a model that has none; joined, it adds nothing
        return torch.empty(0)
    return s.emit.slice(x, dim, start, end, step)


@writes("narrow")
def narrow(s: Any, x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """``x[start:start+length]``."""
    return s.emit.slice(x, dim, start, start + length)


@writes("cat", "concat", "concatenate")
def cat(s: Any, parts: Sequence[Any], dim: int = 0) -> Tensor:
    """Join along a dimension."""
    parts = [p for p in parts if not (isinstance(p, torch.Tensor) and p.numel() == 0)]
    return s.emit.concat(parts, dim)


@writes("stack")
def stack(s: Any, parts: Sequence[Any], dim: int = 0) -> Tensor:
    """Join along a new dimension."""
    lifted = [s.emit.lift(p) for p in parts]
    dim %= len(lifted[0].dims) + 1
    return s.emit.concat([t.with_dims([*t.dims[:dim], (), *t.dims[dim:]]) for t in lifted], dim)


@writes("roll")
def roll(s: Any, x: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    """Shift along dimensions; what leaves at one end comes in at the other."""
    shifts = [shifts] if isinstance(shifts, int) else shifts
    for shift, dim in zip(shifts, [dims] if isinstance(dims, int) else dims, strict=True):
        size = x.sizes[dim].count
        if shift % size:
            before, after = s.emit.pieces(x, dim, [size - shift % size, shift % size])
            x = s.emit.concat([after, before], dim)
    return x


@writes("flip")
def flip(s: Any, x: Tensor, dims: Sequence[int]) -> Tensor:
    """Dimensions backwards."""
    for dim in dims:
        size = x.sizes[dim].count
        x = s.emit.concat(s.emit.pieces(x, dim, [1] * size)[::-1], dim)
    return x


@writes("pad", "constant_pad_nd")
def pad(s: Any, x: Tensor, pads: Sequence[int], mode: Any = "constant", number: Any = None) -> Tensor:
    """A number around the last dimensions; other modes join mirrored or repeated slices."""
    if not isinstance(mode, str):
        mode, number = "constant", mode
    for i in range(len(pads) // 2):
        dim, before, after = len(x.dims) - 1 - i, pads[2 * i], pads[2 * i + 1]
        if mode == "constant" or max(before, after) <= 0:
            x = s.emit.pad(x, dim, before, after, float(number or 0))
            continue
        size = x.sizes[dim].count
        if mode == "circular":
            order = [*range(size - before, size), *range(size), *range(after)]
        else:
            lead = [0] * before if mode == "replicate" else list(range(before, 0, -1))
            tail = [size - 1] * after if mode == "replicate" else list(range(size - 2, size - 2 - after, -1))
            order = [*lead, *range(size), *tail]
        x = _in_order(s, x, dim, order)
    return x


def _in_order(s: Any, x: Tensor, dim: int, order: Sequence[int]) -> Tensor:
    """Return slices of a dimension in a given order, consecutive ones together."""
    runs: list[list[int]] = []
    for index in order:
        if runs and index == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([index, index + 1])
    if len(runs) > 64:
        raise UnfitError(f"a lookup of {len(runs)} separate places")
    return (
        s.emit.concat([s.emit.slice(x, dim, a, b) for a, b in runs], dim)
        if len(runs) > 1
        else s.emit.slice(x, dim, *runs[0])
    )


@writes("index_select")
def index_select(s: Any, x: Tensor, dim: int, index: Any) -> Tensor:
    """Slices of a dimension by constant numbers."""
    return _looked_up(s, x, dim, index)


@writes("embedding")
def embedding(s: Any, table: Tensor, index: Any, *_: Any) -> Tensor:
    """Rows of a table by constant numbers."""
    return index_(s, table, [index])


@writes("index")
def index_(s: Any, x: Tensor, indices: Sequence[Any]) -> Tensor:
    """Constant numbers along one dimension, or along neighbouring ones."""
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if not all(isinstance(i, torch.Tensor) for _, i in given):
        raise UnfitError("a lookup by what depends on the images has no form")
    first = given[0][0]
    tensors = torch.broadcast_tensors(*(_numbers(i) for _, i in given))
    if [d for d, _ in given] != list(range(first, first + len(tensors))):
        raise UnfitError("a lookup along dimensions that are not neighbours has no form")
    sizes = x.sizes
    flat = torch.zeros_like(tensors[0])
    for (dim, _), index in zip(given, tensors, strict=True):
        if sizes[dim].batched:
            raise UnfitError("a lookup along the batch")
        flat = flat * sizes[dim].count + index % sizes[dim].count
    if len(tensors) > 1:
        total = 1
        for dim, _ in given:
            total *= sizes[dim].count
        x = s.emit.reshape(x, [*sizes[:first], Size(total), *sizes[first + len(tensors) :]])
    found = _looked_up(s, x, first, flat.reshape(-1))
    return s.emit.reshape(found, s.sizes)


def _numbers(index: torch.Tensor) -> torch.Tensor:
    return index.nonzero().squeeze(1) if index.dtype is torch.bool and index.ndim == 1 else index.long()


def _looked_up(s: Any, x: Tensor, dim: int, index: torch.Tensor) -> Tensor:
    dim %= len(x.dims)
    e = s.emit
    numbers = [int(i) for i in index.tolist()]
    if x.batched and len(numbers) <= 64:
        return _in_order(s, x, dim, numbers)
    if x.batched:
        chosen = torch.nn.functional.one_hot(index.long(), x.sizes[dim].count).float()
        order = [*(d for d in range(len(x.dims)) if d != dim), dim]
        product = e.linear(x.permuted(order), e.lift(chosen), None)
        return product.permuted([order.index(i) for i in range(len(order))])
    x = e.stored_in(e.declared(x), (*x.dims[dim], *(a for i, d in enumerate(x.dims) if i != dim for a in d)))
    rest = tuple(a for i, d in enumerate(x.dims) if i != dim for a in d)
    table = e.shaped(x, [x.dims[dim], rest])
    places = e.stored_constant(np.asarray(numbers, np.int64))
    value = e.graph.node("Gather", [table, places], [(len(numbers), table.shape[1])], batched=False, axis=0)[0]
    new = Axis(len(numbers))
    return e.seen_as(value, (new, *rest), [(new,) if i == dim else d for i, d in enumerate(x.dims)])


@writes("getitem")
def getitem(s: Any, parts: Any, index: int) -> Any:
    """One of several results."""
    del s
    return operator.getitem(parts, index)


@writes("unfold")
def unfold(s: Any, x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Windows of a dimension, along a new last one."""
    dim %= len(x.dims)
    length = x.sizes[dim].count
    count = (length - size) // step + 1
    e = s.emit
    if size == step:
        x = e.slice(x, dim, 0, count * step)
        x = e.reshape(x, [*x.sizes[:dim], Size(count), Size(size), *x.sizes[dim + 1 :]])
        return x.permuted([*(d for d in range(len(x.dims)) if d != dim + 1), dim + 1])
    parts = [e.slice(x, dim, k, k + (count - 1) * step + 1, step) for k in range(size)]
    return stack(s, parts, len(x.dims))


@writes("im2col")
def im2col(s: Any, x: Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    """Patches of a picture as columns: (B, C·kh·kw, patches)."""
    e = s.emit
    (kh, kw), (dh, dw), (ph, pw), (sh, sw) = kernel, dilation, padding, stride
    batch, channels, height, width = x.sizes
    x = e.pad(e.pad(x, 2, ph, ph, 0.0), 3, pw, pw, 0.0)
    rows = (height.count + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    columns = (width.count + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    shifted = []
    for i in range(kh):
        strip = e.slice(x, 2, i * dh, i * dh + (rows - 1) * sh + 1, sh)
        for j in range(kw):
            piece = e.slice(strip, 3, j * dw, j * dw + (columns - 1) * sw + 1, sw)
            shifted.append(e.reshape(piece, [batch, channels, Size(rows * columns)]))
    return e.reshape(stack(s, shifted, 2), [batch, Size(channels.count * kh * kw), Size(rows * columns)])


@writes("col2im")
def col2im(s: Any, x: Tensor, output: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    """Sum overlapping patches back into a picture."""
    e = s.emit
    (height, width), (kh, kw), (dh, dw), (ph, pw), (sh, sw) = output, kernel, dilation, padding, stride
    rows = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    columns = (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    batch, deep, _ = x.sizes
    x = e.reshape(x, [batch, Size(deep.count // (kh * kw)), Size(kh * kw), Size(rows), Size(columns)])
    total: Tensor | None = None
    for number, piece in enumerate(unbind(s, x, 2)):
        i, j = divmod(number, kw)
        for dim, size, count, step, at in (
            (2, height + 2 * ph, rows, sh, i * dh),
            (3, width + 2 * pw, columns, sw, j * dw),
        ):
            piece = _spread(e, piece, dim, count, step)
            piece = e.pad(piece, dim, at, size - at - ((count - 1) * step + 1), 0.0)
        total = piece if total is None else e.add(total, piece)
    assert total is not None
    return e.pad(e.pad(total, 2, -ph, -ph, 0.0), 3, -pw, -pw, 0.0)


def _spread(e: Any, x: Tensor, dim: int, count: int, step: int) -> Tensor:
    """Put ``step − 1`` zeros between neighbours."""
    if step == 1:
        return x
    x = e.reshape(x, [*x.sizes[: dim + 1], Size(1), *x.sizes[dim + 1 :]])
    x = e.pad(x, dim + 1, 0, step - 1, 0.0)
    x = e.reshape(x, [*x.sizes[:dim], Size(count * step), *x.sizes[dim + 2 :]])
    return e.slice(x, dim, 0, (count - 1) * step + 1)
