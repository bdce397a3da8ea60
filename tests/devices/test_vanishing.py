"""The pictures' drive is gone, for a moment or for good: nothing is taken for damage, and nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from small_models import truncated_png
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle
from edgeplast.errors import InputError, InterruptedRunError
from edgeplast_devices import adapting
from edgeplast_devices.adapting import unfinished
from edgeplast_devices.checkpoints import checkpoint_files
from edgeplast_devices.metrics import MOST
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.patience import Patience

OPTIONS = TrainingOptions(epochs=3, learning_rate=3e-3, threads=1, checkpoint_every="1h", micro_batch=4)


class World:
    """A copy of the pictures that can vanish, an output, and a clock that stands still until someone sleeps."""

    def __init__(self, bundle: Bundle, blobs: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle, self.data, self.into = bundle, root / "data", root / "adapted"
        shutil.copytree(blobs, self.data)
        self._hidden, self.slept, self.told = root / "hidden", 0, list[str]()
        self._wrapped = Wrapped(self.into)
        self.on_sleep: Callable[[], None] = lambda: None
        self.what = self.data
        patient = functools.partial(Patience, sleep=self._sleep, clock=lambda: 0.5 * self.slept)
        monkeypatch.setattr(adapting, "Patience", patient)

    def _sleep(self, seconds: float) -> None:
        assert seconds == 0.5
        self.slept += 1
        self.on_sleep()

    def _hear(self, text: str) -> None:
        if not text.startswith("Tier "):  # what every run says before its first step
            self.told.append(text)

    def adapt(self, **how: object) -> Adaptation:
        self.told.clear()
        how = {"notice": self._hear} | how
        return adapt_over(self._wrapped, self.bundle, self.data, self.into, OPTIONS, **how)

    def vanish(self) -> None:
        self.what.rename(self._hidden)

    def come_back(self) -> None:
        self._hidden.rename(self.what)

    def at_step(self, step: int, what: Callable[[], None]) -> None:
        """Do something in the middle of a step."""
        self._wrapped.at_step(step, what)

    def at_evaluation(self, steps: int, epochs: int, what: Callable[[], None]) -> None:
        """Do something in the evaluation after so many steps and epochs."""
        self._wrapped.at_evaluation(steps, epochs, what)


@pytest.fixture
def world(bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(bundle, blobs, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Adaptation:
    return edgeplast.adapt(bundle, blobs, into=tmp_path_factory.mktemp("whole") / "a", options=OPTIONS)


def same(one: Adaptation, other: Adaptation) -> None:
    assert one.losses == other.losses and one.accuracy == other.accuracy and one.history == other.history
    assert one.unreadable == 0 and one.failed_steps == 0


@pytest.mark.parametrize("gone", [".", "train", "train/red"])
def test_for_a_moment(world: World, whole: Adaptation, gone: str) -> None:
    world.what = world.data / gone
    world.at_step(7, world.vanish)
    world.on_sleep = lambda: world.come_back() if world.slept == 3 else None
    same(world.adapt(), whole)
    assert world.slept == 3 and len(world.told) == 2
    assert world.told[1].startswith("When the model does not know was fitted on 6 pictures alone")
    assert "cannot be reached (no such file" in world.told[0]
    assert world.told[0].endswith("Bring it back. Waiting for it, 60 seconds at most.")


@pytest.mark.parametrize("gone", [".", "train"])
def test_for_good(world: World, whole: Adaptation, gone: str) -> None:
    world.what = world.data / gone
    world.at_step(7, world.vanish)
    says = r"cannot be reached .*Bring it back\. The run is saved at step 7 in .*with the same command and --resume"
    with pytest.raises(InputError, match=says) as caught:
        world.adapt()
    assert caught.value.exit_code == 3 and world.slept == 120
    kept = checkpoint_files(unfinished(world.into))
    with pytest.raises(InputError):  # still away: nothing is deleted for that
        world.adapt(resume=True)
    assert checkpoint_files(unfinished(world.into)) == kept != []
    world.come_back()
    resumed = world.adapt(resume=True)
    assert resumed.resumed_at == (7,)
    same(resumed, whole)


@pytest.mark.parametrize(("step", "epochs"), [(5, 0), (15, 3)])
def test_while_it_evaluates(world: World, whole: Adaptation, step: int, epochs: int) -> None:
    world.at_evaluation(step, epochs, world.vanish)
    with pytest.raises(InputError, match=f"The run is saved at step {step} in"):
        world.adapt()
    world.come_back()
    same(world.adapt(resume=True), whole)


def test_before_the_first_step_nothing_is_left_behind(world: World, tmp_path: Path) -> None:
    world.at_evaluation(0, 0, world.vanish)
    with pytest.raises(InputError, match=r"cannot be reached.*Nothing was done yet, and nothing was left behind"):
        world.adapt()
    world.come_back()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_signal_ends_the_wait(world: World, whole: Adaptation) -> None:
    world.at_step(7, world.vanish)
    world.on_sleep = lambda: os.kill(os.getpid(), signal.SIGTERM) if world.slept == 3 else None
    says = r"Interrupted by SIGTERM while waiting for .*png\. The run is saved at step 7"
    with pytest.raises(InterruptedRunError, match=says):
        world.adapt()
    world.come_back()
    same(world.adapt(resume=True), whole)


def test_one_picture_that_is_deleted_is_left_out_and_named(world: World) -> None:
    world.at_step(2, (world.data / "train/red/005.png").unlink)
    report = world.adapt()
    assert report.unreadable_examples == (("train/red/005.png", "no such file or directory"),) and world.slept == 0


class TestStepsThatSeeNoPicture:
    def damage(self, world: World, fraction: float) -> None:
        for number, file in enumerate(sorted((world.data / "train").rglob("*.png"))):
            if number % 10 < 10 * fraction:
                file.write_bytes(truncated_png())

    def test_they_have_failed_and_have_no_loss(self, world: World, bundle: Bundle) -> None:
        self.damage(world, 0.3)
        options = TrainingOptions(epochs=1, learning_rate=3e-3, threads=1, batch=1, schedule="constant")
        report = edgeplast.adapt(bundle, world.data, into=world.into, options=options)
        lost = [loss == MOST for loss in report.losses]
        assert sum(lost) == report.failed_steps > 0 and 0.0 not in report.losses
        assert report.stopped_because == "finished" and report.history[0].training_loss < 10

    def test_a_run_that_sees_nothing_any_more_stops_and_can_go_on(self, world: World, blobs: Path) -> None:
        says = r"None of the last \d\d pictures could be read \(.*it is damaged.*The run is saved at step \d+ in"
        with pytest.raises(InputError, match=says):
            world.adapt(epoch_done=lambda _: self.damage(world, 1.0))
        shutil.copytree(blobs, world.data, dirs_exist_ok=True)
        assert world.adapt(resume=True).stopped_because == "finished"


def _mounts(folder: Path) -> bool:
    """Mount a file system in memory there, where this process may."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
class TestRealMounts:
    @pytest.fixture
    def volume(self, tmp_path: Path) -> object:
        folder = tmp_path / "volume"
        if not _mounts(folder):
            pytest.skip("may not mount here")
        yield folder
        subprocess.run(["umount", "-l", folder], capture_output=True)

    def start(self, bundle: Bundle, data: Path, into: Path, *more: str) -> subprocess.Popen[str]:
        words = f"-m edgeplast adapt {bundle.path} --data {data} -o {into}"
        command = [sys.executable, *f"{words} --epochs 40 --threads 1 --checkpoint-every 1step".split(), *more]
        settings = os.environ | {"PYTHONPATH": ":".join(sys.path)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings)

    def wait_for_steps(self, into: Path, process: subprocess.Popen[str]) -> None:
        while not checkpoint_files(unfinished(into)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def test_a_drive_that_is_pulled_and_put_back(
        self, bundle: Bundle, blobs: Path, tmp_path: Path, volume: Path
    ) -> None:
        store, into = tmp_path / "store", tmp_path / "adapted"
        shutil.copytree(blobs, store / "data")
        subprocess.run(["mount", "--bind", store, volume], check=True)
        process = self.start(bundle, volume / "data", into)
        self.wait_for_steps(into, process)
        subprocess.run(["umount", "-l", volume], check=True)
        time.sleep(2)
        assert process.poll() is None, process.communicate()
        subprocess.run(["mount", "--bind", store, volume], check=True)
        out, err = process.communicate()
        subprocess.run(["umount", "-l", volume], check=True)
        assert process.returncode == 0 and "left out" not in err, err
        assert "Waiting for it" in err and "Written" in out

    def test_a_mount_point_is_no_output_and_a_folder_in_it_is(
        self, bundle: Bundle, blobs: Path, tmp_path: Path, volume: Path
    ) -> None:
        bound = tmp_path / "bound"
        bound.mkdir()
        subprocess.run(["mount", "--bind", bound, bound], check=True)
        try:
            for place in (volume, bound):
                process = self.start(bundle, blobs, place)
                _, err = process.communicate()
                assert process.returncode == 2 and "is a mount point" in err and f"{place}/adapted" in err
                assert not list(place.iterdir())
        finally:
            subprocess.run(["umount", "-l", bound], check=True)
        assert edgeplast.adapt(bundle, blobs, into=volume / "adapted", options=OPTIONS).steps == 15

    def test_a_disk_that_fills_up(self, bundle: Bundle, blobs: Path, volume: Path, whole: Adaptation) -> None:
        subprocess.run(["mount", "-o", "remount,size=4m", volume], check=True)
        into, seen = volume / "adapted", []

        def fill(_: object) -> None:
            seen.append(1)
            if len(seen) == 1:
                with contextlib.suppress(OSError), (volume / "other").open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * 4096)

        options = msgspec.structs.replace(OPTIONS, checkpoint_every="1step")
        with pytest.raises(InputError, match=r"disk is full.*The run is saved at step \d+ in .*--resume"):
            edgeplast.adapt(bundle, blobs, into=into, epoch_done=fill, options=options)
        (volume / "other").unlink()
        assert edgeplast.adapt(bundle, blobs, into=into, resume=True, options=options).losses == whole.losses
