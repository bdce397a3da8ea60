"""One run of training on a device: epochs, validation, the best weights kept, the state saved as it goes.

A run is made from an opened bundle, images, a budget and options, and takes up the state of a checkpoint where one is
given. It can stop between any two micro-batches, by a signal or for lack of memory, and loses nothing then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.adaptation import EpochReport
from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, Bundle
from edgeplast.errors import DivergedError, InputError, InterruptedRunError
from edgeplast.evaluation import Evaluation
from edgeplast.footprint import PICTURE_BYTES
from edgeplast.progress import Progress
from edgeplast_devices.checkpoints import Checkpoint, check_same_run, read_best, write_checkpoint, write_hashed
from edgeplast_devices.curves import Curve, thin
from edgeplast_devices.device_memory import DeviceMemory
from edgeplast_devices.evaluating import measure
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import (
    ImageSet,
    Splits,
    Unreadable,
    batches,
    epoch_order,
    require_classes,
    require_readable,
)
from edgeplast_devices.interrupts import Interrupts
from edgeplast_devices.memory import peak_bytes, resident_bytes, usable_threads
from edgeplast_devices.metrics import MOST
from edgeplast_devices.options import (
    Interval,
    TrainingOptions,
    default_head_learning_rate,
    default_learning_rate,
)
from edgeplast_devices.placing import place
from edgeplast_devices.rungs import Rung, choose, ladder, shares
from edgeplast_devices.runtime import EvaluationSession, read_in, reserve_arena, runtime_name
from edgeplast_devices.schedules import learning_rate
from edgeplast_devices.standing import Best, Saved, Timing, restore, state_of
from edgeplast_devices.telemetry import TelemetryWriter
from edgeplast_devices.training import Trainer, batch_order
from edgeplast_devices.weights import head_is_new, read_trainable

_MOST_FAILED_STEPS = 5
"""Steps in a row with a loss or gradient that is not finite before the run counts as diverged."""

_MOST_UNSEEN = 40
"""Training pictures in a row that may be unreadable."""


class Run:
    """The state of one adaptation, from opened bundle to what a report is made of.

    Args:
        bundle: to adapt.
        images: training images, and validation and test images where there are any.
        budget: what the process may hold.
        options: of the training.
        progress: told of each step.
        epoch_done: told of each epoch.
        interrupts: whether someone asked to stop.
        guard: of what the process may hold; stands when the run is made.
        checkpoint: of the same run, to go on from.
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
    ) -> None:
        self.bundle, self.progress, self.epoch_done, self.interrupts = bundle, progress, epoch_done, interrupts
        self.checkpoint = checkpoint
        self.timing, self.best = Timing(), Best()
        self.guard, self.allowed_bytes = guard, guard.allowed_bytes
        self.splits = _aligned(images, bundle.manifest.classes)
        self.measured_on = "test" if "test" in self.splits else "val" if "val" in self.splits else "train"
        self.images = {name: split.fingerprint() for name, split in self.splits.items()}
        self.batch = min(options.batch or bundle.manifest.plan.batch_size, len(self.splits["train"]))
        self.optimizer = options.optimizer or bundle.manifest.plan.optimizer
        # loads the runtime, so that it is counted as resident
        self.placement = place(options.runtime, options.provider, self.allowed_bytes)
        self.device_memory = DeviceMemory(self.placement)
        threads = options.threads or usable_threads()
        self.unreadable = {name: Unreadable(private=options.private) for name in self.splits}
        self.resident_bytes = self._resident_bytes(threads)
        self.rungs = self._rungs_from_here(options)
        first = self.rungs[0]
        rate, head_rate = options.learning_rate, options.head_learning_rate
        rate = default_learning_rate(first.tier.components, self.optimizer) if rate is None else rate
        if head_rate is None:
            head_rate = default_head_learning_rate(rate, self.optimizer, new=head_is_new(bundle))
        self.options = msgspec.structs.replace(
            options,
            batch=self.batch,
            optimizer=self.optimizer,
            learning_rate=rate,
            head_learning_rate=head_rate,
            threads=threads,
        )
        if checkpoint is not None:
            check_same_run(checkpoint.state, bundle.fingerprint, self.images, self.options)
        self.shares = shares(bundle.manifest, first, self.optimizer, self.resident_bytes, self.allowed_bytes)
        self.predicted = self.shares.predicted_bytes
        if self.shares.picture_bytes is not None:
            for split in self.splits.values():
                split.decode_limit_bytes = min(split.decode_limit_bytes, self.shares.picture_bytes)
        self.epoch = self.position = self.failed = 0
        self.losses, self.norms = Curve(), Curve()
        self.epoch_loss, self.failed_in_all, self._unseen = (0.0, 0), 0, 0
        self.history: list[EpochReport] = []
        self.resumed_at: list[int] = []
        self.before: Evaluation | None = None
        self.after: Evaluation | None = None
        self.stopped_because = "finished"
        self.peak_before = 0
        self.replaces = False
        self.saved = Saved()

    def _rungs_from_here(self, options: TrainingOptions) -> list[Rung]:
        """Return the ladder from the rung to begin on: the best that fits, and no better than where the run stood."""
        manifest = self.bundle.manifest
        rungs = ladder(manifest, self.batch, micro_batch=options.micro_batch)
        if self.checkpoint is not None:
            state = self.checkpoint.state
            names = [tier.name for tier in manifest.tiers]
            rungs = [rung for rung in rungs if names.index(rung.tier.name) >= names.index(state.tier)]
            if state.allowed_bytes == self.allowed_bytes:
                # The same rung again: then the result is the same bit for bit.
                same = (state.tier, state.recompute, state.micro_batch)
                at = [i for i, r in enumerate(rungs) if (r.tier.name, r.graph.recompute, r.micro_batch) == same]
                if at:
                    return rungs[at[0] :]
        first = choose(manifest, rungs, self.optimizer, self.resident_bytes, self.allowed_bytes)
        return rungs[rungs.index(first) :]

    def _resident_bytes(self, threads: int) -> int:
        """Return what this process holds before the bundle is opened, once all that it needs for it was read in."""
        for name, split in self.splits.items():
            limit = split.decode_limit_bytes
            if self.allowed_bytes is not None:
                split.decode_limit_bytes = min(limit, PICTURE_BYTES)
            # Reads in the decoder and the random generators, and says early if there is nothing to read.
            next(batches(split, self.bundle.manifest.preprocessing, 1, unreadable=self.unreadable[name]))
            if name == "train":
                require_readable(split, self.bundle.manifest.preprocessing, self.unreadable[name])
            split.decode_limit_bytes = limit
        np.random.default_rng()
        with self.guard.reading_in(threads):
            read_in(threads)
        return resident_bytes()

    def open(self) -> None:
        """Load weights and graphs, and take up the checkpoint's state."""
        self.guard.commit()
        reserve_arena(self.shares.region_bytes, self.shares.arena_bytes)
        self.parameters = read_trainable(self.bundle)
        assert self.options.threads is not None
        self.trainer = Trainer(
            self.bundle,
            self.parameters,
            self.rungs,
            self.splits["train"],
            self.options,
            self.unreadable["train"],
            self.guard,
            self._between,
            placement=self.placement,
        )
        if self.checkpoint is not None:
            restore(self, self.checkpoint)
        self.trainer.open()
        graph = self.bundle.path / EVALUATION_GRAPH
        self.bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
        with self.guard.opening(self.bundle.manifest.evaluation.frozen_bytes, self.options.threads):
            self.evaluation = EvaluationSession(graph, self.parameters, self.options.threads, self.placement)
        self.bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
        self.timing.load = time.perf_counter() - self.timing.start

    def train(self, folder: Path, telemetry: TelemetryWriter) -> None:
        """Run the epochs that are left, keep the best weights, and measure before and after."""
        self._announce(telemetry)
        if self.before is None:
            self.before = self._measure(self.measured_on, f"evaluating {self.measured_on}, before")
        while self.epoch < self.options.epochs and self.stopped_because == "finished":
            self._epoch(folder, telemetry)
        self._restore_best(folder)
        self.after = self._measure(self.measured_on, f"evaluating {self.measured_on}, after")

    def save(self, folder: Path) -> None:
        """Write a checkpoint of where the run stands, unless the last one says it already.

        Nothing is written where memory ran out in the middle of an update: some weights are then a step ahead.
        """
        if self.trainer.is_updating or (self.saved.steps, self.saved.epoch) == (self.trainer.steps, self.epoch):
            return
        write_checkpoint(folder, state_of(self), self.trainer.arrays(), best_before=self.saved.best_file)
        self.saved = Saved(self.trainer.steps, self.epoch, self.best.file)

    def _epoch(self, folder: Path, telemetry: TelemetryWriter) -> None:
        """Go through what is left of an epoch."""
        order = batch_order(epoch_order(len(self.splits["train"]), self.options.seed, self.epoch), self.batch)
        total, often = self.options.epochs * len(order), Interval.parse(self.options.checkpoint_every)
        seen = sum(map(len, order[: self.position]))
        for number in range(self.position, len(order)):
            self._step(order[number], total, telemetry)
            self._require_pictures(len(order[number]))
            self.position = number + 1
            seen += len(order[number])
            self.progress(self._epoch_name, seen, self._epoch_images)
            if self.failed >= _MOST_FAILED_STEPS:
                self.stopped_because = "diverged"
                return
            if often.is_over(self.trainer.steps - self.saved.steps, time.perf_counter() - self.saved.at_seconds):
                self.save(folder)
        self._end_epoch(folder, telemetry)

    def _step(self, indices: np.ndarray, total: int, telemetry: TelemetryWriter) -> None:
        """Take one optimizer step and write down what it saw."""
        options, trainer = self.options, self.trainer
        assert options.learning_rate is not None
        rate = learning_rate(
            trainer.steps,
            total,
            peak=options.learning_rate,
            warmup_steps=round(options.warmup * total),
            schedule=options.schedule,
        )
        changes, begin = len(trainer.rung_changes), time.perf_counter()
        step = trainer.step(indices, self.epoch, rate)
        self.guard.move_wall()
        seconds = time.perf_counter() - begin
        self.timing.steps.append(seconds)
        self.timing.train += seconds
        loss, norm = writable(step.loss), writable(step.gradient_norm)
        self.losses.append(loss)
        self.norms.append(norm)
        if loss < MOST:
            self.epoch_loss = (self.epoch_loss[0] + loss, self.epoch_loss[1] + 1)
        self.failed = 0 if step.applied or step.gradient_norm == 0 else self.failed + 1
        self.failed_in_all += not step.applied
        for change in trainer.rung_changes[changes:]:
            telemetry.rung(**msgspec.structs.asdict(change))
        telemetry.step(
            step=trainer.steps,
            epoch=self.epoch + 1,
            seconds=round(seconds, 4),
            loss=loss,
            gradient_norm=norm,
            learning_rate=rate,
            resident_bytes=self.guard.take_highest(),
            micro_batch=trainer.rung.micro_batch,
            tier=trainer.rung.tier.name,
            recompute=trainer.rung.graph.recompute,
        )

    def _require_pictures(self, count: int) -> None:
        """Stop when step after step sees no picture: some that are damaged are left out, not a whole data set.

        Raises:
            InputError: not one of the last pictures could be read.
        """
        self._unseen = self._unseen + count if self.trainer.saw_none else 0
        if self._unseen >= _MOST_UNSEEN:
            some = "; ".join(f"{name}: {reason}" for name, reason in self.unreadable["train"].examples[-3:])
            raise InputError(
                f"None of the last {self._unseen} pictures could be read{some and f' ({some})'}. "
                "Check that the data set is complete and that its files are pictures."
            )

    def _end_epoch(self, folder: Path, telemetry: TelemetryWriter) -> None:
        """Validate, remember the best weights, and decide whether to stop early."""
        validation = self._measure("val", self._epoch_name, within=True) if "val" in self.splits else None
        report = EpochReport(
            epoch=self.epoch + 1,
            training_loss=self.epoch_loss[0] / self.epoch_loss[1] if self.epoch_loss[1] else MOST,
            validation_accuracy=validation.accuracy if validation else None,
            validation_loss=validation.loss if validation else None,
        )
        self.history.append(report)
        thin(self.history)
        self.epoch_loss = (0.0, 0)
        telemetry.epoch(step=self.trainer.steps, **msgspec.structs.asdict(report))
        if self.epoch_done is not None:
            self.epoch_done(report)
        loss = validation.loss if validation else -float(self.epoch)
        if loss < self.best.loss:
            self.best = Best(self.epoch + 1, loss)
            if self.epoch + 1 < self.options.epochs:  # the last epoch's weights need no copy: they are in force
                self.best.file = write_hashed(folder, "best", self.trainer.steps, self.parameters).name
        self.epoch, self.position = self.epoch + 1, 0
        if self.options.patience and self.epoch - self.best.epoch >= self.options.patience:
            self.stopped_because = "early stopping"

    def _restore_best(self, folder: Path) -> None:
        rate = self.options.learning_rate or 0.0
        if self.best.epoch == 0 and self.stopped_because == "diverged":
            raise DivergedError(
                f"Training diverged at step {self.trainer.steps}, before the first epoch ended: the loss is no longer "
                f"a finite number at a learning rate of {rate:g}. Nothing was written. "
                f"Try a tenth of it: --learning-rate {rate / 10:g}"
            )
        if self.best.file is None:
            return
        if self.best.epoch < self.history[-1].epoch or self.stopped_because == "diverged":
            for name, array in read_best(folder, self.best.file, self.parameters).items():
                self.parameters[name][...] = array

    def _measure(self, split: str, activity: str, *, within: bool = False) -> Evaluation:
        """Measure one split; ``within`` an epoch its images are the last of those that the epoch reports."""
        offset = self._epoch_images - len(self.splits[split]) if within else 0

        def progress(activity: str, done: int, total: int) -> None:
            self._between()
            self.progress(activity, offset + done, offset + total)

        return measure(
            self.evaluation,
            self.splits[split],
            self.bundle.manifest.preprocessing,
            self.bundle.manifest.classes,
            self.trainer.rung.micro_batch,
            self.unreadable[split],
            progress,
            activity,
        )

    def _between(self) -> None:
        """Stop between two micro-batches if someone asked for it."""
        if self.interrupts.requested:
            raise InterruptedRunError(f"Interrupted by {self.interrupts.requested} at step {self.trainer.steps}.")

    @property
    def _epoch_name(self) -> str:
        return f"epoch {self.epoch + 1} of {self.options.epochs}"

    @property
    def _epoch_images(self) -> int:
        return sum(len(split) for name, split in self.splits.items() if name in ("train", "val"))

    def _announce(self, telemetry: TelemetryWriter) -> None:
        telemetry.run(
            step=self.trainer.steps,
            model=self.bundle.manifest.model,
            runtime=runtime_name(),
            allowed_bytes=self.allowed_bytes,
            predicted_peak_bytes=self.predicted,
            resident_bytes=self.resident_bytes,
            rung=str(self.trainer.rung),
        )

    @property
    def measured_peak_bytes(self) -> int:
        """The largest resident set of this process and of those before it."""
        return max(self.peak_before, peak_bytes())


def _aligned(images: Splits, classes: tuple[str, ...]) -> dict[str, ImageSet]:
    """Return the splits that there are, with labels that index ``classes``."""
    train = images.train.aligned_to(classes)
    require_classes(train, 2)
    splits = {"train": train}
    for name, split in (("val", images.val), ("test", images.test)):
        if split is not None and len(split):
            splits[name] = split.aligned_to(classes)
    return splits


def writable(value: float) -> float:
    """Return a number that JSON can carry: one that is not finite becomes the largest float32."""
    return value if np.isfinite(value) else MOST
