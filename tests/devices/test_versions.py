"""Versions of an adapted bundle: noted as they are made, told apart, put back whole, and refused where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import CLASSES, blob, blob_folder, small_bundle

import edgeplast
from edgeplast.bundle import MANIFEST, TRAINABLE, Bundle
from edgeplast.errors import DamagedError, InputError, UsageError
from edgeplast.versions import VERSIONS, current, history
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.weights import read_trainable


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 1, "learning_rate": 3e-3, "threads": 1, "augment": "none"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def three(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle adapted, adapted again, and once more with a new class."""
    root = tmp_path_factory.mktemp("three")
    lynx = blob_folder(root / "lynx", train=4, test=0)
    (lynx / CLASSES[0]).rename(lynx / "lynx")
    edgeplast.adapt(bundle, blobs, into=root / "a", options=options())
    edgeplast.adapt(root / "a", blobs, into=root / "b", options=options(seed=1))
    edgeplast.adapt(root / "b", lynx, into=root / "c", options=options(new_classes="add"))
    return [root / "a", root / "b", root / "c"]


def same(one: Path, other: Path) -> bool:
    mine, theirs = read_trainable(Bundle.open(one)), read_trainable(Bundle.open(other))
    return {*mine} == {*theirs} and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def copied(folder: Path, into: Path) -> Path:
    import shutil

    shutil.copytree(folder, into)
    return into


def test_each_adaptation_is_a_version_with_the_hash_of_the_one_before(bundle: Bundle, three: list[Path]) -> None:
    found = history(three[2])
    assert [(v.name, v.by, v.classes) for v in found] == [
        ("v0", "bundle", 3), ("v1", "adapt", 3), ("v2", "adapt", 3), ("v3", "adapt", 4),
    ]  # fmt: skip
    assert [v.digest for v in found] == [bundle.fingerprint, *(Bundle.open(folder).fingerprint for folder in three)]
    assert [v.parent for v in found] == [None, *(v.digest for v in found[:-1])]
    assert found[3].new_classes == ("lynx",) and found[1].measured_on == "test" and found[1].steps > 0
    assert found[1].after == edgeplast.Adaptation.read(three[0] / "report.json").accuracy.after
    assert [v.name for v in history(three[0])] == ["v0", "v1"] and current(three[2], found) == found[3]
    assert history(bundle.path) == []


def test_what_trains_is_all_that_a_version_keeps(three: list[Path]) -> None:
    for place in (three[2] / VERSIONS).iterdir():
        assert {file.name for file in place.iterdir()} <= {
            "bundle.json", "trainable.safetensors", "report.json", "version.json",
        }  # fmt: skip
    newest = three[2] / VERSIONS / "v3" / TRAINABLE
    assert newest.stat().st_ino == (three[2] / TRAINABLE).stat().st_ino  # no room of its own


@pytest.mark.parametrize(("name", "like"), [("v1", 0), ("v2", 1), ("v3", 2)])
def test_a_version_is_put_back_whole_also_with_fewer_classes(
    three: list[Path], blobs: Path, tmp_path: Path, name: str, like: int
) -> None:
    mine = copied(three[2], tmp_path / "mine")
    assert edgeplast.roll_back(mine, name).name == name
    assert same(mine, three[like]) and Bundle.open(mine).fingerprint == Bundle.open(three[like]).fingerprint
    assert edgeplast.evaluate(mine, blobs) == edgeplast.evaluate(three[like], blobs)
    assert (mine / "report.json").read_bytes() == (three[like] / "report.json").read_bytes()
    found = history(mine)
    assert found == history(three[2]) and (now := current(mine, found)) is not None and now.name == name
    edgeplast.roll_back(mine, "v3")  # and forth again
    assert same(mine, three[2])


def test_learning_goes_on_from_what_was_put_back(
    bundle: Bundle, three: list[Path], blobs: Path, tmp_path: Path
) -> None:
    mine = copied(three[2], tmp_path / "mine")
    edgeplast.roll_back(mine, "v0")
    assert same(mine, bundle.path) and Bundle.open(mine).manifest.classes == CLASSES
    edgeplast.adapt(mine, blobs, into=tmp_path / "on", options=options())
    found = history(tmp_path / "on")
    assert found[-1].name == "v4" and found[-1].parent == found[0].digest == bundle.fingerprint
    assert same(tmp_path / "on", three[0])


def test_a_version_that_is_not_there_or_not_whole_is_refused_and_nothing_changes(
    bundle: Bundle, three: list[Path], tmp_path: Path
) -> None:
    mine = copied(three[2], tmp_path / "mine")
    before = Bundle.open(mine).fingerprint
    with pytest.raises(InputError, match=r"There is no version 'v9'\. Kept are v0, v1, v2, v3\."):
        edgeplast.roll_back(mine, "v9")
    with pytest.raises(InputError, match="No version is kept of this bundle"):
        edgeplast.roll_back(bundle.path, "v1")
    with pytest.raises(InputError, match="There is no"):
        edgeplast.roll_back(tmp_path / "nothing", "v1")
    weights = mine / VERSIONS / "v1" / TRAINABLE
    weights.write_bytes(weights.read_bytes()[:-8] + bytes(8))
    with pytest.raises(DamagedError, match=r"Version v1 is damaged: trainable\.safetensors was changed"):
        edgeplast.roll_back(mine, "v1")
    manifest = mine / VERSIONS / "v2" / MANIFEST
    manifest.write_text(manifest.read_text().replace("small_vit", "another"))
    with pytest.raises(DamagedError, match=r"Version v2 is damaged: its bundle\.json is missing or was changed"):
        edgeplast.roll_back(mine, "v2")
    assert Bundle.open(mine).fingerprint == before and same(mine, three[2])


def test_a_version_of_another_bundle_is_refused(three: list[Path], blobs: Path, tmp_path: Path) -> None:
    other = small_bundle(tmp_path / "other", "attn")
    edgeplast.adapt(other, blobs, into=tmp_path / "adapted", options=options())
    mine = copied(three[1], tmp_path / "mine")
    copied(tmp_path / "adapted" / VERSIONS / "v1", mine / VERSIONS / "v7")
    record = json.loads((mine / VERSIONS / "v7" / "version.json").read_text())
    (mine / VERSIONS / "v7" / "version.json").write_text(json.dumps({**record, "number": 7}))
    with pytest.raises((UsageError, DamagedError), match=r"belongs to another bundle|is damaged"):
        edgeplast.roll_back(mine, "v7")
    assert same(mine, three[1])


def test_so_many_are_kept_and_none_where_none_are_wanted(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    edgeplast.adapt(bundle, blobs, into=tmp_path / "none", options=options(versions=0))
    assert history(tmp_path / "none") == [] and not (tmp_path / "none" / VERSIONS).exists()
    before = bundle.path
    for name in "abc":
        edgeplast.adapt(before, blobs, into=tmp_path / name, options=options(versions=2))
        before = tmp_path / name
    assert [v.name for v in history(before)] == ["v0", "v2", "v3"]


def test_a_learner_goes_back_and_forth(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    how: dict = {"memory": "none", "options": options()}
    with edgeplast.Learner(bundle.path, into=tmp_path / "a", **how) as learner:
        assert learner.versions() == []
        with pytest.raises(InputError, match="No version is kept"):
            learner.roll_back("v1")
        for label in CLASSES:
            learner.add([blob(label, i) for i in range(6)], label)
        learner.learn(epochs=3)
        first = learner.evaluate(blobs)
        learner.learn()
        learner.add_class("lynx")
        learner.add([blob("red", 50 + i) for i in range(4)], "lynx")
        learner.learn()
        assert [(v.name, v.by, v.classes) for v in learner.versions()] == [
            ("v0", "bundle", 3), ("v1", "learn", 3), ("v2", "learn", 3), ("v3", "add class", 4), ("v4", "learn", 4),
        ]  # fmt: skip
        learner.roll_back("v1")
        assert learner.classes == CLASSES and learner.evaluate(blobs) == first
        assert edgeplast.evaluate(tmp_path / "a", blobs).accuracy == first.accuracy
        assert {*learner.examples} == {*CLASSES}
        learner.learn()
        found = learner.versions()
        assert found[-1].name == "v5" and found[-1].parent == found[1].digest
        with pytest.raises(InputError, match="There is no version 'v77'"):
            learner.roll_back("v77")
        learner.roll_back("v4")
        assert learner.classes == (*CLASSES, "lynx") and learner.predict(blob("blue", 3)).label in learner.classes
    with edgeplast.Learner(tmp_path / "a", **how) as learner:
        assert learner.classes == (*CLASSES, "lynx")
        learner.roll_back("v0")
        learner.learn()
    with edgeplast.Learner(bundle.path, into=tmp_path / "a", **how) as learner:
        assert learner.classes == CLASSES and learner.versions()[-1].name == "v6"


def test_a_learner_that_writes_elsewhere_counts_on_from_the_versions_that_it_takes_along(
    three: list[Path], tmp_path: Path
) -> None:
    """Whatever makes the version, and where so few are kept that it would else be the first to go."""
    before, after = history(three[1]), {}
    pictures, labels = [blob(c, i) for c in CLASSES for i in range(4)], [c for c in CLASSES for _ in range(4)]
    for name, keep in (("all", 8), ("few", 2)):
        how: dict = {"memory": "none", "options": options(versions=keep)}
        with edgeplast.Learner(three[1], into=tmp_path / name, **how) as learner:
            learner.add(pictures, labels)
            learner.learn(steps=2)
            after[name] = learner.versions()
            learner.calibrate(edgeplast.ImageSet.of(pictures, labels))
            last = learner.versions()[-1]
        assert (last.name, last.by, last.parent) == ("v4", "calibrate", after[name][-1].digest)
    assert [(v.name, v.by) for v in after["all"]][3:] == [("v3", "learn")] and after["all"][:3] == before
    assert after["all"][3].parent == before[2].digest and not same(three[1], tmp_path / "all")
    assert [v.name for v in after["few"]] == ["v0", "v2", "v3"] and after["few"][1] == before[2]
    with edgeplast.Learner(three[1], into=tmp_path / "grown", memory="none", options=options()) as learner:
        learner.add_class("lynx")
        assert [(v.name, v.by) for v in learner.versions()][2:] == [("v2", "adapt"), ("v3", "add class")]


def test_a_learner_leaves_the_bundle_that_it_starts_from_as_it_was(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """A link to a file changes its times, and whoever has the bundle open would take it for damaged."""
    how = TrainingOptions(epochs=1, threads=1, augment="none")
    edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=how)
    opened = Bundle.open(tmp_path / "a")
    with edgeplast.Learner(tmp_path / "a", into=tmp_path / "b", memory="none", options=how) as learner:
        learner.add([blob(c, i) for c in CLASSES for i in range(4)], [c for c in CLASSES for _ in range(4)])
        for _ in range(2):
            learner.learn(steps=1)
            opened.check_unchanged()
        learner.add_class("lynx")
        learner.roll_back("v1")
    opened.check_unchanged()
