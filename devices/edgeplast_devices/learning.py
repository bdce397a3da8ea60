"""What a Learner computes with, opened once: weights and graphs that the loop of ``adapt`` moves again and again."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from PIL import Image

from edgeplast.adaptation import Adaptation, MemoryReport
from edgeplast.bundle import Bundle
from edgeplast.errors import DivergedError, EdgeplastError, InputError, InterruptedRunError, UsageError
from edgeplast.evaluation import Evaluation
from edgeplast.footprint import PICTURE_BYTES
from edgeplast.progress import Progress
from edgeplast.unknown import Unknown
from edgeplast.versions import named
from edgeplast_devices.checkpoints import clear
from edgeplast_devices.energy import is_known
from edgeplast_devices.evaluating import labelled, measure
from edgeplast_devices.extent import Extent
from edgeplast_devices.growing import check_new
from edgeplast_devices.guard import Guard
from edgeplast_devices.held_out import HeldOut
from edgeplast_devices.images import ImageSet, Splits, Unreadable, UnreadableImageError, batches, preload, preprocess
from edgeplast_devices.images.planes import Planes
from edgeplast_devices.interrupts import Interrupts
from edgeplast_devices.learned_folder import Kept, weights_into
from edgeplast_devices.memory import peak_bytes, resident_bytes
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.predicting import Prediction, prediction
from edgeplast_devices.reports import report_of
from edgeplast_devices.running import Run
from edgeplast_devices.runtime import read_in, release_arena, runtime_name
from edgeplast_devices.sessions import Evaluates, Sessions
from edgeplast_devices.standing import Standing
from edgeplast_devices.telemetry import TelemetryWriter, cut_telemetry
from edgeplast_devices.turns import Turns, taking_turns
from edgeplast_devices.unknowns import Fitted, calibrated
from edgeplast_devices.weights import head_is_new

_ANY_BYTES = 1 << 62
_CHANNELS_OF_FILES = (1, 3)


class Core:
    """Predicts, measures and learns over sessions that stay open; one graph runs at a time.

    Args:
        kept: what is on disk.
        guard: of the budget, which stands.
        options: of the training; memory, threads, build and provider count here.
        sessions: over the bundle's graphs.
        notice: told why what was learned could not be calibrated anew, or how little was there to do it on.
        held_out: what it was calibrated on, to be again after each learn.

    Raises:
        BudgetError: the budget is not enough to learn in.
    """

    def __init__(
        self,
        kept: Kept,
        guard: Guard,
        options: TrainingOptions,
        sessions: Sessions,
        notice: Callable[[str], None],
        held_out: HeldOut,
    ) -> None:
        self._kept, self._guard, self._turns, self._notice = kept, guard, Turns(), notice
        self._growing, self._held_out, self._options = threading.Lock(), held_out, options
        self._told_stale = False
        plan = kept.bundle.manifest.plan
        self._standing = Standing(
            kept.bundle,
            guard,
            options,
            batch=options.batch or plan.batch_size,
            optimizer=options.optimizer or plan.optimizer,
            held=self._held_bytes,
            sessions=taking_turns(sessions, self._turns),
            turn=self._turns,
        )
        self._standing.open(kept.bundle)
        self._evaluation: Evaluates | None = self._standing.over_pictures(kept.bundle)

    def close(self) -> None:
        """Let go of weights and graphs; a run of one of them ends first."""
        with self._turns:
            self._evaluation = None
            self._standing.close()

    def grow(self, names: Sequence[str]) -> None:
        """Give the model more classes, in the copy that it works with and in the output; predictions wait.

        Raises:
            UsageError: a name is known already, given twice, or none; or the head cannot grow.
            DiskFullError: there is no room; the model is as it was.
        """
        check_new(names, self._kept.bundle.manifest)
        self._exchange(lambda: self._kept.grow(names))

    def calibrate(self, images: ImageSet, false_alarms: float, progress: Progress) -> Unknown | None:
        """Fit the temperature, and when the model does not know, on pictures that it did not learn from; keep all.

        Both are fitted on the same pictures again after each ``learn``, where files of pictures can hold them.
        """
        manifest = self._kept.bundle.manifest
        given, channels = labelled(images, manifest.classes), manifest.preprocessing.channels
        fitted = self._calibrated(given, false_alarms, progress)
        kept = given if channels in _CHANNELS_OF_FILES else given.subset([])
        with self._held_out.exchanged(kept, lambda images, index: self.picture(images, index, self._held_out.keep)):
            self._kept.calibrate(fitted.temperature, fitted.unknown)
        if fitted.doubt:
            self._notice(fitted.doubt)
        if kept is not given:
            self._notice(
                f"Pictures of {channels} channels cannot be kept as files, so what was fitted on them is not fitted "
                "again after a learn. Calibrate again then."
            )
        return fitted.unknown

    def _calibrated(self, images: ImageSet, false_alarms: float, progress: Progress) -> Fitted:
        manifest, session = self._kept.bundle.manifest, self._open_evaluation()
        known, unreadable = self._limited(labelled(images, manifest.classes)), Unreadable(private=self._options.private)
        fitted = calibrated(
            manifest, session, known, false_alarms,
            micro_batch=self._micro_batch, unreadable=unreadable, progress=progress,
        )  # fmt: skip
        if not fitted.images:
            unreadable.check(unreadable.count)
            raise InputError("There are no pictures to calibrate on. Give some of each class.")
        for line in unreadable.lines():
            self._notice(line)
        return fitted

    def roll_back(self, name: str) -> None:
        """Let the model be a version of it, in the copy that it works with and in the output; predictions wait.

        Raises:
            InputError: there is no such version.
            DamagedError: it is not whole; the model is as it was.
        """
        named(name, self._kept.versions())
        self._exchange(lambda: self._kept.roll_back(name))

    def _exchange(self, change: Callable[[], Bundle]) -> None:
        with self._growing:
            self._evaluation = None
            try:
                self._standing.regrown(change)
            finally:
                self._evaluation = self._standing.over_pictures(self._kept.bundle)

    def predictions(self, images: ImageSet) -> list[Prediction]:
        """Return what the model says of each picture, in order, with the weights as they are at this moment.

        Raises:
            InputError: one cannot be read.
        """
        found: list[Prediction] = []
        session = self._open_evaluation()  # before the names: once there are more classes, names are there first
        images, manifest = self._limited(images), self._kept.bundle.manifest
        for batch in batches(images, manifest.preprocessing, self._micro_batch, unreadable=_NoneLeftOut()):
            logits = session.logits(batch.images)
            for index, row in zip(batch.indices.tolist(), logits, strict=True):
                tempered, known = row / (manifest.temperature or 1.0), is_known(row, manifest.unknown)
                found.append(prediction(images.name(index), tempered, manifest.classes, known))
            del batch
        return found

    def evaluation_of(self, images: ImageSet, progress: Progress) -> Evaluation:
        """Measure the model as it is at this moment on labelled pictures."""
        manifest, unreadable, session = self._kept.bundle.manifest, Unreadable(), self._open_evaluation()
        known = self._limited(labelled(images, manifest.classes))
        how = manifest.preprocessing, manifest.classes, self._micro_batch
        result = measure(session, known, *how, unreadable, progress, temperature=manifest.temperature)
        return msgspec.structs.replace(
            result, unreadable=unreadable.count, runtime=runtime_name(), provider=self._standing.placement
        )

    def picture(self, images: ImageSet, index: int, at_least: tuple[int, int]) -> Image.Image:
        """Decode one picture within the budget.

        Raises:
            InputError: it has two, four or more channels; examples are kept as files of one or three.
        """
        picture = self._limited(images).open(index, at_least=at_least)
        if isinstance(picture, Planes):
            raise InputError(
                f"{images.name(index)} has {len(picture.bands)} channels; a Learner keeps examples of one (grey) or "
                "three (RGB). Learn from an .npz of them with adapt."
            )
        return picture

    def learn(
        self,
        images: ImageSet,
        others: Mapping[str, ImageSet],
        options: TrainingOptions,
        extent: Extent,
        interrupts: Interrupts,
        progress: Progress,
    ) -> Adaptation:
        """Let a run go over labelled pictures, and keep what it learned; arguments as of ``Learner.learn``."""
        with self._turns:  # threads may have been started, whose stacks are counted now
            release_arena()
            self._guard.settle()
        self._kept.begin()
        bundle = self._kept.bundle
        batch = min(options.batch or bundle.manifest.plan.batch_size, len(images))
        epochs = extent.epochs(options.epochs, max(len(images) // batch, 1))
        head = "kept" if options.head == "zero" and not head_is_new(bundle) else options.head  # it begins once
        taught = 0.0 if head_is_new(bundle) else options.distill  # the first time there is nothing to hold it to
        options = msgspec.structs.replace(options, epochs=epochs, head=head, distill=taught)
        cut_telemetry(bundle.path, None)
        run = Run(
            bundle,
            Splits(images, None, None, others),
            self._guard,
            options,
            progress,
            None,
            interrupts,
            standing=self._standing,
            extent=extent,
            keep=self._kept.keep,
        )
        interrupts.end_call = lambda reason: self._guard.stop_run(reason) if self._guard.stop_run else None
        interrupts.kept = lambda: f"The model in {self._kept.folder} is whole, as it was written last."
        try:
            run.open()
            with contextlib.closing(TelemetryWriter(bundle.path)) as telemetry:
                self._moved(run, telemetry)
        except BaseException:
            with self._turns:
                weights_into(self._standing.parameters, self._kept.bundle)
            raise
        finally:
            with contextlib.suppress(OSError):
                clear(bundle.path)  # weights of earlier epochs
        return report_of(run)

    def _moved(self, run: Run, telemetry: TelemetryWriter) -> None:
        try:
            run.train(run.bundle.path, telemetry)
        except InterruptedRunError:
            if run.state.steps:
                self._kept.keep(run)
            raise
        if run.state.stopped_because == "diverged":
            raise DivergedError("Learning diverged; the model is as it was before. Try a lower learning rate.")
        self._kept.keep(run)  # before it is calibrated: whatever stops that, what was learned is there
        held_out = self._held_out.images()
        if held_out is not None:
            self._recalibrate(run, held_out)
        elif (run.state.temperature or run.state.unknown) and not self._told_stale:
            self._told_stale = True
            self._notice(
                "What was learned is not calibrated: how sure the model says it is, and when it does not know, were "
                "fitted to weights before these, and nothing is held out to fit them anew. Give pictures that it does "
                "not learn from: learner.calibrate(pictures)."
            )

    def _recalibrate(self, run: Run, images: ImageSet) -> None:
        """Fit temperature and threshold to what was learned and keep them; where that fails they are as they were."""
        state, progress = run.state, run.over("train")["progress"]  # stops it where someone asked for that
        was = state.temperature, state.unknown
        allowed = self._options.false_alarms if state.unknown is None else state.unknown.allowed
        try:
            fitted = self._calibrated(images, allowed, progress)
            state.temperature, state.unknown = fitted.temperature, fitted.unknown
            self._kept.keep(run)
            if was[1] is not None and fitted.unknown is None:
                self._notice(fitted.doubt)
        except InterruptedRunError:
            raise
        except EdgeplastError as error:
            state.temperature, state.unknown = was
            self._notice(
                f"What was learned is kept, and not calibrated anew: {error} Until it is (calibrate), how sure the "
                "model says it is, and when it does not know, are as before."
            )

    @property
    def step_seconds(self) -> float:
        """What the last optimizer step took; 0 before the first."""
        return self._standing.trainer.state.last_step_seconds if self._standing.trainer else 0.0

    @property
    def memory(self) -> MemoryReport:
        """What the process may hold and held at most so far."""
        return MemoryReport(
            budget_bytes=self._guard.allowed_bytes,
            predicted_peak_bytes=self._standing.shares.predicted_bytes,
            measured_peak_bytes=peak_bytes(),
            enforced_by=self._guard.enforced_by,
        )

    def _open_evaluation(self) -> Evaluates:
        with self._growing:
            session = self._evaluation
        if session is None:
            raise closed()
        return session

    def _limited(self, images: ImageSet) -> ImageSet:
        return images.allowing(min(images.decode_limit_bytes, self._standing.shares.picture_bytes or _ANY_BYTES))

    @property
    def _micro_batch(self) -> int:
        trainer = self._standing.trainer
        return (trainer.rungs if trainer else self._standing.rungs)[0].micro_batch

    def _held_bytes(self, threads: int) -> int:
        """Return what the process holds, once what decoding and encoding need was read in, and a second picture's room.

        One thread decodes to predict while another decodes to learn.
        """
        with self._guard.reading_in(threads):
            read_in(threads)
        preload(())
        small = Image.new("RGB", (8, 8))
        small.save(io.BytesIO(), "PNG")
        how = self._kept.bundle.manifest.preprocessing
        preprocess(small if how.channels in _CHANNELS_OF_FILES else Planes((small.convert("L"),) * how.channels), how)
        np.random.default_rng()
        return resident_bytes() + PICTURE_BYTES


class _NoneLeftOut(Unreadable):
    """Raises what others take note of: whoever asks for a prediction of each picture must not get fewer."""

    def record(self, error: UnreadableImageError, index: int) -> None:  # noqa: ARG002
        raise error


def closed() -> UsageError:
    """Return the error for what is asked of a Learner that is closed."""
    return UsageError("This Learner is closed. Open it again: edgeplast.Learner(…).")
