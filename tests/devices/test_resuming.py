"""Runs that stop in the middle: what is saved, what goes on, what is refused, whatever happened to the files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import blob_folder, small_bundle
from wrapped_sessions import Training, Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation, EpochReport
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.components import component_of
from edgeplast.errors import (
    BudgetError,
    DamagedError,
    DiskFullError,
    InputError,
    InterruptedRunError,
    UsageError,
)
from edgeplast_devices import adapting, running
from edgeplast_devices.adapting import unfinished
from edgeplast_devices.checkpoints import checkpoint_files, last_checkpoint, write_hashed
from edgeplast_devices.options import Interval, TrainingOptions
from edgeplast_devices.runtime import OutOfMemoryError
from edgeplast_devices.tensors import read_arrays
from edgeplast_devices.weights import read_trainable

Adapt = Callable[..., Adaptation]


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    """The sessions that ``adapt`` runs over; arranged for what goes into ``adapted``."""
    return Wrapped(tmp_path / "adapted")


@pytest.fixture
def adapt(bundle: Bundle, blobs: Path, tmp_path: Path, wrapped: Wrapped) -> Adapt:
    """Adapt into ``tmp_path / into``: three epochs of five steps, a checkpoint every other step."""

    def run(into: str = "adapted", data: Path = blobs, start: Bundle = bundle, **how: object) -> Adaptation:
        verb = {name: how.pop(name) for name in ("resume", "force", "notice", "budget") if name in how}
        options = {"epochs": 3, "learning_rate": 3e-3, "threads": 1, "checkpoint_every": "2steps"} | how
        return adapt_over(wrapped, start, data, tmp_path / into, TrainingOptions(**options), **verb)  # type: ignore[arg-type]

    return run


@pytest.fixture
def stop_at(wrapped: Wrapped) -> Callable[[int, Callable[[], None]], None]:
    """Do something in the middle of a given optimizer step."""
    return wrapped.at_step


def _ask_to_stop(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class _Killed(BaseException):
    """Ends a run as a power cut does: nothing that catches errors sees it."""


def _cut_the_power() -> None:
    raise _Killed


def _same(one: Adaptation, other: Adaptation) -> None:
    assert one.losses == other.losses and one.gradient_norms == other.gradient_norms
    assert one.history == other.history and one.accuracy == other.accuracy and one.best_epoch == other.best_epoch


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return read_arrays(folder / TRAINABLE)


class TestGoingOn:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    @pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
    def test_a_signal_saves_the_state_and_resuming_changes_nothing(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path, number: int, optimizer: str
    ) -> None:
        whole = adapt(into="whole", optimizer=optimizer)
        stop_at(8, lambda: _ask_to_stop(number))
        with pytest.raises(
            InterruptedRunError, match=r"at step 8\. The run is saved at step 8 in .*--resume"
        ) as caught:
            adapt(optimizer=optimizer)
        assert caught.value.exit_code == 130
        assert not (tmp_path / "adapted").exists()
        told: list[str] = []
        resumed = adapt(optimizer=optimizer, resume=True, notice=told.append)
        assert told[0] == "Resumed at step 8." and resumed.resumed_at == (8,)
        _same(resumed, whole)
        for name, array in _weights(tmp_path / "whole").items():
            np.testing.assert_array_equal(array, _weights(tmp_path / "adapted")[name])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "whole"]
        assert not [p.name for p in (tmp_path / "adapted").iterdir() if "checkpoint" in p.name or "best" in p.name]

    @pytest.mark.parametrize("step", [1, 2, 5, 9, 14])
    def test_a_power_cut_loses_the_steps_since_the_last_checkpoint_and_nothing_else(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path, step: int
    ) -> None:
        whole = adapt(into="whole")
        stop_at(step, _cut_the_power)
        with pytest.raises(_Killed):
            adapt()
        resumed = adapt(resume=True)
        _same(resumed, whole)
        assert resumed.resumed_at == (() if step < 2 else (step // 2 * 2,))
        lines = map(json.loads, (tmp_path / "adapted" / "telemetry.jsonl").read_text().splitlines())
        numbers = [line["step"] for line in lines if line["kind"] == "step"]
        assert numbers == list(range(1, whole.steps + 1))

    def test_it_can_be_interrupted_again_and_again(self, adapt: Adapt, stop_at: Callable) -> None:
        whole = adapt(into="whole")
        for step in (3, 4, 11):
            stop_at(step, _ask_to_stop)
            with pytest.raises(InterruptedRunError):
                adapt(resume=True)
        resumed = adapt(resume=True)
        assert resumed.resumed_at == (3, 4, 11)
        _same(resumed, whole)

    def test_interrupted_while_it_evaluates(self, adapt: Adapt, wrapped: Wrapped) -> None:
        whole = adapt(into="whole")
        wrapped.at_evaluation(whole.steps, 3, _ask_to_stop)
        with pytest.raises(InterruptedRunError, match=f"saved at step {whole.steps}"):
            adapt()
        _same(adapt(resume=True), whole)

    def test_another_micro_batch_changes_rounding_only(self, adapt: Adapt, stop_at: Callable) -> None:
        whole = adapt(into="whole", micro_batch=8)
        stop_at(7, _ask_to_stop)
        with pytest.raises(InterruptedRunError):
            adapt(micro_batch=8)
        resumed = adapt(micro_batch=1, resume=True, budget=edgeplast.Budget(memory_bytes=8 << 30))
        assert resumed.micro_batch_size == 1
        np.testing.assert_allclose(resumed.losses, whole.losses, atol=1e-4)

    def test_what_a_larger_tier_learned_before_it_ran_out_of_memory_stays(
        self, adapt: Adapt, stop_at: Callable, wrapped: Wrapped, bundle: Bundle, tmp_path: Path
    ) -> None:
        at_the_fall: dict[str, np.ndarray] = {}

        def scarce(session: Training, _: np.ndarray) -> None:
            if len(session.gradients) > 2 and wrapped.told("step") >= 4:
                at_the_fall.update({name: array.copy() for name, array in session.parameters.items()})
                raise OutOfMemoryError("no more")

        wrapped.before = scarce
        stop_at(9, _ask_to_stop)
        with pytest.raises(InterruptedRunError):
            adapt()
        assert last_checkpoint(unfinished(tmp_path / "adapted")).state.tier == "head"  # type: ignore[union-attr]
        report = adapt(resume=True)
        assert report.tier == "head" and next(change.step for change in report.rung_changes) == 4
        start, end = read_trainable(bundle), _weights(tmp_path / "adapted")
        body = [name for name in end if component_of(name) != "head"]
        assert any(not np.array_equal(end[name], start[name]) for name in body)
        for name in body:
            np.testing.assert_array_equal(end[name], at_the_fall[name], err_msg=name)

    @pytest.mark.parametrize("again", [{}, {"force": True}])
    def test_a_run_that_replaces_goes_on_to_replace(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path, again: dict
    ) -> None:
        adapt(epochs=1)
        before = _weights(tmp_path / "adapted")
        whole = adapt(into="whole")
        stop_at(8, _ask_to_stop)
        with pytest.raises(InterruptedRunError, match=r"saved at step 8 .*the same command and --resume"):
            adapt(force=True)
        for name, array in _weights(tmp_path / "adapted").items():
            np.testing.assert_array_equal(array, before[name])
        resumed = adapt(resume=True, **again)
        assert resumed.resumed_at == (8,)
        _same(resumed, whole)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "whole"]

    def test_one_that_does_not_replace_is_resumed_to_do_so_with_force(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path
    ) -> None:
        stop_at(8, _ask_to_stop)
        with pytest.raises(InterruptedRunError):
            adapt()
        shutil.copytree(adapt(into="other") and tmp_path / "other", tmp_path / "adapted")
        with pytest.raises(UsageError, match=r"adapted exists already.*--force"):
            adapt(resume=True)
        assert adapt(resume=True, force=True).resumed_at == (8,)

    def test_resume_and_force_without_a_run_begin_one_that_replaces(self, adapt: Adapt, tmp_path: Path) -> None:
        adapt(epochs=1)
        assert adapt(resume=True, force=True).resumed_at == ()
        assert [path.name for path in tmp_path.iterdir()] == ["adapted"]

    def test_force_keeps_the_old_run_until_the_new_one_is_accepted(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path
    ) -> None:
        stop_at(8, _ask_to_stop)
        with pytest.raises(InterruptedRunError):
            adapt()
        data = blob_folder(tmp_path / "data", train=2, test=0)
        (data / "red").rename(data / "pink")
        with pytest.raises(InputError, match="the known classes"):
            adapt(force=True, data=data)
        assert adapt(resume=True).resumed_at == (8,)

    def test_nothing_to_resume_is_said_and_the_run_begins(self, adapt: Adapt, tmp_path: Path) -> None:
        told: list[str] = []
        report = adapt(resume=True, notice=told.append, epochs=1)
        assert report.resumed_at == () and "no unfinished run" in told[0] and "from the beginning" in told[0]


class TestNothingIsLost:
    def test_out_of_memory_at_the_end_of_the_ladder_saves_and_says_how_to_go_on(
        self, adapt: Adapt, wrapped: Wrapped
    ) -> None:
        calls = []

        def scarce(*_: object) -> None:
            calls.append(1)
            if len(calls) > 8:
                raise OutOfMemoryError("no more")

        wrapped.before = scarce
        whole_error = (
            r"Memory ran out on the smallest step.*The run is saved at step \d+ in .*adapted\.partial.*--resume"
        )
        with pytest.raises(BudgetError, match=whole_error):
            adapt(micro_batch=4)
        wrapped.before = lambda *_: None
        assert adapt(resume=True, micro_batch=4).resumed_at

    def test_numpys_memory_error_too(self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch, stop_at: Callable) -> None:
        real = running.Run._end_epoch

        def full(*_: object) -> None:
            monkeypatch.setattr(running.Run, "_end_epoch", real)
            raise MemoryError("Unable to allocate 12 MiB")

        monkeypatch.setattr(running.Run, "_end_epoch", full)
        with pytest.raises(BudgetError, match=r"Unable to allocate 12 MiB.*--resume"):
            adapt()
        assert len(adapt(resume=True).history) == 3

    def test_a_full_disk_leaves_the_last_checkpoint(
        self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        whole, written = adapt(into="whole"), []
        real = running.write_checkpoint

        def write(folder: Path, *given: object, **how: object) -> Path:
            if len(written) == 2:
                monkeypatch.setattr(running, "write_checkpoint", real)
                monkeypatch.setattr(os, "fsync", full)
            written.append(1)
            return real(folder, *given, **how)  # type: ignore[arg-type]

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        sync = os.fsync
        monkeypatch.setattr(running, "write_checkpoint", write)
        with pytest.raises(DiskFullError, match=r"disk is full.*saved at step 4 in .*--resume"):
            adapt()
        monkeypatch.setattr(os, "fsync", sync)
        assert not list(unfinished(tmp_path / "adapted").glob(".*.partial"))
        _same(adapt(resume=True), whole)

    def test_stopped_before_the_first_step_leaves_nothing(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path
    ) -> None:
        stop_at(0, _ask_to_stop)
        with pytest.raises(InterruptedRunError, match="Nothing was done yet, and nothing was left behind"):
            adapt()
        assert not list(tmp_path.iterdir())

    def test_a_second_signal_does_not_wait(self) -> None:
        from edgeplast_devices.interrupts import asked_to_stop

        before = signal.getsignal(signal.SIGINT)
        with asked_to_stop() as interrupts:
            _ask_to_stop()
            assert interrupts.requested == "SIGTERM"
            with pytest.raises(KeyboardInterrupt):
                _ask_to_stop()
        assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def interrupted(adapt: Adapt, stop_at: Callable, tmp_path: Path) -> Path:
    """The folder of a run that was cut off after seven steps, with checkpoints at 4 and 6."""
    stop_at(7, _cut_the_power)
    with pytest.raises(_Killed):
        adapt()
    return unfinished(tmp_path / "adapted")


class TestDamage:
    @pytest.mark.parametrize("how", ["flipped bit", "truncated", "emptied"])
    def test_the_checkpoint_before_takes_over(self, adapt: Adapt, interrupted: Path, how: str) -> None:
        whole = adapt(into="whole")
        newest = checkpoint_files(interrupted)[0]
        data = bytearray(newest.read_bytes())
        if how == "flipped bit":
            data[len(data) // 2] ^= 1
        newest.write_bytes(
            bytes(data if how == "flipped bit" else data[: len(data) // 2] if how == "truncated" else b"")
        )
        told: list[str] = []
        report = adapt(resume=True, notice=told.append)
        assert "Damaged: checkpoint-00000006" in told[0] and "checksum" in told[0]
        assert told[1] == "Resumed at step 4." and report.resumed_at == (4,)
        _same(report, whole)

    @pytest.mark.parametrize(("cut", "resumed"), [(7, 4), (9, 8)])
    def test_damaged_weights_of_the_best_epoch_cost_a_checkpoint_or_themselves(
        self, adapt: Adapt, stop_at: Callable, tmp_path: Path, cut: int, resumed: int
    ) -> None:
        """After step 7 the checkpoint before (step 4) needs no best epoch yet; after step 9 both need it."""
        stop_at(cut, _cut_the_power)
        with pytest.raises(_Killed):
            adapt()
        [best] = unfinished(tmp_path / "adapted").glob("best-*")
        best.write_bytes(best.read_bytes()[:-4])
        told: list[str] = []
        report = adapt(resume=True, notice=told.append)
        assert "the weights of its best epoch, 1, are lost" in told[0] and f"Resumed at step {resumed}." in told
        assert report.resumed_at == (resumed,) and len(report.history) == 3

    def test_none_whole_is_an_error_of_its_own(self, adapt: Adapt, interrupted: Path) -> None:
        for file in checkpoint_files(interrupted):
            file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(
            DamagedError, match=r"No checkpoint in .* is whole \(checkpoint-00000006.*00000004.*--force"
        ):
            adapt(resume=True)
        assert adapt(force=True).resumed_at == ()

    @pytest.mark.parametrize(
        ("version", "says"),
        [
            (99, r"has format 99; this edgeplast reads up to 2"),
            (1, r"has format 1; this edgeplast reads 2\. Finish the run with the edgeplast that began it, or start it"),
        ],
    )
    def test_one_of_another_format_is_refused(self, adapt: Adapt, interrupted: Path, version: int, says: str) -> None:
        found = last_checkpoint(interrupted)
        assert found is not None
        written = {"format_version": version, "state": msgspec.to_builtins(found.state)}
        write_hashed(interrupted, "checkpoint", 7, read_arrays(found.path), {"run": json.dumps(written)})
        with pytest.raises(InputError, match=says):
            adapt(resume=True)
        assert adapt(force=True).resumed_at == ()

    @settings(max_examples=40, deadline=None)
    @given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def test_any_flipped_bit_is_found(self, whole_checkpoint: Path, position: float, bit: int) -> None:
        folder = whole_checkpoint.parent / "flipped"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        data = bytearray(whole_checkpoint.read_bytes())
        data[int(position * len(data))] ^= 1 << bit
        (folder / whole_checkpoint.name).write_bytes(bytes(data))
        with pytest.raises(DamagedError, match="does not match its checksum"):
            last_checkpoint(folder)


@pytest.fixture(scope="session")
def whole_checkpoint(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint, of a run that was stopped by the budget after its first step."""
    into = tmp_path_factory.mktemp("checkpoint") / "adapted"
    wrapped, calls = Wrapped(into), []

    def scarce(*_: object) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise OutOfMemoryError("no more")

    wrapped.before = scarce
    with pytest.raises(BudgetError):
        adapt_over(wrapped, bundle, blobs, into, TrainingOptions(threads=1, micro_batch=4))
    return checkpoint_files(unfinished(into))[0]


class TestRefused:
    def test_a_run_in_the_way_is_named(self, adapt: Adapt, interrupted: Path) -> None:
        with pytest.raises(UsageError, match=r"adapted\.partial holds an unfinished run.*--resume.*--force"):
            adapt()
        report = adapt(force=True)
        assert report.resumed_at == () and not interrupted.exists()

    def test_the_bundle_itself_is_no_output(self, adapt: Adapt, bundle: Bundle, blobs: Path) -> None:
        with pytest.raises(UsageError, match="is the bundle that is adapted; it stays as it is"):
            edgeplast.adapt(bundle, blobs, into=bundle.path, force=True)
        assert Bundle.open(bundle.path)

    def test_nothing_is_said_of_resuming_before_the_run_is_accepted(self, adapt: Adapt, interrupted: Path) -> None:
        told: list[str] = []
        with pytest.raises(InputError, match="--epochs is 7"):
            adapt(resume=True, epochs=7, notice=told.append)
        assert told == []

    def test_other_options_other_images_and_another_bundle_are_all_named(
        self, adapt: Adapt, interrupted: Path, tmp_path: Path
    ) -> None:
        other = small_bundle(tmp_path / "other", "head")
        data = blob_folder(tmp_path / "data", train=20)
        with pytest.raises(
            InputError,
            match=r"not the run that was interrupted at step 6: the bundle is another one; the images of train.* have "
            r"changed; --epochs is 7 and was 3; --clip is 0.5 and was 1.0\. Give what was given then",
        ):
            adapt(resume=True, start=other, data=data, epochs=7, clip=0.5)
        assert interrupted.exists()

    def test_options_left_out_are_those_of_the_run(
        self, adapt: Adapt, interrupted: Path, bundle: Bundle, blobs: Path
    ) -> None:
        report = edgeplast.adapt(bundle, blobs, into=interrupted.with_name("adapted"), resume=True)
        assert report.epochs == 3 and report.options["learning_rate"] == 3e-3

    @pytest.mark.parametrize("text", ["", "0", "often", "5 days", "1.5steps", "-3s", "0min"])
    def test_an_interval_that_is_none(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"--checkpoint-every .* is no interval; give for example 20steps"):
            TrainingOptions(checkpoint_every=text)

    @pytest.mark.parametrize(
        ("text", "interval"),
        [
            ("20", Interval(steps=20)),
            ("1step", Interval(steps=1)),
            ("30s", Interval(seconds=30)),
            ("1.5 h", Interval(seconds=5400)),
        ],
    )
    def test_an_interval(self, text: str, interval: Interval) -> None:
        assert Interval.parse(text) == interval


def test_two_checkpoints_are_kept_and_the_best_weights_that_they_need(
    adapt: Adapt, stop_at: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = running.write_checkpoint

    def write(folder: Path, *given: object, **how: object) -> Path:
        path = real(folder, *given, **how)  # type: ignore[arg-type]
        seen.append((len(list(folder.glob("checkpoint-*"))), len(list(folder.glob("best-*")))))
        return path

    monkeypatch.setattr(running, "write_checkpoint", write)
    adapt(epochs=4)
    assert max(checkpoints for checkpoints, _ in seen) == 2 and max(best for _, best in seen) <= 2


def test_the_state_is_finished_before_the_folder_has_its_name(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed between the last rename and the removal of checkpoints, the adapted bundle is whole already."""
    real = adapting.clear

    def killed(folder: Path, **_: object) -> None:
        if folder.name == "adapted":
            raise _Killed
        real(folder)

    monkeypatch.setattr(adapting, "clear", killed)
    with pytest.raises(_Killed):
        adapt()
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "adapted").manifest.adapted_from
    told: list[str] = []
    report = adapt(resume=True, notice=told.append)
    assert told == [f"The run of {tmp_path / 'adapted'} had finished; its checkpoints are removed."]
    assert report == Adaptation.read(tmp_path / "adapted" / "report.json")
    assert not checkpoint_files(tmp_path / "adapted") and Bundle.open(tmp_path / "adapted")
    with pytest.raises(UsageError, match="exists already"):
        adapt(resume=True)


class TestTheEndOfARun:
    """What was learned is kept, whatever keeps the finished folder from its name."""

    def test_a_folder_that_appears_meanwhile(self, adapt: Adapt, stop_at: Callable, tmp_path: Path) -> None:
        whole = adapt(into="whole")

        def appear() -> None:
            (tmp_path / "adapted").mkdir()
            (tmp_path / "adapted" / "mine.txt").write_text("x")

        stop_at(14, appear)
        says = r"adapted exists already\..*The run is saved at step 15 in .*adapted\.partial; go on with.*--resume"
        with pytest.raises(UsageError, match=says):
            adapt()
        assert [path.name for path in (tmp_path / "adapted").iterdir()] == ["mine.txt"]
        shutil.rmtree(tmp_path / "adapted")
        _same(adapt(resume=True), whole)
        assert Bundle.open(tmp_path / "adapted")

    @pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO, errno.ENOSPC, errno.EXDEV])
    def test_a_rename_that_fails(
        self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
    ) -> None:
        whole, rename = adapt(into="whole"), Path.rename

        def refuse(path: Path, other: Path) -> Path:
            if other == tmp_path / "adapted":
                raise OSError(number, os.strerror(number))
            return rename(path, other)

        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(InputError, match=r"The run is saved at step 15 in .*--resume"):
            adapt(checkpoint_every="1h")
        monkeypatch.undo()
        _same(adapt(resume=True, checkpoint_every="1h"), whole)

    def test_a_callback_of_the_caller_that_fails(
        self, adapt: Adapt, blobs: Path, bundle: Bundle, tmp_path: Path
    ) -> None:
        whole = adapt(into="whole", checkpoint_every="1h")

        def fail(report: EpochReport) -> None:
            if report.epoch == 2:
                raise ValueError("the window is closed")

        options = TrainingOptions(epochs=3, learning_rate=3e-3, threads=1, checkpoint_every="1h")
        with pytest.raises(ValueError, match="window"):
            edgeplast.adapt(bundle, blobs, into=tmp_path / "adapted", options=options, epoch_done=fail)
        resumed = adapt(resume=True, checkpoint_every="1h")
        assert resumed.losses == whole.losses and resumed.resumed_at == (10,)

    def test_a_disk_without_room_for_checkpoints_is_found_before_training(
        self, adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
        with pytest.raises(
            DiskFullError, match=r"has 1(\.0)? MiB free and the checkpoints of this run take up to .*MiB"
        ):
            adapt()
        assert not list(tmp_path.iterdir())
