"""Distillation: what a model said of its pictures before it learned, asked of it beside their labels.

The targets of a picture become ``(1 − share)·t + share·q``, with q its probabilities by the weights as they came:
learning without forgetting (Li & Hoiem, arXiv 1606.09282), which needs no old picture. Of classes that are new in the
run the rows are in their place by then; their own pictures are asked for the label alone.

A class of which there are far fewer pictures than of others is kept as q has it on the others' pictures, whatever the
share: else these unlearn it in a few steps, and no weight on its own ones mends that (README.md, A class more).
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from edgeplast.errors import UsageError
from edgeplast.files import disk_errors
from edgeplast.progress import Progress
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.growing import present
from edgeplast_devices.images.sampling import of_each_label
from edgeplast_devices.logistic import log_softmax
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.replaying import per_class

if TYPE_CHECKING:
    from edgeplast_devices.running import Run

ENOUGH_PICTURES = 40
"""Of a class, which are not unlearned, whatever there is of others."""

ASKED_OF_EACH = 16
"""Pictures of a class, at most, that are asked about for the sake of a rare one: what is typical holds for the rest."""

_FAR_FEWER = 0.5
"""Of the pictures of the largest class: with more of its own a class holds its place by itself."""


def row_bytes(pictures: int, classes: int) -> int:
    """Return what the probabilities of so many pictures take."""
    return 4 * pictures * classes


def check_knows(options: TrainingOptions, *, head_is_new: bool) -> None:
    """Raise where a model is to be held to what it said and said nothing yet.

    Args:
        options: filled in.
        head_is_new: whether the bundle's head has learned nothing.

    Raises:
        UsageError: so it is.
    """
    if options.distill and (head_is_new or options.head != "kept"):
        raise UsageError(
            f"--distill {options.distill:g} holds a model to what it said before, and this head "
            f"{'has learned nothing yet' if head_is_new else f'begins anew (--head {options.head})'}. Leave it out"
            f"{'' if head_is_new else ', or keep the head (--head kept)'}."
        )


def held(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return how far what is said of others' pictures is held to, by class: 1 − n/most.

    Where some class has more than ``ENOUGH_PICTURES``, these count as most.

    Args:
        labels: of the training images.
        classes: how many there are.

    Returns:
        float32 (classes,), 0 to 1; 0 for those without pictures, and with more than half of the most.
    """
    counts = np.bincount(labels, minlength=classes)
    share = counts / min(int(counts.max()), ENOUGH_PICTURES)
    return np.where((counts > 0) & (share <= _FAR_FEWER), 1 - share, 0).astype(np.float32)


class Teacher:
    """Probabilities of pictures by the weights as they came, in memory or in a file without a name.

    Args:
        pictures: how many.
        shares: of the targets that are what was said, by the class that a picture shows, float32 (classes,), 0 to 1.
        held: see :func:`held`.
        folder: for the file; None keeps them in memory.
    """

    def __init__(self, pictures: int, shares: np.ndarray, held: np.ndarray, folder: Path | None = None) -> None:
        self._shares, self._held = shares, held
        self._said = np.zeros(pictures, bool)
        self._typical: dict[int, np.ndarray] = {}  # label to what is said of rare classes, (rare,)
        self._rows: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        if folder is None:
            self._rows = np.zeros((pictures, len(held)), np.float32)
        else:
            with disk_errors(folder):
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # as long as the teacher

    def note(self, indices: np.ndarray, logits: np.ndarray) -> None:
        """Take down what is said of pictures (b,), by their logits (b, classes)."""
        found = np.exp(log_softmax(logits)).astype(np.float32)
        self._said[indices] = True
        if self._rows is not None:
            self._rows[indices] = found
            return
        assert self._file is not None
        for index, row in zip(indices.tolist(), found, strict=True):
            os.pwrite(self._file.fileno(), row.tobytes(), index * row.nbytes)

    def generalize(self, labels: np.ndarray) -> None:
        """Let what was said of rare classes on a label's pictures hold for those of it that were not asked about.

        Args:
            labels: int64 (pictures,).
        """
        rare = self._held > 0
        for label in np.unique(labels[self._said]).tolist():
            asked = np.flatnonzero(self._said & (labels == label))
            self._typical[label] = self._read(asked[:ASKED_OF_EACH])[:, rare].mean(0)

    def mixed(self, targets: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return targets with what was said mixed in; each picture weighs what it did.

        Args:
            targets: float32 (b, classes).
            labels: int64 (b,).
            indices: int64 (b,), of the pictures.
        """
        said = self._read(indices) * self._said[indices][:, None]  # of what was not asked about the label counts,
        share = (self._shares[labels] * self._said[indices])[:, None]
        of_rare = said.copy()
        for row in np.flatnonzero(~self._said[indices]).tolist():  # and what is typical
            if (typical := self._typical.get(int(labels[row]))) is not None:
                of_rare[row, self._held > 0] = typical
        kept = np.where(self._held[labels][:, None] > 0, np.float32(0), of_rare * self._held)
        weight = targets.sum(1, keepdims=True)
        mixed = (1 - share) * targets + share * weight * said
        found: np.ndarray = mixed * (1 - kept.sum(1, keepdims=True)) + weight * kept
        return found

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._rows is not None:
            found: np.ndarray = self._rows[indices]
            return found
        assert self._file is not None
        size = 4 * len(self._held)
        rows = [os.pread(self._file.fileno(), size, size * index) for index in indices.tolist()]
        return np.stack([np.frombuffer(row.ljust(size, b"\0"), np.float32) for row in rows])


def may_teach(run: Run) -> bool:
    """Say whether the weights as they came may be asked of the training pictures."""
    options, train = run.options, run.splits["train"]
    if options.labels != "given" or options.head != "kept" or run.part:
        return bool(options.distill)
    among_old = run.is_one_of_many or per_class(options.replay) or present(train, run.bundle.manifest.waiting)
    return bool(options.distill or among_old)


def taught(run: Run) -> Teacher | None:
    """Ask the weights in force of the pictures that a run will learn from; None where nothing is asked.

    Its sessions are open, and new classes in their place.
    """
    train, manifest, state = run.splits["train"], run.bundle.manifest, run.state
    if not may_teach(run) or state.stopped_because != "finished":
        return None
    known = np.asarray([name not in state.placed for name in manifest.classes])
    rare = held(train.labels, len(known)) if not run.part else np.zeros(len(known), np.float32)
    if not (run.options.distill or rare.any()):
        return None
    teacher = Teacher(
        len(train),
        np.where(known, np.float32(run.options.distill), np.float32(0)),
        rare,
        None if run.taught_in_memory else run.bundle.path,
    )
    to_come = _pictures_to_come(run)
    if not run.options.distill:
        to_come = _some_of_each(to_come, train.labels, rare)
    over, began = run.over("train"), time.perf_counter()
    tell, total, asked = over.pop("progress"), sum(map(len, to_come)), 0
    with disk_errors(run.bundle.path):
        for order in to_come:
            for logits, _, indices in outputs(
                run.evaluation.logits, train, manifest.preprocessing,
                activity="asking what was known", order=order, progress=_of_all(tell, asked, total), **over,
            ):  # fmt: skip
                teacher.note(indices, logits)
            asked += len(order)
            if not run.may_reach_more(time.perf_counter() - began):
                break
    teacher.generalize(train.labels)
    return teacher


def _some_of_each(orders: list[np.ndarray], labels: np.ndarray, rare: np.ndarray) -> list[np.ndarray]:
    """Return which of pictures are asked about a rare class: none of its own, and a few of each other one."""
    left = {label: ASKED_OF_EACH for label in np.unique(labels).tolist() if not rare[label]}
    found = []
    for order in orders:
        some = order[of_each_label(labels[order], left)]
        for label, count in zip(*np.unique(labels[some], return_counts=True), strict=True):
            left[int(label)] -= int(count)
        found.append(some)
    return [some for some in found if len(some)]


def _pictures_to_come(run: Run) -> list[np.ndarray]:
    """Return which training pictures a run that begins will learn from, int64, rising.

    Where time ends it nobody knows how far it comes: those of each step then, as long as it may reach more.
    """
    order = run.batches(0)
    if run.extent.seconds is not None:
        return [np.sort(indices) for indices in order]
    total = run.extent.total_steps(run.options.epochs * len(order), 0, 0.0, 0.0)
    return [np.sort(np.concatenate(order[:total]))]


def _of_all(tell: Progress, before: int, total: int) -> Progress:
    """Return what is told of some pictures and tells how many that makes of all."""
    return lambda activity, done, _: tell(activity, before + done, total)
