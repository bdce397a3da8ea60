"""What can be told from the arguments alone is told before torch is loaded, a model built or a picture scored."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeplast.bundle import Bundle
from edgeplast.cli.app import run

MODEL = "vit_tiny_patch16_224"
SCORE = ("score", MODEL, "--data", "DATA", "-o", "scores.json")
EXPORT = ("export", MODEL, "--data", "DATA", "-o", "bundle")
PRUNE = ("prune", MODEL, "--data", "DATA", "-o", "small", "--keep", "0.7")
COMPARE = ("compare", MODEL, "--data", "DATA", "-o", "contest")
FILE = ("--checkpoint", "weights.safetensors")


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blobs: Path, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str]]:
    """Run a command where neither torch, timm nor onnx can be imported, in a folder with files that look right."""
    for name in ("torch", "timm", "onnx", "torch_pruning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "taken").write_text("mine")

    def run_it(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run([str(blobs) if word == "DATA" else word for word in words])
        return code, capsys.readouterr().err

    return run_it


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((*SCORE, "--checkpoint", "nowhere.pth"), 3, "There is no checkpoint nowhere.pth"),
        ((*EXPORT, "--checkpoint", "nowhere.pth"), 3, "There is no checkpoint nowhere.pth"),
        ((*PRUNE, "--checkpoint", "nowhere.pth"), 3, "There is no checkpoint nowhere.pth"),
        ((*SCORE, "--checkpoint", "taken"), 3, "taken is text, which begins 'mine'"),
        ((*SCORE, *FILE, "--pretrained"), 2, "--checkpoint and --pretrained both name the weights"),
        ((*SCORE, *FILE, "--image-size", "0"), 2, "--image-size 0 must be a positive number"),
        ((*SCORE, *FILE, "--model-kwargs", "{"), 2, "Cannot read --model-kwargs"),
        ((*SCORE, *FILE, "--method", "plastik"), 2, "Unknown score method 'plastik'"),
        ((*EXPORT, *FILE, "--method", "plastik"), 2, "Unknown score method 'plastik'"),
        ((*PRUNE, *FILE, "--method", "plastik"), 2, "Unknown score method 'plastik'"),
        ((*SCORE, *FILE, "--pairs", "1"), 2, "--pairs 1: a standard error needs at least 2"),
        ((*SCORE, *FILE, "--granularity", "block"), 2, "Unknown granularity 'block'"),
        ((*SCORE, *FILE, "--granularity", "branch", "--method", "rgn"), 2, "plasticity-branch alone; given: rgn"),
        ((*SCORE, *FILE, "--torch-device", "gpu"), 2, "Unknown device 'gpu'. Known: auto, cpu, cuda"),
        (("score", MODEL, "--data", "none", "-o", "s.json", *FILE), 3, "none"),
        ((*SCORE, *FILE, "--reference", "none"), 3, "none"),
        (("score", MODEL, "--data", "DATA", "-o", "taken", *FILE), 2, "taken exists already"),
        (("export", MODEL, "--data", "DATA", "-o", "taken", *FILE), 2, "taken exists already"),
        (("prune", MODEL, "--data", "DATA", "-o", "taken", "--keep", "0.7", *FILE), 2, "taken exists already"),
        ((*EXPORT, *FILE, "--plan", "taken"), 3, "taken"),
        ((*EXPORT, *FILE, "--plan", "nowhere.json"), 3, "Cannot read the plan nowhere.json"),
        ((*EXPORT, *FILE, "--optimizer", "adam"), 2, "Unknown optimizer 'adam'"),
        ((*EXPORT, *FILE, "--batch", "0"), 2, "--batch 0"),
        ((*EXPORT, *FILE, "--weight-bits", "7"), 2, "'7' cannot be read. Give 32, 8 or 4"),
        ((*EXPORT, *FILE, "--strategy", "freeze-low:2"), 2, "'freeze-low:2' needs a fraction"),
        ((*EXPORT, *FILE, "--strategy", "last-k:0"), 2, "'last-k:0' needs a number of blocks"),
        ((*EXPORT, *FILE, "--strategy", "attn", "--train", "head"), 2, "Give one of them"),
        ((*EXPORT, *FILE, "--memory", "12"), 2, "'12' has no unit"),
        ((*EXPORT, *FILE, "--prune", "0.7", "--distill-steps", "-1"), 2, "--distill-steps -1"),
        ((*PRUNE, *FILE, "--macs", "3G"), 2, "in one way; 2 were given"),
        ((*PRUNE, *FILE, "--importance", "size"), 2, "Unknown importance 'size'"),
        ((*PRUNE, *FILE, "--prune-steps", "0"), 2, "--prune-steps 0 must be 1 or more"),
        ((*PRUNE, *FILE, "--ratio", "blocks.0.fc1=1.5"), 2, "blocks.0.fc1=1.5: the share to take out"),
        ((*COMPARE, "--checkpoint", "nowhere.pth"), 3, "There is no checkpoint nowhere.pth"),
        ((*COMPARE, *FILE, "--minutes", "0"), 2, "--minutes 0 must be a positive number of minutes"),
        ((*COMPARE, *FILE, "--minutes", "nan"), 2, "--minutes nan must be a positive number of minutes"),
        ((*COMPARE, *FILE, "--candidates", ","), 2, "--candidates is empty"),
        ((*COMPARE, *FILE, "--candidates", "head,head"), 2, "--candidates names head twice"),
        ((*COMPARE, *FILE, "--candidates", "last-k:0"), 2, "'last-k:0' needs a number of blocks"),
        ((*COMPARE, *FILE, "--epochs", "0"), 2, "--epochs 0 must be 1 or more"),
        ((*COMPARE, *FILE, "--weight-bits", "7"), 2, "Give 32, 8 or 4"),
        ((*COMPARE, *FILE, "--memory", "12"), 2, "'12' has no unit"),
        ((*COMPARE, *FILE, "--method", "plastik"), 2, "Unknown score method 'plastik'"),
        (("compare", MODEL, "--data", "none", "-o", "c", *FILE), 3, "none does not exist"),
        (("compare", MODEL, "--data", "DATA", "-o", "taken", *FILE), 2, "taken exists already"),
        ((*EXPORT, *FILE, "--choose", "guessed"), 2, "Unknown --choose 'guessed'. Known: planned, measured"),
        ((*EXPORT, *FILE, "--choose", "measured", "--train", "head"), 2, "--train head says it. Give one of them"),
        ((*EXPORT, *FILE, "--choose", "measured", "--plan", "p.json"), 2, "and --plan says it. Give one of them"),
        ((*EXPORT, *FILE, "--plan", "p.json", "--train", "head"), 2, "--plan says what trains, and --train head too"),
        ((*EXPORT, *FILE, "--choose", "measured", "--minutes", "-1"), 2, "--minutes -1 must be a positive number"),
        ((*EXPORT, *FILE, "--choose", "measured", "--weight-bits", "8,fc1=4"), 2, "takes one number for --weight-bits"),
        (("plan", "nowhere.json", "--optimizer", "adam"), 2, "Unknown optimizer 'adam'"),
        (("plan", "nowhere.json", "--memory", "12"), 2, "'12' has no unit"),
        (("plan", "nowhere.json", "-o", "taken"), 2, "taken exists already"),
        (("plan", "nowhere.json"), 3, "Cannot read the score table nowhere.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_in_the_arguments_is_told_without_torch(
    said: Callable, words: tuple[str, ...], code: int, message: str
) -> None:
    given, shown = said(*words)
    assert message in shown, shown
    assert given == code


def test_methods_are_listed_without_torch(said: Callable) -> None:
    assert said("score", "--list-methods")[0] == 0


def test_what_is_missing_is_told_when_all_arguments_are_right(said: Callable) -> None:
    for words in ((*SCORE, *FILE), (*EXPORT, *FILE), (*PRUNE, *FILE), (*COMPARE, *FILE)):
        code, shown = said(*words)
        assert code == 3 and "torch is not installed" in shown and "pip install 'edgeplast[offline]'" in shown, shown


def test_a_seed_out_of_range_is_told_the_range_in_digits(said: Callable, bundle: object) -> None:
    path = str(bundle.path)  # type: ignore[attr-defined]
    code, shown = said("adapt", path, "--data", "DATA", "-o", "out", "--seed", "9" * 20)
    assert code == 2 and f"--seed {'9' * 20} is out of range; allowed is 0 to {2**63}." in shown
    code, shown = said("adapt", path, "--data", "DATA", "-o", "out", "--clip", "1e300")
    assert code == 2 and "allowed is 0 to 1e+09." in shown


def test_progress_in_bytes_has_a_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    from edgeplast.cli import bars, console
    from edgeplast_devices.images import open_splits

    monkeypatch.setattr(bars, "_LASTING_SECONDS", -1.0)
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 255, (40, 28, 28, 3), dtype=np.uint8), np.arange(40) % 2
    np.savez_compressed(tmp_path / "d.npz", train_images=pictures, train_labels=labels)
    with console.progress_bar() as progress:
        open_splits(tmp_path / "d.npz", seed=0, progress=progress)
        progress("predicting", 4080, 4080)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("unpacking train_images.npy: 92 KiB in ") for line in lines), lines
    assert lines[-1].startswith("predicting: 4,080 in ")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of bars, in a terminal of 80 columns."""
    now = [0.0]
    monkeypatch.setattr("edgeplast.cli.bars.time.monotonic", lambda: now[0])
    monkeypatch.setattr("edgeplast.cli.console.is_terminal", lambda stream: stream is sys.stderr)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # for rich
    monkeypatch.setenv("COLUMNS", "80")
    return now


def test_a_line_stands_at_once_and_is_written_over(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    from edgeplast.cli import console

    with console.progress_bar(doing="opening photos") as progress:
        assert capsys.readouterr().err == "\ropening photos …"
        progress("loading vit", 0, 0)
        assert capsys.readouterr().err == "\rloading vit …   "  # over what was longer
        progress("scoring", 4, 1000)
        assert capsys.readouterr().err.rstrip() == "\rscoring: 4 of 1,000"
        console.say("vit: weights.safetensors", err=True)
        said = capsys.readouterr().err
        assert said.startswith("\r ") and said.endswith("\rvit: weights.safetensors\n")  # not behind the line
        progress("scoring", 5, 1000)
        assert "scoring: 5 of 1,000" in capsys.readouterr().err
    assert capsys.readouterr().err.strip() == ""


def test_a_line_is_no_longer_than_the_terminal(
    clock: list[float], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeplast.cli import console

    monkeypatch.setenv("COLUMNS", "30")
    with console.progress_bar(doing=f"opening {'photos/' * 20}"):
        assert len(capsys.readouterr().err) == 1 + 29  # else it could not be written over


def test_a_bar_comes_two_seconds_after_the_beginning_whatever_is_done_then(
    clock: list[float], capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    with console.progress_bar(doing="opening photos") as progress:
        clock[0] = 0.9
        progress("loading vit", 0, 0)
        progress("scoring", 0, 10)
        assert "━" not in capsys.readouterr().err
        clock[0] = 1.9
        progress("scoring", 1, 10)
        assert "━" in capsys.readouterr().err
        progress("writing", 0, 3)
        assert "writing" in capsys.readouterr().err  # a bar stands already, and another takes its place
        progress("checking", 0, 0)
        assert "checking …" in capsys.readouterr().err  # nothing can move a bar here


def test_what_is_read_by_programs_has_a_bar_in_a_terminal_and_nothing_in_a_pipe(
    clock: list[float], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeplast.cli import console

    with console.progress_bar(for_program=True, doing="opening photos"):
        assert "opening photos" in capsys.readouterr().err
    monkeypatch.setattr("edgeplast.cli.console.is_terminal", lambda _: False)
    with console.progress_bar(for_program=True, doing="opening photos") as progress:
        progress("loading torch and timm", 0, 0)
    assert "opening" not in capsys.readouterr().err


def test_what_stands_beside_an_activity_goes_on_and_the_bar_stays(
    clock: list[float], capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console
    from edgeplast.progress import Beside

    with console.progress_bar() as progress:
        clock[0] = 3.0
        progress(Beside("round 1: head", "62 s left"), 1, 10)
        assert "round 1: head (62 s left)" in capsys.readouterr().err
        clock[0] = 5.0
        progress(Beside("round 1: head", "60 s left"), 2, 10)
        said = capsys.readouterr().err
        assert "round 1: head (60 s left)" in said and "\x1b[?25h" not in said  # the same bar


def in_a_terminal(script: str) -> str:
    """Return what a script prints in a terminal of its own, of 80 columns."""
    spawned = "import pty, sys; pty.spawn([sys.executable, '-c', sys.argv[1]])"
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-c", spawned, f"from edgeplast.cli import bars, console\n{script}"]
    done = subprocess.run(command, capture_output=True, env=settings, stdin=subprocess.DEVNULL, check=True)
    return done.stdout.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such timer")
def test_what_tells_nothing_for_a_second_is_seen_to_go_on() -> None:
    """A timer interrupts what works, and no thread is started for it."""
    said = in_a_terminal(
        "import threading, time\n"
        "bars._STILL_SECONDS, bars._TICK_SECONDS = 0.05, 0.02\n"
        "with console.progress_bar(doing='loading torch'):\n"
        "    start = time.monotonic()\n"
        "    while time.monotonic() - start < 1.2: pass\n"
        "    console.say(f'{threading.active_count()} thread')\n"
        "    time.sleep(0.2)\n"
        "console.say('the end')"
    )
    frames = re.findall(r"\rloading torch … ([ ━]{16}) \d s", said)
    assert len(set(frames)) > 5, said
    before, after = said.split("1 thread")
    assert before.endswith(" \r") and "loading" not in after  # it was erased, and nothing ticks behind a line
    assert after.strip() == "the end"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such timer")
def test_a_line_moves_and_is_erased_where_it_stands_while_standard_error_is_something_else() -> None:
    """As torch.export is kept quiet."""
    said = in_a_terminal(
        "import contextlib, io, time\n"
        "bars._STILL_SECONDS, bars._TICK_SECONDS = 0.05, 0.02\n"
        "def work():\n"
        "    start = time.monotonic()\n"
        "    while time.monotonic() - start < 0.7: pass\n"
        "with console.progress_bar(doing='tracing'):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as quiet:\n"
        "        work()\n"
        "        print('noise', file=quiet)\n"
        "        console.say('the result')\n"
        "    assert quiet.getvalue() == 'noise\\n'",
    )
    before, after = said.split("the result")
    assert len(set(re.findall(r"\rtracing … ([ ━]{16}) \d s", before))) > 5, said
    assert before.endswith(" \r") and not after.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such timer")
@pytest.mark.parametrize(
    "gone", ["os.dup2(os.open(FILE, os.O_RDWR | os.O_CREAT), 2)", "os.close(2)", "sys.stderr.close()"]
)
def test_a_line_writes_nowhere_else_once_its_descriptor_leads_elsewhere(gone: str, tmp_path: Path) -> None:
    said = in_a_terminal(
        "import os, sys, time\n"
        f"FILE = {str(tmp_path / 'file')!r}\n"
        "bars._STILL_SECONDS, bars._TICK_SECONDS = 0.05, 0.02\n"
        "bars.LINE.show('loading')\n"
        f"{gone}\n"
        "opened = open(FILE, 'a')\n"  # takes the descriptor's number, where that is free
        "start = time.monotonic()\n"
        "while time.monotonic() - start < 0.5: pass\n"
        "os.write(1, b'the end')\n"
        "os._exit(0)"
    )
    assert said.endswith("the end") and "Traceback" not in said
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
def test_no_bar_stays_below_predictions_that_are_printed_one_by_one(bundle: Bundle, blobs: Path) -> None:
    said = in_a_terminal(
        "from edgeplast.cli.app import run\n"
        "bars._PATIENCE_SECONDS = 0.0\n"  # as where opening takes longer than that
        f"run(['predict', {str(bundle.path)!r}, {str(blobs / 'test')!r}])"
    )
    before, after = said.split("most likely")
    assert "loading runtime and model" in before and "━" in before  # of verifying the bundle
    assert after.count(".png ") == 36 and "loading" not in after and "━" not in after, after


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
@pytest.mark.parametrize("err", [True, False])
def test_a_line_is_printed_above_a_bar_and_not_behind_it(err: bool) -> None:
    said = in_a_terminal(
        "bars._PATIENCE_SECONDS = 0.0\n"
        "with console.progress_bar() as progress:\n"
        "    progress('epoch 1', 1, 3)\n"
        f"    console.say('epoch 1: loss 0.5', err={err})\n"
        "    progress('epoch 2', 1, 3)"
    )
    before, after = said.split("epoch 1: loss 0.5")
    assert before.endswith("\r\x1b[2K") and "━" in before and "epoch 2" in after


def test_a_full_bar_stays_while_nothing_else_is_told_and_lines_are_printed_above_it(
    clock: list[float], capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    hidden, shown = "\x1b[?25l", "\x1b[?25h"  # of the pointer: a bar stands, or was taken away
    with console.progress_bar() as progress:
        progress("calibrating", 0, 64)
        clock[0] = 3.0
        progress("calibrating", 63, 64)
        progress("calibrating", 64, 64)
        said = capsys.readouterr().err
        assert said.count(hidden) == 1 and shown not in said
        print("the result")  # to a file or pipe: no part of the bar
        assert capsys.readouterr().out == "the result\n"
        progress("writing", 0, 3)
        said = capsys.readouterr().err
        assert "writing" in said and said.count(hidden) == 1
    assert shown in capsys.readouterr().err


def test_without_a_terminal_a_line_says_now_and_then_what_is_being_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    clock = [0.0]
    monkeypatch.setattr("edgeplast.cli.bars.time.monotonic", lambda: clock[0])
    with console.progress_bar(told_otherwise=("epoch",)) as progress:
        for at, *what in (
            (0.1, "loading torch and timm", 0, 0),  # at once
            (4.0, "loading vit", 0, 0),  # too soon after it
            (6.0, "loading vit", 1, 1),  # no piece of work that lasted
            (6.2, "reading the model's graph", 0, 0),
            (9.0, "scoring", 0, 60),
            (11.0, "scoring", 10, 60),
            (13.9, "scoring", 20, 60),
            (17.0, "scoring", 40, 60),
            (18.0, "scoring", 60, 60),
            (19.0, "epoch 1 of 2", 8, 400),
            (24.5, "epoch 1 of 2", 16, 400),
            (32.0, "epoch 1 of 2", 24, 400),  # pauses double, up to a minute
            (35.0, "epoch 1 of 2", 32, 400),
            (36.0, "epoch 1 of 2", 400, 400),  # of which the command tells itself
            (41.0, "writing", 1, 2),
            (42.0, "writing", 2, 2),
            (43.0, "measuring", 0, 6),
        ):
            clock[0] = at
            progress(*what)
    assert capsys.readouterr().err.splitlines() == [
        "loading torch and timm …",
        "reading the model's graph …",
        "scoring: 20 of 60",
        "scoring: 60 in 9 s",
        "epoch 1 of 2: 16 of 400",
        "epoch 1 of 2: 32 of 400",
        "writing: 1 of 2",
    ]


def test_without_a_terminal_long_activities_get_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeplast.cli import bars, console

    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    lines = bars.Lines(console.say, ("epoch",))
    for activity in ("evaluating test", "epoch 1 of 2"):
        for done in (1, 2, 3):
            lines(activity, done, 3)
            now[0] += 1.5
    assert capsys.readouterr().err == "evaluating test: 3 in 3 s\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer")
def test_a_process_that_ends_below_a_moving_line_ends_as_it_would_have() -> None:
    """Python lets go of signals' handlers while it ends: a timer that still runs would end it before."""
    script = """
import time
from edgeplast.cli import bars

class Slow:
    def __del__(self, sleep=time.sleep):  # of a module that is taken down: what ends is no longer Python's own code
        sleep(0.02)

bars._STILL_SECONDS = bars._TICK_SECONDS = 0.001
bars.LINE.show("writing")
slow = Slow()
raise SystemExit(5)
"""
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 5
