"""Where a run stands: one value that the loop moves, a checkpoint holds and a report is made of.

Everything that a run has done and decided lies here; the arrays that it changes lie beside it. What can be had again
by starting anew, such as sessions, the wall of a budget or the list of pictures, is no part of it.
"""

from __future__ import annotations

import msgspec

from edgeplast.adaptation import EpochReport, LinearProbe, RungChange, Scored
from edgeplast.documents import AtLeastOne, Count
from edgeplast.evaluation import Evaluation, Judgement
from edgeplast.recomputation import Recompute
from edgeplast.unknown import Unknown
from edgeplast_devices.curves import Curve
from edgeplast_devices.options import WITHOUT_TRAINING, TrainingOptions
from edgeplast_devices.rungs import key_of

_MOST_FAILED_STEPS = 5
"""Steps in a row with a loss or gradient that is not finite before the run counts as diverged."""

_LAST_STEPS = 4096
"""Whose seconds are kept, for their median."""


class Best(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The weights to keep: those of the epoch with the lowest validation loss (of the last one without any).

    Attributes:
        epoch: from 1; 0 before the first has ended.
        loss: of its validation, None before the first.
        file: where its weights lie, None where they are in force.
    """

    epoch: Count = 0
    loss: float | None = None
    file: str | None = None

    def is_worse_than(self, loss: float) -> bool:
        """Say whether an epoch of this validation loss takes its place."""
        return self.loss is None or loss < self.loss


class Lost(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Pictures of a split that could not be read.

    Attributes:
        names: of all of them.
        examples: the first few, with the reason.
    """

    names: list[str] = []
    examples: list[tuple[str, str]] = []


class RunState(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a run stands, beside the arrays that it changes.

    Attributes:
        bundle: SHA-256 of the manifest of the bundle that is adapted.
        images: fingerprint of each split.
        options: in force, with everything filled in that ``None`` leaves open.
        allowed_bytes: the memory the run could hold; None for no limit.
        began: the rung of the first step (``Rung.key``).
        picture_bytes: the most that decoding one picture may take, by which photos are read at a smaller scale; None
            for no limit.
        tier: name of the tier in force.
        recompute: how much of the blocks its graph computes again.
        micro_batch: images that pass through the graph at once.
        epoch: the epoch to go on in, from 0; equal to ``options.epochs`` when only the last evaluation is missing.
        position: batches of that epoch that are done.
        steps: optimizer steps done.
        updates: how often the optimizer has changed each parameter that trains.
        failed_steps: steps in a row without a finite loss and gradient.
        failed_in_all: steps that changed nothing.
        unseen: pictures in a row that could not be read, whole steps of them.
        losses: of each step.
        gradient_norms: as the losses.
        epoch_loss: sum and number of the finite losses of the epoch in progress.
        history: of each epoch done, of very long runs of some.
        best: the weights to keep.
        head_started: whether the head is where the run starts from: kept, zero, or fitted.
        judged_before: the weights as they came, where there are no labels.
        judged: the weights to keep, likewise.
        moved: how far they lie from the weights as they came, as a share of the norm of those; likewise.
        placed: classes that are new in this run and of which pictures were seen, and how many they were placed by.
        before: the evaluation before the first step.
        probe: what a head alone reaches on the features as they came.
        after: the evaluation after the last.
        also_before: other sets, likewise, by name.
        also_after: with the weights that were kept.
        temperature: of the weights that were kept; None without a validation split.
        unknown: when they do not know what a picture shows; likewise.
        rung_changes: so far.
        sets: sets of components that the run may train, by tier, and the way to take a step on each (``Rung.key``).
        body_rate: what the learning rate of all but the head is multiplied with, where it follows what trains.
        scored: scores so far, and what they favoured.
        lost: pictures that could not be read, by split.
        seconds: that the run has taken so far.
        load_seconds: of them, in opening the bundle; of the last process.
        train_seconds: of them, in training.
        step_seconds: of the last steps.
        peak_bytes: the largest resident set of the processes so far.
        resumed_at: steps at which the run was resumed.
        stopped_because: as in the report.
        replaces: whether the finished folder may take the place of what has its name (``--force``).
    """

    bundle: str
    images: dict[str, str]
    options: TrainingOptions
    allowed_bytes: Count | None
    tier: str
    recompute: Recompute
    micro_batch: AtLeastOne
    began: str = ""
    picture_bytes: Count | None = None
    epoch: Count = 0
    position: Count = 0
    steps: Count = 0
    updates: dict[str, Count] = {}
    failed_steps: Count = 0
    failed_in_all: Count = 0
    unseen: Count = 0
    losses: Curve = msgspec.field(default_factory=Curve)
    gradient_norms: Curve = msgspec.field(default_factory=Curve)
    epoch_loss: tuple[float, Count] = (0.0, 0)
    history: list[EpochReport] = []
    best: Best = msgspec.field(default_factory=Best)
    head_started: bool = False
    judged_before: Judgement | None = None
    judged: Judgement | None = None
    moved: float = 0.0
    placed: dict[str, Count] = {}
    before: Evaluation | None = None
    probe: LinearProbe | None = None
    after: Evaluation | None = None
    also_before: dict[str, Evaluation] = {}
    also_after: dict[str, Evaluation] = {}
    temperature: float | None = None
    unknown: Unknown | None = None
    rung_changes: list[RungChange] = []
    sets: dict[str, str] = {}
    body_rate: float | None = None
    scored: list[Scored] = []
    lost: dict[str, Lost] = {}
    seconds: float = 0.0
    load_seconds: float = 0.0
    train_seconds: float = 0.0
    step_seconds: list[float] = []
    peak_bytes: Count = 0
    resumed_at: list[Count] = []
    stopped_because: str = "finished"
    replaces: bool = False

    @property
    def rung(self) -> str:
        """The rung in force (``Rung.key``)."""
        return key_of(self.tier, self.micro_batch, self.recompute)

    @property
    def has_learned(self) -> bool:
        """Whether anything would be lost if it ended now."""
        begun = self.options.head == "fitted" or self.options.method in WITHOUT_TRAINING or bool(self.placed)
        return self.steps > 0 or (self.head_started and begun)

    @property
    def has_diverged(self) -> bool:
        """Whether too many steps in a row had a loss or gradient that is not finite."""
        return self.failed_steps >= _MOST_FAILED_STEPS

    @property
    def last_step_seconds(self) -> float:
        """What the last optimizer step took; 0 before the first."""
        return self.step_seconds[-1] if self.step_seconds else 0.0

    def took(self, seconds: float) -> None:
        """Take note of what an optimizer step took."""
        self.train_seconds += seconds
        self.step_seconds.append(round(seconds, 6))
        if len(self.step_seconds) > 2 * _LAST_STEPS:
            del self.step_seconds[:-_LAST_STEPS]
