"""What a run forgets is measured on other sets, told of everywhere, and limited where a limit is given."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, blob, blob_folder
from wrapped_sessions import Wrapped

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import REPORT, Bundle
from edgeplast.errors import InputError, InterruptedRunError, UsageError
from edgeplast.telemetry import TELEMETRY, AlsoLine, EpochLine, of_kind, read_telemetry
from edgeplast_devices import adapting
from edgeplast_devices.images import ImageSet, Splits, open_splits
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.weights import read_trainable


@pytest.fixture(scope="module")
def swapped(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures under each other's names: whoever learns these forgets those."""
    root = tmp_path_factory.mktemp("swapped")
    for folder in blobs.glob("*/*"):
        named = CLASSES[(CLASSES.index(folder.name) + 1) % 3]
        shutil.copytree(folder, root / folder.parent.name / named)
    return root


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 4, "learning_rate": 3e-3, "threads": 1, "augment": "none", "checkpoint_every": "2steps"}
    return TrainingOptions(**(given | more))


def test_what_other_sets_lost_is_told_in_report_and_telemetry(
    learned: Bundle, blobs: Path, swapped: Path, tmp_path: Path
) -> None:
    few = blob_folder(tmp_path / "few", train=6, test=0)
    report = edgeplast.adapt(learned, swapped, into=tmp_path / "a", also=[blobs, few], options=options())
    before, after = edgeplast.evaluate(learned, blobs), edgeplast.evaluate(tmp_path / "a", blobs)
    found = report.also[str(blobs)]
    assert (found.accuracy.before, found.accuracy.after, found.images) == (before.accuracy, after.accuracy, 36)
    assert found.lost_points == pytest.approx(100 * (before.accuracy - after.accuracy)) and found.lost_points > 30
    for label, of_class in found.per_class.items():
        assert (of_class.before, of_class.after) == (
            before.per_class[label].accuracy,
            after.per_class[label].accuracy,
        )
    assert found.worst is not None and found.worst[1] >= found.lost_points - 1e-9
    assert report.also[str(few)].images == 18 and report.images[f"also {few}"] == 18
    assert Adaptation.read(tmp_path / "a" / REPORT) == report
    lines = of_kind(read_telemetry(tmp_path / "a" / TELEMETRY), AlsoLine)
    assert [(line.name, line.when) for line in lines] == [
        (str(name), when) for when in ("before", "after") for name in (blobs, few)
    ]
    assert lines[0].accuracy == before.accuracy and lines[2].accuracy == after.accuracy


def test_a_run_that_forgets_goes_back_to_the_weights_that_did_not(
    learned: Bundle, blobs: Path, swapped: Path, tmp_path: Path
) -> None:
    how = options(keep_within=5.0, epochs=8)
    report = edgeplast.adapt(learned, swapped, into=tmp_path / "a", also=[blobs], options=how)
    assert report.stopped_because == "forgot" and report.epochs < 8
    assert report.also[str(blobs)].lost_points <= 5
    told = of_kind(read_telemetry(tmp_path / "a" / TELEMETRY), EpochLine)[-1].also[str(blobs)]
    assert told == report.history[-1].also[str(blobs)] < edgeplast.evaluate(learned, blobs).accuracy - 0.05
    if report.best_epoch == 0:
        kept, came = (read_trainable(Bundle.open(folder)) for folder in (tmp_path / "a", learned.path))
        assert all(np.array_equal(kept[name], came[name]) for name in came)
    assert not list((tmp_path / "a").glob("best*"))


def test_a_run_that_keeps_what_it_must_is_the_run_without_a_limit(learned: Bundle, blobs: Path, tmp_path: Path) -> None:
    new = blob_folder(tmp_path / "new", train=8, test=4)
    free, held = (
        edgeplast.adapt(learned, new, into=tmp_path / name, also={"old": blobs}, options=options(keep_within=limit))
        for name, limit in (("free", None), ("held", 100.0))
    )
    assert free.losses == held.losses and free.also == held.also and held.stopped_because == "finished"
    assert not free.history[0].also and {*held.history[0].also} == {"old"}


def test_a_run_that_was_interrupted_knows_what_was_known_before(
    learned: Bundle, blobs: Path, swapped: Path, tmp_path: Path
) -> None:
    test = open_splits(blobs, seed=0).test
    assert test is not None

    def adapt(into: str, resume: bool = False, old: ImageSet = test) -> Adaptation:
        wrapped = Wrapped(tmp_path / into)
        if into == "cut" and not resume:
            wrapped.at_step(9, stop)
        opened = open_splits(swapped, seed=0)
        images = Splits(opened.train, opened.val, opened.test, {"old": old})
        how: dict = {"options": options(keep_within=100.0), "resume": resume, "sessions": wrapped.sessions}
        return adapting.adapt(learned, images, into=tmp_path / into, **how)

    def stop() -> None:
        raise InterruptedRunError("stopped")

    whole = adapt("whole")
    with pytest.raises(InterruptedRunError, match="The run is saved at step"):
        adapt("cut")
    with pytest.raises(InputError, match="the images of also old have changed"):
        adapt("cut", resume=True, old=test.subset(range(4)))
    again = adapt("cut", resume=True)
    assert again.also == whole.also and again.best_epoch == whole.best_epoch and again.losses == whole.losses


def test_what_cannot_be_measured_is_said_before_anything_is_done(learned: Bundle, blobs: Path, tmp_path: Path) -> None:
    def adapt(**how: object) -> None:
        given: dict = {"options": options(), **how}
        edgeplast.adapt(learned, blobs, into=tmp_path / "a", **given)

    with pytest.raises(UsageError, match=r"--keep-within 2 needs pictures of what is to be kept. Give .* --also OLD/"):
        adapt(options=options(keep_within=2.0))
    with pytest.raises(UsageError, match=r"--keep-within -1.0 is out of range; allowed is 0 to 100"):
        options(keep_within=-1.0)
    with pytest.raises(UsageError, match="is given twice"):
        adapt(also=[blobs, blobs])
    with pytest.raises(UsageError, match=r"also is of the kind str\. Allowed: a list"):
        adapt(also=str(blobs))
    with pytest.raises(InputError, match="--also cats: There are pictures of 'cat'"):
        adapt(also={"cats": ImageSet.of([blob("red", 1)], ["cat"])})
    with pytest.raises(InputError, match="--also loose: The picture has no label"):
        adapt(also={"loose": ImageSet.of([blob("red", 1)])})
    with pytest.raises(InputError, match="--also none: there are no pictures"):
        adapt(also={"none": ImageSet.of([], [], CLASSES)})
    assert not list(tmp_path.iterdir())


def test_a_learner_measures_what_it_must_keep_and_goes_back(
    learned: Bundle, blobs: Path, swapped: Path, tmp_path: Path
) -> None:
    with edgeplast.Learner(learned.path, into=tmp_path / "a", memory="none", options=options()) as learner:
        before = learner.evaluate(blobs)
        learner.add(open_splits(swapped, seed=0).train)
        report = learner.learn(epochs=8, also={"old": blobs}, keep_within=5)
        assert report.stopped_because == "forgot" and report.also["old"].lost_points <= 5
        assert report.also["old"].accuracy.after == learner.evaluate(blobs).accuracy
        again = learner.learn(steps=3, also={"old": blobs}, keep_within=100)
        assert again.stopped_because == "finished" and again.also["old"].accuracy.before == pytest.approx(
            report.also["old"].accuracy.after
        )
        assert before.accuracy > 0.8
    assert edgeplast.evaluate(tmp_path / "a", blobs).accuracy == again.also["old"].accuracy.after
