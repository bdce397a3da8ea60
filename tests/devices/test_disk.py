"""``--disk``: all that an output takes, while it is made and after; what does not fit is smaller or refused."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from small_models import CLASSES, blob, small_bundle

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import DiskFullError, InterruptedRunError, UsageError
from edgeplast.units import parse_bytes
from edgeplast_devices import probing
from edgeplast_devices.adapting import interrupted_options
from edgeplast_devices.caching import Kept, settled
from edgeplast_devices.disk import (
    beside_examples,
    disk_shares,
    for_a_probe,
    for_pictures,
    nameless_bytes,
    versions_bytes,
)
from edgeplast_devices.examples import Examples
from edgeplast_devices.images import open_splits
from edgeplast_devices.options import TrainingOptions


def options(**more: object) -> TrainingOptions:
    given: dict = {"epochs": 3, "learning_rate": 3e-3, "threads": 1, "augment": "none", "checkpoint_every": "1step"}
    return TrainingOptions(**(given | more))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of whose model the second block trains: the first lies in a prefix."""
    return small_bundle(tmp_path_factory.mktemp("late") / "bundle", "blocks:1-1")


@pytest.fixture(autouse=True)
def little_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what it might take hides nothing: copies of a small model's weights are smaller."""
    for module in ("checkpoints", "disk"):
        monkeypatch.setattr(f"edgeplast_devices.{module}.TELEMETRY_BYTES", 16 << 10)


def size_of(*folders: Path) -> int:
    """What lies there: links of one file counted once, and files without a name that this process holds open."""
    files = {file.stat().st_ino: file.stat().st_size for f in folders for file in f.rglob("*") if file.is_file()}
    return sum((files | nameless_in(*folders)).values())


def nameless_in(*folders: Path) -> dict[int, int]:
    """The sizes of this process's files that lie there and have no name, by inode."""
    found = {}
    for link in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
        try:
            place, status = link.readlink().parent, link.stat()
        except OSError:  # the one that lists them
            continue
        if place in folders and not status.st_nlink:
            found[status.st_ino] = status.st_size
    return found


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


def test_best_weights_do_not_pile_up_between_checkpoints(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    often = {"epochs": 24, "learning_rate": 3e-4, "schedule": "constant", "checkpoint_every": "5min", "cache": "none"}
    shares = disk_shares(late, options(), tmp_path)
    seen: set[str] = set()
    most, at_once = 0, 0

    def look(*_: object) -> None:
        nonlocal most, at_once
        names = {file.name for file in (tmp_path / "a.partial").glob("best-*")}
        seen.update(names)
        most, at_once = max(most, size_of(tmp_path / "a.partial")), max(at_once, len(names))

    disk = shares.own_bytes + shares.versions_bytes
    how = options(disk=f"{disk}B", **often)
    edgeplast.adapt(late, blobs, into=tmp_path / "a", options=how, progress=look)
    assert len(seen) > 12 and at_once == 1 and most <= disk


def test_the_best_weights_of_the_last_checkpoint_stay(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    how = options(epochs=8, learning_rate=3e-4, schedule="constant", checkpoint_every="5min", cache="none")
    whole = edgeplast.adapt(late, blobs, into=tmp_path / "whole", options=how)

    def stop_after(epoch: int) -> dict:
        def done(report: edgeplast.adaptation.EpochReport) -> None:
            if report.epoch == epoch:
                raise InterruptedRunError("here")

        return {"epoch_done": done}

    into, place = tmp_path / "cut", tmp_path / "cut.partial"
    for epoch in (3, 6):
        with pytest.raises(InterruptedRunError):
            edgeplast.adapt(late, blobs, into=into, options=how, resume=epoch > 3, **stop_after(epoch))
        named = {file.name for file in place.glob("best-*")}
        assert 1 <= len(named) <= 2  # what the last checkpoint says, and the one before it
    kept: list[set[str]] = []

    def killed(report: edgeplast.adaptation.EpochReport) -> None:
        kept.append({file.name for file in place.glob("best-*")})

    report = edgeplast.adapt(late, blobs, into=into, options=how, resume=True, epoch_done=killed)
    assert all(any(name in names for name in named) for names in kept) and max(map(len, kept)) <= 3
    assert report.losses == whole.losses


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
    assert most <= parse_bytes(enough[1])
    with pytest.raises(UsageError, match="Cannot read 'much' as an amount of bytes"):
        options(disk="much")


def test_a_cache_takes_what_is_left_and_versions_count(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    images = open_splits(blobs, seed=0)
    shares = disk_shares(late, options(disk="20MB"), tmp_path)
    assert settled(options(disk="20MB", epochs=9), late, images, shares).cache == f"{shares.left_bytes}B"
    asked = settled(options(disk="20MB", epochs=9, cache="1GB"), late, images, shares)
    assert asked.cache == f"{shares.left_bytes}B"
    assert versions_bytes(late, 0) == 0 < versions_bytes(late, 1)


def test_more_than_is_free_is_not_taken(
    late: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, how = open_splits(blobs, seed=0), options(disk="1000GB", epochs=9)
    shares = disk_shares(late, how, tmp_path)
    own = shares.own_bytes + shares.versions_bytes

    def free(count: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": count}))

    free(own + 3_000_000)
    assert settled(how, late, images, disk_shares(late, how, tmp_path)).cache == "1500000B"
    free(own - 1)
    assert settled(how, late, images, disk_shares(late, how, tmp_path)).cache == "none"
    free(shares.versions_bytes + 20_000)
    assert for_pictures(shares, tmp_path) == 10_000
    assert for_pictures(disk_shares(late, options(), tmp_path), tmp_path) is None
    free(1)
    assert for_pictures(shares, tmp_path) == 0


def test_a_run_that_goes_on_with_less_disk_takes_less_and_learns_the_same(
    late: Bundle, blobs: Path, tmp_path: Path
) -> None:
    more = options(disk="20MB", epochs=4, views=2, batch=4)
    whole = edgeplast.adapt(late, blobs, into=tmp_path / "whole", options=more)
    assert whole.cache is not None

    def stop(report: edgeplast.adaptation.EpochReport) -> None:
        if report.epoch == 3:
            raise InterruptedRunError("here")

    into, place = tmp_path / "cut", tmp_path / "cut.partial"
    with pytest.raises(InterruptedRunError):
        edgeplast.adapt(late, blobs, into=into, options=more, epoch_done=stop)
    assert sum(file.stat().st_size for file in place.glob(".latents-*")) == whole.cache.most_bytes
    shares = disk_shares(late, more, tmp_path)
    room = whole.cache.most_bytes // 2
    disk, most = shares.own_bytes + shares.versions_bytes + room, 0

    def look(activity: str, *_: int) -> None:
        nonlocal most
        if activity.startswith("epoch"):  # before, those of the run as it was lie there
            most = max(most, sum(file.stat().st_size for file in place.glob(".latents-*")))

    less = options(disk=f"{disk}B", epochs=4, batch=4)
    before = interrupted_options(into)
    assert before is not None
    for given in (less, *(msgspec.structs.replace(how, disk=f"{disk}B") for how in (more, before))):
        kept = settled(given, late, open_splits(blobs, seed=0), disk_shares(late, given, tmp_path), before)
        assert (kept.cache, kept.views) == (f"{room}B", 2)
    report = edgeplast.adapt(late, blobs, into=into, options=less, resume=True, progress=look)
    assert 0 < most <= room and report.cache is not None and report.cache.most_bytes <= room
    assert report.losses == whole.losses


def test_files_without_a_name_are_counted(late: Bundle, tmp_path: Path) -> None:
    manifest = late.manifest
    assert nameless_bytes(manifest, options(probe=False), 100) == 0
    assert nameless_bytes(manifest, options(distill=0.5, probe=False), 100) == 4 * 100 * 3
    assert nameless_bytes(manifest, options(replay="2/class", probe=False), 100, 2) == 4 * 100 * 5
    assert nameless_bytes(manifest, options(replay="2/class", head="zero", probe=False), 100) == 0
    assert nameless_bytes(manifest, options(head="zero"), 100, again=True) == 4 * 100 * 3
    width = manifest.parameters["head.weight"].shape[1]
    assert nameless_bytes(manifest, options(head="fitted"), 100) == 4 * 100 * width
    assert nameless_bytes(manifest, options(), 100) == 0  # a probe's have the room of what comes later
    assert beside_examples(manifest, options(), is_tight=True)(10, 5) == 4 * 10 * 5
    assert beside_examples(manifest, options(), is_tight=False)(10, 5) == 0
    shares = disk_shares(late, options(), tmp_path)
    assert disk_shares(late, options(), tmp_path, 1000).own_bytes == shares.own_bytes + 1000


def test_a_linear_probe_takes_nothing_from_the_cache(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    tight = edgeplast.Budget(memory_bytes=1 << 30)
    shares, images = disk_shares(late, options(epochs=4), tmp_path), open_splits(blobs, seed=0)
    all_of_it = settled(options(epochs=4, views=2), late, images, shares)
    needed = Kept(late, {"train": images.train, "val": images.val, "test": images.test}, all_of_it, tmp_path).report
    assert needed is not None and needed.views == 2
    disk = shares.own_bytes + shares.versions_bytes + needed.most_bytes
    most, features = 0, 0

    def look(*_: object) -> None:
        nonlocal most, features
        most = max(most, size_of(tmp_path / "a", tmp_path / "a.partial"))
        features = max(features, *nameless_in(tmp_path / "a.partial").values(), 0)

    how = options(disk=f"{disk}B", epochs=4, views=2)
    report = edgeplast.adapt(late, blobs, into=tmp_path / "a", options=how, budget=tight, progress=look)
    assert report.cache is not None and (report.cache.views, report.cache.most_bytes) == (2, needed.most_bytes)
    assert report.linear_probe is not None and report.linear_probe.accuracy is not None
    assert most <= disk and (features or not Path("/proc/self/fd").is_dir())


def test_a_linear_probe_that_the_disk_has_no_room_for_is_left_out_and_said(
    late: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = late.manifest.parameters["head.weight"].shape[1]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "weights").write_bytes(bytes(1000))
    (tmp_path / "there" / f".latents-train-{'0' * 16}").write_bytes(bytes(500))
    room = for_a_probe(late, options(disk="5000B", distill=0.5), tmp_path / "there", 100, 700)
    assert room == 5000 - 1000 - 700 - 4 * 100 * 3
    assert for_a_probe(late, options(), tmp_path / "there", 100, 700) is None
    monkeypatch.setattr(probing, "for_a_probe", lambda *_: 4 * width)  # of one picture
    how = options(disk="20MB", epochs=1)
    report = edgeplast.adapt(late, blobs, into=tmp_path / "a", options=how, budget=edgeplast.Budget(1 << 30))
    assert report.linear_probe is not None and report.linear_probe.accuracy is None
    assert report.linear_probe.why_none == "the disk had no room for its features"


def of_a_learner(bundle: Bundle) -> int:
    """What a Learner's output takes at most without examples: two copies of weights, two of best ones, records."""
    weights = bundle.manifest.files["trainable.safetensors"].bytes
    return bundle.bytes + 4 * weights + (80 << 10) + versions_bytes(bundle, 8, made=8)


class TestLearner:
    """Its examples share the room."""

    def test_of_several_for_which_there_is_no_room_the_first_are_taken(self, late: Bundle, tmp_path: Path) -> None:
        disk = of_a_learner(late) + 30_000
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
        disk = of_a_learner(late) + 30_000
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

    def test_best_weights_do_not_pile_up(self, late: Bundle, blobs: Path, tmp_path: Path) -> None:
        disk = of_a_learner(late) + 30_000
        places = [tmp_path / name for name in ("a", "a.partial", "a.examples")]
        seen: set[str] = set()
        most, at_once = 0, 0

        def look(*_: object) -> None:
            nonlocal most, at_once
            names = {file.name for file in places[1].glob("best-*")}
            seen.update(names)
            most, at_once = max(most, size_of(*places)), max(at_once, len(names))

        with edgeplast.Learner(late, into=places[0], memory="none", options=options(disk=f"{disk}B")) as learner:
            learner.add([blob(label, i) for label in CLASSES for i in range(2)], [n for n in CLASSES for _ in range(2)])
            learner.learn(epochs=16, also={"old": blobs}, keep_within=100, progress=look)
            assert len(seen) > 12 and at_once == 1 and most <= disk
            assert not list(places[1].glob("best-*"))

    def test_what_is_written_of_examples_for_a_while_is_counted(self, tmp_path: Path) -> None:
        free = Examples(tmp_path / "free", CLASSES, (36, 36), 30_000)
        tight = Examples(
            tmp_path / "tight", CLASSES, (36, 36), 30_000, lambda pictures, classes: 400 * pictures * classes
        )
        counts = []
        for examples in (free, tight):
            with pytest.raises(DiskFullError, match="is left for examples"):
                for i in range(99):
                    examples.add(blob("red", i), 2)
            counts.append(sum(examples.counts.values()))
        taken = size_of(tmp_path / "tight")
        assert 0 < counts[1] < counts[0] and taken + 1200 * counts[1] <= 30_000
