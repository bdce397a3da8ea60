"""The linear probe beside before and after: a head alone, measured for free where it can be, and never felt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import small_bundle
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation, LinearProbe
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.errors import BudgetError, DiskFullError, InterruptedRunError
from edgeplast.evaluation import wilson_interval
from edgeplast_devices import probing
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.tensors import read_arrays


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose first half never changes and lies in a prefix."""
    return small_bundle(tmp_path_factory.mktemp("late") / "bundle", "blocks:1")


def run(bundle: Bundle, data: Path, into: Path, memory: int | None = None, **options: object) -> Adaptation:
    how = TrainingOptions(**({"epochs": 2, "batch": 8, "learning_rate": 3e-3, "threads": 1} | options))  # type: ignore[arg-type]
    return edgeplast.adapt(bundle, data, into=into, options=how, budget=edgeplast.Budget(memory_bytes=memory))


@pytest.mark.parametrize(
    "options",
    [
        {"cache": "none"},
        {"views": 1},
        {"views": 2, "epochs": 3, "cache_bits": 8},
        {"views": 2, "epochs": 3, "distill": 0.5, "micro_batch": 3},
        {"head": "fitted"},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()),
)
def test_what_is_learned_is_the_same_bit_for_bit(late: Bundle, blobs: Path, tmp_path: Path, options: dict) -> None:
    start = run(late, blobs, tmp_path / "start", epochs=1) and Bundle.open(tmp_path / "start")
    given = start if "distill" in options else late
    told = run(given, blobs, tmp_path / "told", memory=1 << 30, **options)
    untold = run(given, blobs, tmp_path / "untold", memory=1 << 30, probe=False, **options)
    assert told.linear_probe is not None and told.linear_probe.accuracy is not None and untold.linear_probe is None
    assert told.losses == untold.losses and told.gradient_norms == untold.gradient_norms
    weights = [read_arrays(tmp_path / name / TRAINABLE) for name in ("told", "untold")]
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


def test_it_is_what_a_fitted_head_reaches(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    report = run(bundle, blobs, tmp_path / "a")
    fitted = run(bundle, blobs, tmp_path / "b", head="fitted", epochs=0)
    probe, measured = report.linear_probe, report.images[report.measured_on]
    assert probe is not None and probe.accuracy is not None and probe.seconds > 0
    assert fitted.accuracy.after is not None and fitted.linear_probe == LinearProbe(accuracy=fitted.accuracy.after)
    assert abs(probe.accuracy - fitted.accuracy.after) <= 1.01 / measured  # fitted less exactly: a picture at most
    assert report.interval(probe.accuracy) == wilson_interval(probe.accuracy * measured, measured)
    assert f"{probe.accuracy:.1%} (" in report._repr_html_()


def test_one_fitted_on_the_way_is_the_one_that_is_measured(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    report = run(bundle, blobs, tmp_path / "a", head="fitted")
    fitted = run(bundle, blobs, tmp_path / "b", head="fitted", epochs=0)
    assert report.linear_probe is not None and report.linear_probe.accuracy == fitted.accuracy.after


@pytest.mark.parametrize(
    ("error", "said"),
    [(BudgetError("no"), "memory had no room"), (MemoryError(), "memory had no room"), (DiskFullError("full"), "disk")],
)
def test_where_there_is_no_room_a_run_goes_on_without(
    late: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(*_: object, **__: object) -> float:
        raise error

    monkeypatch.setattr(probing, "fit_head", fails)
    report = run(late, blobs, tmp_path / "a")
    assert report.linear_probe is not None and report.linear_probe.accuracy is None
    assert said in report.linear_probe.why_none and report.steps


def test_it_takes_no_more_than_training_is_predicted_to(
    late: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "resident_bytes", lambda: (1 << 30) - 1000)
    report = run(late, blobs, tmp_path / "a", memory=1 << 30)
    assert report.linear_probe is not None and "memory had no room" in report.linear_probe.why_none
    report = run(late, blobs, tmp_path / "b")  # no budget: nobody is hurt
    assert report.linear_probe is not None and report.linear_probe.accuracy is not None


def test_one_who_stops_and_goes_on_has_the_same(late: Bundle, blobs: Path, tmp_path: Path) -> None:
    def stopped() -> None:
        raise InterruptedRunError("stopped")

    options = TrainingOptions(epochs=2, batch=8, learning_rate=3e-3, threads=1)
    whole = run(late, blobs, tmp_path / "whole")
    wrapped = Wrapped(tmp_path / "cut")
    wrapped.at_step(3, stopped)
    with pytest.raises(InterruptedRunError):
        adapt_over(wrapped, late, blobs, tmp_path / "cut", options)
    report = run(late, blobs, tmp_path / "never", epochs=2)
    resumed = edgeplast.adapt(late, blobs, into=tmp_path / "cut", options=options, resume=True)
    assert resumed.losses == whole.losses
    for other in (report, resumed):
        assert other.linear_probe is not None and whole.linear_probe is not None
        assert other.linear_probe.accuracy == whole.linear_probe.accuracy


def test_what_was_most_wrong_is_named_in_the_report_and_not_in_private(
    bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    report = run(bundle, blobs, tmp_path / "a", epochs=1, learning_rate=1e-6, head_learning_rate=1e-6)
    found = report.evaluation
    assert (
        found is not None and found.accuracy == report.accuracy.after and found.images == sum(map(sum, found.confusion))
    )
    assert found.most_wrong and found.most_wrong[0].image.endswith(".png")
    assert Adaptation.read(tmp_path / "a" / "report.json") == report
    private = run(bundle, blobs, tmp_path / "b", epochs=1, learning_rate=1e-6, head_learning_rate=1e-6, private=True)
    assert private.evaluation is not None and private.evaluation.accuracy < 1 and not private.evaluation.most_wrong
    names = [each.image for each in found.most_wrong]
    assert not any(Path(name).name in (tmp_path / "b" / "report.json").read_text() for name in names)
