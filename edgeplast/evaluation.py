"""The Evaluation: how well a model does on a set of labelled images."""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

from edgeplast.documents import Document
from edgeplast.placement import ON_CPU, Placement


class ClassAccuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Images of one class and the fraction of them named right (None without images)."""

    images: int
    accuracy: float | None


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean cross-entropy and calibration error, as in :class:`Evaluation`."""

    loss: float
    expected_calibration_error: float


class Evaluation(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures over one set of images.

    Attributes:
        images: how many were evaluated.
        accuracy: fraction whose highest logit is the label's.
        loss: mean cross-entropy in nats.
        expected_calibration_error: mean gap between confidence and accuracy over 15 bins
            (Guo et al., arXiv 1706.04599), 0 is best.
        temperature: that logits were divided by; None for none.
        without_temperature: loss and calibration error of the logits as they are; None where they are those above.
        per_class: by class name.
        unreadable: images that could not be read and were left out.
        runtime: which onnxruntime build ran, with its version.
        provider: what computed: the execution provider asked for, the one used, and why if they differ.
    """

    KIND: ClassVar[str] = "evaluation"

    images: int
    accuracy: float
    loss: float
    expected_calibration_error: float
    per_class: dict[str, ClassAccuracy]
    unreadable: int = 0
    runtime: str = ""
    provider: Placement = ON_CPU
    temperature: float | None = None
    without_temperature: Calibration | None = None


LEAST_VARIETY = 0.7
"""Share of the variety before the first step below which a model counts as collapsed."""


MOST_DISAGREEMENT = 0.05
"""By which agreement may fall from what it was before the first step, or by two standard errors where that is more."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What predictions on pictures without labels look like.

    Attributes:
        objective: mean entropy of a prediction less the entropy of the mean prediction, nats; lower is better.
        variety: how many classes the predictions are spread over, exp of the entropy of the mean prediction: 1 where
            all pictures are called the same, the number of classes where each is predicted as often.
        images: how many pictures were judged.
        agreement: share of varied views of them (cropped, mirrored) that are called what the picture itself is called,
            which stands for the accuracy that nobody can measure; None where none were looked at.
    """

    objective: float
    variety: float
    images: int
    agreement: float | None = None

    def disagrees_since(self, before: Judgement) -> bool:
        """Whether predictions of one picture's views contradict one another more than they did."""
        if self.agreement is None or before.agreement is None:
            return False
        share = (before.agreement * before.images + 1) / (before.images + 2)  # never all or none
        error = math.sqrt(share * (1 - share) / before.images)
        return self.agreement < before.agreement - max(MOST_DISAGREEMENT, 2 * error)

    def has_collapsed_since(self, before: Judgement) -> bool:
        """Whether predictions show clearly fewer classes than they did."""
        return self.variety < LEAST_VARIETY * before.variety
