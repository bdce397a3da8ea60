"""When memory runs out in the middle of a step, the step is done again one rung lower, with the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from wrapped_sessions import Training, Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.components import component_of
from edgeplast.errors import BudgetError
from edgeplast_devices import evaluating
from edgeplast_devices.images import Unreadable, batch_order, open_images
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession, OutOfMemoryError
from edgeplast_devices.tensors import read_arrays
from edgeplast_devices.weights import read_trainable


def _adapt(
    bundle: Bundle, data: Path, into: Path, over: Callable[[Path], Wrapped] = Wrapped, **how: object
) -> Adaptation:
    settings: dict = {"epochs": 1, "learning_rate": 3e-3, "threads": 1}
    return adapt_over(over(into), bundle, data, into, TrainingOptions(**(settings | how)))


class Scarce(Wrapped):
    """Lets a training session run only while ``allowed`` says so; a refused call may leave half its gradients."""

    def __init__(self, into: Path) -> None:
        super().__init__(into)
        self.calls = 0
        self.after = self._refuse

    def allowed(self, session: Training, images: np.ndarray) -> bool:
        raise NotImplementedError

    def _refuse(self, session: Training, images: np.ndarray) -> None:
        self.calls += 1
        if not self.allowed(session, images):
            raise OutOfMemoryError("Failed to allocate memory for requested buffer of size 123\nmore")


def test_a_smaller_micro_batch_gives_the_losses_of_a_run_that_started_there(
    bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    started_small = _adapt(bundle, blobs, tmp_path / "small", micro_batch=1)

    class AtMostOne(Scarce):
        def allowed(self, session: Training, images: np.ndarray) -> bool:
            return self.calls < 6 or len(images) == 1

    stepped_down = _adapt(bundle, blobs, tmp_path / "down", AtMostOne, micro_batch=4)
    np.testing.assert_allclose(stepped_down.losses, started_small.losses, atol=1e-4)
    assert stepped_down.micro_batch_size == 1 and stepped_down.tier == "full"
    changes = stepped_down.rung_changes
    assert len(changes) >= 1 and all(change.step == 2 for change in changes)
    assert "micro-batch 4" in changes[0].before and "micro-batch 1" in changes[-1].after
    assert changes[0].reason == "Failed to allocate memory for requested buffer of size 123"


def test_a_smaller_tier_keeps_what_the_larger_one_learned(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    three_steps: dict[str, np.ndarray] = {}

    class OnlyTheHead(Scarce):
        def allowed(self, session: Training, images: np.ndarray) -> bool:
            parameters, gradients = session.parameters, session.gradients
            steps = 3
            if self.calls == 2 * steps + 1:
                three_steps.update({name: array.copy() for name, array in parameters.items()})
            return self.calls <= 2 * steps or all(component_of(name) == "head" for name in gradients)

    report = _adapt(bundle, blobs, tmp_path / "down", OnlyTheHead, micro_batch=4)
    assert (report.tier, report.trained) == ("head", ("head",))
    start, end = read_trainable(bundle), read_arrays(tmp_path / "down" / TRAINABLE)
    for name, array in end.items():
        if component_of(name) == "head":
            assert not np.array_equal(array, three_steps[name])
        else:
            np.testing.assert_array_equal(array, three_steps[name], err_msg=name)
    assert any(not np.array_equal(end[n], start[n]) for n in end if component_of(n) == "blocks.0.attn")


def test_below_the_last_rung_is_a_budget_error_and_nothing_is_written(
    bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    class Nothing(Scarce):
        def allowed(self, session: Training, images: np.ndarray) -> bool:
            return False

    with pytest.raises(BudgetError, match=r"smallest step there is \(tier head.*\): Failed to allocate.*close other"):
        _adapt(bundle, blobs, tmp_path / "down", Nothing)
    assert not list(tmp_path.iterdir())


def test_numpys_own_memory_error_goes_down_as_well(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    class Once(Scarce):
        def allowed(self, session: Training, images: np.ndarray) -> bool:
            if self.calls == 1:
                raise MemoryError
            return True

    report = _adapt(bundle, blobs, tmp_path / "down", Once)
    assert [change.reason for change in report.rung_changes] == ["an allocation failed"]


def test_evaluation_halves_what_does_not_fit(bundle: Bundle, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = edgeplast.evaluate(bundle, blobs, micro_batch=8)
    real = EvaluationSession.logits

    def scarce(session: EvaluationSession, images: np.ndarray) -> np.ndarray:
        if len(images) > 1:
            raise OutOfMemoryError("no")
        return real(session, images)

    monkeypatch.setattr(EvaluationSession, "logits", scarce)
    assert edgeplast.evaluate(bundle, blobs, micro_batch=8) == expected


def test_evaluation_that_cannot_hold_one_image_is_a_budget_error(
    bundle: Bundle, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(session: EvaluationSession, images: np.ndarray) -> np.ndarray:
        raise OutOfMemoryError("no")

    monkeypatch.setattr(EvaluationSession, "logits", never)
    with pytest.raises(BudgetError, match=r"Memory ran out: no\. Allow more memory"):
        edgeplast.evaluate(bundle, blobs)


def test_pictures_are_measured_whatever_the_batch(bundle: Bundle, blobs: Path) -> None:
    images = open_images(blobs, "test")
    session = EvaluationSession(bundle.path / "evaluate.onnx", read_trainable(bundle), 1)
    results = [
        evaluating.measure(session, images, bundle.manifest.preprocessing, bundle.manifest.classes, size, Unreadable())
        for size in (1, 5, 36)
    ]
    for result in results:
        assert result.accuracy == results[0].accuracy and result.loss == pytest.approx(results[0].loss, abs=1e-5)


@pytest.mark.parametrize(("count", "batch", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 8, [3]), (8, 8, [8])])
def test_the_last_batch_is_no_crumb(count: int, batch: int, sizes: list[int]) -> None:
    pieces = batch_order(np.arange(count), batch)
    assert [len(piece) for piece in pieces] == sizes
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(count))
