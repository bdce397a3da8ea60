"""``--disk``: all that an output takes, while it is made and after; what does not fit is smaller or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_models import CLASSES, blob, small_bundle

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import DiskFullError, UsageError
from edgeplast_devices.caching import settled
from edgeplast_devices.disk import disk_shares, versions_bytes
from edgeplast_devices.images import open_splits
from edgeplast_devices.options import TrainingOptions


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 3, "learning_rate": 3e-3, "threads": 1, "augment": "none", "checkpoint_every": "1step"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of whose model the second block trains: the first lies in a prefix."""
    return small_bundle(tmp_path_factory.mktemp("late") / "bundle", "blocks:1-1")


def size_of(*folders: Path) -> int:
    """What lies there, files without a name and links of one file counted once."""
    files = {file.stat().st_ino: file.stat().st_size for f in folders for file in f.rglob("*") if file.is_file()}
    return sum(files.values())


def taken(bundle: Bundle, data: Path, into: Path, **how: object) -> tuple[edgeplast.Adaptation, int]:
    """Adapt, and return the most that lay on disk of the output at any time."""
    most = 0

    def look(*_: object) -> None:
        nonlocal most
        most = max(most, size_of(into, into.with_name(f"{into.name}.partial")))

    report = edgeplast.adapt(bundle, data, into=into, options=options(**how), progress=look)
    look()
    return report, most


def test_an_output_never_takes_more(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    shares = disk_shares(late, options(), tmp_path)
    disk = shares.own_bytes + shares.versions_bytes + 60_000
    how = {"disk": f"{disk}B", "replay": "16/class", "views": 2}
    report, most = taken(late, blobs, tmp_path / "a", **how)
    assert most <= disk and report.cache is not None and report.replay is not None
    free, _ = taken(late, blobs, tmp_path / "free", **(how | {"disk": "none"}))
    assert free.replay is not None and report.replay.bytes <= 60_000
    assert report.cache.most_bytes <= 60_000 < free.cache.most_bytes  # type: ignore[union-attr]
    bundle = Bundle.open(tmp_path / "a")
    for number in range(3):  # versions grow, are thinned out, and are counted
        shares = disk_shares(bundle, options(versions=2), tmp_path)
        disk = shares.own_bytes + shares.versions_bytes
        _, most = taken(bundle, blobs, tmp_path / f"b{number}", disk=f"{disk}B", replay="none", versions=2)
        assert most <= disk
        bundle = Bundle.open(tmp_path / f"b{number}")


def test_pictures_that_do_not_fit_are_fewer_of_each_class(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    shares = disk_shares(late, options(), tmp_path)
    disk = shares.own_bytes + shares.versions_bytes + 9_000
    report, _ = taken(late, blobs, tmp_path / "a", disk=f"{disk}B", replay="16/class", cache="none")
    assert report.replay is not None and 0 < report.replay.bytes <= 9_000
    counts = [report.replay.kept.get(name, 0) for name in CLASSES]
    assert 0 < max(counts) < 14 and max(counts) - min(counts) <= 1


def test_what_every_run_writes_must_fit_and_the_message_says_how_much(
    late: Bundle, blobs: Path, tmp_path: Path
) -> None:
    with pytest.raises(DiskFullError, match=r"--disk 100kB is too little: .* for its copy of the bundle and") as told:
        taken(late, blobs, tmp_path / "a", disk="100kB")
    assert not list(tmp_path.iterdir()) and "(--versions 0)" in str(told.value)
    enough = re.search(r"Allow --disk (\S+MiB)", str(told.value))
    assert enough is not None
    _, most = taken(late, blobs, tmp_path / "a", disk=enough[1])
    assert most <= disk_shares(late, options(), tmp_path).own_bytes * 2
    with pytest.raises(UsageError, match="Cannot read 'much' as an amount of bytes"):
        options(disk="much")


def test_a_cache_takes_what_is_left_and_versions_count(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    images = open_splits(blobs, seed=0)
    shares = disk_shares(late, options(disk="20MB"), tmp_path)
    assert settled(options(disk="20MB", epochs=9), late, images, tmp_path).cache == f"{shares.left_bytes}B"
    asked = settled(options(disk="20MB", epochs=9, cache="1GB"), late, images, tmp_path)
    assert asked.cache == f"{shares.left_bytes}B"
    assert versions_bytes(late, 0) == 0 < versions_bytes(late, 1)


class TestLearner:
    """Its examples share the room."""

    def test_of_several_for_which_there_is_no_room_the_first_are_taken(self, late: Bundle, tmp_path: Path) -> None:
        weights = late.manifest.files["trainable.safetensors"].bytes
        disk = late.bytes + 2 * weights + 65536 + versions_bytes(late, 8, made=8) + 30_000
        with edgeplast.Learner(late, into=tmp_path / "a", memory="none", options=options(disk=f"{disk}B")) as learner:
            with pytest.raises(DiskFullError, match="is left for examples of the disk that was allowed"):
                learner.add(
                    [blob(label, i) for label in ("red", "blue") for i in range(60)], ["red"] * 60 + ["blue"] * 60
                )
            taken = learner.examples
            assert 0 < sum(taken.values()) < 120 and (taken["red"] == 60 or not taken["blue"])
            files = sorted(file.name for file in (tmp_path / "a.examples").glob("*/*"))
            assert files == [f"{number + 1:06d}.png" for number in range(sum(taken.values()))]

    def test_examples_take_no_more_than_is_left(self, late: Bundle, tmp_path: Path) -> None:
        with pytest.raises(DiskFullError, match=r"too little: .* for its copy of the bundle and weights"):
            edgeplast.Learner(late, into=tmp_path / "a", memory="none", options=options(disk="100kB"))
        weights = late.manifest.files["trainable.safetensors"].bytes
        disk = late.bytes + 2 * weights + 65536 + versions_bytes(late, 8, made=8) + 30_000
        how = options(disk=f"{disk}B")
        with edgeplast.Learner(late, into=tmp_path / "a", memory="none", options=how) as learner:
            with pytest.raises(DiskFullError, match="is left for examples of the disk that was allowed"):
                for i in range(60):
                    for label in CLASSES:
                        learner.add(blob(label, i), label)
            count = sum(learner.examples.values())
            assert count > 3 and size_of(learner.into.with_name("a.examples")) <= 30_000
            learner.learn(steps=2)
            learner.learn(steps=2)
            assert learner.predict(blob("red", 1)).label
            places = [tmp_path / name for name in ("a", "a.partial", "a.examples")]
            assert size_of(*places) <= disk
        with edgeplast.Learner(late, into=tmp_path / "a", memory="none", options=how) as learner:
            assert sum(learner.examples.values()) == count
            with pytest.raises(DiskFullError, match="is left for examples"):
                learner.add([blob("red", 90 + i) for i in range(30)], "red")
