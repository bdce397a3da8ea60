"""Saying "I do not know": the energy of logits, a threshold on held-out pictures, in bundle and deployed file alike."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CLASSES, blob, blob_folder, small_bundle, truncated_png

import edgeplast
from edgeplast.bundle import MANIFEST, Bundle
from edgeplast.documents import Document
from edgeplast.errors import DiskFullError, InputError, InterruptedRunError, UsageError
from edgeplast.unknown import Unknown
from edgeplast_devices.disk import left_for_examples
from edgeplast_devices.energy import energies, is_known
from edgeplast_devices.images import open_splits
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_devices.unknowns import fit_unknown
from edgeplast_devices.weights import read_trainable


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 4, "learning_rate": 3e-3, "threads": 1, "augment": "none"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blob_folder(tmp_path_factory.mktemp("photos") / "data", train=40, test=30)


@pytest.fixture(scope="module")
def made(bundle: Bundle, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    edgeplast.adapt(bundle, photos, into=root / "a", options=options(false_alarms=0.2))
    edgeplast.deploy(root / "a", root / "a.onnx")
    return root


class TestThreshold:
    """Arithmetic."""

    @given(st.integers(5, 300), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def test_no_more_of_what_it_was_set_on_lies_below_than_was_allowed(self, n: int, share: float, seed: int) -> None:
        logits = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32) * 4
        found = fit_unknown(logits, share)
        assert found is not None and found.images == n
        below = [not is_known(row, found) for row in logits]
        assert np.mean(below) == found.false_alarms <= share
        assert found.false_alarms > share - 1 / n - 1e-9 or share < 1 / n

    def test_energy_is_the_logarithm_of_the_sum_of_exponentials(self) -> None:
        logits = np.asarray([[1, 2, 3], [800, 0, -800], [-900, -901, -902]], np.float32)
        expected = [np.log(np.exp([1, 2, 3]).sum()), 800.0, -900 + np.log(1 + np.exp(-1) + np.exp(-2))]
        np.testing.assert_allclose(energies(logits), expected, rtol=1e-6)

    def test_a_class_left_out_lies_below_what_the_others_make(self) -> None:
        """Logits of a linear head: pictures of a class that it has no row for excite none of its rows much."""
        rng = np.random.default_rng(0)
        means = rng.normal(size=(5, 64))
        features = [mean + rng.normal(size=(400, 64)) * 0.5 for mean in means]
        logits = [(f @ means[:4].T / 4).astype(np.float32) for f in features]
        held = np.concatenate([part[:50] for part in logits[:4]])
        found = fit_unknown(held, 0.05)
        assert found is not None
        alarms = np.mean([not is_known(row, found) for part in logits[:4] for row in part[50:]])
        caught = np.mean([not is_known(row, found) for row in logits[4]])
        assert alarms < 0.1 and caught > 0.9

    def test_from_few_pictures_or_broken_logits_nothing_is_told(self) -> None:
        assert fit_unknown(np.zeros((4, 3), np.float32), 0.05) is None
        assert fit_unknown(np.full((20, 3), np.nan, np.float32), 0.05) is None
        assert is_known(np.zeros(3, np.float32), None) is None


def test_it_is_fitted_on_held_out_pictures_and_told(made: Path, photos: Path) -> None:
    report = edgeplast.Adaptation.read(made / "a" / "report.json")
    assert report.unknown == Bundle.open(made / "a").manifest.unknown
    assert report.unknown is not None and report.unknown.images == report.images["val"] == 18
    assert report.unknown.false_alarms == pytest.approx(3 / 18)


def test_bundle_deployed_file_and_learner_say_the_same(made: Path, tmp_path: Path) -> None:
    pictures = [blob(label, 900 + i) for label in CLASSES for i in range(8)]
    noise = [np.random.default_rng(i).integers(0, 255, (36, 36, 3), dtype=np.uint8) for i in range(8)]
    from_bundle = edgeplast.predict(made / "a", [*pictures, *noise])
    from_file = edgeplast.predict(made / "a.onnx", [*pictures, *noise])
    plain = edgeplast.predict(made / "a.onnx", [*pictures, *noise], temperature=False)
    assert [p.known for p in from_bundle] == [p.known for p in from_file] == [p.known for p in plain]
    assert {p.known for p in from_bundle} == {True, False}
    with edgeplast.Learner(made / "a", into=None, memory="none", options=options()) as learner:
        assert [p.known for p in learner.predict([*pictures, *noise])] == [p.known for p in from_bundle]


def test_pictures_of_a_class_left_out_are_called_unknown_more_often(tmp_path: Path) -> None:
    fresh = small_bundle(tmp_path / "fresh", classes=CLASSES[:2])
    known = blob_folder(tmp_path / "known", train=60, test=30, classes=CLASSES[:2])
    edgeplast.adapt(fresh, known, into=tmp_path / "a", options=options(epochs=8, false_alarms=0.2))
    edgeplast.deploy(tmp_path / "a", tmp_path / "a.onnx")
    shown, left_out = [*known.glob("test/*/*")], [blob("red", i) for i in range(60)]
    for model in (tmp_path / "a", tmp_path / "a.onnx"):
        alarms, caught = (np.mean([not p.known for p in edgeplast.predict(model, each)]) for each in (shown, left_out))
        assert alarms < 0.4 and caught > 2 * alarms, (alarms, caught)


def test_where_nothing_tells_nothing_is_said(bundle: Bundle, made: Path, blobs: Path, tmp_path: Path) -> None:
    assert edgeplast.predict(bundle, blob("red", 1))[0].known is None
    pictures = edgeplast.ImageSet.of(
        [blob(c, i) for c in CLASSES for i in range(4)], [c for c in CLASSES for _ in "1234"]
    )
    report = edgeplast.adapt(made / "a", pictures, into=tmp_path / "none", options=options(epochs=1))
    assert report.unknown is None and edgeplast.predict(tmp_path / "none", blob("red", 1))[0].known is None


def test_a_learner_fits_it_when_asked_and_again_after_each_learn(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 255, (36, 36, 3), dtype=np.uint8) for i in range(8)]
    held_out = edgeplast.ImageSet.of([*photos.glob("test/*/*")], [p.parent.name for p in photos.glob("test/*/*")])
    with edgeplast.Learner(bundle.path, into=tmp_path / "a", memory="none", options=options()) as learner:
        learner.add([blob(c, i) for c in CLASSES for i in range(8)], [c for c in CLASSES for _ in range(8)])
        report = learner.learn()
        assert learner.predict(blob("red", 1)).known is None and report.unknown is None
        found = learner.calibrate(photos, false_alarms=0.1)
        assert found is not None and found.images == 90 and found.false_alarms == pytest.approx(0.1)
        assert learner.predict(blob("red", 1)).known is not None
        assert Bundle.open(tmp_path / "a").manifest.unknown == found and learner.versions()[-1].by == "calibrate"
        report = learner.learn(epochs=8)
        fitted = Bundle.open(tmp_path / "a").manifest
        assert report.unknown == fitted.unknown and report.temperature == fitted.temperature
        assert fitted.unknown is not None and fitted.unknown.energy != found.energy
        alarms = np.mean([not p.known for p in learner.predict(held_out)])
        assert alarms == pytest.approx(fitted.unknown.false_alarms) and alarms <= 0.1  # of the weights as they are now
        learner.roll_back(learner.versions()[-2].name)
        assert Bundle.open(tmp_path / "a").manifest.unknown == found
        assert learner.predict(noise)[0].known is not None


FITTING = "fitting the temperature"


@pytest.mark.parametrize("how", ["signal", "close", "second Ctrl-C"])
def test_what_was_learned_is_kept_when_calibrating_it_is_stopped(
    bundle: Bundle, photos: Path, tmp_path: Path, how: str
) -> None:
    learner = edgeplast.Learner(bundle.path, into=tmp_path / "a", memory="none", options=options())
    learner.add([blob(c, i) for c in CLASSES for i in range(8)], [c for c in CLASSES for _ in range(8)])
    learner.learn(steps=1)
    found = learner.calibrate(photos)
    before, closing = read_trainable(Bundle.open(tmp_path / "a")), threading.Thread(target=learner.close)

    def progress(activity: str, *_: int) -> None:
        if activity != FITTING or closing.ident:
            return
        if how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif how == "close":
            closing.start()
            while learner._is_open:
                time.sleep(0.001)
        else:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt if how == "second Ctrl-C" else InterruptedRunError):
        learner.learn(steps=4, progress=progress)
    kept = Bundle.open(tmp_path / "a")
    after = read_trainable(kept)
    assert any((after[name] != before[name]).any() for name in before) and kept.manifest.unknown == found
    if how == "close":
        closing.join()
    else:
        assert learner.versions()[-1].by == "learn" and len(learner.versions()) == 4
        mine = learner.predict(blob("red", 1)).probabilities
        assert edgeplast.predict(tmp_path / "a", blob("red", 1))[0].probabilities == mine
        assert learner.learn(steps=1).unknown != found  # and calibrated again
        learner.close()


def fed(learner: edgeplast.Learner) -> None:
    learner.add([blob(c, i) for c in CLASSES for i in range(8)], [c for c in CLASSES for _ in range(8)])


def test_opened_again_it_is_calibrated_again_after_each_learn(bundle: Bundle, tmp_path: Path) -> None:
    held_out = [blob(c, 100 + i) for c in CLASSES for i in range(12)]
    labels, said = [c for c in CLASSES for _ in range(12)], list[str]()
    how: dict = {"memory": "none", "options": options(), "notice": said.append}
    with edgeplast.Learner(bundle, into=tmp_path / "a", **how) as learner:
        fed(learner)
        learner.learn(steps=1)
        found = learner.calibrate(edgeplast.ImageSet.of(held_out, labels), false_alarms=0.1)
    kept = tmp_path / "a.held-out"
    assert found is not None and found.allowed == 0.1 and len([*kept.glob("*/*.png")]) == 36
    with edgeplast.Learner(tmp_path / "a", **how) as learner:
        report = learner.learn(epochs=8)
        assert report.unknown is not None and report.unknown.energy != found.energy
        assert (report.unknown.images, report.unknown.allowed) == (36, 0.1) and report.images == {"train": 24}
        alarms = np.mean([not p.known for p in learner.predict(held_out)])
        assert alarms == pytest.approx(report.unknown.false_alarms) and not said
        again = learner.calibrate(edgeplast.ImageSet.of(held_out[::2], labels[::2]))
        assert again is not None and again.images == 18 == len([*kept.glob("*/*.png")])  # others in their place
        assert len(said) == 1 and "fitted on 18 pictures alone" in said[0]
    assert edgeplast.evaluate(tmp_path / "a", kept).images == 18  # a data set like any other


def test_where_there_is_no_room_for_what_it_is_calibrated_on_nothing_changes(bundle: Bundle, tmp_path: Path) -> None:
    pictures = edgeplast.ImageSet.of(
        [blob(c, i) for c in CLASSES for i in range(12)], [c for c in CLASSES for _ in range(12)]
    )
    with edgeplast.Learner(
        bundle, into=tmp_path / "a", memory="none", options=options(disk=of_a_learner(bundle))
    ) as learner:
        fed(learner)
        learner.learn(steps=1)
        assert learner.calibrate(pictures.subset(range(0, 36, 6))) is not None
        before, kept = Bundle.open(tmp_path / "a").fingerprint, sorted((tmp_path / "a.held-out").glob("*/*"))
        with pytest.raises(DiskFullError, match="is left for examples"):
            learner.calibrate(pictures)
        assert Bundle.open(tmp_path / "a").fingerprint == before
        assert sorted((tmp_path / "a.held-out").glob("*/*")) == kept and learner.predict(blob("red", 1)).label


def of_a_learner(bundle: Bundle) -> str:
    """Return a disk for a bundle's Learner, 24 examples and as many pictures more, of which six are held out twice."""
    needed, picture = left_for_examples(bundle, options(disk="1GiB")), io.BytesIO()
    blob("red", 1).save(picture, "PNG", compress_level=1)
    assert needed is not None
    return f"{(1 << 30) - needed + 48 * picture.tell()}B"


def test_where_the_pictures_to_calibrate_on_are_gone_it_learns_all_the_same_and_says_so(
    bundle: Bundle, tmp_path: Path
) -> None:
    held_out, said = blob_folder(tmp_path / "held", train=0, test=8), list[str]()
    opened = edgeplast.Learner(bundle.path, into=tmp_path / "a", memory="none", options=options(), notice=said.append)
    with opened as learner:
        fed(learner)
        learner.learn(steps=1)
        found = learner.calibrate(held_out)
        shutil.rmtree(held_out)
        assert learner.learn(steps=1).unknown != found and not said  # it keeps them itself
        found, before = learner.report.unknown, Bundle.open(tmp_path / "a")  # type: ignore[union-attr]
        weights = read_trainable(before)
        for file in (tmp_path / "a.held-out").glob("*/*"):
            file.write_bytes(truncated_png())
        report = learner.learn(epochs=2)
        kept = Bundle.open(tmp_path / "a")
        after = read_trainable(kept)
        assert any((after[name] != weights[name]).any() for name in weights)
        assert report.unknown == kept.manifest.unknown == found == learner.report.unknown  # type: ignore[union-attr]
        assert report.temperature == kept.manifest.temperature == before.manifest.temperature
        assert len(said) == 1 and "What was learned is kept, and not calibrated anew: " in said[0]
        assert "Until it is (calibrate), how sure the model says it is" in said[0]
        assert learner.predict(blob("red", 1)).label


def test_a_threshold_that_nothing_is_held_out_for_stays_and_is_said_to_be_old(made: Path, tmp_path: Path) -> None:
    was, said = Bundle.open(made / "a").manifest, list[str]()
    opened = edgeplast.Learner(made / "a", into=tmp_path / "b", memory="none", options=options(), notice=said.append)
    with opened as learner:
        fed(learner)
        for learn in (
            lambda: learner.learn(steps=1),
            lambda: learner.add_class("lynx"),
            lambda: learner.learn(steps=2),
        ):
            learn()
            kept = Bundle.open(tmp_path / "b").manifest
            assert (kept.unknown, kept.temperature) == (was.unknown, was.temperature)
            assert learner.predict(blob("red", 1)).known is not None
        assert len(said) == 1 and "What was learned is not calibrated" in said[0] and "learner.calibrate(" in said[0]
        learner.deploy(tmp_path / "b.onnx")
    assert edgeplast.predict(tmp_path / "b.onnx", blob("red", 1))[0].known is not None


def test_too_few_pictures_are_told(bundle: Bundle, tmp_path: Path) -> None:
    few, said = [blob(c, i) for c in CLASSES for i in range(4)], list[str]()
    labels = [c for c in CLASSES for _ in range(4)]
    opened = edgeplast.Learner(bundle, into=tmp_path / "a", memory="none", options=options(), notice=said.append)
    with opened as learner:
        assert learner.calibrate(edgeplast.ImageSet.of(few, labels)) is not None
        assert "fitted on 12 pictures alone: of other known ones up to 24% may be called unknown" in said[-1]
        assert "where 0.05 of them are allowed. Hold out 20 or more" in said[-1]
        assert learner.calibrate(edgeplast.ImageSet.of(few[:4], labels[:4])) is None
        assert said[-1] == (
            "4 pictures that can be read are too few to tell when the model does not know; it takes 5. Hold out more."
        )
    for images, allowed, wants in ((19, 0.05, 20), (99, 0.01, 100), (19, 0.0, 20), (19, 0.5, 20)):
        found = Unknown(energy=0.0, false_alarms=0.0, images=images, allowed=allowed)
        assert found.wants == wants and found.doubt and not msgspec.structs.replace(found, images=wants).doubt
    said.clear()
    twelve = open_splits(blob_folder(tmp_path / "data", train=24, test=3), seed=0)
    edgeplast.adapt(bundle, twelve, into=tmp_path / "b", options=options(epochs=1), notice=said.append)
    assert any("fitted on 12 pictures alone" in text for text in said)


def damaged(folder: Path, keep: int) -> Path:
    """Cut off all pictures of a folder but a few."""
    for file in sorted(folder.rglob("*.png"))[keep:]:
        file.write_bytes(truncated_png())
    return folder


def test_pictures_to_calibrate_on_that_cannot_be_read_are_named_and_not_counted(bundle: Bundle, tmp_path: Path) -> None:
    held_out, said = damaged(blob_folder(tmp_path / "held", train=0, test=5), keep=3), list[str]()
    how: dict = {"memory": "none", "notice": said.append}
    with edgeplast.Learner(bundle, into=tmp_path / "a", options=options(), **how) as learner:
        assert learner.calibrate(held_out) is None
        named, rest, doubt = said[:10], said[10], said[11]
        assert all(line.startswith("left out: ") and ".png: " in line for line in named)
        assert rest == "left out: 2 more pictures" and doubt.startswith("3 pictures that can be read are too few")
        assert len(said) == 12 and len([*(tmp_path / "a.held-out").glob("*/*.png")]) == 3
        said.clear()
        with pytest.raises(InputError, match=r"None of the 15 pictures could be read \(test/.*png: "):
            learner.calibrate(damaged(held_out, keep=0))
    said.clear()
    with edgeplast.Learner(bundle, into=tmp_path / "b", options=options(private=True), **how) as learner:
        learner.calibrate(damaged(blob_folder(tmp_path / "more", train=0, test=5), keep=4))
        assert said[0] == "left out: 11 pictures" and len(said) == 2


def test_what_is_lost_of_the_pictures_it_was_calibrated_on_is_told_when_it_is_calibrated_again(
    bundle: Bundle, tmp_path: Path
) -> None:
    said = list[str]()
    opened = edgeplast.Learner(bundle, into=tmp_path / "a", memory="none", options=options(), notice=said.append)
    with opened as learner:
        fed(learner)
        learner.learn(steps=1)
        assert learner.calibrate(blob_folder(tmp_path / "held", train=0, test=8)) is not None and not said
        damaged(tmp_path / "a.held-out", keep=4)
        assert learner.learn(steps=1).unknown is None
        assert said[-2] == "left out: 10 more pictures"
        assert said[-1].startswith("4 pictures that can be read are too few to tell when the model does not know")


def test_outputs_that_are_no_finite_numbers_are_told_as_such(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, real = list[str](), EvaluationSession.logits
    opened = edgeplast.Learner(bundle, into=tmp_path / "a", memory="none", options=options(), notice=said.append)
    with opened as learner:
        monkeypatch.setattr(EvaluationSession, "logits", lambda *given: real(*given) * np.float32("nan"))
        assert learner.calibrate(blob_folder(tmp_path / "held", train=0, test=8)) is None
    assert len(said) == 1 and "outputs for the 24 pictures to calibrate it on are not all finite" in said[0]
    assert "too few" not in said[0] and "Take one from a run that did not diverge" in said[0]


def test_what_makes_no_sense_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--false-alarms 0.9 is out of range; allowed is 0 to 0.5"):
        options(false_alarms=0.9)
    with pytest.raises(InputError, match="no finite number"):
        Unknown(energy=float("inf"), false_alarms=0.0, images=9)
    text = (made / "a" / MANIFEST).read_bytes()
    content = msgspec.json.decode(text)
    content["unknown"]["false_alarms"] = 7
    with pytest.raises(InputError, match="false_alarms"):
        type(Bundle.open(made / "a").manifest).from_json(msgspec.json.encode(content), where="bundle.json")
    assert issubclass(type(Bundle.open(made / "a").manifest), Document)
