"""Windows: where a kernel or a pool lies on its input. Shapes of convolutions and pools follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeplast.graphs.operators.record import Call, ShapeError


@dataclass(frozen=True)
class Windows:
    """How windows of one size are laid over an input, one entry a dimension of the picture.

    Attributes:
        kernel: size.
        strides: from one to the next.
        before: padding in front.
        after: padding behind.
        dilations: from one element of a window to the next.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, call: Call, kernel: Sequence[int]) -> Windows:
        """Read the attributes of a convolution or a pool."""
        rank = len(kernel)
        pads = tuple(call.attributes.get("pads") or (0,) * 2 * rank)
        if call.attributes.get("auto_pad", "NOTSET") != "NOTSET" or call.attributes.get("ceil_mode"):
            raise ShapeError("padding is given in numbers here (no auto_pad, no ceil_mode)")
        found = cls(
            tuple(kernel),
            tuple(call.attributes.get("strides") or (1,) * rank),
            pads[:rank],
            pads[rank:],
            tuple(call.attributes.get("dilations") or (1,) * rank),
        )
        lengths = {len(part) for part in (found.strides, found.before, found.after, found.dilations)}
        if lengths != {rank} or min(pads, default=0) < 0:
            raise ShapeError(f"strides, pads and dilations do not fit a kernel of {rank} dimensions")
        return found

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements of the input a window spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def area(self) -> int:
        """Elements of one window."""
        return math.prod(self.kernel)

    @property
    def pointwise(self) -> bool:
        """Whether each window is one element, next to the other, nothing padded."""
        return self.area == 1 and set(self.strides) == {1} and not any((*self.before, *self.after))

    def placed_on(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return how many windows there are along each dimension of a picture."""
        if len(size) != len(self.kernel):
            raise ShapeError(f"a kernel of {len(self.kernel)} dimensions on a picture of {len(size)}")
        count = [
            (n + b + a - r) // s + 1
            for n, b, a, r, s in zip(size, self.before, self.after, self.reach, self.strides, strict=True)
        ]
        if min(count) < 1:
            raise ShapeError(f"the kernel {self.kernel} is larger than the picture {tuple(size)}")
        return tuple(count)

    def spread_from(self, count: Sequence[int], more: Sequence[int]) -> tuple[int, ...]:
        """Return the picture on which so many windows lie, ``more`` elements behind the last included."""
        return tuple(
            (n - 1) * s - b - a + r + m
            for n, b, a, r, s, m in zip(count, self.before, self.after, self.reach, self.strides, more, strict=True)
        )
