"""The Deployment: what a quantized model file is, and what quantizing cost in accuracy."""

from __future__ import annotations

from typing import ClassVar

from edgeplast.adaptation import BeforeAfter
from edgeplast.documents import Document

ACCEPTED_DROP = 0.01
"""How much accuracy quantizing may cost before a warning is given: one point."""


class Deployment(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One written model file.

    Attributes:
        output: where it lies, as it was given.
        bytes: its size.
        weight_bits: of matrices: 8.
        calibrated_on: pictures that activation ranges were measured on.
        measured_on: the split that accuracy was measured on.
        images: how many pictures that were.
        kept_float: linear layers that stay float32 for the outliers in their input.
        accuracy: of the float32 model and of this one, on the same pictures.
    """

    KIND: ClassVar[str] = "deployment"

    output: str
    bytes: int
    weight_bits: int
    calibrated_on: int
    measured_on: str
    images: int
    kept_float: tuple[str, ...] = ()
    accuracy: BeforeAfter

    @property
    def warning(self) -> str | None:
        """What to know and do when more than a point of accuracy was lost; None otherwise."""
        before, after = self.accuracy.before, self.accuracy.after
        if before is None or after is None or round(before - after, 9) <= ACCEPTED_DROP:
            return None
        return (
            f"Quantizing cost {100 * (before - after):.1f} points of accuracy ({before:.1%} → {after:.1%} on "
            f"{self.images} pictures). Calibrate on more pictures (--calibration-images {4 * self.calibrated_on}), or "
            "deploy in float32: edgeplast deploy … without --weight-bits."
        )
