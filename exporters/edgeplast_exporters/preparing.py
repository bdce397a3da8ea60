"""What the graphs of a bundle are made of, before one is written: parts grouped, norms folded, weights as stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.halves import Halves, halves
from edgeplast.plans import Plan
from edgeplast.progress import Progress, silent
from edgeplast_exporters.capture import Captured
from edgeplast_exporters.folding import with_folded_norms
from edgeplast_exporters.refining import regrouped, with_factors
from edgeplast_exporters.storing import FrozenCompute, FrozenStorage, store_frozen
from edgeplast_exporters.training import promote


@dataclass(frozen=True)
class Prepared:
    """A captured model as a plan wants it.

    Attributes:
        forward: from images to logits, frozen norms part of the convolutions before them, no low-rank factors.
        trainable: names of the parameters that a device will change.
        owner: parameter name to its component.
        promoted: the forward graph with low-rank factors, everything that may train an input.
        frozen: how what does not train is stored.
        cut: the same graph in two, where enough of it comes before everything that trains.
    """

    forward: Graph
    trainable: list[str]
    owner: dict[str, str]
    promoted: Graph
    frozen: FrozenStorage
    cut: Halves | None

    @property
    def varying(self) -> Graph:
        """What comes behind the prefix: all of it where there is none."""
        return self.cut.rest if self.cut else self.promoted


def prepared(
    captured: Captured,
    plan: Plan,
    learning: Collection[str],
    *,
    frozen_compute: FrozenCompute = "fp32",
    images: Sequence[np.ndarray] = (),
    progress: Progress = silent,
) -> Prepared:
    """Return a captured model as a plan wants it.

    Args:
        captured: the model; not changed.
        plan: groups its parameters, and gives the bits of each component.
        learning: the components that a device may change.
        frozen_compute: see :func:`.storing.store_frozen`, and so the others.
        images: likewise.
        progress: likewise.

    Raises:
        InputError: a norm's statistics are such that float32 cannot hold the folded kernel; or integers change too
            much, or of too few images.
        UsageError: integers without images, or with nothing to compute in them.
    """
    captured = regrouped(captured, plan.outline)
    trainable = [name for name, owner in captured.owner.items() if owner in learning]
    folded = with_folded_norms(captured, [name for name in trainable if name in captured.parameters])
    whole = with_factors(folded)
    promoted = promote(whole.graph, trainable)
    frozen = store_frozen(whole, promoted, plan, frozen_compute=frozen_compute, images=images, progress=progress)
    return Prepared(folded.graph, trainable, whole.owner, promoted, frozen, halves(promoted))
