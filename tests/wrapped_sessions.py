"""Sessions that tests look into: onnxruntime's, with something happening before or after a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle
from edgeplast.errors import InterruptedRunError
from edgeplast.placement import Placement
from edgeplast_devices import adapting
from edgeplast_devices.images import ImageSet, Splits, open_splits, open_splits_without_labels
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession, TrainingSession
from edgeplast_devices.sessions import Sessions


class Wrapped:
    """What a test hands in for :class:`~edgeplast_devices.sessions.Sessions`.

    Args:
        into: output of the run, whose telemetry says how far it is.

    Attributes:
        before: called before each micro-batch of training, with the session and the pictures.
        after: called after each, likewise.
    """

    def __init__(self, into: Path) -> None:
        self._telemetry = into.with_name(f"{into.name}.partial") / "telemetry.jsonl"
        self.before: Callable[[Training, np.ndarray], None] = lambda session, images: None
        self.after: Callable[[Training, np.ndarray], None] = lambda session, images: None
        self._at_step: dict[int, Callable[[], None]] = {}
        self._at_evaluation: dict[tuple[int, int], Callable[[], None]] = {}
        self.sessions = Sessions(lambda *given: Training(self, *given), lambda *given: Evaluation(self, *given))

    def told(self, kind: str) -> int:
        """How many lines of a kind the run has written: ``step`` or ``epoch``."""
        return self._telemetry.read_text().count(f'"kind":"{kind}"') if self._telemetry.exists() else 0

    def at_step(self, step: int, what: Callable[[], None]) -> None:
        """Do something in the middle of a step, before its first micro-batch has run; once."""
        self._at_step[step] = what

    def at_evaluation(self, steps: int, epochs: int, what: Callable[[], None]) -> None:
        """Do something in the evaluation that follows so many steps and ended epochs, before its first batch; once."""
        self._at_evaluation[steps, epochs] = what

    def trains(self) -> None:
        """Do what was arranged for this step."""
        if self._at_step and (what := self._at_step.pop(self.told("step"), None)):
            what()

    def evaluates(self) -> None:
        """Do what was arranged for this evaluation."""
        if self._at_evaluation:
            what = self._at_evaluation.pop((self.told("step"), self.told("epoch")), None)
            if what:
                what()


class Training:
    """A training session that says what it is about to do."""

    def __init__(
        self,
        owner: Wrapped,
        graph: Path,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        threads: int,
        placement: Placement,
    ) -> None:
        self._owner, self.parameters, self.gradients = owner, parameters, gradients
        self._real = TrainingSession(graph, parameters, gradients, threads, placement)

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        self._owner.trains()
        self._owner.before(self, images)
        result = self._real.accumulate(images, targets)
        self._owner.after(self, images)
        return result

    def stop(self, reason: str) -> None:
        self._real.stop(reason)


class Evaluation:
    """An evaluation session that says what it is about to do."""

    def __init__(
        self, owner: Wrapped, graph: Path, parameters: Mapping[str, np.ndarray], threads: int, placement: Placement
    ) -> None:
        self._owner, self._real = owner, EvaluationSession(graph, parameters, threads, placement)

    @property
    def feature_width(self) -> int:
        return self._real.feature_width

    def logits(self, images: np.ndarray) -> np.ndarray:
        self._owner.evaluates()
        return self._real.logits(images)

    def features(self, images: np.ndarray) -> np.ndarray:
        self._owner.evaluates()
        return self._real.features(images)


def adapt_over(
    wrapped: Wrapped, bundle: Bundle, data: Path, into: Path, options: TrainingOptions, **how: object
) -> Adaptation:
    """Adapt as ``edgeplast.adapt`` does, over sessions that are handed in."""
    images = (open_splits if options.labels == "given" else open_splits_without_labels)(data, seed=options.seed)
    return adapting.adapt(bundle, images, into=into, options=options, sessions=wrapped.sessions, **how)  # type: ignore[arg-type]


def whole_and_resumed(
    bundle: Bundle, images: ImageSet, into: Path, options: TrainingOptions, step: int = 5
) -> tuple[Adaptation, Adaptation]:
    """Adapt twice: in one go into ``whole``, and into ``cut``, stopped in the middle of a step and resumed."""

    def adapt(name: str, *, stop: bool = False, resume: bool = False) -> Adaptation:
        wrapped = Wrapped(into / name)
        if stop:
            wrapped.at_step(step, stopped)
        splits = Splits(images, None, None)
        return adapting.adapt(
            bundle, splits, into=into / name, options=options, resume=resume, sessions=wrapped.sessions
        )

    def stopped() -> None:
        raise InterruptedRunError("stopped")

    whole = adapt("whole")
    with pytest.raises(InterruptedRunError):
        adapt("cut", stop=True)
    return whole, adapt("cut", resume=True)
