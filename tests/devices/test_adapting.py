"""Adapting a small bundle: it learns, repeats itself, keeps the best, and loses nothing when it cannot go on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_models import blob_folder, blob_npz, blob_tar, small_bundle, truncated_png
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation, EpochReport
from edgeplast.bundle import REPORT, TRAINABLE, Bundle
from edgeplast.errors import BudgetError, EdgeplastError, InputError, InterruptedRunError, UsageError
from edgeplast_devices import measuring, running
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.tensors import read_arrays
from edgeplast_devices.weights import read_trainable

Adapt = Callable[..., Adaptation]


@pytest.fixture
def adapt(bundle: Bundle, blobs: Path, tmp_path: Path) -> Adapt:
    """Adapt with options as keywords into ``tmp_path / "adapted"``; few epochs, one thread, no augmentation."""

    def run(
        data: Path = blobs,
        start: Bundle | Path = bundle,
        into: str = "adapted",
        memory: int | None = None,
        **how: object,
    ) -> Adaptation:
        budget = edgeplast.Budget(memory_bytes=memory)
        settings: dict = {"epochs": 2, "learning_rate": 3e-3, "threads": 1, "augment": "none"}
        options = TrainingOptions(**(settings | how))
        return edgeplast.adapt(start, data, into=tmp_path / into, budget=budget, options=options)

    return run


def _hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.mark.parametrize("damaged", ["red", "green blue"])
def test_a_class_of_which_no_picture_can_be_read_is_not_learned_in_silence(
    adapt: Adapt, blobs: Path, tmp_path: Path, damaged: str
) -> None:
    shutil.copytree(blobs, tmp_path / "data")
    for name in damaged.split():
        for file in (tmp_path / "data/train" / name).iterdir():
            file.write_bytes(truncated_png())
    with pytest.raises(InputError, match=r"Of class '(red|blue)' not one of its \d+ pictures can be read \(train/"):
        adapt(data=tmp_path / "data")
    assert not (tmp_path / "adapted").exists()


def test_it_learns_and_leaves_the_bundle_it_came_from_alone(
    adapt: Adapt, bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    before = _hashes(bundle.path)
    report = adapt(epochs=5, augment="default")
    assert report.accuracy.before == pytest.approx(1 / 3) and report.accuracy.after is not None
    assert report.accuracy.after > 0.75 and report.losses[-1] < 0.7 * report.losses[0]
    assert _hashes(bundle.path) == before
    assert Adaptation.read(tmp_path / "adapted" / REPORT) == report
    adapted = Bundle.open(tmp_path / "adapted")
    assert adapted.manifest.adapted_from == bundle.fingerprint
    assert edgeplast.evaluate(adapted, blobs).accuracy == report.accuracy.after
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapted"]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("kind", ["folder", "tar", "npz"])
def test_every_kind_of_data_set_and_optimizer_learns(
    adapt: Adapt, blobs: Path, tmp_path: Path, kind: str, optimizer: str
) -> None:
    start: Path | None = None
    if kind == "npz":
        data = blob_npz(tmp_path / "data.npz")
        start = small_bundle(tmp_path / "numbered", classes=("0", "1", "2")).path
    else:
        data = blobs if kind == "folder" else blob_tar(tmp_path / "data.tar", blobs)
    options = {"optimizer": optimizer, "learning_rate": None if optimizer == "sgd" else 3e-3}
    report = adapt(data, **({"start": start} if start else {}), epochs=4, **options)
    assert report.losses[-1] < 0.95 * report.losses[0] and report.images["test"] == 36
    assert report.options["optimizer"] == optimizer and report.options["learning_rate"]


def test_the_same_seed_gives_the_same_losses_and_another_does_not(adapt: Adapt) -> None:
    first, again, other = (
        adapt(into=name, augment="default", seed=seed, epochs=1) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.losses == again.losses and first.gradient_norms == again.gradient_norms
    assert first.losses != other.losses


def test_the_micro_batch_does_not_change_the_losses(adapt: Adapt) -> None:
    runs = [
        adapt(into=f"micro-{size}", micro_batch=size, augment="default", class_weights="balanced", label_smoothing=0.1)
        for size in (1, 3, 8)
    ]
    for run, size in zip(runs, (1, 3, 8), strict=True):
        assert run.micro_batch_size <= size and run.batch_size == 8
        np.testing.assert_allclose(run.losses, runs[0].losses, atol=1e-4)
    assert runs[0].micro_batch_size == 1


def test_early_stopping_keeps_the_weights_of_the_best_epoch(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    losses, seen = iter([0.9, 0.5, 0.8, 0.7, 0.1]), {}
    measure, write = measuring.measure, running.write_best

    def scripted(*args: object, **how: object) -> object:
        result = measure(*args, **how)  # type: ignore[arg-type]
        return msgspec.structs.replace(result, loss=next(losses)) if str(how["activity"])[:5] == "epoch" else result

    def remember(folder: Path, steps: int, parameters: dict[str, np.ndarray], **replaced: object) -> str:
        seen.update({name: array.copy() for name, array in parameters.items()})
        return write(folder, steps, parameters, **replaced)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "measure", scripted)
    monkeypatch.setattr(running, "write_best", remember)
    report = adapt(epochs=5, patience=2)
    assert report.stopped_because == "early stopping" and (report.best_epoch, report.epochs) == (2, 4)
    assert [epoch.validation_loss for epoch in report.history] == [0.9, 0.5, 0.8, 0.7]
    kept = read_arrays(tmp_path / "adapted" / TRAINABLE)
    for name, array in kept.items():
        np.testing.assert_array_equal(array, seen[name])
    assert not list((tmp_path / "adapted").glob("best-*")) + list((tmp_path / "adapted").glob(".*"))


def test_each_epoch_is_told_and_the_bar_counts_images(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    told: list[EpochReport] = []
    ticks: list[tuple[str, int, int]] = []
    report = edgeplast.adapt(
        bundle,
        blobs,
        into=tmp_path / "a",
        options=TrainingOptions(epochs=2),
        progress=lambda activity, done, total: ticks.append((activity, done, total)),
        epoch_done=told.append,
    )
    assert tuple(told) == report.history
    for name in ("epoch 1 of 2", "epoch 2 of 2", "evaluating test, before", "evaluating test, after"):
        done = [d for activity, d, _ in ticks if activity == name]
        assert done == sorted(done) and done[-1] == next(t for a, _, t in ticks if a == name)


def test_frozen_int8_weights_stay_as_they_are(adapt: Adapt, int8_bundle: Bundle, tmp_path: Path) -> None:
    report = adapt(start=int8_bundle, epochs=3)
    assert report.losses[-1] < report.losses[0]
    before, after = _hashes(int8_bundle.path), _hashes(tmp_path / "adapted")
    new = {TRAINABLE, "bundle.json", "report.json", "telemetry.jsonl"}
    assert {n for n in after if after[n] != before.get(n)} == new


def test_an_adapted_bundle_can_be_adapted_again(adapt: Adapt, tmp_path: Path) -> None:
    first = adapt(epochs=3, into="first")
    second = adapt(start=tmp_path / "first", epochs=1, into="second")
    assert second.accuracy.before == first.accuracy.after
    assert Bundle.open(tmp_path / "second").manifest.adapted_from == Bundle.open(tmp_path / "first").fingerprint


def test_a_batch_larger_than_the_data_and_a_plain_folder(adapt: Adapt, tmp_path: Path) -> None:
    data = blob_folder(tmp_path / "few", train=3, test=0)
    report = adapt(data, batch=500, micro_batch=900)
    assert report.batch_size == report.images["train"] == 9 and report.micro_batch_size <= 9
    assert report.measured_on == "train" and report.images == {"train": 9}
    data = blob_folder(tmp_path / "more", train=10, test=0)
    report = adapt(data, into="b")
    assert report.measured_on == "val" and report.images == {"train": 24, "val": 6}


class TestPicturesThatCannotBeRead:
    def test_they_are_left_out_counted_and_named(self, adapt: Adapt, blobs: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        shutil.copytree(blobs, data)
        (data / "train/red/000.png").write_bytes(truncated_png())
        (data / "train/blue/000.png").write_bytes(b"")
        (data / "test/red/000.png").write_bytes(b"text")
        report = adapt(data)
        assert report.unreadable == 3 and report.stopped_because == "finished"
        assert {name for name, _ in report.unreadable_examples} == {
            "train/red/000.png",
            "train/blue/000.png",
            "test/red/000.png",
        }
        assert all(np.isfinite(report.losses))

    def test_a_batch_with_a_hole_has_the_mean_loss_of_the_others(self, adapt: Adapt, tmp_path: Path) -> None:
        data = blob_folder(tmp_path / "data", train=4, test=2)
        (data / "train/red/001.png").write_bytes(b"")
        report = adapt(data, batch=12, epochs=1, label_smoothing=0.0)
        assert report.losses[0] == pytest.approx(np.log(3), rel=1e-4)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_a_split_without_a_readable_one_is_an_error_at_once(self, adapt: Adapt, tmp_path: Path, split: str) -> None:
        data = blob_folder(tmp_path / "data", train=3, test=2)
        for picture in (data / split).rglob("*.png"):
            picture.write_bytes(b"")
        with pytest.raises(InputError, match=r"None of the \d pictures could be read \(.*the file is empty"):
            adapt(data)
        assert not (tmp_path / "adapted").exists()


class TestBadInput:
    def test_one_class_is_not_enough(self, adapt: Adapt, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="learning needs at least 2"):
            adapt(blob_folder(tmp_path / "data", test=0, classes=("red",)))

    def test_an_empty_folder_says_what_is_expected(self, adapt: Adapt, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        with pytest.raises(InputError, match=r"holds no pictures.*CLASS/name\.jpg"):
            adapt(tmp_path / "data")

    def test_a_class_the_bundle_does_not_know_is_named(self, adapt: Adapt, tmp_path: Path) -> None:
        data = blob_folder(tmp_path / "data", train=2, test=0)
        (data / "red").rename(data / "pink")
        with pytest.raises(InputError, match="pictures of 'pink', and the known classes are 'blue', 'green', 'red'"):
            adapt(data)

    def test_a_taken_name_is_refused_before_any_work(self, adapt: Adapt, tmp_path: Path) -> None:
        (tmp_path / "adapted").mkdir()
        (tmp_path / "adapted" / "mine.txt").write_text("x")
        with pytest.raises(UsageError, match="exists already"):
            adapt(tmp_path / "there is no data")

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"epochs": -1}, "--epochs -1 is out of range"),
            ({"epochs": 0}, "--epochs 0 learns nothing but a fitted head: give --head fitted"),
            ({"head": "fited"}, "Did you mean 'fitted'"),
            ({"learning_rate": float("nan")}, "--learning-rate nan"),
            ({"label_smoothing": 1.5}, "allowed is 0 to 1"),
            ({"optimizer": "adam"}, "Did you mean 'adamw'"),
            ({"schedule": "cosin"}, "Did you mean 'cosine'"),
            ({"class_weights": "ballanced"}, "Did you mean 'balanced'"),
            ({"augment": "much"}, "default"),
        ],
    )
    def test_options_out_of_range_are_usage_errors(self, options: dict, match: str) -> None:
        with pytest.raises(UsageError, match=match):
            TrainingOptions(**options)

    def test_a_budget_that_cannot_be_met_writes_nothing(self, adapt: Adapt, tmp_path: Path) -> None:
        with pytest.raises(BudgetError, match=r"Allow --memory \d+MiB"):
            adapt(memory=1 << 20)
        assert not list(tmp_path.iterdir())


class TestDivergence:
    def test_before_the_first_epoch_ends_nothing_is_written(self, adapt: Adapt, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"diverged.*--learning-rate 100"):
            adapt(learning_rate=1000.0, clip=0.0, batch=2, warmup=0.0)
        assert not list(tmp_path.iterdir())

    def test_later_the_last_good_epoch_is_kept_and_the_report_can_be_read(
        self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        rates = running.learning_rate
        monkeypatch.setattr(
            running, "learning_rate", lambda step, total, **how: rates(step, total, **how) * (1e6 if step >= 5 else 1)
        )
        report = adapt(epochs=5, clip=0.0, schedule="constant")
        assert report.stopped_because == "diverged" and report.best_epoch >= 1
        assert Adaptation.read(tmp_path / "adapted" / REPORT) == report
        assert all(np.isfinite(array).all() for array in read_arrays(tmp_path / "adapted" / TRAINABLE).values())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InputError, InterruptedRunError, BudgetError])
def test_whatever_stops_a_run_leaves_nothing_behind(
    bundle: Bundle, blobs: Path, tmp_path: Path, stop: type[BaseException]
) -> None:
    wrapped = Wrapped(tmp_path / "adapted")

    def before(*_: object) -> None:
        raise stop("now")

    wrapped.before = before
    with pytest.raises(stop):
        adapt_over(wrapped, bundle, blobs, tmp_path / "adapted", TrainingOptions(threads=1))
    assert not list(tmp_path.iterdir())
    assert not issubclass(stop, EdgeplastError) or stop.exit_code in (3, 4, 130)


def test_a_full_disk_is_found_before_training(
    bundle: Bundle, blobs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrapped = Wrapped(tmp_path / "adapted")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def before(*_: object) -> None:
        raise AssertionError("trained although the disk is full")

    wrapped.before = before
    monkeypatch.setattr("edgeplast.stored_files.hashed", full)
    with pytest.raises(InputError, match="disk is full"):
        adapt_over(wrapped, bundle, blobs, tmp_path / "adapted", TrainingOptions(threads=1))
    assert not list(tmp_path.iterdir())


class TestTheHeadsOwnRate:
    def test_a_new_head_learns_at_its_own_rate_and_one_that_has_learned_as_the_rest(
        self, bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        first = edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=TrainingOptions(epochs=1, threads=1))
        assert (first.options["learning_rate"], first.options["head_learning_rate"]) == (2e-4, 3e-3)
        again = edgeplast.adapt(tmp_path / "a", blobs, into=tmp_path / "b", options=TrainingOptions(epochs=1))
        assert again.options["learning_rate"] == again.options["head_learning_rate"] == 2e-4

    def test_the_head_moves_by_its_rate_and_nothing_else_does(
        self, bundle: Bundle, blobs: Path, tmp_path: Path
    ) -> None:
        """AdamW's steps are as long as the learning rate; at the first a head of zeros gives the rest no gradient."""
        how: dict = {"epochs": 2, "batch": 48, "threads": 1, "warmup": 0.0, "weight_decay": 0.0}
        options = TrainingOptions(**how, schedule="constant", learning_rate=1e-4, head_learning_rate=1e-2)
        edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=options)
        start, end = read_trainable(bundle), read_arrays(tmp_path / "a" / TRAINABLE, read_trainable(bundle))
        for name, array in end.items():
            rate, steps = (1e-2, 2) if bundle.manifest.parameters[name].component == "head" else (1e-4, 1)
            assert 0.5 * rate < np.abs(array - start[name]).max() < 1.05 * steps * rate, name
