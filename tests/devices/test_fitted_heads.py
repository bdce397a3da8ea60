"""A fitted head: it is the optimum, it costs no more memory than there is, and nothing that happens loses it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import blob_folder
from wrapped_sessions import Wrapped, adapt_over

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import EVALUATION_GRAPH, Bundle
from edgeplast.errors import BudgetError, InputError, InterruptedRunError, UsageError
from edgeplast_devices import fitted_heads
from edgeplast_devices.adapting import unfinished
from edgeplast_devices.fitted_heads import LinearHead, Rows, fit_head, linear_head, with_room
from edgeplast_devices.images import Unreadable, batches, open_splits
from edgeplast_devices.logistic import fit_logistic
from edgeplast_devices.losses import CrossEntropy
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import Shares
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_devices.weights import read_trainable

Adapt = Callable[..., Adaptation]


def _slope(weight: np.ndarray, bias: np.ndarray, rows: np.ndarray, targets: np.ndarray, decay: float) -> np.ndarray:
    """The gradient of −Σ t·log softmax(x·Wᵀ + b) + decay/2·‖W‖², written down again: (classes, d + 1)."""
    scores = rows @ weight.T + bias
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    errors = p * targets.sum(axis=1, keepdims=True) - targets
    return np.hstack([errors.T @ rows + decay * weight, errors.sum(axis=0)[:, None]])


class TestLogisticRegression:
    @settings(deadline=None, max_examples=25)
    @given(
        seed=st.integers(0, 2**32), n=st.integers(2, 80), width=st.integers(1, 12), classes=st.integers(2, 5),
        decay=st.floats(1e-4, 1.0), piece=st.integers(1, 40), bias=st.booleans(),
    )  # fmt: skip
    def test_the_gradient_vanishes(
        self, seed: int, n: int, width: int, classes: int, decay: float, piece: int, bias: bool
    ) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(n, width)) * rng.uniform(0.01, 5, width)
        targets = rng.dirichlet(np.full(classes, 0.3), n) * rng.uniform(0.2, 2, (n, 1)) / n

        def pieces() -> list[tuple[np.ndarray, np.ndarray]]:
            return [(rows[i : i + piece], targets[i : i + piece]) for i in range(0, n, piece)]

        fit = fit_logistic(pieces, classes, width, decay=decay, bias=bias)
        slope = _slope(fit.weight, fit.bias, rows, targets, decay)
        at_zero = _slope(0 * fit.weight, 0 * fit.bias, rows, targets, decay)
        if not bias:
            assert not fit.bias.any()
            slope, at_zero = slope[:, :-1], at_zero[:, :-1]
        assert np.linalg.norm(slope) <= 2e-6 * np.linalg.norm(at_zero) + 1e-15
        assert fit.gradient_norm == pytest.approx(float(np.linalg.norm(slope)), abs=1e-12)

    def test_features_that_say_everything_stay_finite(self) -> None:
        rows, targets = 30 * np.eye(3), np.eye(3) / 3
        fit = fit_logistic(lambda: [(rows, targets)], 3, 3, decay=1 / 3)
        assert np.isfinite(fit.weight).all() and 0 < fit.loss < 0.05


class TestRows:
    @pytest.mark.parametrize("piece", [1, 7, 100])
    def test_a_file_gives_what_memory_gives(self, piece: int) -> None:
        rng = np.random.default_rng(0)
        held, filed = Rows(5), Rows(5, io.BytesIO())
        blocks = [rng.normal(size=(count, 5)).astype(np.float32) for count in (4, 1, 20, 8)]
        for block in blocks:
            for rows in (held, filed):
                rows.add(block, np.arange(len(block)))
        assert held.scale == filed.scale == pytest.approx(np.sqrt(np.square(np.concatenate(blocks)).mean()), rel=1e-6)
        for _ in range(2):  # a fit goes through them many times
            one, other = list(held.pieces(piece)), list(filed.pieces(piece))
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
            np.testing.assert_array_equal(np.concatenate(one), np.concatenate(blocks))

    def test_they_take_what_larger_pictures_would_have_and_no_more(self) -> None:
        spare = Shares(100, 50, 60, fitted_heads.PICTURE_BYTES + 1000)
        assert with_room(spare, 1000) == (Shares(100, 50, 60, fitted_heads.PICTURE_BYTES), True)
        assert with_room(spare, 1001) == (spare, False)
        unlimited = Shares(100, 50, None, None)
        assert with_room(unlimited, 1 << 40) == (unlimited, True)

    def test_nothing_to_fit_on_is_an_error(self) -> None:
        head = LinearHead("w", "b", 2, 3)
        with pytest.raises(InputError, match="Not one training picture could be read"):
            fit_head(Rows(3), head, {}, loss=CrossEntropy(np.ones(2, np.float32)))

    def test_too_little_memory_for_the_fit_names_the_way_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(fitted_heads, "fit_logistic", fails)
        rows, head = Rows(3), LinearHead("w", "b", 1000, 3)
        rows.add(np.ones((1, 3), np.float32), np.zeros(1, np.int64))
        with pytest.raises(BudgetError, match=r"1000 classes times 3 features .* --head zero"):
            fit_head(rows, head, {}, loss=CrossEntropy(np.ones(1000, np.float32)))


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    """The sessions that ``adapt`` runs over; arranged for what goes into ``adapted``."""
    return Wrapped(tmp_path / "adapted")


@pytest.fixture
def adapt(bundle: Bundle, blobs: Path, tmp_path: Path, wrapped: Wrapped) -> Adapt:
    """Adapt into ``tmp_path / into`` with a fitted head, two epochs and a checkpoint every other step."""

    def run(into: str = "adapted", start: Bundle = bundle, data: Path = blobs, **how: object) -> Adaptation:
        verb = {name: how.pop(name) for name in ("resume", "notice", "budget", "progress") if name in how}
        given: dict = {"epochs": 2, "head": "fitted", "learning_rate": 1e-3, "threads": 1, "checkpoint_every": "2steps"}
        return adapt_over(wrapped, start, data, tmp_path / into, TrainingOptions(**(given | how)), **verb)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("options", [{}, {"class_weights": "balanced", "label_smoothing": 0.1}])
def test_alone_it_is_the_optimum_on_the_training_pictures_features(
    adapt: Adapt, bundle: Bundle, tmp_path: Path, options: dict
) -> None:
    data = blob_folder(tmp_path / "data", train=12)
    for file in sorted((data / "train" / "red").iterdir())[:5]:
        file.unlink()
    report = adapt(data=data, epochs=0, **options)
    before, after = read_trainable(bundle), read_trainable(Bundle.open(tmp_path / "adapted"))
    head = linear_head(bundle.manifest)
    assert head.bias is not None
    for name in before.keys() - {head.weight, head.bias}:
        np.testing.assert_array_equal(before[name], after[name])

    images = open_splits(data, seed=0).train
    session = EvaluationSession(bundle.path / EVALUATION_GRAPH, before, 1)
    (batch,) = batches(images, bundle.manifest.preprocessing, len(images), unreadable=Unreadable())
    features = session.features(batch.images).astype(np.float64)
    scale = float(np.sqrt(np.square(features).mean()))
    loss = CrossEntropy.over(
        images.labels,
        3,
        class_weighting=options.get("class_weights", "none"),
        smoothing=options.get("label_smoothing", 0.0),
    )
    targets = loss.targets(batch.labels, loss.mass(batch.labels)).astype(np.float64)
    decay = 1 / len(images)
    slope = _slope(after[head.weight] * scale, after[head.bias], features / scale, targets, decay)
    at_zero = _slope(0 * after[head.weight], 0 * after[head.bias], features / scale, targets, decay)
    assert np.linalg.norm(slope) < 1e-5 * np.linalg.norm(at_zero)

    assert (report.steps, report.epochs, report.best_epoch) == (0, 0, 0) and report.losses == ()
    (epoch,) = report.history
    assert epoch.epoch == 0 and epoch.training_loss < np.log(3) and epoch.validation_loss is not None
    assert report.trained == ("head",)
    assert report.options["head"] == "fitted" and report.stopped_because == "finished"
    assert report.accuracy.after is not None and report.accuracy.before is not None
    assert report.accuracy.after > report.accuracy.before + 0.2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "data"]


def test_features_in_a_file_make_the_same_head(adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapt(epochs=0, into="memory")
    used: list[object] = []

    class Seen(Rows):
        def __init__(self, width: int, file: object = None) -> None:
            used.append(file)
            super().__init__(width, file)  # type: ignore[arg-type]

    monkeypatch.setattr(fitted_heads, "Rows", Seen)
    monkeypatch.setattr("edgeplast_devices.running.with_room", lambda shares, needed: (shares, False))
    adapt(epochs=0, into="file")
    assert used[0] is not None
    one, other = (read_trainable(Bundle.open(tmp_path / name)) for name in ("memory", "file"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_it_is_kept_where_training_from_it_only_makes_it_worse(adapt: Adapt, tmp_path: Path) -> None:
    alone = adapt(epochs=0, into="alone")
    report = adapt(learning_rate=0.3, clip=0.0, epochs=1)
    assert [epoch.epoch for epoch in report.history] == [0, 1] and report.best_epoch == 0
    assert report.accuracy.after == alone.accuracy.after
    one, other = (read_trainable(Bundle.open(tmp_path / name)) for name in ("alone", "adapted"))
    assert all(np.array_equal(one[name], other[name]) for name in one)


class _Killed(BaseException):
    """Ends a run as a power cut does: nothing that catches errors sees it."""


def _kill() -> None:
    raise _Killed


class TestGoingOn:
    def _same(self, tmp_path: Path, one: Adaptation, other: Adaptation) -> None:
        assert one.losses == other.losses and one.history == other.history and one.temperature == other.temperature
        weights = [read_trainable(Bundle.open(tmp_path / name)) for name in ("whole", "adapted")]
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_killed_while_it_reads_features_it_reads_them_again(self, adapt: Adapt, tmp_path: Path) -> None:
        whole = adapt(into="whole")

        def kill(activity: str, done: int, total: int) -> None:
            if activity == "fitting the head" and done >= total / 2:
                raise _Killed

        with pytest.raises(_Killed):
            adapt(progress=kill)
        assert not unfinished(tmp_path / "adapted").exists()  # there was nothing to keep
        self._same(tmp_path, whole, adapt(resume=True))

    @pytest.mark.parametrize("step", [0, 1, 3, 7])
    def test_killed_after_it_was_fitted_it_is_not_fitted_again(
        self, adapt: Adapt, wrapped: Wrapped, tmp_path: Path, step: int
    ) -> None:
        whole = adapt(into="whole")
        wrapped.at_step(step, _kill)
        with pytest.raises(_Killed):
            adapt()
        told: list[str] = []
        resumed = adapt(resume=True, progress=lambda activity, done, total: told.append(activity))
        assert "fitting the head" not in told and any(said.startswith("epoch") for said in told)
        self._same(tmp_path, whole, resumed)

    def test_a_signal_before_the_first_step_keeps_it(self, adapt: Adapt, wrapped: Wrapped, tmp_path: Path) -> None:
        whole = adapt(into="whole")
        wrapped.at_step(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError, match=r"The run is saved at step 0 in .*--resume"):
            adapt()
        self._same(tmp_path, whole, adapt(resume=True))

    def test_alone_it_is_kept_when_the_run_is_stopped_before_its_end(self, adapt: Adapt, tmp_path: Path) -> None:
        whole = adapt(into="whole", epochs=0)

        def stop(activity: str, *_: int) -> None:
            if activity == "fitting the temperature":
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(InterruptedRunError, match=r"saved at step 0 .*--resume"):
            adapt(epochs=0, progress=stop)
        self._same(tmp_path, whole, adapt(resume=True, epochs=0))


class TestStarts:
    def test_a_head_that_has_learned_goes_on_from_where_it_is(self, adapt: Adapt, tmp_path: Path) -> None:
        first = adapt(into="first", head=None)
        assert first.options["head"] == "zero" and first.options["head_learning_rate"] == 3e-3
        again = adapt(into="again", start=Bundle.open(tmp_path / "first"), head=None)
        assert again.options["head"] == "kept" and again.options["head_learning_rate"] == 1e-3
        assert again.accuracy.before == first.accuracy.after
        assert again.losses[0] < first.losses[0]

    def test_zero_starts_a_head_anew(self, adapt: Adapt, bundle: Bundle, tmp_path: Path) -> None:
        adapt(into="first")
        report = adapt(into="zero", start=Bundle.open(tmp_path / "first"), head="zero", epochs=1, augment="none")
        assert report.losses[0] == pytest.approx(np.log(3), abs=1e-5)
        assert report.options["head_learning_rate"] == 3e-3
        del bundle


class TestRefusals:
    @pytest.mark.parametrize("name", ["head.hidden.weight", "head_dist.weight"])
    def test_a_head_of_two_layers_is_refused(self, bundle: Bundle, name: str) -> None:
        head = linear_head(bundle.manifest)
        parameters = bundle.manifest.parameters | {name: bundle.manifest.parameters[head.weight]}
        with pytest.raises(UsageError, match=r"one linear layer of features\. .*another head.*--head zero"):
            linear_head(msgspec.structs.replace(bundle.manifest, parameters=parameters))

    def test_a_bundle_that_hands_no_features_back_is_refused(
        self, adapt: Adapt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(EvaluationSession, "feature_width", 0)
        with pytest.raises(UsageError, match=r"before bundles handed features back.*export it again"):
            adapt()
        assert not [*tmp_path.iterdir()]


def test_the_budget_holds_while_a_head_is_fitted(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """Within the smallest budget that the error names, behind the wall: BLAS would end the process there."""
    options = ["--data", str(blobs), "--head", "fitted", "--epochs", "0", "-o", str(tmp_path / "a"), "--json"]
    command = [sys.executable, "-m", "edgeplast", "adapt", str(bundle.path), *options, "--memory"]
    refused = subprocess.run([*command, "40MiB"], capture_output=True, text=True)
    named = re.search(r"--memory (\d+MiB)", refused.stderr)
    assert refused.returncode == 4 and named, refused.stderr
    ended = subprocess.run([*command, named[1]], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    memory = Adaptation.from_json(ended.stdout.encode(), where="stdout").memory
    assert memory.budget_bytes is not None and memory.measured_peak_bytes <= memory.budget_bytes
