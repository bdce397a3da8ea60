"""The Prefix: the part of a model before everything that trains, which is a graph of its own in a bundle.

It computes the same for the same picture in every epoch, before and after: what it hands on, the latents of a picture,
can be kept in place of it.
"""

from __future__ import annotations

import math

import msgspec

from edgeplast.documents import AtLeastOne
from edgeplast.footprint import Footprint

PREFIX_GRAPH = "prefix.onnx"


class Prefix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What running the prefix takes, and what it hands on.

    Attributes:
        footprint: of its graph.
        shape: of the latents of one image, float32; graphs see them joined along the first dimension.
        flops: of one image.
    """

    footprint: Footprint
    shape: tuple[AtLeastOne, ...]
    flops: float

    @property
    def elements(self) -> int:
        """How many numbers the latents of one image are."""
        return math.prod(self.shape)

    @property
    def latent_bytes(self) -> int:
        """Of one image, as graphs exchange them."""
        return 4 * self.elements
