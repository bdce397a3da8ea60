"""Adapt a bundle in processes that are killed in an unkind world: ``killed_runs.py BUNDLE DATA FOLDER KILLS SEED``.

Each run is a fork of this process, so that it starts in a fraction of a second, and dies by SIGKILL at a random
moment. Meanwhile the folder of pictures vanishes, for a moment or until the run gives up, the disk fills up, or a
second process starts on the same output. After each death the folder is looked at as the next start would, and the
next run resumes. The disk is a small file system in memory where this process may mount one, else writes fail by
script.

Prints one line of JSON; see :class:`Counts`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import REPORT, Bundle
from edgeplast.errors import DamagedError, EdgeplastError, InputError, UsageError
from edgeplast.telemetry import TELEMETRY, read_telemetry
from edgeplast_devices import adapting, patience, running, training  # noqa: F401 - imported once, for all forks
from edgeplast_devices.adapting import unfinished
from edgeplast_devices.checkpoints import last_checkpoint
from edgeplast_devices.options import TrainingOptions

OPTIONS = TrainingOptions(epochs=4, learning_rate=3e-3, threads=1, checkpoint_every="1step", micro_batch=4)
DISK_BYTES = 8 << 20
UNEXPECTED = 99


@dataclass
class Counts:
    """What happened.

    Attributes:
        killed: processes killed.
        writing: of them, in the middle of writing a checkpoint.
        most_lost: steps that were told of and are in no checkpoint, at most.
        went_back: times that the last whole checkpoint was behind the one of the round before.
        finished: runs that finished in between.
        same: whether each of them was the same as one that nobody disturbed.
        vanished: rounds in which the pictures were gone for a while.
        gave_up: runs that stopped because they were gone for long, saved.
        full: rounds in which the disk was full.
        stopped_full: runs that stopped for it, saved.
        second: rounds with a second writer.
        refused: of them, those in which one was told that another is at work.
    """

    killed: int = 0
    writing: int = 0
    most_lost: int = 0
    went_back: int = 0
    finished: int = 0
    same: bool = True
    vanished: int = 0
    gave_up: int = 0
    full: int = 0
    stopped_full: int = 0
    second: int = 0
    refused: int = 0


class World:
    """An output on a small disk, pictures that can vanish, and processes that adapt.

    Args:
        bundle: to adapt.
        data: pictures, of which a copy is made.
        root: for everything.
    """

    def __init__(self, bundle: Path, data: Path, root: Path) -> None:
        self.bundle, self.data, self._away = bundle, root / "data", root / "away"
        shutil.copytree(data, self.data)
        self.disk = root / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.disk)]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        self.into = self.disk / "adapted"
        self._told = root / "told"

    def start(self, into: Path, *, full_after: int | None = None) -> int:
        """Fork a process that adapts, resuming what is there; return its number.

        Args:
            into: the output.
            full_after: how many flushes succeed before the disk is full by script.
        """
        child = os.fork()
        if child:
            return child
        code = UNEXPECTED
        try:
            patience._INTERVAL_SECONDS = 0.02
            adapting.Patience = functools.partial(patience.Patience, seconds=0.5)  # type: ignore[misc,assignment]
            if full_after is not None:
                _fill_up_after(full_after)
            edgeplast.adapt(self.bundle, self.data, into=into, options=OPTIONS, resume=True)
            code = 0
        except EdgeplastError as error:
            code = error.exit_code
            with self._told.open("a") as file:
                file.write(f"{error}\n")
            if isinstance(error, DamagedError):
                code = UNEXPECTED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def vanish(self) -> None:
        self.data.rename(self._away)

    def come_back(self) -> None:
        if self._away.exists():
            self._away.rename(self.data)

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.disk / "other").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * (1 << 16))

    def make_room(self) -> None:
        (self.disk / "other").unlink(missing_ok=True)

    def told(self) -> str:
        """Return what processes said since this was last called."""
        text = self._told.read_text() if self._told.exists() else ""
        self._told.unlink(missing_ok=True)
        return text

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", self.disk], check=True)


def _fill_up_after(flushes: int) -> None:
    real, left = os.fsync, [flushes]

    def flush(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    os.fsync = flush


def steps_told(folder: Path) -> int:
    """Return the last step that the run has told of."""
    path = folder / TELEMETRY
    return max([0, *(line.step for line in read_telemetry(path))]) if path.exists() else 0


def one_round(world: World, chance: random.Random, length: float, counts: Counts, *, kill: bool) -> None:
    """Start a process, let something happen to it, kill it or wait until it ends."""
    event = chance.choice(("nothing", "nothing", "blink", "gone", "full", "second")) if kill else "nothing"
    moment, death = sorted(chance.uniform(0, 0.8 * length) for _ in range(2))
    scripted = chance.randrange(40) if event == "full" and not world.mounted else None
    children, begin = [world.start(world.into, full_after=scripted)], time.perf_counter()
    if event in ("blink", "gone"):
        counts.vanished += 1
        time.sleep(moment)
        world.vanish()
        if event == "blink":
            time.sleep(chance.uniform(0, 0.2))
            world.come_back()
    elif event == "full":
        counts.full += 1
        time.sleep(moment)
        if world.mounted:
            world.fill()
    elif event == "second":
        counts.second += 1
        time.sleep(moment)
        children.append(world.start(world.into))
    if kill and not (event in ("gone", "full") and chance.random() < 0.5):  # else it may end by itself
        time.sleep(max(0.0, begin + death - time.perf_counter()))
        for child in children:
            os.kill(child, signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    world.come_back()
    world.make_room()
    told = world.told()
    expected = {0, -signal.SIGKILL} | {
        "blink": {InputError.exit_code},  # it was not there when the run began
        "gone": {InputError.exit_code},
        "full": {InputError.exit_code},
        "second": {UsageError.exit_code},
    }.get(event, set())
    assert set(ends) <= expected, f"{event} ended with {ends}: {told}"
    counts.killed += ends.count(-signal.SIGKILL)
    counts.gave_up += "cannot be reached" in told and "The run is saved" in told
    counts.stopped_full += "isk is full" in told and "The run is saved" in told
    counts.refused += "is being written by process" in told


def _is_same(report: Adaptation, expected: Adaptation) -> bool:
    names = ("losses", "accuracy", "history", "unreadable_examples", "failed_steps", "images", "rung_changes")
    differences = {name: getattr(report, name) for name in names if getattr(report, name) != getattr(expected, name)}
    if differences:
        sys.stderr.write(f"not the same: {differences}\n")
    return not differences


def main(bundle: Path, data: Path, root: Path, kills: int, seed: int) -> Counts:
    """Kill until enough were killed and the last run was let finish."""
    chance, counts, world = random.Random(seed), Counts(), World(bundle, data, root)
    try:
        begin = time.perf_counter()
        assert os.waitpid(world.start(root / "undisturbed"), 0)[1] == 0
        length = time.perf_counter() - begin
        expected = Adaptation.read(root / "undisturbed" / REPORT)
        saved = 0
        while counts.killed < kills or counts.finished == 0:
            one_round(world, chance, length, counts, kill=counts.killed < kills)
            folder = unfinished(world.into)
            if world.into.exists():  # whole, or it would not have its name
                Bundle.open(world.into)
                report = Adaptation.read(world.into / REPORT)
                counts.same &= _is_same(report, expected)
                counts.finished += 1
                shutil.rmtree(world.into)
                shutil.rmtree(folder, ignore_errors=True)
                saved = 0
                continue
            found = last_checkpoint(folder) if folder.exists() else None
            steps = found.state.steps if found else 0
            counts.went_back += steps < saved
            saved = steps
            if folder.exists():
                counts.writing += any(folder.glob(".checkpoint*.partial"))
                counts.most_lost = max(counts.most_lost, steps_told(folder) - steps)
        return counts
    finally:
        world.close()


if __name__ == "__main__":
    print(json.dumps(asdict(main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:6])))))
