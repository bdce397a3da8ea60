"""The Learner: one process that predicts, takes examples and learns from them, inside one budget.

It works in ``<output>.partial`` as ``adapt`` does, on copies that were hashed as they were made. After each ``learn``
the output is an adapted bundle like any other, exchanged as a whole; the examples lie in ``<output>.examples``. What is
learned is learned by the loop of ``adapt``, whose graphs, weights and arena stay open from one time to the next. One
graph runs at a time, in the order in which threads asked for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec

from edgeplast.adaptation import Adaptation, MemoryReport
from edgeplast.arguments import check_kind
from edgeplast.bundle import MANIFEST, REPORT, Bundle
from edgeplast.errors import UsageError
from edgeplast.evaluation import Evaluation
from edgeplast.files import possible
from edgeplast.given import bundle_of, whom
from edgeplast.outputs import holding
from edgeplast.progress import Progress, silent, unheard
from edgeplast.unknown import Unknown
from edgeplast.versions import Version
from edgeplast_devices.deploying import deploy
from edgeplast_devices.detaching import attached
from edgeplast_devices.guard import guard_for
from edgeplast_devices.images import ImageSet, Picture
from edgeplast_devices.interrupts import Interrupts, asked_to_stop
from edgeplast_devices.learned_folder import Kept, output_of, start_of, workplace_of
from edgeplast_devices.learner_arguments import (
    adapter_of,
    all_examples,
    budget_of,
    extent_of,
    is_one,
    opened,
    places_of,
    to_learn_from,
)
from edgeplast_devices.learning import Core, closed
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.predicting import Prediction
from edgeplast_devices.sessions import ONNXRUNTIME, Sessions
from edgeplast_devices.workplace import prepare

if TYPE_CHECKING:
    from edgeplast.trust.signing import Signs
    from edgeplast.trust.trusting import Trusted

Found = TypeVar("Found")

_THREADS_TO_COME = 4
"""Of the program around a Learner, beside the main one: for their stacks there is room behind the wall."""


class Learner:
    """A model that lives in a program: it predicts, is shown examples, and learns from them.

    Any thread may call any method. ``learn`` goes on while others predict; a prediction waits for the micro-batch in
    progress, and for predictions that were asked for before it. While one ``learn`` is in progress another is refused.

    Kept on disk: the adapted bundle (``into``), as it was after the last ``learn``; every picture that was added, in
    ``<into>.examples``; and those that it was calibrated on, in ``<into>.held-out``: until someone deletes them there.
    ``learn`` learns from all examples, old and new, and from what ``adapt`` kept of what was learned before (replay).

    Args:
        bundle: a fresh or adapted bundle, or its folder.
        into: folder for the adapted bundle; what was learned there before is taken up again. By default the folder of
            ``bundle`` itself, if that is an adapted one.
        adapter: what :func:`edgeplast.detach` took off a bundle like this one, its file or folder: where it begins, as
            long as nothing was learned in ``into``.
        memory: what the whole process may hold from now on until ``close``, such as ``"256MiB"``, or in bytes;
            ``"none"`` for no limit. By default what the bundle was exported for.
        options: of the training; ``epochs`` is what a ``learn`` without arguments does.
        trusted: public keys, a file or a folder of them, of which one must have signed the bundle, and what was learned
            in ``into`` before. By default no signature is asked for.
        sign: a private key, or its file, that signs what is learned; it is trusted too.
        notice: told what a user should know of a budget that nobody gave, of a ``learn`` after which the model could
            not be calibrated anew, and of pictures that it cannot be calibrated on: too few, unreadable, not kept.
        sessions: over the bundle's graphs.

    Attributes:
        classes: class names.
        into: the folder.

    Raises:
        UsageError: another process writes ``into`` (the message says which), or it was adapted from another bundle.
        InputError: there is no bundle.
        DamagedError: the bundle is damaged.
        UntrustedError: no trusted key signed it.
        BudgetError: the budget cannot be met; the message names one that can.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        into: str | Path | None = None,
        adapter: str | Path | None = None,
        memory: str | int | None = None,
        options: TrainingOptions | None = None,
        trusted: Trusted = None,
        sign: Signs = None,
        notice: Callable[[str], None] = unheard,
        sessions: Sessions = ONNXRUNTIME,
    ) -> None:
        check_kind(options, TrainingOptions, "options", "edgeplast.TrainingOptions")
        keys, self._signer = whom(trusted, sign)
        source = bundle_of(bundle, keys)
        self._options = options or TrainingOptions()
        if self._options.labels != "given":
            raise UsageError("A Learner learns from labelled pictures; edgeplast.adapt learns without (labels none).")
        if self._options.rescore != "none":
            raise UsageError("A Learner trains what its plan trains; edgeplast.adapt measures scores (rescore).")
        self.into = output_of(source, into, has_adapter=adapter is not None)
        self._source = source.path
        self._alone = threading.Lock()
        self._interrupts: Interrupts | None = None
        self._is_open = False
        with contextlib.ExitStack() as opening:
            guard = guard_for(source, budget_of(memory), notice)
            guard.threads_to_come = _THREADS_TO_COME
            opening.enter_context(holding(self.into))
            put_on = adapter_of(adapter, self.into)
            fresh = opening.enter_context(attached(source, put_on, keys))
            start, parent = start_of(source, self.into, keys, fresh=fresh)
            again = self.into == Path(os.path.realpath(source.path))
            seal = None if self._signer is None else self._signer.sealing(source, again=again)
            folder = workplace_of(self.into)
            self._examples, self._held_out = places_of(
                self.into, start, self._options, is_tight=guard.allowed_bytes is not None
            )
            opening.enter_context(guard.standing())
            opening.callback(shutil.rmtree, folder, ignore_errors=True)
            versions, replay = self._options.versions, self._options.replay != "none"
            self._kept = Kept(
                prepare(start, folder), self.into, parent, seal, origin=start.path, versions=versions, replay=replay
            )
            self.classes = start.manifest.classes
            self._core = Core(self._kept, guard, self._options, sessions, notice, self._held_out)
            opening.callback(self._core.close)
            self._closing = opening.pop_all()
        self._is_open = True

    def __enter__(self) -> Learner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back: memory, the budget, the folder. A ``learn`` in progress stops, and is kept."""
        if not self._is_open:
            return
        self._is_open = False
        if (running := self._interrupts) is not None:
            running.requested = running.requested or "close"
        with self._alone, self._kept.writing:
            self._closing.close()

    @overload
    def predict(self, pictures: Picture) -> Prediction: ...  # type: ignore[overload-overlap]  # a text is a sequence
    @overload
    def predict(self, pictures: Sequence[Picture] | ImageSet) -> list[Prediction]: ...
    def predict(self, pictures: Picture | Sequence[Picture] | ImageSet) -> Prediction | list[Prediction]:
        """Say what pictures show, with the weights as they are at this moment.

        Args:
            pictures: one, or several in a sequence or a set. One is a uint8 array (H, W, 3), RGB, or (H, W), grey, a
                PIL image, or the path of a file.

        Returns:
            for one picture ``label, confidence`` (and all probabilities), for several a list of these.

        Raises:
            InputError: one is no picture, or cannot be read; none is left out.
            BudgetError: memory does not suffice for one picture.
        """
        self._require_open()
        if not isinstance(pictures, ImageSet):
            one = is_one(pictures)
            found = self.predict(ImageSet.of([pictures] if one else pictures))  # type: ignore[arg-type, list-item]
            return found[0] if one else found
        return self._core.predictions(pictures)

    def add(self, pictures: Picture | Sequence[Picture] | ImageSet, labels: str | Sequence[str] | None = None) -> int:
        """Take labelled pictures; they are on disk when it returns. The next ``learn`` learns from them.

        Args:
            pictures: as of :meth:`predict`, or a labelled set.
            labels: the class of each, or one for all; not with a set, which has its own.

        Returns:
            how many were taken.

        Raises:
            InputError: one is no picture, a label is no class or missing; nothing was taken then.
            DiskFullError: there is no room for all; the first ones, for which there was, are taken, in their order,
                and :attr:`examples` counts them.
        """
        self._require_open()
        given = to_learn_from(pictures, labels, self.classes)
        for index in range(len(given)):  # nothing is taken of what cannot be taken whole
            self._core.picture(given, index, self._examples.keep)
        with self._kept.writing:
            self._require_open()
            for index, label in enumerate(given.labels.tolist()):
                self._examples.add(self._core.picture(given, index, self._examples.keep), label)
        return len(given)

    def add_class(self, *names: str) -> None:
        """Let the model know of more classes; what it knows stays as it is, also on disk.

        A new class is never the answer before the first ``learn`` with a picture of it; one is enough to begin.

        Args:
            *names: of the classes.

        Raises:
            UsageError: a name is known already, given twice or empty, or there is none; the model's head is more than
                one linear layer; or the Learner is learning.
            DiskFullError: there is no room; nothing changed.
        """
        if not names:
            raise UsageError("No class was named. Give one name or several: learner.add_class('lynx').")
        self._changed(lambda: self._core.grow(names))

    def _changed(self, change: Callable[[], Found]) -> Found:
        if not self._alone.acquire(blocking=False):
            raise UsageError("This Learner is learning, in another thread. Wait until that has come back.")
        try:
            self._require_open()
            found = change()
            self.classes = self._kept.bundle.manifest.classes
            self._examples.know(self.classes)
            self._held_out.know(self.classes)
            return found
        finally:
            self._alone.release()

    def versions(self) -> list[Version]:
        """Return what the model was after each ``learn``, the oldest first; each has the hash of the one before it."""
        self._require_open()
        return self._kept.versions()

    def roll_back(self, version: str) -> None:
        """Let the model be what it was in a version, also on disk; the versions after that stay, and so do examples.

        Args:
            version: its name, such as ``"v3"``; see :meth:`versions`.

        Raises:
            InputError: there is no such version.
            UsageError: the Learner is learning.
            DamagedError: the version is not whole; the model is as it was.
            DiskFullError: there is no room; the model is as it was.
        """
        self._changed(lambda: self._core.roll_back(version))

    @property
    def examples(self) -> dict[str, int]:
        """How many pictures were taken of each class, in all."""
        return self._examples.counts

    def learn(
        self,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        seconds: float | None = None,
        also: Mapping[str, str | Path | ImageSet] | None = None,
        keep_within: float | None = None,
        progress: Progress = silent,
    ) -> Adaptation:
        """Learn from every picture that was added so far, and write the adapted bundle.

        The learning rate rises and falls once in that time, as in ``adapt``. Whatever stops it, the model predicts as
        it did before, or as it was last written (each ``options.checkpoint_every``).

        Args:
            epochs: passes over the pictures; without any argument those of the options.
            steps: optimizer steps instead.
            seconds: or so many seconds; at least one step is taken, and the one in progress is finished.
            also: labelled sets by name, measured before and after: what must not be forgotten.
            keep_within: points of accuracy that each of them may lose; where one loses more, learning stops and the
                last weights that kept them are kept.
            progress: told of each step.

        Returns:
            the report of this time, also ``report.json`` in the folder. Nothing is measured but ``also``; see
            :meth:`evaluate`.

        Raises:
            InputError: fewer than two classes were added, or learning diverged.
            UsageError: it is learning already; or several of the arguments were given.
            BudgetError: memory does not suffice even for the smallest step.
            InterruptedRunError: by a signal, or :meth:`close`; what was learned is kept and written.
        """
        extent, options = extent_of(self._options, epochs, steps, seconds, self._core.step_seconds)
        options = msgspec.structs.replace(
            options, keep_within=options.keep_within if keep_within is None else keep_within
        )
        others = {name: opened(given, None, progress) for name, given in (also or {}).items()}
        if not self._alone.acquire(blocking=False):
            raise UsageError("This Learner is learning already, in another thread. Wait until that has come back.")
        try:
            self._require_open()
            waiting = self._kept.bundle.manifest.waiting
            images = all_examples(self._examples.images(), self._kept.replayed(), waiting)
            with asked_to_stop() as self._interrupts:
                return self._core.learn(images, others, options, extent, self._interrupts, progress)
        finally:
            self._interrupts = None
            self._alone.release()

    def evaluate(
        self, images: str | Path | ImageSet, *, split: str | None = None, progress: Progress = silent
    ) -> Evaluation:
        """Measure the model as it is at this moment.

        Args:
            images: labelled: a folder, archive or npz, or a set.
            split: ``train``, ``val`` or ``test`` where the data have splits; by default ``test``, else ``val``.
            progress: told of each micro-batch.

        Raises:
            InputError: pictures have no label or one that is no class, or not one can be read.
        """
        self._require_open()
        return self._core.evaluation_of(opened(images, split, progress), progress)

    def calibrate(
        self, images: str | Path | ImageSet, *, false_alarms: float = 0.05, progress: Progress = silent
    ) -> Unknown | None:
        """Fit on pictures that it did not learn from how sure the model is and when it does not know; kept on disk.

        Both belong to the weights: they are fitted again on the same pictures at the end of each ``learn``, in a pass
        over them, also where the Learner was opened again. So the pictures are kept on disk (of more than 512 so many,
        evenly spread) until others take their place, or someone deletes them. Where none are left, both stay as they
        are, and the notice says so; it also says where they are few, or cannot be read. None are kept of two, four or
        more channels, which files of pictures cannot hold: ``notice`` says that too.

        Args:
            images: labelled pictures of known classes, as of :meth:`evaluate`.
            false_alarms: share of them that may be called unknown.
            progress: told of each micro-batch.

        Returns:
            when it does not know; None from too few pictures. From now on :attr:`Prediction.known` says it.
        """
        self._require_open()
        msgspec.structs.replace(self._options, false_alarms=false_alarms)  # says what is allowed
        given = opened(images, None, progress)
        return self._changed(lambda: self._core.calibrate(given, false_alarms, progress))

    @property
    def report(self) -> Adaptation | None:
        """What the last ``learn`` (or ``adapt``) did that is in the folder; None before the first."""
        with self._kept.writing:
            return Adaptation.read(self.into / REPORT) if (self.into / REPORT).is_file() else None

    @property
    def memory(self) -> MemoryReport:
        """What the process may hold and held at most so far, in bytes."""
        return self._core.memory

    def deploy(self, into: str | Path, *, force: bool = False, progress: Progress = silent) -> Path:
        """Write the model as it was after the last ``learn`` as one ONNX file in float32.

        Args:
            into: the file to write.
            force: replace what is there.
            progress: told of each parameter.

        Raises:
            UsageError: ``into`` exists and ``force`` is not given.
        """
        self._require_open()
        with self._kept.writing:
            at = self.into if (self.into / MANIFEST).is_file() else self._source
            seal = None if self._signer is None else self._signer.sealing(self._kept.bundle, at=at)
            return deploy(self._kept.bundle, possible(into), force=force, progress=progress, seal=seal)

    def _require_open(self) -> None:
        if not self._is_open:
            raise closed()
