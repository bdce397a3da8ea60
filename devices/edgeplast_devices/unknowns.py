"""When a model says that it does not know: the energy of its logits, and the threshold fitted on held-out pictures.

Of seven measures on RSSCN7 with each class left out in turn (ViT-Tiny, a linear head; area under the curve that tells
the class left out from the others), energy and the largest logit came first with 0.68, then entropy and the largest
probability with 0.67 and 0.66, Mahalanobis' and Euclid's distance to the class means with 0.65 and 0.61, and the cosine
with 0.57. Energy needs no pass of its own, nothing stored but a number, and works for every head and deployed file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeplast.bundle import Manifest
from edgeplast.progress import Progress
from edgeplast.unknown import Unknown
from edgeplast_devices.energy import energies
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.images import ImageSet, Unreadable, batches
from edgeplast_devices.latents import Source
from edgeplast_devices.sessions import Evaluates
from edgeplast_devices.temperatures import fit_temperature, order_to_fit_on

LEAST_PICTURES = 5
"""Held-out pictures; from fewer no threshold can be told."""


@dataclass(frozen=True)
class Fitted:
    """What was fitted on held-out pictures.

    Attributes:
        temperature: that logits are divided by; None where none could be told.
        unknown: when the model does not know; None where that cannot be told.
        images: how many could be read, so were fitted on.
        is_finite: whether all their logits are finite numbers.
    """

    temperature: float | None
    unknown: Unknown | None
    images: int
    is_finite: bool

    @property
    def doubt(self) -> str:
        """What a user should know where these tell nothing, or little; empty where they were enough."""
        if self.unknown is not None:
            return self.unknown.doubt
        if not self.is_finite:
            return (
                f"The model's outputs for the {self.images} pictures to calibrate it on are not all finite numbers, so "
                "neither how sure it is nor when it does not know could be fitted. Take one from a run that did not "
                "diverge."
            )
        many = "1 picture that can be read is" if self.images == 1 else f"{self.images} pictures that can be read are"
        return f"{many} too few to tell when the model does not know; it takes {LEAST_PICTURES}. Hold out more."


def fit_unknown(logits: np.ndarray, false_alarms: float) -> Unknown | None:
    """Return the threshold below which at most this share of pictures lies that show known classes.

    Args:
        logits: of pictures that were not learned from, float32 (n, classes).
        false_alarms: the share, 0 to below 1.

    Returns:
        None where a logit is not finite, or there are too few pictures.
    """
    if len(logits) < LEAST_PICTURES or not np.isfinite(logits).all():
        return None
    found = np.sort(energies(logits))
    below = int(false_alarms * len(found))
    energy = float(found[below])
    alarms = float((found < energy).mean())
    return Unknown(energy=energy, false_alarms=alarms, images=len(found), allowed=false_alarms)


def calibrated(
    manifest: Manifest,
    session: Evaluates,
    images: ImageSet,
    false_alarms: float,
    *,
    micro_batch: int,
    unreadable: Unreadable,
    progress: Progress,
    source: Source = batches,
) -> Fitted:
    """Fit the temperature of a bundle's current weights, and when they do not know, on pictures not trained on.

    Of very many images some are used, evenly spread.

    Args:
        manifest: of the bundle.
        session: over its evaluation graph.
        images: of the validation split.
        false_alarms: see :func:`fit_unknown`.
        micro_batch: images that pass through the graph at once.
        unreadable: takes note of images that cannot be read.
        progress: told of each micro-batch.
        source: turns pictures into what the session takes.
    """
    order, how = order_to_fit_on(len(images), len(manifest.classes)), manifest.preprocessing
    said = "fitting the temperature"
    over = images, how, micro_batch, unreadable, progress, said
    found = [*outputs(session.logits, *over, order=order, source=source)]
    if not found:
        return Fitted(None, None, 0, is_finite=True)
    parts, labels, _ = zip(*found, strict=True)
    logits = np.concatenate(parts)
    temperature, unknown = fit_temperature(logits, np.concatenate(labels)), fit_unknown(logits, false_alarms)
    return Fitted(temperature, unknown, len(logits), is_finite=bool(np.isfinite(logits).all()))
