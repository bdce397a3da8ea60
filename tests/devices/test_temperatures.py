"""The temperature: where it is fitted, what it minimises, and that every verb which tells probabilities applies it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import blob_folder

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import EVALUATION_GRAPH, MANIFEST, REPORT, Bundle
from edgeplast.errors import DamagedError
from edgeplast_devices.deploying import TEMPERATURE_KEY
from edgeplast_devices.images import Splits, Unreadable, batches, open_images
from edgeplast_devices.logistic import log_softmax
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_devices.temperatures import fit_temperature
from edgeplast_devices.weights import read_trainable


def _cost(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    log_p = log_softmax(logits.astype(np.float64) / temperature)
    return float(np.log(temperature) ** 2 / 2 - log_p[np.arange(len(labels)), labels].sum())


class TestFitting:
    @settings(deadline=None, max_examples=30)
    @given(seed=st.integers(0, 2**32), n=st.integers(1, 200), classes=st.integers(2, 9), spread=st.floats(0.05, 20))
    def test_no_temperature_of_a_fine_grid_is_better(self, seed: int, n: int, classes: int, spread: float) -> None:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, n)
        logits = (spread * (rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels])).astype(np.float32)
        found = fit_temperature(logits, labels)
        assert found is not None and 0.05 <= found <= 20
        best = min(_cost(logits, labels, t) for t in np.geomspace(0.05, 20, 2000))
        assert _cost(logits, labels, found) <= best + 1e-4 * max(abs(best), 1)

    def test_logits_that_are_n_times_too_large_are_divided_by_n(self) -> None:
        rng = np.random.default_rng(0)
        honest = rng.normal(scale=2, size=(20_000, 4))
        p = np.exp(log_softmax(honest)).cumsum(axis=1)
        labels = (rng.random((20_000, 1)) > p).sum(axis=1)
        for factor in (0.2, 1.0, 5.0):
            assert fit_temperature((factor * honest).astype(np.float32), labels) == pytest.approx(factor, rel=0.05)

    def test_a_few_pictures_that_are_all_named_right_are_no_reason_for_certainty(self) -> None:
        logits = np.float32(3) * np.eye(3, dtype=np.float32)
        assert (fit_temperature(logits, np.arange(3)) or 0) > 0.4

    def test_there_is_none_of_nothing_or_of_what_is_not_finite(self) -> None:
        assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)) is None
        assert fit_temperature(np.full((2, 3), np.nan, np.float32), np.zeros(2, np.int64)) is None


@pytest.fixture(scope="module")
def adapted(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A bundle after two epochs on pictures with a validation split of their own, and those pictures."""
    folder = tmp_path_factory.mktemp("adapted")
    data = blob_folder(folder / "data", train=12, test=8)
    for label in (data / "train").iterdir():
        (data / "val" / label.name).mkdir(parents=True)
        for file in sorted(label.iterdir())[:6]:
            file.rename(data / "val" / label.name / file.name)
    options = TrainingOptions(epochs=2, learning_rate=3e-3, threads=1)
    edgeplast.adapt(bundle, data, into=folder / "a", options=options)
    return Bundle.open(folder / "a"), data


class TestApplying:
    def test_it_is_fitted_on_the_validation_split_and_stored(self, adapted: tuple[Bundle, Path]) -> None:
        bundle, data = adapted
        manifest, report = bundle.manifest, Adaptation.read(bundle.path / REPORT)
        session = EvaluationSession(bundle.path / EVALUATION_GRAPH, read_trainable(bundle), 1)
        images = open_images(data, "val")
        (batch,) = batches(images, manifest.preprocessing, len(images), unreadable=Unreadable())
        expected = fit_temperature(session.logits(batch.images), batch.labels)
        assert manifest.temperature == report.temperature and manifest.temperature not in (None, 1.0)
        assert manifest.temperature == pytest.approx(expected, rel=1e-3)

    def test_evaluate_tells_both_and_no_answer_changes(self, adapted: tuple[Bundle, Path]) -> None:
        bundle, data = adapted
        at, plain = (edgeplast.evaluate(bundle, data, split="val", temperature=t) for t in (True, False))
        assert at.temperature == bundle.manifest.temperature and plain.temperature is None
        assert plain.without_temperature is None and at.without_temperature is not None
        assert at.accuracy == plain.accuracy and at.loss < plain.loss
        assert at.without_temperature.loss == plain.loss
        assert at.without_temperature.expected_calibration_error == plain.expected_calibration_error
        report = Adaptation.read(bundle.path / REPORT)
        tested = edgeplast.evaluate(bundle, data)
        assert report.expected_calibration_error.after == tested.expected_calibration_error
        assert tested.without_temperature is not None
        assert report.calibration_error_without_temperature == tested.without_temperature.expected_calibration_error

    def test_a_deployed_model_divides_its_logits_itself(self, adapted: tuple[Bundle, Path], tmp_path: Path) -> None:
        bundle, data = adapted
        scaled, plain = tmp_path / "scaled.onnx", tmp_path / "plain.onnx"
        edgeplast.deploy(bundle, scaled)
        edgeplast.deploy(bundle, plain, temperature=False)
        sessions = [EvaluationSession(file, {}, 1, optimized=True) for file in (scaled, plain)]
        temperature = bundle.manifest.temperature or 1.0
        assert [json.loads(s.metadata[TEMPERATURE_KEY]) for s in sessions] == [temperature, None]
        for batch in batches(open_images(data, "test"), bundle.manifest.preprocessing, 5, unreadable=Unreadable()):
            divided, whole = (session.logits(batch.images) for session in sessions)
            np.testing.assert_allclose(temperature * divided, whole, atol=1e-4)
        at, without = edgeplast.evaluate(scaled, data), edgeplast.evaluate(plain, data)
        assert at.temperature == temperature and without.temperature is None
        assert at.without_temperature is not None
        assert at.without_temperature.loss == pytest.approx(without.loss, abs=1e-5)
        assert at.loss == pytest.approx(edgeplast.evaluate(bundle, data).loss, abs=1e-5)
        assert edgeplast.evaluate(scaled, data, temperature=False).loss == pytest.approx(without.loss, abs=1e-5)
        pictures = data / "test" / "red"
        for one, other in (
            (edgeplast.predict(scaled, pictures, temperature=False), edgeplast.predict(plain, pictures)),
            (edgeplast.predict(plain, pictures, temperature=False), edgeplast.predict(plain, pictures)),
        ):
            for a, b in zip(one, other, strict=True):
                assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        first, second = (edgeplast.predict(file, pictures)[0].probabilities for file in (scaled, plain))
        assert [*first] == [*second] and first != second

    def test_without_a_validation_split_there_is_none(
        self, adapted: tuple[Bundle, Path], bundle: Bundle, tmp_path: Path
    ) -> None:
        images = open_images(adapted[1], "train")
        options = TrainingOptions(epochs=1, threads=1)
        # Adapted anew, other weights: the temperature of those before does not stay.
        for start, into in ((bundle, "a"), (adapted[0], "b")):
            report = edgeplast.adapt(start, Splits(images, None, None), into=tmp_path / into, options=options)
            assert report.temperature is None and Bundle.open(tmp_path / into).manifest.temperature is None
        assert edgeplast.evaluate(tmp_path / "a", images).without_temperature is None


def test_a_manifest_of_before_there_were_temperatures_is_read(adapted: tuple[Bundle, Path], tmp_path: Path) -> None:
    shutil.copytree(adapted[0].path, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / MANIFEST).read_text())
    del manifest["temperature"]
    (tmp_path / "old" / MANIFEST).write_text(json.dumps(manifest))
    assert edgeplast.evaluate(tmp_path / "old", adapted[1]).temperature is None
    edgeplast.deploy(tmp_path / "old", tmp_path / "old.onnx")
    assert edgeplast.evaluate(tmp_path / "old.onnx", adapted[1]).temperature is None


@pytest.mark.parametrize("temperature", [0, -1, 1e9])
def test_a_temperature_that_no_fit_gives_is_damage(
    adapted: tuple[Bundle, Path], tmp_path: Path, temperature: float
) -> None:
    shutil.copytree(adapted[0].path, tmp_path / "bad")
    manifest = json.loads((tmp_path / "bad" / MANIFEST).read_text())
    manifest["temperature"] = temperature
    (tmp_path / "bad" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=r"temperature lies between 0\.001 and 1000"):
        Bundle.open(tmp_path / "bad")
