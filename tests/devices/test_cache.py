"""What never changes is computed once: the cache of latents, its rounding, and what a run does with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_models import small_bundle
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InterruptedRunError, UsageError
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast_devices.cache import BITS, Cache, Rounding, slot_bytes
from edgeplast_devices.caching import DEFAULT_VIEWS
from edgeplast_devices.latents import PrefixSession
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.sessions import Sessions

SHAPES = [(5,), (1, 48), (17, 32), (3, 7, 7), (2, 3, 4, 5)]
finite = st.floats(-3e4, 3e4, width=32)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(SHAPES), st.sampled_from(BITS))
def test_what_is_kept_comes_back_as_near_as_its_bits_allow(data, shape, bits):
    given_latents = data.draw(arrays.arrays(np.float32, shape, elements=finite))
    rounding, found = Rounding(shape, bits), np.empty(shape, np.float32)
    stored = rounding.encoded(given_latents)
    assert len(stored) == rounding.size
    rounding.decoded(memoryview(stored), found)
    if bits == 32:
        np.testing.assert_array_equal(found, given_latents)
    elif bits == 16:
        np.testing.assert_allclose(found, given_latents, rtol=1e-3, atol=1e-7)
    else:
        assert np.abs(found - given_latents).max() <= np.abs(given_latents).max() / 253 + np.finfo(np.float32).tiny
    again = rounding.encoded(found)
    rounding.decoded(memoryview(again), found_again := np.empty(shape, np.float32))
    np.testing.assert_allclose(found_again, found, rtol=1e-6)


def test_sizes_on_disk_are_those_that_the_readme_names():
    tokens = (197, 192)
    assert [Rounding(tokens, bits).size for bits in BITS] == [151_296, 75_648, 38_612]
    assert Rounding((512, 7, 7), 8).size == 512 * (49 + 4)  # a scale a channel, not one for each row of 7


def filled(path: Path, pictures: int = 4, views: int = 2) -> tuple[Cache, np.ndarray]:
    cache = Cache(path, pictures, views, Rounding((3, 8), 32))
    latents = np.random.default_rng(0).standard_normal((pictures, 3, 8), np.float32)
    cache.keep(1, np.arange(pictures), latents.copy())
    return cache, latents


def test_what_was_not_written_and_what_is_damaged_is_missing_and_nothing_else(tmp_path: Path) -> None:
    cache, latents = filled(tmp_path / "c")
    found, whole = cache.read(0, np.arange(4))
    assert not whole.any() and found.shape == (0, 3, 8)
    cache.close()
    data = bytearray((tmp_path / "c").read_bytes())
    slot = slot_bytes(Rounding((3, 8), 32))
    data[(4 + 2) * slot + 40] ^= 1  # picture 2 of view 1
    (tmp_path / "c").write_bytes(data[:-1])  # and the last one is cut off
    found, whole = Cache(tmp_path / "c", 4, 2, Rounding((3, 8), 32)).read(1, np.asarray([3, 0, 2, 1]))
    assert whole.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(found, latents[[0, 1]])


def test_a_disk_that_refuses_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    cache, latents = filled(tmp_path / "c")
    monkeypatch.setattr(os, "pwrite", full)
    np.testing.assert_array_equal(cache.keep(0, np.arange(4), latents.copy()), latents)
    assert not cache.read(0, np.arange(4))[1].any()
    nowhere = Cache(tmp_path / "no folder" / "c", 4, 1, Rounding((3, 8), 8))
    assert np.abs(nowhere.keep(0, np.arange(4), latents.copy()) - latents).max() > 0  # rounded all the same
    assert not nowhere.read(0, np.arange(4))[1].any()


# -- in a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose first half never changes."""
    return small_bundle(tmp_path_factory.mktemp("late") / "b", "blocks:1")


class Counted:
    """Sessions that count how many pictures pass through the prefix."""

    def __init__(self) -> None:
        self.pictures = 0
        owner = self

        class Prefix(PrefixSession):
            def latents(self, images: np.ndarray) -> np.ndarray:
                owner.pictures += len(images)
                return super().latents(images)

        self.sessions = Sessions(prefix=Prefix)


def adapted(late: Bundle, blobs: Path, into: Path, **options: object) -> tuple[edgeplast.Adaptation, int]:
    from edgeplast_devices import adapting
    from edgeplast_devices.images import open_splits

    counted = Counted()
    chosen = TrainingOptions(**({"epochs": 4, "learning_rate": 3e-3} | options))  # type: ignore[arg-type]
    report = adapting.adapt(late, open_splits(blobs, seed=0), into=into, options=chosen, sessions=counted.sessions)
    return report, counted.pictures


def test_each_view_of_each_picture_passes_once(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    report, passed = adapted(late, blobs, tmp_path / "a", views=2)
    images = report.images
    once = 2 * images["train"] + images.get("val", 0) + images["test"]
    assert passed == once
    assert report.cache is not None
    assert (report.cache.views, report.cache.bits) == (2, 16)
    assert report.cache.most_bytes == once * slot_bytes(Rounding(late.manifest.prefix.shape, 16))
    assert not [file.name for file in (tmp_path / "a").iterdir() if "latents" in file.name]
    _, without = adapted(late, blobs, tmp_path / "b", cache="none")
    assert without > 1.5 * passed
    plain, passed = adapted(late, blobs, tmp_path / "c", augment="none")
    assert passed == sum(images.values())
    same, _ = adapted(late, blobs, tmp_path / "d", views=1)
    assert same.losses == plain.losses  # one view is the picture as it is


def test_what_is_finished_has_no_latents_before_it_has_its_name(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    from edgeplast_devices import adapting
    from edgeplast_devices.images import open_splits

    seen: list[list[str]] = []
    images, options = open_splits(blobs, seed=0), TrainingOptions(epochs=2, learning_rate=3e-3, views=1)
    adapting.adapt(
        late, images, into=tmp_path / "a", options=options,
        seal=lambda folder: seen.append([file.name for file in folder.iterdir()]),
    )  # fmt: skip
    assert len(seen) == 1 and "report.json" in seen[0]
    assert not [name for name in seen[0] if "latents" in name]


def test_a_cache_changes_nothing_but_rounding(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    how = {"augment": "none", "batch": 4}
    plain, _ = adapted(late, blobs, tmp_path / "plain", cache="none", **how)
    same, _ = adapted(late, blobs, tmp_path / "same", cache_bits=32, **how)
    np.testing.assert_allclose(same.losses, plain.losses, atol=1e-5)
    for bits in (16, 8):
        near, _ = adapted(late, blobs, tmp_path / f"near{bits}", cache_bits=bits, **how)
        np.testing.assert_allclose(near.losses, plain.losses, atol={16: 1e-3, 8: 3e-2}[bits])


def test_what_a_run_keeps_is_what_fits(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    slot = slot_bytes(Rounding(late.manifest.prefix.shape, 16))
    report, _ = adapted(late, blobs, tmp_path / "a", views=3)
    train, measured = report.images["train"], sum(report.images.values()) - report.images["train"]
    # sizes are given in bytes, and those below a MiB need a unit
    room = (measured + 2 * train) * slot
    report, _ = adapted(late, blobs, tmp_path / "b", views=3, cache=f"{room}B")
    assert report.cache is not None and report.cache.views == 2
    report, _ = adapted(late, blobs, tmp_path / "c", cache=f"{measured * slot}B")
    assert report.cache is not None and report.cache.views == 0
    assert "each picture" not in str(report.cache) and "16 bits" in str(report.cache)
    report, _ = adapted(late, blobs, tmp_path / "d", cache=f"{slot}B")
    assert report.cache is None


def test_a_cache_leaves_checkpoints_their_room(
    late: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeplast_devices.caching import settled
    from edgeplast_devices.disk import disk_shares
    from edgeplast_devices.images import open_splits

    images, options = open_splits(blobs, seed=0), TrainingOptions(epochs=9)
    shares = disk_shares(late, options, tmp_path)
    own = shares.own_bytes + shares.versions_bytes

    def with_free(free: int) -> TrainingOptions:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
        return settled(options, late, images, disk_shares(late, options, tmp_path / "not there yet"))

    assert with_free(own + 1000).cache == "none"
    assert with_free(own + 2_000_001).cache == "1000000B"


def test_views_are_kept_where_there_are_more_epochs_than_that(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    views = {}
    for epochs in (DEFAULT_VIEWS, DEFAULT_VIEWS + 1):
        report, _ = adapted(late, blobs, tmp_path / str(epochs), epochs=epochs)
        assert report.cache is not None
        views[epochs] = report.cache.views
    assert views == {DEFAULT_VIEWS: 0, DEFAULT_VIEWS + 1: DEFAULT_VIEWS}


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    options = TrainingOptions(epochs=4, learning_rate=3e-3, batch=4, views=2, checkpoint_every="1step")
    whole = adapt_over(Wrapped(tmp_path / "whole"), late, blobs, tmp_path / "whole", options)
    into = tmp_path / "cut"
    for step in (1, whole.steps // 2):
        wrapped = Wrapped(into)
        wrapped.at_step(step, interrupted)
        with pytest.raises(InterruptedRunError):
            adapt_over(wrapped, late, blobs, into, options, resume=step > 1)
    assert [file for file in into.with_name("cut.partial").iterdir() if file.name.startswith(".latents-train")]
    resumed = adapt_over(Wrapped(into), late, blobs, into, options, resume=True)
    assert resumed.losses == whole.losses
    assert (into / "trainable.safetensors").read_bytes() == (tmp_path / "whole/trainable.safetensors").read_bytes()


def interrupted() -> None:
    raise InterruptedRunError("here")


def test_pictures_that_cannot_be_read_are_left_out_each_epoch(
    late: Bundle, blobs: Path, tmp_path: Path, copied: Callable[[Path, Path], Path]
) -> None:
    data = copied(blobs, tmp_path / "data")
    sorted((data / "train").rglob("*.png"))[0].write_bytes(b"no picture")
    report, passed = adapted(late, data, tmp_path / "a", augment="none", epochs=3)
    assert report.unreadable == 1
    images = report.images
    assert passed == images["train"] - 1 + images.get("val", 0) + images["test"]


@pytest.fixture
def copied() -> Callable[[Path, Path], Path]:
    def copy(source: Path, target: Path) -> Path:
        for file in source.rglob("*"):
            if file.is_file():
                (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                (target / file.relative_to(source)).write_bytes(file.read_bytes())
        return target

    return copy


# -- what is refused --------------------------------------------------------------------------------------------


def test_nothing_to_cache_is_told(blobs: Path, tmp_path: Path) -> None:
    early = small_bundle(tmp_path / "early", "all")
    assert early.manifest.prefix is None and PREFIX_GRAPH not in early.manifest.files
    for how in ({"views": 2}, {"cache": "1GiB"}):
        with pytest.raises(UsageError, match=r"There is nothing to cache: .* Leave out --cache and --views"):
            edgeplast.adapt(early, blobs, into=tmp_path / "a", options=TrainingOptions(**how))
    report = edgeplast.adapt(early, blobs, into=tmp_path / "a", options=TrainingOptions(epochs=1))
    assert report.cache is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cache": "none", "views": 2}, r"--views says how many views of a picture are kept; --cache none"),
        ({"cache": "much"}, "Cannot read 'much' as an amount of bytes"),
        ({"cache_bits": 4}, r"--cache-bits.*4.*32, 16"),
        ({"views": 0}, r"--views 0 is out of range; allowed is 1 to 1000"),
    ],
)
def test_options_out_of_range(how: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingOptions(**how)


def test_a_bundle_whose_prefix_is_not_listed_is_damaged(late: Bundle, tmp_path: Path) -> None:
    from edgeplast.bundle import MANIFEST
    from edgeplast.errors import DamagedError

    for file in late.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    files = {name: stored for name, stored in late.manifest.files.items() if name != PREFIX_GRAPH}
    msgspec.structs.replace(late.manifest, files=files).write(tmp_path / MANIFEST)
    with pytest.raises(DamagedError, match=r"prefix\.onnx is used but not listed"):
        Bundle.open(tmp_path)
