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
from edgeplast.errors import InterruptedRunError
from edgeplast_devices import starting
from edgeplast_devices.memory import resident_bytes
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import UNSPENT_BYTES, ladder, predicted_peak
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
