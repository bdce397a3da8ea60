"""A device's part of a round: adapt's own loop from the fleet's weights, resumed where it was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wrapped_sessions import Wrapped

from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import UsageError
from edgeplast.fleet.device import Device, Task, shapes_of
from edgeplast.fleet.updates import RefusedUpdateError, norm
from edgeplast_devices.images import Splits, open_splits
from edgeplast_devices.weights import read_trainable

TASK = Task(round=1, steps=4, learning_rate=3e-3, head_learning_rate=3e-3)


@pytest.fixture
def images(blobs: Path) -> Splits:
    return open_splits(blobs, seed=0)


def device(bundle: Bundle, images: Splits, folder: Path, **how: object) -> Device:
    return Device(bundle, images, folder, budget=Budget(), threads=1, **how)  # type: ignore[arg-type]


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return list(left) == list(right) and all(np.array_equal(left[name], right[name]) for name in left)


def test_rounds_bring_accuracy_and_each_says_what_it_cost(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    one, weights = device(bundle, images, tmp_path / "one"), read_trainable(bundle)
    before = one.measure(weights)
    for number in range(1, 5):
        learned = one.learn(weights, Task(round=number, steps=6, learning_rate=3e-3, head_learning_rate=3e-3))
        weights = learned.weights
    after = one.measure(weights)
    assert before is not None and after is not None and after.accuracy > max(before.accuracy, 0.7)
    assert learned.examples == len(images.train) and 0 < learned.loss < 1.2
    assert learned.seconds > 0 and learned.peak_bytes > 1 << 20
    assert {name: w.shape for name, w in weights.items()} == shapes_of(bundle.manifest)


def test_the_same_round_is_the_same_and_another_draws_other_pictures(
    bundle: Bundle, images: Splits, tmp_path: Path
) -> None:
    weights = read_trainable(bundle)
    first = device(bundle, images, tmp_path / "a").learn(weights, TASK)
    assert same(first.weights, device(bundle, images, tmp_path / "b").learn(weights, TASK).weights)
    other = Task(round=2, steps=4, learning_rate=3e-3, head_learning_rate=3e-3)
    assert not same(first.weights, device(bundle, images, tmp_path / "c").learn(weights, other).weights)


class KilledError(BaseException):
    """No exception that anyone handles, as a kill."""


def test_a_device_that_dropped_out_goes_on_where_it_was(
    bundle: Bundle, images: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = read_trainable(bundle)
    whole = device(bundle, images, tmp_path / "whole").learn(weights, TASK)
    often = Device._adapt.__globals__["TrainingOptions"]
    monkeypatch.setitem(
        Device._adapt.__globals__, "TrainingOptions", lambda **how: often(**{**how, "checkpoint_every": "1step"})
    )
    into, steps = tmp_path / "broken" / "round", []

    def die(session: object, pictures: np.ndarray) -> None:
        steps.append(len(pictures))
        if len(steps) == 3:
            raise KilledError

    wrapped = Wrapped(into)
    wrapped.before = die
    with pytest.raises(KilledError):
        device(bundle, images, tmp_path / "broken", sessions=wrapped.sessions).learn(weights, TASK)
    assert list((tmp_path / "broken").glob("round-*.partial"))
    said: list[str] = []
    again = device(bundle, images, tmp_path / "broken", notice=said.append).learn(weights, TASK)
    assert same(again.weights, whole.weights)
    assert len(said) == 1 and said[0].startswith("Resumed at step ")


def test_asked_twice_it_answers_the_same_without_learning_again(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    weights = read_trainable(bundle)
    first = device(bundle, images, tmp_path / "d").learn(weights, TASK)

    def never(session: object, pictures: np.ndarray) -> None:
        raise AssertionError("it learned again")

    wrapped = Wrapped(tmp_path / "d" / "round")
    wrapped.before = never
    again = device(bundle, images, tmp_path / "d", sessions=wrapped.sessions).learn(weights, TASK)
    assert same(first.weights, again.weights) and first.loss == again.loss


def test_what_was_begun_from_old_weights_is_cleared(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    one, weights = device(bundle, images, tmp_path / "d"), read_trainable(bundle)
    weights = one.learn(weights, TASK).weights
    one.learn(weights, Task(round=2, steps=2, learning_rate=3e-3, head_learning_rate=3e-3))
    assert len(list((tmp_path / "d").glob("round-*"))) == 1


def test_a_pull_keeps_a_device_nearer_to_the_fleet(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    weights = read_trainable(bundle)

    def moved(strength: float) -> float:
        task = Task(round=1, steps=8, learning_rate=3e-3, head_learning_rate=3e-3, proximal=strength)
        learned = device(bundle, images, tmp_path / str(strength)).learn(weights, task).weights
        return norm({name: learned[name] - weights[name] for name in weights})

    assert moved(100.0) < moved(0.0) * 0.9


def test_the_pull_is_the_gradient_of_the_proximal_term(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    """At the first step w = w₀ and the pull is nothing; moved by d, it is µ·d, however the batch is cut."""
    from edgeplast.fleet.pulling import pulled_back
    from edgeplast_devices.sessions import Sessions
    from edgeplast_devices.tensors import write_arrays

    class Still:
        def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
            return 0.0, targets

        def stop(self, reason: str) -> None: ...

    anchor = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_arrays(tmp_path / "w0", anchor)
    parameters, gradients = {"w": anchor["w"] + 2}, {"w": np.zeros((2, 3), np.float32)}
    given = Sessions(lambda *_: Still(), lambda *_: None, lambda *_: None)  # type: ignore[arg-type, return-value]
    sessions = pulled_back(tmp_path / "w0", 0.5, given)
    assert (sessions.evaluation, sessions.prefix) == (given.evaluation, given.prefix)
    session = sessions.training(tmp_path, parameters, gradients, 1, None)  # type: ignore[arg-type]
    for share in (0.25, 0.75):
        session.accumulate(np.zeros((1, 3, 2, 2), np.float32), np.array([[share, 0.0]], np.float32))
    assert np.allclose(gradients["w"], 0.5 * 2)


def test_pictures_of_one_class_are_a_part_too(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    one_class = images.train.subset(np.flatnonzero(images.train.labels == 1))
    learned = device(bundle, Splits(one_class, None, None), tmp_path / "d").learn(read_trainable(bundle), TASK)
    assert learned.examples == len(one_class)
    assert device(bundle, Splits(one_class, None, None), tmp_path / "e").measure(read_trainable(bundle)) is None


def test_weights_of_another_model_are_refused(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    weights = read_trainable(bundle)
    weights["head.weight"] = weights["head.weight"][:, :-1]
    with pytest.raises(RefusedUpdateError, match=r"head\.weight has shape"):
        device(bundle, images, tmp_path / "d").learn(weights, TASK)
    weights = read_trainable(bundle)
    weights["head.bias"][0] = np.nan
    with pytest.raises(RefusedUpdateError, match=r"head\.bias holds what is no finite number"):
        device(bundle, images, tmp_path / "d").measure(weights)


def test_one_process_works_in_a_folder_at_a_time(bundle: Bundle, images: Splits, tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "d").mkdir()
    code = (
        "import sys; from pathlib import Path; from edgeplast.outputs import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "d" / "start")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="is being written by"):
            device(bundle, images, tmp_path / "d").learn(read_trainable(bundle), TASK)
    finally:
        other.communicate(b"")
