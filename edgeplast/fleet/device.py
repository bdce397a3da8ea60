"""A device's part of a round: the fleet's weights in, ``adapt``'s own loop for a few steps, other weights out.

It works in a folder of its own: ``start`` is the bundle with the weights that the fleet agreed on, ``round-…`` what is
learned from it, with checkpoints as of any run. Asked for the same again, after it was killed say, it goes on where it
was; asked for something else, it clears what it had begun.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.adaptation import Adaptation
from edgeplast.budget import Budget
from edgeplast.bundle import REPORT, TRAINABLE, Bundle, Manifest
from edgeplast.evaluation import Evaluation
from edgeplast.files import disk_errors
from edgeplast.fleet.pulling import pulled_back
from edgeplast.fleet.updates import unpacked
from edgeplast.outputs import only_writer
from edgeplast.progress import unheard
from edgeplast_devices.adapting import adapt
from edgeplast_devices.evaluating import evaluate
from edgeplast_devices.extent import MOST_EPOCHS, Extent
from edgeplast_devices.images import Splits
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.sessions import ONNXRUNTIME, Sessions
from edgeplast_devices.weights import read_trainable
from edgeplast_devices.workplace import unfinished, write_adapted

START = "start"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is asked to do in a round.

    Attributes:
        round: its number, from 1.
        steps: optimizer steps.
        learning_rate: in all of them.
        head_learning_rate: of the head.
        batch: pictures a step is computed from; 0 takes the plan's.
        proximal: µ of FedProx; 0 for none.
        seed: of the run; each round draws other pictures.
    """

    round: int
    steps: int
    learning_rate: float
    head_learning_rate: float
    batch: int = 0
    proximal: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Learned:
    """What a device learned in a round.

    Attributes:
        weights: float32 by name.
        examples: training pictures that it has.
        loss: mean over the steps.
        seconds: of the run, those before it was resumed included.
        peak_bytes: resident, of the process.
    """

    weights: dict[str, np.ndarray]
    examples: int
    loss: float
    seconds: float
    peak_bytes: int


class Device:
    """One device: a bundle, pictures, a budget and a folder.

    Args:
        bundle: that the fleet started from.
        images: of this device.
        folder: where it works; made if it is missing.
        budget: of the process; by default what the bundle was exported for.
        threads: of the runtime; by default all usable cores.
        notice: told what a user should know.
        sessions: over the bundle's graphs.
    """

    def __init__(
        self,
        bundle: Bundle,
        images: Splits,
        folder: Path,
        *,
        budget: Budget | None = None,
        threads: int | None = None,
        notice: Callable[[str], None] = unheard,
        sessions: Sessions = ONNXRUNTIME,
    ) -> None:
        self.bundle, self.folder = bundle, folder
        self._images, self._budget, self._threads = images, budget, threads
        self._notice, self._sessions = notice, sessions

    def learn(self, weights: Mapping[str, np.ndarray], task: Task) -> Learned:
        """Learn a little from the fleet's weights.

        Args:
            weights: float32 by name, of everything that trains.
            task: what to do.

        Raises:
            RefusedUpdateError: the weights are not those of this bundle, or not finite.
            BudgetError: the budget is not enough for one step; see also ``adapt``.
        """
        with self._at_work():
            start = self._start(weights)
            into = self.folder / f"round-{_fingerprint(start, task)}"
            self._clear_all_but(into)
            if not (into / REPORT).is_file():
                self._adapt(start, into, task)
            report, learned = Adaptation.read(into / REPORT), read_trainable(Bundle.open(into))
        return Learned(
            learned,
            len(self._images.train),
            float(np.mean(report.losses)) if report.losses else 0.0,
            report.seconds.total,
            report.memory.measured_peak_bytes,
        )

    def measure(self, weights: Mapping[str, np.ndarray]) -> Evaluation | None:
        """Measure the fleet's weights on this device's held-out pictures; None where it has none.

        Raises:
            RefusedUpdateError: the weights are not those of this bundle.
        """
        held = self._images.test or self._images.val
        if held is None or not len(held):
            return None
        with self._at_work():
            return evaluate(self._start(weights), held, micro_batch=2, threads=self._threads)

    def _at_work(self) -> contextlib.AbstractContextManager[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return only_writer(self.folder / START)

    def _start(self, weights: Mapping[str, np.ndarray]) -> Bundle:
        """Write the bundle from which a round starts."""
        checked = unpacked(weights, shapes_of(self.bundle.manifest))
        folder = self.folder / START
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
            (folder / TRAINABLE).unlink(missing_ok=True)
            self.bundle.copied(folder)  # what is there and whole stays
        write_adapted(self.bundle, checked, folder, parent=self.bundle.fingerprint, temperature=None)
        return Bundle.open(folder)

    def _adapt(self, start: Bundle, into: Path, task: Task) -> None:
        plan = start.manifest.plan
        batch = min(task.batch or plan.batch_size, len(self._images.train))
        extent = Extent(steps=task.steps)
        options = TrainingOptions(
            epochs=min(extent.epochs(1, len(self._images.train) // batch), MOST_EPOCHS),
            batch=task.batch or None,
            learning_rate=task.learning_rate,
            head_learning_rate=task.head_learning_rate,
            head="kept",
            schedule="constant",
            warmup=0.0,
            seed=task.seed * 100_003 + task.round,
            threads=self._threads,
            checkpoint_every="30s",
            private=True,
        )
        adapt(
            start,
            Splits(self._images.train, None, None),
            into=into,
            budget=self._budget,
            options=options,
            resume=unfinished(into).is_dir(),
            notice=self._notice,
            sessions=pulled_back(start.path / TRAINABLE, task.proximal, self._sessions),
            part=extent,
        )

    def _clear_all_but(self, into: Path) -> None:
        """Remove what other rounds left: what is learned from weights that the fleet no longer has is of no use."""
        for other in self.folder.glob("round-*"):
            if not other.name.startswith(into.name):
                shutil.rmtree(other, ignore_errors=True)


def shapes_of(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return what travels: the shape of everything that trains, by name, in the order of the manifest."""
    return {name: tuple(stored.shape) for name, stored in manifest.parameters.items() if stored.trainable}


def _fingerprint(start: Bundle, task: Task) -> str:
    return hashlib.sha256(start.fingerprint.encode() + msgspec.json.encode(task)).hexdigest()[:16]
