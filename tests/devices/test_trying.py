"""The ladder that measures: which rung is taken, for how long it is looked for, and what a run keeps to afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wrapped_sessions import Training, Wrapped, adapt_over, whole_and_resumed

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle, Manifest
from edgeplast.errors import UsageError
from edgeplast_devices import trying
from edgeplast_devices.images import open_images
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.preference import Preference
from edgeplast_devices.rungs import Rung, ladder, predicted_peak
from edgeplast_devices.runtime import OutOfMemoryError
from edgeplast_devices.speeds import CLEARLY, KeptSpeeds, Speeds, cache_folder
from edgeplast_devices.trying import TIMES, candidates, tried

LONG = TrainingOptions(epochs=6, batch=16, learning_rate=1e-3, threads=1, augment="none", cache="none")
"""As long as runs are here: with half of it for tries in place of a fiftieth, enough for several rungs."""


@pytest.fixture
def rungs(bundle: Bundle) -> list[Rung]:
    return ladder(bundle.manifest, 16)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trying, "MOST_SHARE", 0.5)
    monkeypatch.setattr(trying, "MOST_SECONDS", 50.0)
    return tmp_path / "cache" / "edgeplast" / "speeds"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_fastest_that_was_tried_is_found_and_tries_end_in_time(manifest: Manifest, data: st.DataObject) -> None:
    some = candidates(manifest, ladder(manifest, 16), "adamw", 1 << 40)
    speeds = {str(rung): data.draw(st.floats(0.01, 10.0)) for rung in some}
    limit, now, ran = data.draw(st.floats(0.0, 500.0)), [0.0], list[Rung]()

    def run_once(rung: Rung) -> None:
        ran.append(rung)
        now[0] += speeds[str(rung)] * rung.micro_batch

    found = tried(some, run_once, lambda first: limit, lambda: now[0])
    assert all(abs(found.seconds[rung] - speeds[str(rung)]) < 1e-6 for rung in found.seconds)
    assert {*map(str, found.seconds), *map(str, found.passed_over)} == set(speeds)
    assert some[0] in found.seconds and not {*map(str, found.seconds)} & {*map(str, found.passed_over)}
    last = (1 + TIMES) * ran[-1].micro_batch * speeds[str(ran[-1])]
    assert now[0] <= max(limit + last, (1 + TIMES) * some[0].micro_batch * speeds[str(some[0])]) + 1e-6


@pytest.fixture(scope="module")
def manifest(bundle: Bundle) -> Manifest:
    return bundle.manifest


def test_what_has_no_memory_is_passed_over(rungs: list[Rung], manifest: Manifest) -> None:
    some = candidates(manifest, rungs, "adamw", 1 << 40)

    def run_once(rung: Rung) -> None:
        if rung.micro_batch > 4:
            raise OutOfMemoryError("no room")

    found = tried(some, run_once, lambda first: 1e9, lambda: 0.0)
    assert all(rung.micro_batch <= 4 for rung in found.seconds) and len(found.seconds) > 1
    assert {rung.micro_batch for rung in found.passed_over} >= {8, 16}
    with_nothing = tried(some, lambda rung: (_ for _ in ()).throw(MemoryError()), lambda first: 1e9, lambda: 0.0)
    assert not with_nothing.seconds


def test_only_what_is_clearly_faster_takes_the_place_of_what_the_constants_prefer(rungs: list[Rung]) -> None:
    first = rungs[0]
    other = next(r for r in rungs if r.tier == first.tier and r.graph == first.graph and r.micro_batch == 8)
    of_another_tier = rungs[-1]
    nearly = Speeds(seconds={str(first): 1.0, str(other): CLEARLY + 0.01, str(of_another_tier): 0.01})
    clearly = Speeds(seconds={str(first): 1.0, str(other): CLEARLY - 0.01, str(of_another_tier): 0.01})
    unknown = Speeds(seconds={str(other): 0.1})
    assert nearly.fastest_first(rungs) == rungs and unknown.fastest_first(rungs) == rungs
    assert clearly.fastest_first(rungs)[0] == other
    assert sorted(map(str, clearly.fastest_first(rungs))) == sorted(map(str, rungs))


@pytest.mark.parametrize("room", [0.4, 0.7, 1.0])
def test_nothing_is_tried_or_preferred_that_does_not_fit(manifest: Manifest, rungs: list[Rung], room: float) -> None:
    def need(rung: Rung) -> int:
        return predicted_peak(manifest, rung, "adamw", 0)

    most = int(need(rungs[-1]) + room * (max(map(need, rungs)) - need(rungs[-1])))
    fitting = [rung for rung in rungs if need(rung) <= most]
    preference = Preference(manifest, "adamw", most, KeptSpeeds(manifest, "x", "cpu", 1, None), tries=True)
    assert all(need(rung) <= most for rung in preference.candidates(fitting))
    preference.speeds = Speeds(seconds={str(rung): 1.0 / need(rung) for rung in rungs})  # the hungrier, the faster
    chosen = preference.of_fitting(rungs[rungs.index(fitting[0]) :])[0]
    assert need(chosen) <= most and chosen.tier == fitting[0].tier
    same = [rung for rung in fitting if rung.tier == fitting[0].tier]
    assert need(chosen) == max(map(need, same)) or chosen == fitting[0]
    smaller = [rung for rung in rungs if need(rung) < need(fitting[0])]
    if smaller:
        assert need(preference.of_smaller(smaller)[0]) <= need(smaller[0])


def test_speeds_are_of_graphs_machine_runtime_and_threads(manifest: Manifest, tmp_path: Path) -> None:
    kept = KeptSpeeds(manifest, "stock 1.32.0", "cpu", 2, tmp_path)
    rung = ladder(manifest, 16)[0]
    kept.write(kept.read().with_found({rung: 0.25}, [], 1.0))
    assert kept.read().seconds == {str(rung): 0.25}
    for other in (("stock 1.33.0", "cpu", 2), ("stock 1.32.0", "cuda", 2), ("stock 1.32.0", "cpu", 1)):
        assert not KeptSpeeds(manifest, *other, tmp_path).read().seconds
    assert kept.path is not None
    for damage in (
        b"",
        b"{",
        b'{"format_version":1,"seconds":{"a":-1}}',
        kept.path.read_bytes().replace(b"0.25", b"0"),
    ):
        kept.path.write_bytes(damage)
        assert not kept.read().seconds
    (tmp_path / "file").write_text("")
    nowhere = KeptSpeeds(manifest, "x", "cpu", 1, tmp_path / "file" / "below")
    nowhere.write(Speeds(seconds={"a": 1.0}))
    assert not nowhere.read().seconds


def test_the_cache_folder_is_the_users() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/x/y"}) == Path("/x/y/edgeplast")
    assert cache_folder({"XDG_CACHE_HOME": "not/absolute"}) == cache_folder({})


def test_a_home_that_may_not_be_looked_at_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert cache_folder({}) is None


def test_what_there_was_no_time_for_is_tried_again_with_twice_the_time_only(
    manifest: Manifest, rungs: list[Rung]
) -> None:
    some = candidates(manifest, rungs, "adamw", 1 << 40)
    known = Speeds().with_found({some[0]: 1.0}, some[1:], 2.0)
    assert not known.is_open(some, 3.9) and known.is_open(some, 4.0)
    assert not known.with_found(dict.fromkeys(some, 1.0), [], 2.0).is_open(some)


class Machine:
    """A machine with a clock of its own, on which a micro-batch takes as long as is said here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
        self.now, self.ran, self._seconds = 0.0, list[int](), seconds
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def adapt(self, bundle: Bundle, data: Path, into: Path, **how: object) -> tuple[Adaptation, list[str]]:
        told, wrapped = list[str](), Wrapped(into)
        fits = how.pop("fits", 1000)

        def before(session: Training, images: np.ndarray) -> None:
            if len(images) > fits:  # type: ignore[operator]
                raise OutOfMemoryError("no room")
            self.ran.append(len(images))
            self.now += self._seconds(len(images))

        wrapped.before = before
        options = msgspec.structs.replace(LONG, **how)
        report = adapt_over(wrapped, bundle, data, into, options, notice=told.append, budget=edgeplast.Budget(1 << 30))
        return report, [line for line in told if line.startswith("Tried")]


def large_is_fast(size: int) -> float:
    return 1.0 + 0.01 * size


def test_a_run_takes_the_fastest_and_the_next_one_begins_with_it(
    bundle: Bundle, blobs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, large_is_fast)
    first, (said,) = machine.adapt(bundle, blobs, tmp_path / "first")
    assert first.micro_batch_size == 16 and "micro-batch 16" in said and not first.rung_changes
    assert first.image_seconds and len(list(cache.iterdir())) == 1
    again, told = machine.adapt(bundle, blobs, tmp_path / "again")
    assert not told and again.micro_batch_size == 16 and again.losses == first.losses
    fixed, told = machine.adapt(bundle, blobs, tmp_path / "fixed", micro_batch=4)
    assert not told and fixed.micro_batch_size == 4 and not fixed.image_seconds
    np.testing.assert_allclose(fixed.losses, first.losses, atol=1e-4)


def test_a_pinned_rung_is_begun_on_whatever_is_known_and_nothing_is_tried(
    bundle: Bundle, blobs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, large_is_fast)
    first, _ = machine.adapt(bundle, blobs, tmp_path / "first")
    rung = first.options["rung"]
    assert isinstance(rung, str) and rung.startswith("full:16:")
    for file in cache.iterdir():
        file.unlink()
    again, told = machine.adapt(bundle, blobs, tmp_path / "again", rung=rung)
    assert not told and again.losses == first.losses and again.options == first.options
    other, told = machine.adapt(bundle, blobs, tmp_path / "other", rung="full:2:none")
    assert not told and other.micro_batch_size == 2 and other.losses != first.losses
    with pytest.raises(UsageError, match=r"--rung full:3:none is no way in which this bundle takes a step of 16"):
        machine.adapt(bundle, blobs, tmp_path / "wrong", rung="full:3:none")
    with pytest.raises(UsageError, match=r"--rung 'fast' is no way to take a step; give what a report's"):
        msgspec.structs.replace(LONG, rung="fast")


def test_where_nothing_is_faster_a_run_stays_as_it_was(
    bundle: Bundle, blobs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, lambda size: 0.3 * size)
    report, (said,) = machine.adapt(bundle, blobs, tmp_path / "a")
    plain, _ = machine.adapt(bundle, blobs, tmp_path / "b", micro_batch=4)
    assert "stays" in said and report.micro_batch_size == 4 and report.losses == plain.losses


def test_tries_take_a_small_share_of_a_run_and_a_short_one_has_none(
    bundle: Bundle, blobs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, lambda size: 0.001 * size)  # a fraction of a second in all
    _, told = machine.adapt(bundle, blobs, tmp_path / "fast")
    assert not told and not cache.exists()
    _, told = machine.adapt(bundle, blobs, tmp_path / "short", epochs=1)
    assert not told and {*machine.ran} <= {1, 2, 4}
    machine = Machine(monkeypatch, lambda size: 0.1 * size)
    report, _ = machine.adapt(bundle, blobs, tmp_path / "long")
    tries = sum(3 * 0.1 * Rungs.size(name) for name in report.image_seconds)
    assert tries <= 0.5 * machine.now + 3 * 0.1 * 16


class Rungs:
    @staticmethod
    def size(name: str) -> int:
        return int(name.split("micro-batch ")[1].split(",")[0])


def test_a_try_that_finds_no_memory_is_no_step_down(
    bundle: Bundle, blobs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, large_is_fast)
    report, (said,) = machine.adapt(bundle, blobs, tmp_path / "a", fits=8)
    assert report.micro_batch_size == 8 and not report.rung_changes and "micro-batch 8" in said


def test_a_resumed_run_keeps_to_its_rung_whatever_is_known_by_then(
    bundle: Bundle, blobs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, times = Wrapped.__init__, [large_is_fast]
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slowly(self: Wrapped, into: Path) -> None:
        real(self, into)

        def before(session: Training, images: np.ndarray) -> None:
            now[0] += times[0](len(images))

        self.before = before
        for file in cache.iterdir() if into.with_name("cut.partial").exists() else ():  # of another mind since
            known = Speeds.read(file)
            other = {name: 1 / took for name, took in known.seconds.items()}
            msgspec.structs.replace(known, seconds=other).write(file)

    monkeypatch.setattr(Wrapped, "__init__", slowly)
    images = open_images(blobs, "train")
    whole, resumed = whole_and_resumed(bundle, images, tmp_path, LONG)
    assert whole.micro_batch_size == resumed.micro_batch_size == 16
    assert whole.losses == resumed.losses and resumed.resumed_at == (5,)


@pytest.mark.parametrize("tries", [True, False])
def test_a_run_that_goes_on_tries_nothing_unless_its_rung_has_changed(
    manifest: Manifest, rungs: list[Rung], tmp_path: Path, tries: bool
) -> None:
    kept = KeptSpeeds(manifest, "x", "cpu", 1, tmp_path)
    preference = Preference(manifest, "adamw", 1 << 40, kept, tries=tries)
    assert preference.is_open(rungs, at_start=True) == tries
    assert preference.is_open(rungs, at_start=False)
