"""The Adaptation: what one run on a device did and cost, written as ``report.json`` beside the adapted bundle."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from edgeplast.documents import Document
from edgeplast.evaluation import Evaluation, Judgement, wilson_interval, with_interval
from edgeplast.placement import ON_CPU, DeviceMemoryReport, Placement
from edgeplast.recomputation import Recompute
from edgeplast.showing import Plot, plotted, table
from edgeplast.units import format_bytes, format_seconds
from edgeplast.unknown import Unknown


class BeforeAfter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure before the first step and after the last, None where there was nothing to measure it on."""

    before: float | None
    after: float | None


class Judged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A :class:`edgeplast.evaluation.Judgement` before the first step and of the weights that were kept.

    Attributes:
        before: of the weights as they came.
        after: of those that were kept.
        moved: how far these lie from those, in L2 over all that trains, as a share of the norm of those that were to
            train.
    """

    before: Judgement
    after: Judgement
    moved: float = 0.0


class LinearProbe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a head alone reaches, a logistic regression on the features of the training pictures as they came.

    Attributes:
        accuracy: on the images that before and after are measured on; None where it could not be had.
        seconds: that it took.
        why_none: why it could not be had.
    """

    accuracy: float | None = None
    seconds: float = 0.0
    why_none: str = ""


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Peak resident set of the device process in bytes.

    Attributes:
        budget_bytes: allowed, by the user or by the control group; None for no limit.
        predicted_peak_bytes: for the way the run began.
        measured_peak_bytes: the highest of all its processes, if it was resumed.
        enforced_by: ``kernel`` (a wall, Linux), ``watcher``, or ``nothing`` where there is no limit.
    """

    budget_bytes: int | None
    predicted_peak_bytes: int
    measured_peak_bytes: int
    enforced_by: str = "nothing"


class CacheReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was kept on disk, while the run lasted, of what comes before everything that trains.

    Attributes:
        bits: of one number.
        views: of each training picture; 0 where only the pictures that are measured on were kept.
        most_bytes: on disk, once every picture was seen in every view.
    """

    bits: int
    views: int
    most_bytes: int

    def __str__(self) -> str:
        views = {0: "", 1: "each picture, "}.get(self.views, f"{self.views} views of each picture, ")
        return f"{views}{self.bits} bits, at most {format_bytes(self.most_bytes)} on disk"


class SecondsReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wall time of the run: all of it, opening the bundle, training, and the median of the last 4,096 steps."""

    total: float
    load: float
    train: float
    step_median: float


class EpochReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pass over the training images; validation figures are None where there is no validation split.

    Epoch 0 is a fitted head before the first step. ``also`` has the accuracy on other sets by name, where a limit on
    what they lose asked for it.
    """

    epoch: int
    training_loss: float
    validation_accuracy: float | None
    validation_loss: float | None
    also: dict[str, float] = {}


class OtherSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another set of pictures, measured before the first step and with the weights that were kept.

    Attributes:
        images: how many could be read.
        accuracy: fraction named right.
        per_class: the same, of each class that it shows.
    """

    images: int
    accuracy: BeforeAfter
    per_class: dict[str, BeforeAfter]

    @property
    def lost_points(self) -> float:
        """Points of accuracy that were lost; below 0 where some were gained."""
        return 100 * ((self.accuracy.before or 0.0) - (self.accuracy.after or 0.0))

    @property
    def worst(self) -> tuple[str, float] | None:
        """The class that lost most, and its points; None where none lost any."""
        lost = {name: 100 * ((f.before or 0.0) - (f.after or 0.0)) for name, f in self.per_class.items()}
        most = max(lost, key=lost.__getitem__, default=None)
        return None if most is None or lost[most] <= 0 else (most, lost[most])


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pictures that were kept of what was learned, for later runs.

    Attributes:
        mixed_in: pictures that the bundle kept before, which this run learned from too.
        kept: of each class, in the folder ``replay`` of the adapted bundle.
        bytes: that they take.
        held_back: pictures that the bundle kept before, which joined the validation pictures: by them too the best
            epoch was chosen.
    """

    mixed_in: int
    kept: dict[str, int]
    bytes: int
    held_back: int = 0


class RungChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step down the ladder, or up again: at which optimizer step, from what to what, and why."""

    step: int
    before: str
    after: str
    reason: str


class Scored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scores that a run measured before an epoch, and the set of components that trained from then on.

    Attributes:
        epoch: before which, from 1.
        step: optimizer steps done by then.
        kinds: kind of component to the median of its scores, the most plastic first; empty where none were measured.
        errors: standard errors of single components, the median of each kind.
        pairs: of pictures that were measured on.
        tier: that trained from then on.
        seconds: that it took.
        why_none: why nothing was measured.
    """

    epoch: int
    step: int
    tier: str
    kinds: dict[str, float] = {}
    errors: dict[str, float] = {}
    pairs: int = 0
    seconds: float = 0.0
    why_none: str = ""


class Adaptation(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The report of one adaptation.

    Attributes:
        model: name of the model.
        runtime: which onnxruntime build ran, with its version.
        provider: what computed: the execution provider asked for, the one used, and why if they differ.
        tier: the tier in force at the end.
        trained: components that trained in that tier; the head where it was fitted and no step was taken.
        recompute: how much of the blocks was computed again in the backward pass, at the end.
        memory: see :class:`MemoryReport`.
        batch_size: images an optimizer step was computed from.
        micro_batch_size: images that passed through the graph at once, at the end.
        epochs: passes over the training images that were finished.
        steps: optimizer steps.
        seconds: see :class:`SecondsReport`.
        measured_on: the split that accuracy and calibration were measured on: ``test``, else ``val``, else ``train``;
            empty where none has labels.
        accuracy: fraction named right, by the bundle as it came and by the adapted model.
        linear_probe: what a head alone would have reached, to compare with; None without labels, or where it was not
            asked for.
        evaluation: what was measured with the weights that were kept: confusion, each class, reliability, and what was
            most wrong; None where there was nothing to measure on.
        expected_calibration_error: 15 bins, as before and after, at the temperature of each.
        judged: predictions on held-out images without labels, by the bundle as it came and by the adapted model; None
            where labels were given.
        new_classes: classes that were seen for the first time, and how many pictures their rows were placed by.
        replay: pictures that were kept for later runs, and mixed in; None where there were none.
        also: other sets by name: what was known before, and what of it is left.
        images: images used per split; of another set as ``also NAME``.
        unreadable: images that could not be read and were left out.
        unreadable_examples: the first few of them, with the reason.
        options: the training options that were in force.
        history: figures per epoch; of more than 4,096 the earlier ones in part.
        best_epoch: the epoch whose weights were kept; 0 for a fitted head before the first step.
        losses: mean training loss of each optimizer step, of runs of more than 16,383 steps of ``steps_per_loss``
            steps; one that is not finite, and that of a step without a readable picture, is the largest float32.
        gradient_norms: global norm of each step's gradient before clipping, as the losses.
        steps_per_loss: optimizer steps that one entry of ``losses`` and ``gradient_norms`` stands for.
        failed_steps: that changed nothing: loss or gradient was not finite, or no picture could be read.
        rung_changes: steps down the ladder, and up again; and to an alternative that the scores favour.
        scored: what the run's own scores were over time, where it was asked for (``rescore``).
        resumed_at: optimizer steps at which the run was resumed after an interruption.
        unknown: when the model says that it does not know; None without a validation split of some pictures.
        device_memory: of a provider with memory of its own; None on the CPU.
        image_seconds: of forward and backward on this machine, by rung in words, as tried now or by an earlier run;
            empty where nothing is known.
        cache: what was kept of the model's prefix; None where nothing was.
        temperature: fitted on the validation split; None without one.
        calibration_error_without_temperature: what the error after would be; None where none was fitted.
        stopped_because: ``finished``, ``early stopping`` or ``diverged``; ``collapsed``, where predictions without
            labels came to show clearly fewer classes than before, or ``disagreed``, where views of one picture came to
            be called differently more often; ``nothing to mend``, where predictions without labels were spread over the
            classes as they came, or ``nothing to go by``, where most pictures were called the same: nothing was
            changed; or ``forgot``, where another set lost more than it may. The best weights before that were kept.
            ``placed``, where pictures of new classes alone were given:
            these were placed, and nothing trained.
        run_file: TOML that repeats the run: ``edgeplast adapt --config``, in the folder in which it was typed.
    """

    KIND: ClassVar[str] = "adaptation report"

    model: str
    runtime: str
    tier: str
    trained: tuple[str, ...]
    recompute: Recompute
    memory: MemoryReport
    batch_size: int
    micro_batch_size: int
    epochs: int
    steps: int
    seconds: SecondsReport
    measured_on: str
    accuracy: BeforeAfter
    expected_calibration_error: BeforeAfter
    images: dict[str, int]
    unreadable: int
    unreadable_examples: tuple[tuple[str, str], ...]
    options: dict[str, str | int | float | bool | tuple[str, ...] | None]
    history: tuple[EpochReport, ...]
    best_epoch: int
    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    steps_per_loss: int = 1
    failed_steps: int = 0
    rung_changes: tuple[RungChange, ...] = ()
    scored: tuple[Scored, ...] = ()
    resumed_at: tuple[int, ...] = ()
    stopped_because: str = "finished"
    run_file: str = ""
    judged: Judged | None = None
    also: dict[str, OtherSet] = {}
    new_classes: dict[str, int] = {}
    replay: ReplayReport | None = None
    provider: Placement = ON_CPU
    device_memory: DeviceMemoryReport | None = None
    image_seconds: dict[str, float] = {}
    cache: CacheReport | None = None
    linear_probe: LinearProbe | None = None
    evaluation: Evaluation | None = None
    temperature: float | None = None
    unknown: Unknown | None = None
    calibration_error_without_temperature: float | None = None

    def interval(self, accuracy: float | None) -> tuple[float, float] | None:
        """Return the 95 % interval of an accuracy on what this run was measured on, for other images of this kind."""
        images = self.images.get(self.measured_on, 0) if self.evaluation is None else self.evaluation.images
        return None if accuracy is None else wilson_interval(accuracy * images, images)

    def with_interval(self, accuracy: float | None) -> str:
        """Write such an accuracy with its interval."""
        return "–" if accuracy is None else with_interval(accuracy, self.interval(accuracy))

    @property
    def probe_in_words(self) -> str:
        """What a head alone reached, with its interval, or why nobody knows; empty where nobody asked."""
        found = self.linear_probe
        if found is None:
            return ""
        if found.accuracy is None:
            return f"none: {found.why_none}"
        return f"{self.with_interval(found.accuracy)}: the head alone, fitted"

    def plot(self) -> Plot:
        """Return loss and accuracy over the run as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plotted("adaptation", self)

    def _repr_html_(self) -> str:
        """Show what it did and cost in a notebook."""
        shown = " → ".join(map(self.with_interval, (self.accuracy.before, self.accuracy.after)))
        peak = f"{format_bytes(self.memory.measured_peak_bytes)}, predicted "
        rows = [
            (f"accuracy ({self.measured_on}), 95 % interval", shown),
            *([("linear probe", self.probe_in_words)] if self.linear_probe else []),
            ("peak memory", peak + format_bytes(self.memory.predicted_peak_bytes)),
            ("trained", f"tier {self.tier}: {', '.join(self.trained)}"),
            ("time", f"{format_seconds(self.seconds.total)}, {self.steps} steps in {self.epochs} epochs"),
        ]
        return table((), rows, f"{self.runtime}, {self.stopped_because}", self.model)
