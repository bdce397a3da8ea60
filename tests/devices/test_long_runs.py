"""Runs of millions of steps: what is remembered, saved and read back is bounded, and the same when resumed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.adaptation import EpochReport
from edgeplast.telemetry import TELEMETRY, StepLine, encode, read_telemetry, steps_per_line
from edgeplast_devices.checkpoints import last_checkpoint, write_checkpoint
from edgeplast_devices.curves import MOST_EPOCHS, MOST_VALUES, Curve, thin
from edgeplast_devices.metrics import MOST
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.run_state import Best, RunState
from edgeplast_devices.telemetry import TelemetryWriter, cut_telemetry

STEPS = 2_500_000


def epoch(number: int) -> EpochReport:
    return EpochReport(epoch=number, training_loss=0.5, validation_accuracy=0.5, validation_loss=0.5)


def state(losses: Curve, history: list[EpochReport], steps: int = STEPS) -> RunState:
    return RunState(
        bundle="b", images={"train": "i"}, options=TrainingOptions(), allowed_bytes=None, tier="full",
        recompute="none", micro_batch=4, epoch=3, steps=steps, updates={"w": steps}, losses=losses,
        gradient_norms=losses, step_seconds=[0.1] * 4096, history=history, best=Best(epoch=1, loss=0.5),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0, 100) | st.just(MOST), max_size=200),
    cuts=st.lists(st.integers(0, 200)),
    half=st.integers(1, 8),
)
def test_a_curve_is_the_same_however_often_the_run_was_resumed(values: list[float], cuts: list[int], half: int) -> None:
    whole, resumed = Curve(), Curve()
    for step, value in enumerate(values):
        whole.append(value, 2 * half)
        if step in cuts:
            resumed = msgspec.json.decode(msgspec.json.encode(resumed), type=Curve)
        resumed.append(value, 2 * half)
    assert whole.whole() == resumed.whole() and whole.every == resumed.every
    assert len(whole.values) < 2 * half and len(whole.values) * whole.every + len(whole.pending) == len(values)
    finite = [value for value in values if value < MOST]
    if len(finite) == len(values) and values and not whole.pending:
        assert np.mean(whole.whole()) == pytest.approx(np.mean(values), abs=1e-9)
    assert all(value < MOST for value in whole.whole()) or len(finite) < len(values)


def test_short_runs_keep_every_step() -> None:
    curve = Curve()
    for step in range(MOST_VALUES - 1):
        curve.append(step / 7)
    assert curve.whole() == tuple(step / 7 for step in range(MOST_VALUES - 1)) and curve.every == 1


def test_a_checkpoint_after_millions_of_steps_is_small_and_can_be_read_back(tmp_path: Path) -> None:
    tracemalloc.start()
    losses, history = Curve(), []
    for step in range(STEPS):
        losses.append(1.0 + step % 97 / 97)
        if step % 25 == 0:
            history.append(epoch(step // 25 + 1))
            thin(history)
    write_checkpoint(tmp_path, state(losses, history), {"w": np.zeros(4, np.float32)})
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 16 << 20, f"{held >> 20} MiB"
    [file] = tmp_path.iterdir()
    assert file.stat().st_size < 4 << 20
    found = last_checkpoint(tmp_path)
    assert found is not None and found.state.steps == STEPS and found.state.losses.every == 256
    assert len(found.state.losses.values) < MOST_VALUES and np.mean(found.state.losses.values) == pytest.approx(
        1.4948, abs=1e-3
    )
    assert len(history) <= MOST_EPOCHS and history[-1].epoch == STEPS // 25
    assert [e.epoch for e in history] == sorted({e.epoch for e in history})


def test_more_steps_than_eight_digits_have_a_name(tmp_path: Path) -> None:
    for steps in (99_999_999, 100_000_000, 123_456_789_012):
        write_checkpoint(tmp_path, state(Curve(), [], steps), {})
        found = last_checkpoint(tmp_path)
        assert found is not None and found.state.steps == steps


def line(step: int) -> StepLine:
    return StepLine(time=1.7e9, step=step, epoch=1, seconds=0.1, loss=0.5, gradient_norm=1.0, learning_rate=1e-3,
                    resident_bytes=1 << 27, micro_batch=4, tier="full", recompute="none")  # fmt: skip


class TestTelemetry:
    def test_cutting_a_long_file_takes_no_memory_and_no_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / TELEMETRY
        with path.open("wb") as file:
            file.writelines(encode(line(step)) + b"\n" for step in range(1, 60_001))
            file.write(b"\0" * 3_000_000 + b'{"kind":"step","ti')  # what a power cut may leave
        before = path.stat().st_ino
        tracemalloc.start()
        cut_telemetry(tmp_path, 59_990)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert held < 1 << 20 and path.stat().st_ino == before
        lines = read_telemetry(path)
        assert len(lines) == 59_990 and lines[-1].step == 59_990 and path.read_bytes().endswith(b"}\n")

    @settings(max_examples=50, deadline=None)
    @given(
        position=st.integers(0, 4000),
        junk=st.binary(max_size=40).filter(lambda junk: not junk.isdigit()),
        steps=st.integers(0, 12),
    )
    def test_damage_costs_the_damaged_lines(
        self, tmp_path_factory: pytest.TempPathFactory, position: int, junk: bytes, steps: int
    ) -> None:
        """Digits alone are no damage that can be seen: they make another step of one."""
        folder = tmp_path_factory.mktemp("damage")
        text = b"".join(encode(line(step)) + b"\n" for step in range(1, 11))
        (folder / TELEMETRY).write_bytes(text[:position] + junk + text[position:])
        cut_telemetry(folder, steps)
        with (folder / TELEMETRY).open("ab") as file:
            file.write(encode(line(steps + 1)) + b"\n")
        kept = [found.step for found in read_telemetry(folder / TELEMETRY)]
        assert kept[-1] == steps + 1 and max(kept[:-1], default=0) <= steps
        assert len(kept) >= min(steps, 10) - 2 - junk.count(b"\n")

    def test_long_runs_write_fewer_lines_and_lose_no_peak(self, tmp_path: Path) -> None:
        writer = TelemetryWriter(tmp_path, clock=lambda: 1.7e9, read_thermals=dict)
        figures = msgspec.structs.asdict(line(1))
        for name in ("time", "celsius", "watts", "clock_fraction", "slowed_by"):
            del figures[name]
        steps = [9_999, 10_000, *range(10_001, 10_021)]
        for step in steps:
            held = 2 << 27 if step == 10_013 else 1 << 27
            writer.step(**figures | {"step": step, "resident_bytes": held})
        writer.close()
        lines = [found for found in read_telemetry(tmp_path / TELEMETRY) if isinstance(found, StepLine)]
        assert [found.step for found in lines] == [9_999, 10_000, 10_010, 10_020]
        assert [found.resident_bytes >> 27 for found in lines] == [1, 1, 1, 2]
        assert [steps_per_line(10**n) for n in range(8)] == [1, 1, 1, 1, 1, 10, 100, 1000]
        assert sum(1 for step in range(1, STEPS, 100) if step % steps_per_line(step) == 0) < 30_000


def test_a_line_nested_without_end_is_no_line(tmp_path: Path) -> None:
    good = b'{"kind":"epoch","time":1.0,"step":1,"epoch":1,"training_loss":1.0,'
    good += b'"validation_accuracy":null,"validation_loss":null}\n'
    (tmp_path / "t.jsonl").write_bytes(b'{"kind":"step","x":' + b"[" * 20_000 + b"\n" + good)
    assert [type(line).__name__ for line in read_telemetry(tmp_path / "t.jsonl")] == ["EpochLine"]


@pytest.mark.parametrize("step", ["-36893488147419103232", "-1", "1.5", "18446744073709551616"])
def test_a_line_whose_number_no_run_can_have_is_damage(tmp_path: Path, step: str) -> None:
    good = '{"kind":"rung","time":1.0,"step":7,"before":"full 4","after":"full 2","reason":"memory"}\n'
    (tmp_path / TELEMETRY).write_text(good + good.replace('"step":7', f'"step":{step}'))
    assert [line.step for line in read_telemetry(tmp_path / TELEMETRY)] == [7]
