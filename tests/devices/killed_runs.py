"""Adapt a bundle in a process that is killed again and again: ``killed_runs.py BUNDLE DATA FOLDER KILLS SEED``.

Each run is a fork of this process, so that it starts in a fraction of a second, and dies by SIGKILL at a random
moment. After each death the folder is looked at as the next start would, and the next run resumes. Prints one line of
JSON: how many were killed, how often in the middle of writing a checkpoint, steps lost at most, runs that finished,
and whether each finished run was the same as one that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import REPORT, Bundle
from edgeplast.telemetry import TELEMETRY, read_telemetry
from edgeplast_devices import adapting, running, training  # noqa: F401 - imported once, for all forks
from edgeplast_devices.adapting import unfinished
from edgeplast_devices.checkpoints import last_checkpoint
from edgeplast_devices.options import TrainingOptions

OPTIONS = TrainingOptions(epochs=4, learning_rate=3e-3, threads=1, checkpoint_every="1step", micro_batch=4)


def start(bundle: Path, data: Path, into: Path) -> int:
    """Fork a process that adapts, resuming what is there; return its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            edgeplast.adapt(bundle, data, into=into, options=OPTIONS, resume=True)
            code = 0
        finally:
            os._exit(code)
    return child


def steps_told(folder: Path) -> int:
    """Return the last step that the run has told of."""
    path = folder / TELEMETRY
    return max([0, *(line.step for line in read_telemetry(path))]) if path.exists() else 0


def main(bundle: Path, data: Path, root: Path, kills: int, seed: int) -> dict[str, int | bool]:
    """Kill until enough were killed and the last run was let finish."""
    chance = random.Random(seed)
    begin = time.perf_counter()
    undisturbed, into = root / "undisturbed", root / "adapted"
    assert os.waitpid(start(bundle, data, undisturbed), 0)[1] == 0
    length = time.perf_counter() - begin
    expected = Adaptation.read(undisturbed / REPORT)
    killed = writing = most_lost = finished = 0
    same = True
    while killed < kills or finished == 0:
        child = start(bundle, data, into)
        if killed < kills:
            time.sleep(chance.uniform(0, 1.2 * length))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "a run failed by itself"
        folder = unfinished(into)
        if into.exists():  # whole, or it would not have its name
            Bundle.open(into)
            report = Adaptation.read(into / REPORT)
            same &= report.losses == expected.losses and report.accuracy == expected.accuracy
            finished += 1
            shutil.rmtree(into)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        killed += 1
        if folder.exists():
            found = last_checkpoint(folder)
            writing += any(folder.glob(".checkpoint*.partial"))
            most_lost = max(most_lost, steps_told(folder) - (found.state.steps if found else 0))
    return {"killed": killed, "writing": writing, "most_lost": most_lost, "finished": finished, "same": same}


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:6]))))
