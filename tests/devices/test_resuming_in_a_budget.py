"""Runs in a budget that go on, or are repeated, in a process that holds a little more or less than the one before."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from small_models import CLASSES
from wrapped_sessions import Wrapped, adapt_over

from edgeplast.adaptation import Adaptation
from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import BudgetError, InterruptedRunError
from edgeplast.footprint import PICTURE_BYTES
from edgeplast_devices import starting
from edgeplast_devices.images import ImageSet
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import MANNERS, STARTS_DIFFER_BYTES, UNSPENT_BYTES, Manner, Rung, ladder, predicted_peak
from edgeplast_devices.runtime import OutOfMemoryError

OPTIONS = TrainingOptions(epochs=2, batch=6, learning_rate=3e-3, threads=1, checkpoint_every="1steps", probe=False)
SIDE = 1700
"""A JPEG of so many pixels a side takes 11.4 MiB to decode in full, and 3.1 at half its size."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for i, label in enumerate(CLASSES * 4):
        (root / label).mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
        Image.fromarray(noise).resize((SIDE, SIDE)).save(root / label / f"{i}.jpg", quality=80)
    return root


def stopped() -> None:
    raise InterruptedRunError("stopped")


def test_photos_are_read_at_the_same_scale_again(
    bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are the same bit for bit: whether a photo is read in full does not hang on what is resident just then."""
    held = [resident_bytes() + (64 << 20)]
    monkeypatch.setattr(starting, "resident_bytes", lambda: held[0])

    def adapt(into: str, **how: object) -> Adaptation:
        wrapped = Wrapped(tmp_path / into)
        if how.pop("stop", False):
            wrapped.at_step(2, stopped)
        return adapt_over(wrapped, bundle, photos, tmp_path / into, OPTIONS, **how)

    needed = adapt("without", budget=Budget()).memory.predicted_peak_bytes
    budget = Budget(memory_bytes=needed + UNSPENT_BYTES + (1 << 20))  # 12 MiB to read a photo
    whole = adapt("whole", budget=budget)
    with pytest.raises(InterruptedRunError):
        adapt("cut", budget=budget, stop=True)
    held[0] += 1 << 20
    assert adapt("cut", budget=budget, resume=True).losses == whole.losses
    assert adapt("later", budget=budget).losses != whole.losses


def test_a_larger_process_promises_no_memory_that_is_gone(
    bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun by a small process, taken up in a large one: photos are read within what is left there, and that is told.

    What two starts of one program differ by is no reason to.
    """
    held, limits = [resident_bytes() + (64 << 20)], []
    monkeypatch.setattr(starting, "resident_bytes", lambda: held[0])
    read = ImageSet.open

    def noted(images: ImageSet, index: int, **how: tuple[int, int]) -> object:
        limits.append(images.decode_limit_bytes)
        return read(images, index, **how)

    monkeypatch.setattr(ImageSet, "open", noted)
    told: list[str] = []

    def adapt(into: str, **how: object) -> Adaptation:
        wrapped = Wrapped(tmp_path / into)
        if how.pop("stop", False):
            wrapped.at_step(2, stopped)
        return adapt_over(wrapped, bundle, photos, tmp_path / into, OPTIONS, notice=told.append, **how)

    needed = adapt("without", budget=Budget()).memory.predicted_peak_bytes
    budget = Budget(memory_bytes=needed + UNSPENT_BYTES + (24 << 20))  # 35 MiB to read a photo
    for into, more in (("as-large", STARTS_DIFFER_BYTES), ("larger", 16 << 20)):
        held[0] -= more
        limits.clear()
        with pytest.raises(InterruptedRunError):
            adapt(into, budget=budget, stop=True)
        began = max(limits)
        held[0] += more
        told.clear(), limits.clear()
        report = adapt(into, budget=budget, resume=True)
        assert report.resumed_at and report.memory.predicted_peak_bytes <= report.memory.budget_bytes
        now, notes = max(limits), [line for line in told if "holds more" in line]
        if into == "as-large":
            assert now == began and not notes
        else:
            assert began - now == 16 << 20
            assert report.memory.predicted_peak_bytes + now <= budget.memory_bytes + PICTURE_BYTES
            (note,) = notes
            assert "decoding a photo may take 35 MiB of the budget now, where it was 51 MiB" in note
            assert "To go on just as before, resume in a process that holds as little" in note


@pytest.mark.parametrize("rescore", ["none", "every-epoch"])
def test_a_larger_process_takes_a_rung_and_sets_that_fit_there(
    alternatives_bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rescore: str
) -> None:
    bundle = alternatives_bundle
    held = [resident_bytes() + (64 << 20)]
    monkeypatch.setattr(starting, "resident_bytes", lambda: held[0])
    options = msgspec.structs.replace(OPTIONS, batch=40, micro_batch=40, rescore=rescore)
    largest, *smaller = ladder(bundle.manifest, 40, micro_batch=40)

    def peak(rung: Rung, manner: Manner) -> int:
        return predicted_peak(bundle.manifest, rung, "adamw", held[0], manner)

    budget = Budget(memory_bytes=peak(largest, MANNERS[0]))
    thrifty, least = peak(largest, MANNERS[-1]), min(peak(rung, MANNERS[-1]) for rung in smaller)
    assert thrifty - least > STARTS_DIFFER_BYTES

    def adapt(*, resume: bool = False) -> Adaptation:
        wrapped = Wrapped(tmp_path / "a")
        if not resume:
            wrapped.at_step(1, stopped)
        return adapt_over(wrapped, bundle, blobs, tmp_path / "a", options, budget=budget, resume=resume)

    with pytest.raises(InterruptedRunError):
        adapt()
    small = held[0]
    held[0] = small + budget.memory_bytes - least + 1
    with pytest.raises(BudgetError, match=r"not enough to train .*Allow --memory \d+MiB"):
        adapt(resume=True)
    held[0] = small + budget.memory_bytes - least
    report = adapt(resume=True)
    assert report.memory.predicted_peak_bytes <= budget.memory_bytes and report.resumed_at
    assert report.micro_batch_size < 40


def test_a_report_names_the_rung_of_the_first_step_also_after_a_way_down(
    bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    """Else its run file would take other steps than the run did."""

    def adapt(resume: bool = False) -> Adaptation:
        wrapped = Wrapped(tmp_path / "cut")
        wrapped.before = out_of_memory_once
        if not resume:
            wrapped.at_step(3, stopped)
        return adapt_over(wrapped, bundle, blobs, tmp_path / "cut", OPTIONS, resume=resume)

    met: list[int] = []

    def out_of_memory_once(_: object, images: np.ndarray) -> None:
        met.append(len(images))
        if len(met) == 4:
            raise OutOfMemoryError("there was less of it")

    with pytest.raises(InterruptedRunError):
        adapt()
    report = adapt(resume=True)
    (change,) = report.rung_changes
    assert change.before == f"tier full, micro-batch {met[0]}" != change.after
    assert report.options["rung"] == f"full:{met[0]}:none"


def test_a_rung_that_does_not_fit_is_told_with_what_is_taken_instead(
    bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = resident_bytes() + (64 << 20)
    monkeypatch.setattr(starting, "resident_bytes", lambda: held)
    largest = next(rung for rung in ladder(bundle.manifest, OPTIONS.batch or 0) if rung.micro_batch == OPTIONS.batch)
    budget = Budget(memory_bytes=predicted_peak(bundle.manifest, largest, "adamw", held) - 1)
    told: list[str] = []
    options = msgspec.structs.replace(OPTIONS, rung=largest.key)
    how = {"budget": budget, "notice": told.append}
    report = adapt_over(Wrapped(tmp_path / "a"), bundle, blobs, tmp_path / "a", options, **how)
    assert report.options["rung"] != largest.key and report.micro_batch_size < largest.micro_batch
    (said,) = [line for line in told if "--rung" in line]
    assert said.startswith(f"--rung {largest.key} does not fit in ") and "the run begins on tier full" in said
    assert "Allow more with --memory, or leave --rung out." in said
