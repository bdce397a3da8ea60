"""The loop that moves a run: epochs, validation, the best weights kept, the state saved as it goes.

A run is made from an opened bundle, images, a budget and options, and takes up the state of a checkpoint where one is
given; where it stands is one value (``run_state.py``). It can stop between any two micro-batches, by a signal or for
lack of memory, and loses nothing then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeplast.adaptation import EpochReport
from edgeplast.bundle import Bundle
from edgeplast.errors import InterruptedRunError
from edgeplast.evaluation import Evaluation, WrongImage
from edgeplast.progress import Progress
from edgeplast_devices.beginning import begin, learn_from_before
from edgeplast_devices.caching import Kept
from edgeplast_devices.checkpoints import Checkpoint, Saved, write_best, write_checkpoint
from edgeplast_devices.curves import thin
from edgeplast_devices.distilling import check_knows, may_teach, row_bytes
from edgeplast_devices.ending import calibrate, landmarks_of, measure_after, restore_best, worth_keeping
from edgeplast_devices.extent import Extent
from edgeplast_devices.fitted_heads import linear_head, no_features, with_room
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import Splits, Unreadable, batch_order, epoch_order
from edgeplast_devices.interrupts import Interrupts
from edgeplast_devices.measuring import measure_others, measured, verdict_on
from edgeplast_devices.memory import peak_bytes
from edgeplast_devices.metrics import MOST, writable
from edgeplast_devices.options import Interval, TrainingOptions
from edgeplast_devices.outlook import outlook
from edgeplast_devices.probing import probe
from edgeplast_devices.reheading import REHEADS, check_can_rehead
from edgeplast_devices.replaying import ReplayMemory
from edgeplast_devices.rescoring import begin_sets, rescore
from edgeplast_devices.retention import has_forgotten
from edgeplast_devices.run_state import Best, Lost
from edgeplast_devices.rungs import tier_in
from edgeplast_devices.runtime import runtime_name
from edgeplast_devices.schedules import learning_rate
from edgeplast_devices.sessions import ONNXRUNTIME, Sessions
from edgeplast_devices.standing import Standing
from edgeplast_devices.starting import aligned, begun, default_batch, filled_in, held_bytes, taken_up
from edgeplast_devices.telemetry import TelemetryWriter
from edgeplast_devices.trying import try_rungs
from edgeplast_devices.weights import head_is_new


class Run:
    """Moves one adaptation from opened bundle to what a report is made of.

    Args:
        bundle: to adapt.
        images: training images, and validation and test images where there are any.
        guard: of what the process may hold; stands when the run is made.
        options: of the training.
        progress: told of each step.
        epoch_done: told of each epoch.
        interrupts: whether someone asked to stop.
        checkpoint: of the same run, to go on from.
        sessions: over the bundle's graphs, where nothing stands yet.
        standing: what stands from the run before, which this one goes on with.
        extent: where it ends, if not with its last epoch.
        keep: takes care of what was learned so far, in place of checkpoints; with it the run measures nothing.
        part: whether it is a part of a longer learning: then too it measures nothing, and one class is enough.
        folder: for latents of pictures; None keeps none.
        notice: told what is to come, before the first step; None for nobody.

    Attributes:
        state: where the run stands.
        to_keep: which images are kept for later runs; none before the end.
        landmarks: see ``imprinting.landmarks``; none before the end.
        most_wrong: pictures that were named wrong with the most confidence; none before the end, or in private.
        parameters: what trains, by name; float32, changed in place.
    """

    def __init__(
        self,
        bundle: Bundle,
        images: Splits,
        guard: Guard,
        options: TrainingOptions,
        progress: Progress,
        epoch_done: Callable[[EpochReport], None] | None,
        interrupts: Interrupts,
        checkpoint: Checkpoint | None = None,
        sessions: Sessions = ONNXRUNTIME,
        *,
        standing: Standing | None = None,
        extent: Extent | None = None,
        keep: Callable[[Run], None] | None = None,
        part: bool = False,
        folder: Path | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._notice = notice
        self.bundle, self.progress, self.epoch_done, self.interrupts = bundle, progress, epoch_done, interrupts
        self.checkpoint, self.extent, self._keep, self.part = checkpoint, extent or Extent(), keep, part
        self._began = time.perf_counter()
        self.guard, self.allowed_bytes = guard, guard.allowed_bytes
        self.splits = aligned(images, bundle, options, least_classes=1 if part else 2)
        held = [name for name in ("test", "val", "train") if name in self.splits and self.splits[name].classes]
        self.measured_on = held[0] if held and keep is None and not part else ""  # nowhere, without labels
        fingerprints = {name: split.fingerprint() for name, split in self.splits.items()}
        self.batch = min(options.batch or default_batch(bundle.manifest.plan, options), len(self.splits["train"]))
        self.optimizer = options.optimizer or bundle.manifest.plan.optimizer
        self.unreadable = {name: Unreadable(private=options.private) for name in self.splits}
        preprocessing = bundle.manifest.preprocessing
        self.standing = stands = standing or Standing(
            bundle,
            guard,
            options,
            batch=self.batch,
            optimizer=self.optimizer,
            held=lambda threads: held_bytes(self.splits, self.unreadable, preprocessing, guard, threads),
            pictures=options.epochs * len(self.splits["train"]),
            stood=checkpoint.state if checkpoint else None,
            sessions=sessions,
        )
        self.placement, self.device_memory, threads = stands.placement, stands.device_memory, stands.threads
        self.resident_bytes, self.shares = stands.resident_bytes, stands.shares
        self.rungs = stands.trainer.rungs if stands.trainer else stands.rungs
        began = tier_in(checkpoint.state.began) if checkpoint else ""
        tier = next((tier for tier in bundle.manifest.tiers if tier.name == began), self.rungs[0].tier)
        self.options = filled_in(options, bundle, tier, self.batch, self.optimizer, threads)
        self.kept = Kept(bundle, self.splits, self.options, folder)
        self.rows_in_memory = True  # features that a head is fitted on
        if self.options.head == "fitted":
            needed = linear_head(bundle.manifest).row_bytes(len(self.splits["train"]))
            self.shares, self.rows_in_memory = with_room(self.shares, needed)
        self.taught_in_memory = True  # what the weights as they came said of each picture
        check_knows(self.options, head_is_new=head_is_new(bundle))
        if may_teach(self):
            needed = row_bytes(len(self.splits["train"]), len(bundle.manifest.classes))
            self.shares, self.taught_in_memory = with_room(self.shares, needed)
        self.predicted = self.shares.predicted_bytes
        now = (bundle.fingerprint, fingerprints, self.options, self.allowed_bytes, self.shares.picture_bytes)
        if checkpoint is None:
            self.state = begun(*now, self.rungs[0])
            if keep is not None:  # it goes on as it was until it is calibrated again: nothing is held back here
                self.state.temperature, self.state.unknown = bundle.manifest.temperature, bundle.manifest.unknown
        else:
            self.state = taken_up(checkpoint.state, *now, self.unreadable, self.tell)
        if self.state.picture_bytes is not None:
            for split in self.splits.values():
                split.decode_limit_bytes = min(split.decode_limit_bytes, self.state.picture_bytes)
        begin_sets(self, options)
        self._seconds_before, self.saved = self.state.seconds, Saved.of(self.state)
        self.landmarks: dict[str, np.ndarray] = {}
        self.to_keep: ReplayMemory | None = None
        self.most_wrong: tuple[WrongImage, ...] = ()

    def open(self) -> None:
        """Load weights and graphs."""
        stands, train = self.standing, self.splits["train"]
        stands.open(self.bundle)
        self.parameters = stands.parameters
        self.kept.open(stands.prefix(self.bundle))
        given = (self.state, self.bundle, train, self.options, self.unreadable["train"], self.between)
        self.trainer = stands.trainer_for(*given, self.kept.training())
        self.trainer.open()
        self.evaluation = stands.evaluation(self.bundle)
        if self.options.head == "fitted" and not self.evaluation.feature_width:
            raise no_features(self.bundle.manifest)
        if (method := self.options.method) in REHEADS:  # told now, not when the pictures have been looked at
            check_can_rehead(self.bundle.manifest, method, self.evaluation.feature_width)
        self.state.load_seconds = time.perf_counter() - self._began

    def train(self, folder: Path, telemetry: TelemetryWriter) -> None:
        """Take up the checkpoint's weights, run the epochs that are left, keep the best, measure before and after."""
        state = self.state
        if self.checkpoint is not None:
            learn_from_before(self)
            self.checkpoint.read_into(self.trainer.arrays())
        try_rungs(self)
        state.began = state.began or self.trainer.rung.key
        telemetry.run(
            step=state.steps, model=self.bundle.manifest.model, runtime=runtime_name(), rung=str(self.trainer.rung),
            allowed_bytes=self.allowed_bytes, predicted_peak_bytes=self.predicted, resident_bytes=self.resident_bytes,
        )  # fmt: skip
        if state.before is None and self.measured_on:
            temperature, said = self.bundle.manifest.temperature, f"evaluating {self.measured_on}, before"
            state.before = measured(self, self.measured_on, said, temperature=temperature)
        measure_others(self, state.also_before, telemetry, "before")
        if not state.head_started:
            begin(self, folder, telemetry)
        state.probe = state.probe or probe(self, folder)
        rescore(self, telemetry)
        if self._notice is not None and state.epoch < self.options.epochs and state.stopped_because == "finished":
            changes = len(state.rung_changes)
            self.tell(str(outlook(self)))
            self._tell_changes(changes, telemetry)
        while state.epoch < self.options.epochs and state.stopped_because == "finished" and not self._is_over:
            rescore(self, telemetry)
            self._epoch(folder, telemetry)
        if state.position and state.stopped_because == "finished" and self.options.keep_within is not None:
            self.note_epoch(state.epoch + 1, folder, telemetry)  # it ended within one: looked at all the same
        restore_best(self, folder)
        calibrate(self)
        if self.measured_on:
            measure_after(self)
        measure_others(self, state.also_after, telemetry, "after")
        if self._keep is None:  # a run that nobody waits for
            self.landmarks, self.to_keep = landmarks_of(self), worth_keeping(self)
        self.look()

    def tell(self, text: str) -> None:
        """Say something that a user should know, where there is one."""
        if self._notice is not None:
            self._notice(text)

    def look(self) -> None:
        """Bring into the state what the clock, the system and the readers of pictures know."""
        state = self.state
        state.seconds = self._seconds_before + time.perf_counter() - self._began
        state.peak_bytes = max(state.peak_bytes, peak_bytes())
        state.lost = {name: Lost(names=u.names, examples=u.examples) for name, u in self.unreadable.items()}

    def save(self, folder: Path) -> None:
        """Write a checkpoint of where the run stands, unless the last one says it already.

        Nothing is written where memory ran out in the middle of an update: some weights are then a step ahead.
        """
        state = self.state
        if self.trainer.is_updating or self.saved.holds(state) or (self._keep is not None and self._goes_back):
            return
        self.look()
        if self._keep is not None:
            self._keep(self)
        else:
            write_checkpoint(folder, state, self.trainer.arrays(), best_before=self.saved.best_file)
        self.saved = Saved.of(state)

    def may_reach_more(self, asking: float) -> bool:
        """Say whether there is time for more steps than those whose pictures were asked about in so many seconds."""
        return self.extent.may_reach_more(asking, self._passed)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return which training pictures each step of an epoch learns from."""
        return batch_order(epoch_order(len(self.splits["train"]), self.options.seed, epoch), self.batch)

    def _epoch(self, folder: Path, telemetry: TelemetryWriter) -> None:
        """Go through what is left of an epoch."""
        state = self.state
        order = self.batches(state.epoch)
        planned, often = self.options.epochs * len(order), Interval.parse(self.options.checkpoint_every)
        seen = sum(map(len, order[: state.position]))
        for number in range(state.position, len(order)):
            total = self.extent.total_steps(planned, state.steps, self._passed, self.state.last_step_seconds)
            self._step(order[number], total, telemetry)
            self.trainer.require_pictures(len(order[number]))
            state.position = number + 1
            if self.trainer.is_new_here:
                changes = len(state.rung_changes)
                try_rungs(self)
                self._tell_changes(changes, telemetry)
            seen += len(order[number])
            self.progress(self._epoch_name, seen, self._epoch_images)
            if state.has_diverged:
                state.stopped_because = "diverged"
                return
            if often.is_over(state.steps - self.saved.steps, time.perf_counter() - self.saved.at_seconds):
                self.save(folder)
            if self._is_over and state.position < len(order):
                return
        self._end_epoch(folder, telemetry)

    def _step(self, indices: np.ndarray, total: int, telemetry: TelemetryWriter) -> None:
        """Take one optimizer step and write down what it saw."""
        state, options, trainer = self.state, self.options, self.trainer
        assert options.learning_rate is not None
        peak, warmup = options.learning_rate, round(options.warmup * total)
        rate = learning_rate(state.steps, total, peak=peak, warmup_steps=warmup, schedule=options.schedule)
        changes, begin = len(state.rung_changes), time.perf_counter()
        step = trainer.step(indices, state.epoch, rate)
        self.guard.move_wall()
        seconds = time.perf_counter() - begin
        state.took(seconds)
        loss, norm = writable(step.loss), writable(step.gradient_norm)
        state.losses.append(loss)
        state.gradient_norms.append(norm)
        if loss < MOST:
            state.epoch_loss = (state.epoch_loss[0] + loss, state.epoch_loss[1] + 1)
        state.failed_steps = 0 if step.applied or step.gradient_norm == 0 else state.failed_steps + 1
        state.failed_in_all += not step.applied
        self._tell_changes(changes, telemetry)
        telemetry.step(
            step=state.steps,
            epoch=state.epoch + 1,
            seconds=round(seconds, 4),
            loss=loss,
            gradient_norm=norm,
            learning_rate=rate,
            resident_bytes=self.guard.take_highest(),
            micro_batch=trainer.rung.micro_batch,
            tier=trainer.rung.tier.name,
            recompute=trainer.rung.graph.recompute,
        )

    def _tell_changes(self, since: int, telemetry: TelemetryWriter) -> None:
        for change in self.state.rung_changes[since:]:
            telemetry.rung(**msgspec.structs.asdict(change))

    def _end_epoch(self, folder: Path, telemetry: TelemetryWriter) -> None:
        """Validate, remember the best weights, and decide whether to stop early."""
        state = self.state
        self.note_epoch(state.epoch + 1, folder, telemetry)
        state.epoch, state.position = state.epoch + 1, 0
        if (
            state.stopped_because == "finished"
            and self.options.patience
            and state.epoch - state.best.epoch >= self.options.patience
        ):
            state.stopped_because = "early stopping"

    def note_epoch(self, epoch: int, folder: Path, telemetry: TelemetryWriter) -> None:
        """Validate, and keep the weights if they are the best so far; ``epoch`` 0 is a fitted head before any step."""
        state = self.state
        before = len(self.splits["train"]) if epoch else 0
        verdict = verdict_on(self, self._epoch_name if epoch else "evaluating val", before)
        others: dict[str, Evaluation] = {}
        if self.options.keep_within is not None:
            measure_others(self, others)
        report = EpochReport(
            epoch=epoch,
            training_loss=state.epoch_loss[0] / state.epoch_loss[1] if state.epoch_loss[1] else MOST,
            validation_accuracy=verdict.accuracy,
            validation_loss=verdict.loss,
            also={name: found.accuracy for name, found in others.items()},
        )
        state.history.append(report)
        thin(state.history)
        state.epoch_loss = (0.0, 0)
        telemetry.epoch(step=state.steps, **msgspec.structs.asdict(report))
        if self.epoch_done is not None:
            self.epoch_done(report)
        if verdict.fault:
            state.stopped_because = verdict.fault
            return
        if has_forgotten(state.also_before, others, self.options.keep_within):
            state.stopped_because = "forgot"
            return
        loss = -float(epoch) if verdict.loss is None else verdict.loss
        if state.best.is_worse_than(loss):
            file = None
            if epoch < self.options.epochs and self._goes_back:  # the last epoch's need no copy: they are in force
                replaced = {"before": state.best.file, "saved": self.saved.best_file}
                file = write_best(folder, state.steps, self.parameters, **replaced)
            state.best, state.judged = Best(epoch=epoch, loss=loss, file=file), verdict.judgement

    def over(self, split: str, offset: int = 0) -> dict[str, Any]:
        """Return what every pass over a split is given; its progress stops it where someone asked for that."""

        def progress(activity: str, done: int, total: int) -> None:
            self.between()
            self.progress(activity, offset + done, offset + total)

        micro_batch, unreadable = self.trainer.rung.micro_batch, self.unreadable[split]
        source = self.kept.evaluating(split)
        return {"micro_batch": micro_batch, "unreadable": unreadable, "progress": progress, "source": source}

    def between(self) -> None:
        """Stop between two micro-batches if someone asked for it."""
        if self.interrupts.requested:
            raise InterruptedRunError(f"Interrupted by {self.interrupts.requested} at step {self.state.steps}.")

    @property
    def is_one_of_many(self) -> bool:
        """Whether it is a Learner's, which learns from old pictures and new ones each time."""
        return self._keep is not None

    @property
    def _goes_back(self) -> bool:
        """Whether the weights of an earlier epoch may be those that are kept."""
        return self._keep is None or self.options.keep_within is not None

    @property
    def _passed(self) -> float:
        return time.perf_counter() - self._began

    @property
    def _is_over(self) -> bool:
        return self.extent.is_over(self.state.steps, self._passed, self.state.last_step_seconds)

    @property
    def _epoch_name(self) -> str:
        of = f" of {self.options.epochs}" if self.extent == Extent() else ""
        return f"epoch {self.state.epoch + 1}{of}"

    @property
    def _epoch_images(self) -> int:
        return sum(len(split) for name, split in self.splits.items() if name in ("train", "val"))
