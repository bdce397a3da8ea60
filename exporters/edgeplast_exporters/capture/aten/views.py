"""Views, copies and what does nothing at inference: they change how a tensor is seen, and write no node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import BATCH, Axis, Dim, Size, Tensor, UnfitError


@writes("view", "reshape", "_unsafe_view", "flatten", "unflatten", "reshape_as", "view_as", "squeeze", "unsqueeze")
def reshape(s: Any, x: Tensor, *_: Any) -> Tensor:
    """Other dimensions of the same elements; the program says which."""
    return s.emit.reshape(x, s.sizes)


@writes("permute")
def permute(s: Any, x: Tensor, order: Sequence[int]) -> Tensor:
    """Dimensions in another order."""
    del s
    return x.permuted([d % len(x.dims) for d in order])


@writes("transpose", "swapaxes", "swapdims")
def transpose(s: Any, x: Tensor, a: int, b: int) -> Tensor:
    """Two dimensions change places."""
    del s
    order = list(range(len(x.dims)))
    order[a], order[b] = order[b], order[a]
    return x.permuted(order)


@writes("t", "numpy_T", "mT", "matrix_H")
def turned(s: Any, x: Tensor) -> Tensor:
    """The last two dimensions change places."""
    return transpose(s, x, -1, -2) if len(x.dims) > 1 else x


@writes("movedim", "moveaxis")
def movedim(s: Any, x: Tensor, source: Any, target: Any) -> Tensor:
    """Dimensions move."""
    del s
    order = torch.movedim(torch.empty([1] * len(x.dims)), source, target)
    del order
    sources = [source] if isinstance(source, int) else list(source)
    targets = [target] if isinstance(target, int) else list(target)
    n = len(x.dims)
    places = dict(zip((t % n for t in targets), (d % n for d in sources), strict=True))
    rest = iter(d for d in range(n) if d not in places.values())
    return x.permuted([places[i] if i in places else next(rest) for i in range(n)])


@writes("contiguous", "clone", "alias", "detach", "detach_", "lift_fresh_copy", "to", "_to_copy", "type_as", "float",
        "dropout", "feature_dropout", "alpha_dropout", "native_dropout", "positive", "view_as_real_copy",
        "ensure_contiguous")  # fmt: skip
def same(s: Any, x: Tensor, *how: Any, **more: Any) -> Tensor:
    """The tensor itself: a copy, a change to the type it has, dropout of a model that does not train."""
    value = s.node.meta["val"]
    if value.dtype.is_floating_point is False:
        raise UnfitError(f"a conversion to {value.dtype} of what depends on the images")
    if "dropout" in str(s.node.target) and how[1:2] == (True,) and how[0] > 0:
        raise UnfitError("dropout is on; call model.eval() first")
    del more
    return x


@writes("expand", "broadcast_to", "expand_as")
def expand(s: Any, x: Any, *_: Any, **__: Any) -> Tensor:
    """Repeat dimensions of size one."""
    return expanded(s, s.emit.lift(x), s.sizes)


@writes("fill", "zero", "full_like", "zeros_like", "ones_like")
def fill(s: Any, _: Any, number: Any = None, *__: Any, **___: Any) -> Tensor:
    """A number everywhere."""
    name = str(s.node.target)
    return expanded(s, s.emit.lift(number if number is not None else float("ones" in name)), s.sizes)


@writes("copy")
def copy(s: Any, _: Any, source: Any, *more: Any) -> Tensor:
    """What a tensor becomes that another one is copied onto."""
    del more
    return expanded(s, s.emit.lift(source), s.sizes)


def expanded(s: Any, x: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Return a tensor seen in larger sizes, without writing the repetition."""
    del s
    dims = [()] * (len(sizes) - len(x.dims)) + list(x.dims)
    new: list[Dim] = []
    for dim, size in zip(dims, sizes, strict=True):
        if dim or size == Size(1):
            new.append(dim)
        else:
            new.append((*((BATCH,) if size.batched else ()), *((Axis(size.count),) if size.count > 1 else ())))
    return x.with_dims(new)


@writes("repeat", "tile")
def repeat(s: Any, x: Any, repeats: Sequence[Any]) -> Tensor:
    """The whole again and again."""
    x = s.emit.lift(x)
    repeats = list(repeats)
    repeats = [1] * (len(x.dims) - len(repeats)) + repeats
    x = x.with_dims([()] * (len(repeats) - len(x.dims)) + list(x.dims))
    dims = []
    for dim, often in zip(x.dims, repeats, strict=True):
        size = often if isinstance(often, Size) else Size(int(often))
        again: Dim = (*((BATCH,) if size.batched else ()), *((Axis(size.count),) if size.count > 1 else ()))
        if BATCH in again and BATCH in dim:
            raise UnfitError("images are repeated")
        dims.append((*again, *dim))
    return x.with_dims(dims)


@writes("repeat_interleave")
def repeat_interleave(s: Any, x: Any, repeats: int, dim: int | None = None, output_size: Any = None) -> Tensor:
    """Each element so many times."""
    del output_size
    x = s.emit.lift(x)
    if dim is None or not isinstance(repeats, int):
        raise UnfitError("only a number of repetitions along one dimension has a form")
    dim %= len(x.dims)
    return x.with_dims([(*d, Axis(repeats)) if i == dim and repeats > 1 else d for i, d in enumerate(x.dims)])


@writes("pixel_shuffle")
def pixel_shuffle(s: Any, x: Tensor, factor: int) -> Tensor:
    """Channels become finer pixels."""
    batch, channels, height, width = x.sizes
    e = s.emit
    x = e.reshape(x, [batch, Size(channels.count // factor**2), Size(factor), Size(factor), height, width])
    x = x.permuted([0, 1, 4, 2, 5, 3])
    return e.reshape(x, s.sizes)


@writes("pixel_unshuffle")
def pixel_unshuffle(s: Any, x: Tensor, factor: int) -> Tensor:
    """Pixels become more channels."""
    batch, channels, height, width = x.sizes
    e = s.emit
    h, w = height.count // factor, width.count // factor
    x = e.reshape(x, [batch, channels, Size(h), Size(factor), Size(w), Size(factor)])
    return e.reshape(x.permuted([0, 1, 3, 5, 2, 4]), s.sizes)


@writes("channel_shuffle")
def channel_shuffle(s: Any, x: Tensor, groups: int) -> Tensor:
    """Channels of groups take turns."""
    batch, channels, *rest = x.sizes
    e = s.emit
    x = e.reshape(x, [batch, Size(groups), Size(channels.count // groups), Size(math.prod(r.count for r in rest))])
    return e.reshape(x.permuted([0, 2, 1, 3]), s.sizes)
