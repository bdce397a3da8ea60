"""What can be told from the arguments alone is told before torch is loaded, a model built or a picture scored."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
    from edgeplast.cli import console
    from edgeplast_devices.images import open_splits

    monkeypatch.setattr(console, "_PATIENCE_SECONDS", -1.0)
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 255, (40, 28, 28, 3), dtype=np.uint8), np.arange(40) % 2
    np.savez_compressed(tmp_path / "d.npz", train_images=pictures, train_labels=labels)
    with console.progress_bar(quiet=False) as progress:
        open_splits(tmp_path / "d.npz", seed=0, progress=progress)
        progress("predicting", 4080, 4080)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("unpacking train_images.npy: 92 KiB in ") for line in lines), lines
    assert lines[-1].startswith("predicting: 4,080 in ")


def test_what_tells_nothing_until_it_is_done_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with console.progress_bar(quiet=False) as progress:
        progress("loading torch and timm", 0, 0)
        assert "loading torch and timm …" in capsys.readouterr().err
        progress("loading vit", 0, 0)
        assert "loading vit …" in capsys.readouterr().err
        progress("loading vit", 1, 1)
        progress("scoring", 0, 10)
        assert "scoring" in capsys.readouterr().err  # a bar stands already, and another takes its place
    capsys.readouterr()
    with console.progress_bar(quiet=False) as progress:
        progress("scoring", 0, 10)
        assert "scoring" not in capsys.readouterr().err  # it may be done within two seconds


def test_a_full_bar_stays_while_nothing_else_is_told_and_lines_are_printed_above_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    hidden, shown = "\x1b[?25l", "\x1b[?25h"  # of the pointer: a bar stands, or was taken away
    with console.progress_bar(quiet=False) as progress:
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
    assert capsys.readouterr().err.endswith(shown) or shown in said


def test_without_a_terminal_a_line_says_now_and_then_what_is_being_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress_bar(quiet=False, told_otherwise=("epoch",)) as progress:
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


def test_a_bar_does_not_wait_for_a_second_slow_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from edgeplast.cli import console

    clock = iter([0.0, 1.0, 1.5, 7.0, *[8.0] * 50])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bars = console._Bars()
    bars("evaluating", 1, 2)
    bars("evaluating", 2, 2)
    assert capsys.readouterr().err == ""
    bars("epoch 1 of 2", 16, 400)  # its first step took from 1.5 to 7.0
    assert "epoch 1 of 2" in capsys.readouterr().err
    bars.close()
