"""Signals to a real process: a dropped terminal saves, nohup goes on, an endless graph yields to the second one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import REPORT, Bundle
from edgeplast_devices.adapting import unfinished
from edgeplast_devices.checkpoints import last_checkpoint
from edgeplast_devices.options import TrainingOptions

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

ENDLESS = (
    b'\x08\x08:\xd9\x01\n\x95\x01\n\x01m\n\x01t\n\x01x\x12\x01y"\x04Loop*\x80\x01\n\x04body2u\n\x11\n\x01c\x12\x02co"'
    b'\x08Identity\n\x0f\n\x01v\n\x01v\x12\x02vo"\x03Add\x12\x04bodyZ\x0b\n\x01i\x12\x06\n\x04\x08\x07\x12\x00Z\x0b\n\x01'
    b"c\x12\x06\n\x04\x08\t\x12\x00Z\x0f\n\x01v\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0c\n\x02co\x12\x06\n\x04\x08\t"
    b"\x12\x00b\x10\n\x02vo\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01\xa0\x01\x05\x12\x01g*\x10\x10\x07:\t\xff\xff\xff\xff"
    b"\xff\xff\xff\xff\x7fB\x01m*\x08\x10\t*\x01\x01B\x01tZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n"
    b"\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""An ONNX model: ``Loop`` with 2⁶³ − 1 rounds."""

NEVER_ENDS = f"""
import sys
import numpy as np
from edgeplast_devices import runtime, training

real = runtime.TrainingSession.accumulate

def accumulate(session, *given, **how):
    if trainer and trainer[0].state.steps == 7:
        open(MARK, "w").close()
        endless = runtime.import_onnxruntime().InferenceSession({ENDLESS!r}, providers=["CPUExecutionProvider"])
        try:
            endless.run(None, {{"x": np.zeros(1, np.float32)}}, session._stop.how if HEARS else None)
        except Exception as error:
            raise runtime.OutOfMemoryError(str(error)) from error
    return real(session, *given, **how)

trainer, before = [], training.Trainer._accumulate
training.Trainer._accumulate = lambda self, *given: (trainer.clear(), trainer.append(self), before(self, *given))[-1]
runtime.TrainingSession.accumulate = accumulate
from edgeplast.cli import main
MARK = sys.argv.pop()
main()
"""


def words(bundle: Bundle, data: Path, into: Path, *more: str) -> list[str]:
    line = f"adapt {bundle.path} --data {data} -o {into} --epochs 3 --lr 3e-3 --threads 1 --checkpoint-every 1step"
    return [*line.split(), *more]


def start(command: list[str], **how: object) -> subprocess.Popen[str]:
    settings = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen([sys.executable, *command], text=True, env=settings, **how)  # type: ignore[call-overload,no-any-return]


def until(true: object, process: subprocess.Popen[str]) -> None:
    while not true():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Adaptation:
    options = TrainingOptions(epochs=3, learning_rate=3e-3, threads=1)
    return edgeplast.adapt(bundle, blobs, into=tmp_path_factory.mktemp("whole") / "a", options=options)


@pytest.mark.parametrize("hears", [True, False])
def test_a_graph_that_never_ends(bundle: Bundle, blobs: Path, tmp_path: Path, whole: Adaptation, hears: bool) -> None:
    into, mark = tmp_path / "adapted", tmp_path / "mark"
    script = NEVER_ENDS.replace("HEARS", str(hears))
    process = start(["-c", script, *words(bundle, blobs, into), str(mark)], stderr=subprocess.PIPE)
    until(mark.exists, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None  # the first one waits for the micro-batch
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    if hears:
        assert f"Interrupted at once. The run is saved at step 7 in {unfinished(into)}; go on with" in err
    else:
        assert "a call did not come back, so the process ends here" in err and "--resume" in err
    found = last_checkpoint(unfinished(into))
    assert found is not None and found.state.steps == 7
    resumed = edgeplast.adapt(bundle, blobs, into=into, resume=True)
    assert resumed.losses == whole.losses and resumed.resumed_at == (7,)


def test_nothing_is_promised_where_nothing_was_saved(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    into, mark = tmp_path / "adapted", tmp_path / "mark"
    script = NEVER_ENDS.replace("HEARS", "False").replace("state.steps == 7", "state.steps == 0")
    process = start(["-c", script, *words(bundle, blobs, into), str(mark)], stderr=subprocess.PIPE)
    until(mark.exists, process)
    for _ in range(3):  # the third waits no longer
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and last_checkpoint(unfinished(into)) is None
    assert "a call did not come back, so the process ends here. Nothing was saved yet." in err and "resume" not in err


AFTER_TWO = """
import hashlib, os, signal
from edgeplast.cli import bars
from edgeplast_devices import interrupts

bars._STILL_SECONDS, bars._TICK_SECONDS, interrupts.GRACE_SECONDS = 0.02, 0.02, 60.0
with interrupts.asked_to_stop():
    bars.LINE.show("writing")  # from now on the line's timer sends a signal of its own
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        if THIRD:
            os.kill(os.getppid(), signal.SIGUSR1)
        for _ in range(ROUNDS):  # as when a checkpoint is being written: calls that take their time
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
print("came back")
"""


def test_only_a_third_signal_cuts_the_grace_short() -> None:
    """A line that moves sends signals too (SIGALRM), which nobody asked to stop by."""
    process = start(["-c", AFTER_TWO.replace("THIRD", "False").replace("ROUNDS", "20")], stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == "came back\n" and process.returncode == 0


def test_a_third_signal_ends_a_call_that_does_not_come_back() -> None:
    import pty

    terminal, outer = pty.openpty()
    came = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: came.set())
    try:
        script = AFTER_TWO.replace("THIRD", "True").replace("ROUNDS", "10**6")
        process = start(["-c", script], stdout=subprocess.PIPE, stderr=outer)
        until(came.is_set, process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGUSR1, before)
        os.close(outer)
    with os.fdopen(terminal, "rb", 0) as reading:
        err = reading.read(1 << 16).decode()
    assert process.returncode == 130 and not said and "writing" in err
    assert "\r\nerror: Interrupted; a call did not come back, so the process ends here. " in err  # below the line
    assert err.endswith("What was written before is whole.\r\n")


def test_a_terminal_that_hangs_up_saves(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    import pty

    into = tmp_path / "adapted"
    arguments = [sys.executable, "-m", "edgeplast", *words(bundle, blobs, into, "--epochs", "2000")]
    os.environ["PYTHONPATH"] = ":".join(sys.path)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, arguments)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (unfinished(into).is_dir() and last_checkpoint(unfinished(into))):
        time.sleep(0.05)
    os.close(terminal)  # ssh is gone: SIGHUP, and every further line fails
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    found = last_checkpoint(unfinished(into))
    assert found is not None and found.state.steps > 0 and not into.exists()


def test_nohup_goes_on(bundle: Bundle, blobs: Path, tmp_path: Path, whole: Adaptation) -> None:
    into = tmp_path / "adapted"
    process = start(
        ["-m", "edgeplast", *words(bundle, blobs, into)],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    until(lambda: unfinished(into).is_dir() or into.exists(), process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert Adaptation.read(into / REPORT).losses == whole.losses
