"""One optimizer step at a time: micro-batches accumulated, one update, and a way down and up when memory changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgeplast.adaptation import RungChange
from edgeplast.bundle import FROZEN, Bundle
from edgeplast.errors import BudgetError, InputError
from edgeplast.placement import ON_CPU, Placement
from edgeplast_devices.distilling import Teacher
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import Augmentation, Batch, ImageSet, Unreadable, batches
from edgeplast_devices.latents import Source
from edgeplast_devices.losses import CrossEntropy
from edgeplast_devices.objectives import OBJECTIVES
from edgeplast_devices.optimizers import SGD, AdamW, admit, forget, gradient_norm, make_optimizer
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.run_state import RunState
from edgeplast_devices.rungs import Climbing, Rung, below, predicted_peak
from edgeplast_devices.runtime import OutOfMemoryError, reason_of, release_arena
from edgeplast_devices.schedules import rate_factors
from edgeplast_devices.sessions import ONNXRUNTIME, Sessions, Trains
from edgeplast_devices.tethers import Tether

T = TypeVar("T")

_WAIT_SECONDS = 60.0
"""How long the smallest step waits for the machine to have memory again before the run stops."""

_MOST_UNSEEN = 40
"""Training pictures in a row that may be unreadable."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step saw: mean loss (NaN without a picture), gradient norm before clipping, if applied."""

    loss: float
    gradient_norm: float
    applied: bool


class Trainer:
    """Holds what trains and changes it, one accumulated batch at a time.

    Args:
        state: of the run; steps, updates, the rung in force and its changes are kept there.
        bundle: whose graphs run.
        parameters: every trainable parameter of the plan; changed in place.
        rungs: ways to run a step, best first, that start where the budget allows.
        images: the training images, labels index the bundle's classes.
        options: of the run, with optimizer and threads filled in.
        unreadable: takes note of images that cannot be read.
        guard: says when memory is short.
        between: called between micro-batches, where an exception leaves everything as before the step.
        source: turns pictures into what the bundle's graphs take.
        placement: where the graphs run.
        sessions: over the bundle's graphs.
        logits: of what the source yields, with the weights in force; for learning without labels.
        turn: held while weights change and graphs are opened; others compute with them in between.

    Attributes:
        teacher: what the model is held to beside labels; None for labels alone.
        tether: holds its weights near those that the run began with; None with labels.
        most_bytes: that a rung may need beside what is held before it, where memory was short and is not seen again.
    """

    def __init__(
        self,
        state: RunState,
        bundle: Bundle,
        parameters: Mapping[str, np.ndarray],
        rungs: list[Rung],
        images: ImageSet,
        options: TrainingOptions,
        unreadable: Unreadable,
        guard: Guard,
        between: Callable[[], None] = lambda: None,
        source: Source = batches,
        *,
        placement: Placement = ON_CPU,
        sessions: Sessions = ONNXRUNTIME,
        logits: Callable[[np.ndarray], np.ndarray] | None = None,
        turn: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        assert options.optimizer is not None and options.threads is not None
        self.parameters, self.guard, self.rungs = parameters, guard, rungs
        self._threads = options.threads
        self._placement, self._sessions, self._turn = placement, sessions, turn or contextlib.nullcontext()
        self._logits = logits
        self.is_new_here = False  # on a rung of which nobody has asked whether another one is faster
        self.prefer: Callable[[list[Rung]], list[Rung]] = lambda rungs: rungs  # by what was measured here
        self.make_room: Callable[[], None] = lambda: None  # closes what is not to be open beside the training graph
        self._left: list[list[Rung]] = []  # where the way down came from, to climb back
        self._short_of: list[list[Rung]] = []  # likewise, of sets that train no more: not to climb back, but a limit
        self.most_bytes: int | None = None
        self._session: Trains | None = None
        self.bundle = bundle
        self.gradients = {name: np.zeros_like(parameters[name]) for name in self._trained(rungs[0])}
        self.begin(state, bundle, images, options, unreadable, between, source)

    def begin(
        self,
        state: RunState,
        bundle: Bundle,
        images: ImageSet,
        options: TrainingOptions,
        unreadable: Unreadable,
        between: Callable[[], None],
        source: Source = batches,
    ) -> None:
        """Start a run on the weights, the graph and the rung as they are; the optimizer begins anew.

        Arguments as above; memory, threads and placement stay as they were.
        """
        assert options.optimizer is not None
        self.state, self.bundle, self.images, self.options = state, bundle, images, options
        self.unreadable, self._between, self._source = unreadable, between, source
        self.teacher: Teacher | None = None
        self.tether: Tether | None = None
        self.saw_none = False  # of the last batch
        self.is_updating = False  # parameters are between two steps; stays so if the update fails
        self._climbing = Climbing()
        self._augmentation = Augmentation.named(options.augment)
        classes = len(bundle.manifest.classes)
        self._loss = CrossEntropy.over(
            images.labels, classes, class_weighting=options.class_weights, smoothing=options.label_smoothing
        )
        trained = self._trained(self.rung)
        if hasattr(self, "optimizer"):
            del self.optimizer  # before there is another one: a budget has room for one
        self.optimizer: AdamW | SGD = make_optimizer(
            options.optimizer,
            {name: self.parameters[name] for name in trained},
            weight_decay=options.weight_decay,
            momentum=options.momentum,
        )
        self.optimizer.updates.update((n, count) for n, count in state.updates.items() if n in trained)
        state.updates = self.optimizer.updates  # the same from now on
        self._set_rates()
        self._take_note()

    @property
    def is_down(self) -> bool:
        """Whether memory was short before, and there may be more of it again."""
        return self.most_bytes is not None

    @property
    def rung(self) -> Rung:
        """The rung in force."""
        return self.rungs[0]

    def open(self) -> None:
        """Load the training graph of the rung in force; smaller ones follow if memory does not suffice."""
        self._retrying(self._current)

    def step(self, indices: np.ndarray, epoch: int, learning_rate: float) -> Step:
        """Accumulate one batch and apply one update.

        Args:
            indices: int64, which training images.
            epoch: decides, with the seed, how each image is varied.
            learning_rate: of this step.

        Raises:
            BudgetError: memory does not suffice on any rung; parameters are as before the step.
        """
        self._retrying(self._climb)
        loss: float = self._retrying(lambda: self._accumulate(indices, epoch))
        norm = gradient_norm(self.gradients)
        applied = bool(np.isfinite(norm) and np.isfinite(loss) and norm > 0)
        if applied:
            clip = self.options.clip
            self.is_updating = True
            scale = min(1.0, clip / norm) if clip else 1.0
            with self._turn:
                self.optimizer.update(self.gradients, learning_rate, scale, self._rate_factors)
                if self.tether is not None:
                    self.tether.hold(self.parameters)
            self.is_updating = False
        self.state.steps += 1
        return Step(loss, norm, applied)

    def enter(self, rungs: list[Rung]) -> None:
        """Put the first of some rungs in force, the others being those that follow when memory does not suffice."""
        before, self.rungs = self.rung, rungs
        if self.rung.graph != before.graph:
            self._session = self.guard.stop_run = None
        with self._turn:
            release_arena()
            self.guard.settle()
        kept = self._trained(self.rung)
        for name in [name for name in self.gradients if name not in kept]:
            del self.gradients[name]
            forget(self.optimizer, name)
        for name in [name for name in kept if name not in self.gradients]:
            self.gradients[name] = np.zeros_like(self.parameters[name])
            admit(self.optimizer, name, self.parameters[name])
        self.gradients = {name: self.gradients[name] for name in kept}  # added up in one order, as when it is resumed
        self._take_note()

    def turn_to(self, rungs: list[Rung], reason: str) -> None:
        """Train what the first of some rungs trains from now on; what both sets train, and lack of memory, go on."""
        self._short_of, self._left = [*self._short_of, *self._left], []
        self.move(rungs, reason)
        self._set_rates()

    def rest(self) -> None:
        """Let go of the session, until the next micro-batch: weights, gradients and the optimizer's state stay."""
        self._session = self.guard.stop_run = None

    def pass_through(self, images: np.ndarray, targets: np.ndarray) -> None:
        """Run the graph of the rung in force once, for no gradient that is used; errors as of ``accumulate``."""
        self._between()
        self._current().accumulate(images, targets)

    def rehearse(self, indices: np.ndarray, epoch: int) -> None:
        """Go through pictures as a step does, and change nothing; arguments and errors as in :meth:`step`."""
        self._retrying(lambda: self._accumulate(indices, epoch))

    def require_pictures(self, count: int) -> None:
        """Stop when step after step sees no picture: some that are damaged are left out, not a whole data set.

        Args:
            count: how many pictures the last step was to see.

        Raises:
            InputError: not one of the last pictures could be read.
        """
        self.state.unseen = self.state.unseen + count if self.saw_none else 0
        if self.state.unseen >= _MOST_UNSEEN:
            some = "; ".join(f"{name}: {reason}" for name, reason in self.unreadable.examples[-3:])
            raise InputError(
                f"None of the last {self.state.unseen} pictures could be read{some and f' ({some})'}. "
                "Check that the data set is complete and that its files are pictures."
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint must hold: parameters by name, optimizer state by ``<slot>/<parameter>``."""
        return {**self.parameters, **self.optimizer.state}

    def _accumulate(self, indices: np.ndarray, epoch: int) -> float:
        for gradient in self.gradients.values():
            gradient.fill(0)
        if self.options.labels == "none":
            return self._accumulate_without_labels(indices, epoch)
        total = self._loss.mass(self.images.labels[indices])
        loss = seen = 0.0
        for batch in self._micro_batches(indices, epoch):
            targets = self._loss.targets(batch.labels, total)
            if self.teacher is not None:
                targets = self.teacher.mixed(targets, batch.labels, batch.indices)
            loss += self._current().accumulate(batch.images, targets)[0]
            seen += self._loss.mass(batch.labels)
            del batch
            self._take_breath()
        self.saw_none = seen == 0
        if self.saw_none:
            return float("nan")
        if seen < total:  # some could not be read: the mean is over those that could
            for gradient in self.gradients.values():
                gradient *= np.float32(total / seen)
            loss *= total / seen
        return loss

    def _accumulate_without_labels(self, indices: np.ndarray, epoch: int) -> float:
        """Go through the batch twice: what a picture should become depends on the predictions for all of them."""
        assert self._logits is not None
        rows: dict[int, int] = {}
        logits = []
        for batch in self._micro_batches(indices, epoch):
            rows |= {index: len(rows) + i for i, index in enumerate(batch.indices.tolist())}
            logits.append(self._logits(batch.images))
            del batch
            self._take_breath()
        self.saw_none = not rows
        if self.saw_none:
            return float("nan")
        loss, targets = OBJECTIVES[self.options.method](np.concatenate(logits))
        targets = targets.astype(np.float32)
        for batch in self._micro_batches(np.asarray(list(rows)), epoch):
            self._current().accumulate(batch.images, targets[[rows[index] for index in batch.indices.tolist()]])
            del batch
            self._take_breath()
        return loss

    def _take_breath(self) -> None:
        """Between two micro-batches: stop where that was asked for, go down where memory is short."""
        self._between()
        self._back_off()

    def _micro_batches(self, indices: np.ndarray, epoch: int) -> Iterator[Batch]:
        return self._source(
            self.images, self.bundle.manifest.preprocessing, self.rung.micro_batch, order=indices,
            augmentation=self._augmentation, seed=self.options.seed, epoch=epoch, unreadable=self.unreadable,
        )  # fmt: skip

    def _current(self) -> Trains:
        if self._session is None:
            graph = self.rung.graph
            path = self.bundle.path / graph.file
            self.bundle.check_unchanged(graph.file, FROZEN)
            with self._turn:
                self.make_room()
                release_arena()
                with self.guard.opening(graph.footprint.frozen_bytes, self._threads):
                    session = self._sessions.training(
                        path, self.parameters, self.gradients, self._threads, self._placement
                    )
            self.bundle.check_unchanged(graph.file, FROZEN)
            self.guard.stop_run = session.stop
            self._session = session
        return self._session

    def _back_off(self) -> None:
        """Go down while memory is short; on the last rung wait for a minute at most, then give up."""
        reason = self.guard.pressure()
        if reason is None:
            return
        if below(self.bundle.manifest, self.rungs, self.optimizer.name):
            raise OutOfMemoryError(reason)
        for _ in range(int(_WAIT_SECONDS)):
            self.guard.sleep(1.0)
            self._between()
            reason = self.guard.pressure()
            if reason is None:
                return
        raise self._at_the_end(reason)

    def _retrying(self, work: Callable[[], T]) -> T:
        """Do work; when memory runs out, go down a rung and do all of it again."""
        while True:
            try:
                return work()
            except (OutOfMemoryError, MemoryError) as error:
                reason = reason_of(error)
            # Out of the handler: the error's traceback holds the failed run's arrays and session.
            self._go_down(reason)

    def _go_down(self, reason: str) -> None:
        smaller = below(self.bundle.manifest, self.rungs, self.optimizer.name)
        if not smaller:
            raise self._at_the_end(reason)
        self._left.append(self.rungs)
        self.move(self.prefer(smaller), reason)
        self.most_bytes = self._need(self.rung)
        self.is_new_here = True
        self._climbing.fell(self.state.steps)

    def _climb(self) -> None:
        """Go one rung back up after a while of headroom; where another set trains now, let as much be taken again."""
        if self.most_bytes is None or not self._climbing.is_due(self.state.steps):
            return
        left = self._left or self._short_of
        above = self._need(left[-1][0])
        if not self.guard.has_room_for(above - self._need(self.rung)):
            self._climbing.wait(self.state.steps)
            return
        self._climbing.rose(self.state.steps)
        rungs, is_a_way_back = left.pop(), left is self._left
        self.most_bytes = max(self.most_bytes, above) if self._left or self._short_of else None
        if is_a_way_back:
            self.move(rungs, "there is memory again")

    def _need(self, rung: Rung) -> int:
        return predicted_peak(self.bundle.manifest, rung, self.optimizer.name, 0)

    def move(self, rungs: list[Rung], reason: str) -> None:
        """Put the first of some rungs in force, and note why it is another one."""
        before = str(self.rung)
        self.enter(rungs)
        if str(self.rung) != before:
            change = RungChange(step=self.state.steps, before=before, after=str(self.rung), reason=reason[:200])
            self.state.rung_changes.append(change)

    def _take_note(self) -> None:
        """Write the rung in force into the state."""
        state, rung = self.state, self.rung
        state.tier, state.recompute, state.micro_batch = rung.tier.name, rung.graph.recompute, rung.micro_batch

    def _at_the_end(self, reason: str) -> BudgetError:
        return BudgetError(
            f"Memory ran out on the smallest step there is ({self.rung}): {reason.rstrip('.')}. "
            "Allow more memory, or close other programs."
        )

    def _set_rates(self) -> None:
        how, body = self.options, self.state.body_rate or 1.0
        self._rate_factors = rate_factors(self.bundle.manifest, parameters=self.parameters, options=how, body=body)

    def _trained(self, rung: Rung) -> list[str]:
        owner = self.bundle.manifest.parameters
        return [name for name in self.parameters if owner[name].component in rung.tier.components]
