"""The Evaluation: how well a model does on a set of labelled images."""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

from edgeplast.documents import Document
from edgeplast.placement import ON_CPU, Placement
from edgeplast.showing import Plot, plotted, table


class ClassAccuracy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well one class is told.

    Attributes:
        images: of it.
        accuracy: fraction of them named right, its recall; None without images.
        precision: fraction of what was called so that is; None where nothing was.
    """

    images: int
    accuracy: float | None
    precision: float | None = None


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Images whose confidence lies in one of 15 equal parts of 0 to 1.

    Attributes:
        images: how many.
        confidence: their mean probability of what they were called.
        accuracy: fraction named right.
    """

    images: int
    confidence: float
    accuracy: float


class WrongImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image that was called something else with much confidence.

    Attributes:
        image: its name.
        label: what it shows.
        predicted: what it was called.
        confidence: the probability of that.
    """

    image: str
    label: str
    predicted: str
    confidence: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean cross-entropy and calibration error, as in :class:`Evaluation`."""

    loss: float
    expected_calibration_error: float


class Evaluation(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures over one set of images.

    Attributes:
        images: how many were evaluated.
        accuracy: fraction whose highest logit is the label's.
        accuracy_interval: 95 % interval of it, for other images of this kind (Wilson 1927); None without images.
        loss: mean cross-entropy in nats.
        expected_calibration_error: mean gap between confidence and accuracy over 15 bins
            (Guo et al., arXiv 1706.04599), 0 is best.
        temperature: that logits were divided by; None for none.
        without_temperature: loss and calibration error of the logits as they are; None where they are those above.
        per_class: by class name.
        confusion: how many images of the class of a row were called the class of a column; empty of more than 100
            classes. An image whose logits are not finite was called none.
        reliability: bins of confidence that hold images, by rising confidence.
        most_wrong: of the images named wrong those with the highest confidence, at most ten.
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
    accuracy_interval: tuple[float, float] | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    most_wrong: tuple[WrongImage, ...] = ()

    def plot(self) -> Plot:
        """Return confusion matrix and reliability diagram as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plotted("evaluation", self)

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        rows = [
            (name, str(found.images), *("–" if v is None else f"{v:.1%}" for v in (found.accuracy, found.precision)))
            for name, found in self.per_class.items()
        ]
        rows.append(("all", str(self.images), with_interval(self.accuracy, self.accuracy_interval), ""))
        note = f"loss {self.loss:.4f}, expected calibration error {self.expected_calibration_error:.3f}"
        return table(("class", "images", "accuracy", "precision"), rows, note)


def wilson_interval(right: float, images: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a fraction of images; None without images.

    Wilson, Probable inference, JASA 22 (1927): its coverage holds for few images and near 0 and 1 too.

    Args:
        right: how many were named right.
        images: of how many.
    """
    if not images:
        return None
    z, share = 1.959964, right / images
    middle, wide = (share + z * z / (2 * images)), z * math.sqrt(share * (1 - share) / images + (z / images) ** 2 / 4)
    return max(0.0, (middle - wide) / (1 + z * z / images)), min(1.0, (middle + wide) / (1 + z * z / images))


def with_interval(accuracy: float, interval: tuple[float, float] | None) -> str:
    """Write an accuracy for people: ``79.5% (71.1 to 85.9)``."""
    return f"{accuracy:.1%}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


LEAST_VARIETY = 0.7
"""Share of the variety before the first step below which a model counts as collapsed."""


MOST_DISAGREEMENT = 0.05
"""By which agreement may fall from what it was before the first step, or by two standard errors where that is more."""


NOTHING_TO_GO_BY = 0.8
"""Share of the pictures that are called the same from which on nothing is learned of them without labels.

ViT-Tiny called X-rays under a change of contrast all the same; what was left of its logits pointed the wrong way (seen
from their mean, 13 and 23 % were called right, of two classes). Of aerial photos of very little contrast it called 0.85
the same, and lost five points; of those that it gained on 0.73 at most (eight corruptions of severity 5).
"""


NOTHING_TO_MEND = 0.96
"""Share of the known classes over which predictions are spread from which on nothing is learned without labels.

Of clean aerial photos and seven corruptions of them (severity 3), those on which ViT-Tiny had lost a third of its
accuracy lay at 0.70 to 0.85, brightness, which it gained on, at 0.95, and what learning did not help at 0.97 and more.
"""


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What predictions on pictures without labels look like.

    Attributes:
        objective: mean entropy of a prediction less the entropy of the mean prediction, nats; lower is better.
        variety: how many classes the predictions are spread over, exp of the entropy of the mean prediction: 1 where
            all pictures are called the same, the number of classes where each is predicted as often.
        images: how many pictures were judged.
        agreement: share of varied views of them (cropped, mirrored) that are called what the picture itself is called,
            which stands for the accuracy that nobody can measure; None where none were looked at.
        commonest: share of the pictures that are called what most of them are called; None in older reports.
    """

    objective: float
    variety: float
    images: int
    agreement: float | None = None
    commonest: float | None = None

    def disagrees_since(self, before: Judgement) -> bool:
        """Whether predictions of one picture's views contradict one another more than they did."""
        if self.agreement is None or before.agreement is None:
            return False
        share = (before.agreement * before.images + 1) / (before.images + 2)  # never all or none
        error = math.sqrt(share * (1 - share) / before.images)
        return self.agreement < before.agreement - max(MOST_DISAGREEMENT, 2 * error)

    def leaves_nothing_to_mend(self, classes: int) -> bool:
        """Whether predictions are spread over the classes already, as where pictures look as they did.

        Args:
            classes: that the model has learned.
        """
        return self.variety >= NOTHING_TO_MEND * classes

    @property
    def leaves_nothing_to_go_by(self) -> bool:
        """Whether so many pictures are called the same that predictions say little of them."""
        return self.commonest is not None and self.commonest > NOTHING_TO_GO_BY

    def has_collapsed_since(self, before: Judgement) -> bool:
        """Whether predictions show clearly fewer classes than they did."""
        return self.variety < LEAST_VARIETY * before.variety
