"""What a choice of components costs: the Estimate, and the footprints of the graphs that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgeplast.footprint import Footprint
from edgeplast.prefixes import Prefix
from edgeplast.recomputation import Recompute


class Estimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What training one set of components costs.

    Attributes:
        micro_batch_size: images that pass through the graph at once.
        recompute: how much of the blocks is computed again in the backward pass.
        base_bytes: of the process, its graphs opened and nothing trained.
        frozen_bytes: frozen weights as stored.
        state_bytes: trainable parameters, gradients and optimizer state, float32.
        images_bytes: one micro-batch of pictures.
        latents_bytes: of what a prefix hands on of them; 0 where the model is not cut in two.
        transient_bytes: the region in which a run of the training graph places what is alive at once.
        flops_per_image: operations of one image, forward and backward.
        step_seconds: time of one optimizer step.
        cached_step_seconds: of one whose pictures come from the cache of latents, as in every epoch after those whose
            views are new; as long where the model is not cut in two.
        disk_bytes: size of the bundle.
        peak_bytes: of the process. Evaluation at the same micro-batch is counted too, its graph open in turns with the
            one that trains; a device whose budget has room for both keeps both open.
    """

    micro_batch_size: int
    recompute: Recompute
    base_bytes: int
    frozen_bytes: int
    state_bytes: int
    images_bytes: int
    latents_bytes: int
    transient_bytes: int
    flops_per_image: float
    step_seconds: float
    cached_step_seconds: float
    disk_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Footprints:
    """Of the graphs that one choice of what trains asks for.

    Attributes:
        training: goes on from latents where there is a prefix.
        evaluation: likewise.
        prefix: see :class:`edgeplast.prefixes.Prefix`; None where there is none.
        flops: of one training picture, the prefix included.
    """

    training: Footprint
    evaluation: Footprint
    prefix: Prefix | None
    flops: float

    @property
    def graphs(self) -> list[Footprint]:
        """Of all that are open at once."""
        return [self.training, self.evaluation, *([self.prefix.footprint] if self.prefix else [])]
