"""Pictures that are kept of what was learned: chosen, small, mixed into later runs, deleted when that is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES, blob, blob_folder, small_bundle
from wrapped_sessions import whole_and_resumed

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InputError, UsageError
from edgeplast_devices import adapting
from edgeplast_devices.images import ImageSet, Splits, open_splits_without_labels
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.replaying import candidates, herded

KNOWN = CLASSES[:2]


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 4, "learning_rate": 3e-3, "threads": 1, "augment": "none"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blob_folder(tmp_path_factory.mktemp("known") / "data", classes=KNOWN)


@pytest.fixture(scope="module")
def keeping(known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that tells blue from green, and keeps five pictures of each."""
    root = tmp_path_factory.mktemp("keeping")
    fresh = small_bundle(root / "fresh", classes=KNOWN)
    edgeplast.adapt(fresh, known, into=root / "a", options=options(epochs=6, replay="5/class"))
    return root / "a"


def reds(count: int) -> ImageSet:
    return ImageSet.of([blob("red", i) for i in range(count)], ["red"] * count)


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "replay").glob("*/*"))


def test_so_many_of_each_class_are_kept_small_and_without_their_names(keeping: Path) -> None:
    report = edgeplast.Adaptation.read(keeping / "report.json")
    assert report.replay is not None and report.replay.kept == {"blue": 5, "green": 5} and report.replay.mixed_in == 0
    found = pictures(keeping)
    assert len(found) == 10 and sum(p.stat().st_size for p in found) == report.replay.bytes < 10 * 5000
    assert all(p.stem.removesuffix("-held-back").isdigit() and Image.open(p).format == "JPEG" for p in found)
    assert sorted(p.parent.name for p in found if p.stem.endswith("-held-back")) == ["blue", "green"]
    assert Bundle.open(keeping).manifest.classes == KNOWN


def test_nothing_is_kept_unless_it_was_asked_for(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    report = edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=options(epochs=1))
    assert report.replay is None and not (tmp_path / "a" / "replay").exists()


def test_a_new_class_that_comes_alone_is_learned_beside_what_was_kept(
    keeping: Path, known: Path, tmp_path: Path
) -> None:
    without = edgeplast.adapt(
        keeping, reds(12), into=tmp_path / "none", also=[known], options=options(new_classes="add", replay="none")
    )
    how = options(new_classes="add", epochs=16)
    report = edgeplast.adapt(keeping, reds(12), into=tmp_path / "a", also=[known], options=how)
    assert without.stopped_because == "placed" and without.replay is None and not pictures(tmp_path / "none")
    assert report.steps > 0 and report.replay is not None and report.replay.mixed_in == 10
    assert report.images["train"] == 12 + 10 and "val" not in report.images  # no epoch is chosen by old classes alone
    assert report.replay.kept == {"blue": 5, "green": 5, "red": 5}
    assert report.also[str(known)].lost_points < 40
    again = edgeplast.adapt(tmp_path / "a", reds(4), into=tmp_path / "b", options=options(replay="2/class", epochs=1))
    assert again.replay is not None and again.replay.mixed_in == 15 and set(again.replay.kept.values()) == {2}


def test_the_best_epoch_is_chosen_by_what_was_held_back_of_old_classes_too(
    keeping: Path, known: Path, tmp_path: Path
) -> None:
    """What was held back once is never learned from; what is new is held back for the runs to come."""
    before = {p.read_bytes() for p in pictures(keeping) if "held-back" in p.stem}
    new = Splits(reds(20), ImageSet.of([blob("red", 50 + i) for i in range(3)], ["red"] * 3), None)
    how = options(new_classes="add", epochs=3, replay="8/class")
    report = edgeplast.adapt(keeping, new, into=tmp_path / "a", also=[known], options=how)
    assert report.replay is not None and (report.replay.mixed_in, report.replay.held_back) == (8, 2)
    assert report.images["val"] == 3 + 2 and report.measured_on == "val"
    assert report.evaluation is not None
    assert [report.evaluation.per_class[name].images for name in CLASSES] == [1, 1, 3]  # of old classes as well
    kept = [p for p in pictures(tmp_path / "a") if "held-back" in p.stem]
    assert [p.parent.name for p in kept] == [*CLASSES]
    assert len(before) == 2 and report.replay.kept == {"blue": 5, "green": 5, "red": 8}


def test_a_learner_learns_from_what_adapt_kept_too(keeping: Path, tmp_path: Path) -> None:
    how: dict = {"memory": "none", "options": options(epochs=2)}
    with edgeplast.Learner(keeping, into=tmp_path / "a", **how) as learner:
        with pytest.raises(InputError, match="nothing to learn from yet"):
            learner.learn()
        learner.add_class("red")
        learner.add([blob("red", i) for i in range(6)], "red")
        report = learner.learn()
        assert report.steps and report.images == {"train": 6 + 8} and report.new_classes == {"red": 6}
        assert len(pictures(tmp_path / "a")) == 10 == len(pictures(keeping))
        assert learner.examples == {"blue": 0, "green": 0, "red": 6}
    with edgeplast.Learner(keeping, into=tmp_path / "b", memory="none", options=options(replay="none")) as learner:
        learner.add([blob("blue", 1), blob("green", 2)], ["blue", "green"])
        assert learner.learn(steps=1).images == {"train": 2} and not pictures(tmp_path / "b")


def test_a_run_that_was_stopped_goes_on_with_the_same_pictures(keeping: Path, tmp_path: Path) -> None:
    how = options(new_classes="add", checkpoint_every="2steps")
    whole, again = whole_and_resumed(Bundle.open(keeping), reds(12), tmp_path, how)
    assert again.losses == whole.losses and again.replay == whole.replay
    for one, other in zip(pictures(tmp_path / "cut"), pictures(tmp_path / "whole"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_was_kept_stays_through_versions_and_goes_when_it_is_to_go(
    keeping: Path, known: Path, tmp_path: Path
) -> None:
    edgeplast.adapt(keeping, known, into=tmp_path / "a", options=options(epochs=1))
    assert len(pictures(tmp_path / "a")) == 10
    edgeplast.roll_back(tmp_path / "a", "v1")
    assert len(pictures(tmp_path / "a")) == 10
    with edgeplast.Learner(tmp_path / "a", memory="none", options=options(epochs=1)) as learner:
        learner.add([blob(c, i) for c in KNOWN for i in range(3)], [c for c in KNOWN for _ in range(3)])
        learner.learn()
    assert len(pictures(tmp_path / "a")) == 10
    before = Bundle.open(tmp_path / "a").fingerprint
    assert edgeplast.forget_replay(tmp_path / "a") == 10 and not (tmp_path / "a" / "replay").exists()
    assert edgeplast.forget_replay(tmp_path / "a") == 0 and Bundle.open(tmp_path / "a").fingerprint == before
    report = edgeplast.adapt(tmp_path / "a", known, into=tmp_path / "b", options=options(epochs=1))
    assert report.replay is None


def test_what_was_kept_stays_through_runs_without_labels_too(keeping: Path, known: Path, tmp_path: Path) -> None:
    """Byte for byte, for they add nothing to it; until it is to go."""
    before = {p.relative_to(keeping): p.read_bytes() for p in pictures(keeping)}
    for number, how in enumerate(({"epochs": 1}, {"method": "recentre"}, {"epochs": 1, "disk": "1GiB"})):
        into = tmp_path / str(number)
        report = edgeplast.adapt(keeping, known, into=into, options=options(labels="none", **how))
        assert {p.relative_to(into): p.read_bytes() for p in pictures(into)} == before
        assert report.replay is not None and report.replay.kept == {"blue": 5, "green": 5}
        assert (report.replay.mixed_in, report.replay.held_back) == (0, 0)
        assert report.replay.bytes == sum(map(len, before.values()))
        assert report.images["train"] == 27  # nothing is learned from it
    again = edgeplast.adapt(tmp_path / "0", known, into=tmp_path / "labelled", options=options(epochs=1))
    assert again.replay is not None and again.replay.mixed_in == 8
    gone = edgeplast.adapt(
        keeping, known, into=tmp_path / "gone", options=options(epochs=1, labels="none", replay="none")
    )
    assert gone.replay is None and not (tmp_path / "gone" / "replay").exists()


def test_without_labels_what_was_kept_takes_no_more_of_the_disk_than_there_is(
    keeping: Path, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class keeps as many as the others then."""
    monkeypatch.setattr(adapting, "for_pictures", lambda *_: 6000)
    report = edgeplast.adapt(keeping, known, into=tmp_path / "a", options=options(epochs=1, labels="none"))
    assert report.replay is not None and 0 < report.replay.bytes <= 6000
    assert sum(p.stat().st_size for p in pictures(tmp_path / "a")) == report.replay.bytes
    counts = report.replay.kept.values()
    assert len(counts) == 2 and max(counts) - min(counts) <= 1 and sum(counts) < 10


def test_a_run_without_labels_that_was_stopped_keeps_them_too(
    keeping: Path, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeplast.evaluation.NOTHING_TO_MEND", 9.0)
    how = options(labels="none", checkpoint_every="1steps", batch=8, epochs=2)
    loose = open_splits_without_labels(known, seed=0).train
    whole, again = whole_and_resumed(Bundle.open(keeping), loose, tmp_path, how)
    assert again.replay == whole.replay is not None and len(pictures(tmp_path / "cut")) == 10


def test_herding_takes_what_together_lies_nearest_to_the_mean() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 12)) + 3
    chosen = herded(features, 10)
    assert len({*chosen}) == 10
    far = np.linalg.norm(features[chosen].mean(0) - features.mean(0))
    random = [np.linalg.norm(features[rng.permutation(80)[:10]].mean(0) - features.mean(0)) for _ in range(50)]
    assert far < min(random)
    assert sorted(herded(features[:3], 10)) == [0, 1, 2]
    labels = np.repeat([0, 1], [500, 4])
    found = candidates(labels, 5)
    assert (labels[found] == 0).sum() == 15 and (labels[found] == 1).sum() == 4


def test_what_cannot_be_kept_is_refused(bundle: Bundle, keeping: Path, tmp_path: Path) -> None:
    for text in ("20", "0/class", "many", "20/klass"):
        with pytest.raises(UsageError, match="give for example 20/class, or none"):
            options(replay=text)
    with pytest.raises(UsageError, match="Without labels no pictures are kept by class"):
        options(replay="5/class", labels="none")
    with pytest.raises(InputError, match=r"is no bundle: it has no bundle\.json"):
        edgeplast.forget_replay(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_in_place_of_the_folder_is_left_alone(bundle: Bundle, known: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundle.path, tmp_path / "a")
    (tmp_path / "a" / "replay").symlink_to(known / "train")
    with pytest.raises(InputError, match="is a link; nothing was deleted"):
        edgeplast.forget_replay(tmp_path / "a")
    assert len(list(known.glob("train/*/*"))) == 32
