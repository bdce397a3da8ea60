"""``edgeplast score`` and ``edgeplast report`` as typed on a command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from edgeplast.cli.app import run
from edgeplast.cli.score import _print_bars, bar
from edgeplast.models import import_timm
from edgeplast.scores import ScoreTable
from edgeplast.scoring import METHODS

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments that name a model of four tokens, its random weights and a folder of twelve pictures."""
    folder, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    model = import_timm().create_model(MODEL, img_size=32, num_classes=2)
    save_file(model.state_dict(), folder / "weights.safetensors")
    for label in ("cat", "dog"):
        (folder / "data" / label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / label / f"{i}.png")
    return [
        MODEL,
        "--checkpoint",
        str(folder / "weights.safetensors"),
        "--data",
        str(folder / "data"),
        "--image-size",
        "32",
    ]


def test_scores_are_written_and_shown_with_bars(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "scores.json"
    command = ["score", *given, "--method", "plasticity-branch", "--method", "rgn", "--pairs", "4", "-o", str(output)]
    assert run(command) == 0
    table = ScoreTable.read(output)
    assert table.methods == ("plasticity-branch", "rgn") and table.classes == ("cat", "dog")
    shown = capsys.readouterr().out
    assert "█" in shown and table.ranking()[0] in shown and "median of each type" in shown
    assert "Kendall tau of plasticity-branch with rgn" in shown
    assert run(command) == 2
    assert "exists already" in capsys.readouterr().err
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    assert run(["report", str(output), "-o", str(page), "--png", str(picture)]) == 0
    assert "blocks.11.fc2" in page.read_text() and picture.stat().st_size > 10_000


def test_json_is_the_table_itself(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "scores.json"
    assert run(["score", *given, "--granularity", "head", "--pairs", "2", "--json", "-o", str(output)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("kind") == "scores" and told.pop("output") == str(output)
    assert told == json.loads(output.read_text())
    assert "blocks.0.attn.head.2" in ScoreTable.read(output).components


def test_methods_are_listed_with_a_line_and_a_cost_each(capsys: pytest.CaptureFixture) -> None:
    assert run(["score", "--list-methods"]) == 0
    shown = capsys.readouterr().out
    for name, method in METHODS.items():
        assert f"{name} " in shown and method.explanation in shown and method.cost in shown
    assert run(["score", "--list-methods", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "score methods" and list(told["methods"]) == list(METHODS)


def test_mistakes_are_usage_errors_and_leave_no_file(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "scores.json"
    for arguments, words in (
        (["score", MODEL], "needs MODEL, --data and -o"),
        (["score", MODEL, "--data", ".", "-o", str(output)], "Where are the weights?"),
        (["score", *given, "--method", "plastik", "-o", str(output)], "Unknown score method 'plastik'. Did you mean"),
    ):
        assert run(arguments) == 2
        assert words in capsys.readouterr().err
    assert run(["report", str(output), "-o", str(tmp_path / "r.html")]) == 3
    assert "Cannot read the score table" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bars_are_all_as_wide_and_full_for_the_largest() -> None:
    assert bar(2.0, 2.0) == "█" * 24
    assert bar(1.0, 2.0) == "█" * 12 + " " * 12
    assert bar(0.0, 2.0) == bar(-1.0, 2.0) == bar(0.0, 0.0) == " " * 24
    assert bar(1 / 24 / 8, 1.0) == "▏" + " " * 23


def test_long_names_give_way_to_numbers(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "stages.2.layers.0.mixer.branches.1.projection.convolution.depthwise"
    _print_bars(
        "scores",
        ("component", "", "score", "± s.e.", "parameters"),
        [(name, bar(3, 5), "3.142", "0.0123", "1,234,567")],
    )
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("3.142", "0.0123", "1,234,567", "█"))
    assert name in "".join(line.split(" ")[0] for line in shown.splitlines()[2:])
