"""A Learner as a whole process: its peak as the kernel counts it, and kills at any moment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle
from edgeplast_devices.tensors import read_arrays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks and signals as Linux has them")

PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np
from PIL import Image
import edgeplast
from edgeplast_devices.memory import peak_bytes

bundle, data, into, memory, kill_at = sys.argv[1:]
options = edgeplast.TrainingOptions(epochs=2, learning_rate=3e-3, threads=2, checkpoint_every="2steps")
with edgeplast.Learner(bundle, into=into, memory=memory, options=options) as learner:
    if not sum(learner.examples.values()):
        for folder in sorted(Path(data, "train").iterdir()):
            learner.add(sorted(folder.iterdir()), folder.name)
    frame = np.asarray(Image.open(next(Path(data, "test", "red").iterdir())).resize((1920, 1080)))
    print(learner.predict(frame).confidence, sum(learner.examples.values()), flush=True)
    if float(kill_at):
        threading.Timer(float(kill_at), os.kill, (os.getpid(), signal.SIGKILL)).start()
    done = threading.Event()
    def camera():
        while not done.is_set():
            learner.predict(frame)
            learner.evaluate(edgeplast.ImageSet.of([frame], ["red"]))
    thread = threading.Thread(target=camera)
    thread.start()
    for _ in range(1000 if float(kill_at) else 3):
        learner.learn(epochs=2)
    done.set()
    thread.join()
    learner.deploy(into + ".onnx", force=True)
    print(learner.memory.budget_bytes, peak_bytes(), learner.memory.enforced_by, learner.predict(frame).confidence)
"""


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_whole_process_keeps_to_its_budget(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    done = _run(bundle.path, blobs, tmp_path / "adapted", "1MiB", 0)
    least = re.search(r"Allow --memory (\d+)MiB", done.stderr)
    assert least, done.stderr
    done = _run(bundle.path, blobs, tmp_path / "adapted", f"{int(least[1]) + 8}MiB", 0)
    assert done.returncode == 0, done.stderr
    budget, peak, by, _ = done.stdout.splitlines()[-1].split()
    assert int(peak) <= int(budget) and by == "kernel"


def test_killed_while_it_learns_it_opens_again(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    into = tmp_path / "adapted"
    for kill_at in (0.2, 0.05, 0.4):
        done = _run(bundle.path, blobs, into, "none", kill_at)
        assert done.returncode == -9, done.stderr
        assert done.stdout.split()[1] == "48"
    done = _run(bundle.path, blobs, into, "none", 0)
    assert done.returncode == 0, done.stderr
    confidence = float(done.stdout.split()[-1])
    assert read_arrays(into / "trainable.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "adapted.examples", "adapted.onnx"]
    assert confidence > 1 / 3
