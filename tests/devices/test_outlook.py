"""What a run says before its first step: what it will do and how long, and that saying so changes nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.errors import InterruptedRunError
from edgeplast_devices import outlook, running
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.outlook import Outlook
from edgeplast_devices.tensors import read_arrays

OPTIONS = TrainingOptions(epochs=3, batch=8, micro_batch=4, learning_rate=3e-3, threads=1, cache="none")
BUDGET = edgeplast.Budget(memory_bytes=1 << 30)


def run(bundle: Bundle | Path, blobs: Path, into: Path, **how: object) -> tuple[Adaptation, list[str]]:
    told: list[str] = []
    given: dict = {"options": OPTIONS, "budget": BUDGET} | how
    report = edgeplast.adapt(bundle, blobs, into=into, notice=told.append, **given)
    return report, [line for line in told if line.startswith("Tier")]


def test_it_is_a_sentence() -> None:
    full = Outlook("full", 8, 244 << 20, 256 << 20, 76, 300.0)
    assert str(full) == "Tier full, micro-batch 8, 244 MiB predicted (of 256 MiB), 76 steps, about 5 min 00 s."
    small = Outlook("head", 1, 100 << 20, None, 1, 2.0)
    assert str(small) == "Tier head, micro-batch 1, 100 MiB predicted (no limit), 1 step, about 2.00 s."


def test_what_was_said_is_what_was_done(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    report, said = run(bundle, blobs, tmp_path / "a")
    (line,) = said
    found = re.fullmatch(r"Tier (\w+), micro-batch (\d+), .* predicted \(of 1 GiB\), (\d+) steps, about .*\.", line)
    assert found is not None
    assert found.groups() == (report.tier, str(report.micro_batch_size), str(report.steps))


def test_trying_it_changes_nothing(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    heard, _ = run(bundle, blobs, tmp_path / "heard")
    unheard = edgeplast.adapt(bundle, blobs, into=tmp_path / "unheard", options=OPTIONS)
    assert heard.losses == unheard.losses and heard.gradient_norms == unheard.gradient_norms
    weights = [read_arrays(tmp_path / name / TRAINABLE) for name in ("heard", "unheard")]
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


def test_a_run_that_goes_on_says_what_is_left(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    def interrupted() -> None:
        raise InterruptedRunError("Interrupted.")

    wrapped = Wrapped(tmp_path / "a")
    wrapped.at_step(4, interrupted)
    with pytest.raises(InterruptedRunError):
        adapt_over(wrapped, bundle, blobs, tmp_path / "a", OPTIONS, budget=BUDGET)
    report, told = run(bundle, blobs, tmp_path / "a", resume=True)
    left = report.steps - 4
    assert f", {left} steps, about" in told[0]


def test_the_time_follows_what_a_micro_batch_takes(
    bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every micro-batch takes a second by a clock of its own."""
    now, told, wrapped = [0.0], list[str](), Wrapped(tmp_path / "a")

    def slowly(*_: object) -> None:
        now[0] += 1

    wrapped.before = slowly
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    report = adapt_over(wrapped, bundle, blobs, tmp_path / "a", OPTIONS, budget=BUDGET, notice=told.append)
    line = next(line for line in told if line.startswith("Tier"))
    minutes, seconds = re.search(r"about (?:(\d+) min )?([\d.]+) s", line).groups()  # type: ignore[union-attr]
    said = 60 * int(minutes or 0) + float(seconds)
    assert now[0] - 2 <= said <= 1.5 * now[0] and report.steps > 0


def test_what_it_measures_beside_learning_takes_time_too(
    bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    real = running.outlook
    monkeypatch.setattr(running, "outlook", lambda run: found.append(outlook._measured(run, 3)) or real(run))
    run(bundle, blobs, tmp_path / "a")
    run(bundle, blobs, tmp_path / "b", also=[blobs], options=msgspec.structs.replace(OPTIONS, keep_within=100.0))
    monkeypatch.setattr("edgeplast.evaluation.NOTHING_TO_MEND", 1.1)  # what it has just learned would be left alone
    run(tmp_path / "a", blobs, tmp_path / "c", options=msgspec.structs.replace(OPTIONS, labels="none"))
    alone, beside, unlabelled = found
    assert (alone["val"], alone["test"], alone["train"]) == (4, 1, 1)
    assert beside - alone == {name: 4 for name in beside if name not in alone} and len(beside) == len(alone) + 1
    assert unlabelled["val"] == 9
