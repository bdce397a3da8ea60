"""The report of an adaptation: what it shows of finished, resumed and unfinished runs; the same for TensorBoard."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeplast
from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle
from edgeplast.cli.app import run as command
from edgeplast.errors import InputError, MissingExtraError
from edgeplast.reporting.adaptations import adaptation_report, read_run
from edgeplast.reporting.charts import Chart, Line, on_a_page
from edgeplast.reporting.tensorboards import write_tensorboard
from edgeplast.telemetry import TELEMETRY, EpochLine, RungLine, RunLine, StepLine, encode
from edgeplast_devices.options import TrainingOptions


@pytest.fixture(scope="module")
def adapted(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("adapted") / "adapted"
    edgeplast.adapt(bundle, blobs, into=into, options=TrainingOptions(epochs=2, threads=1))
    return into


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run that stepped down, was resumed on a hot device and cut off in the middle of a line."""
    folder = tmp_path / "a.partial"
    folder.mkdir()
    head: dict = {"model": "toy <b>", "runtime": "stock 1.32.0", "resident_bytes": 60 << 20}
    head |= {"allowed_bytes": 200 << 20, "predicted_peak_bytes": 150 << 20}
    step: dict = {"seconds": 0.5, "gradient_norm": 1.0, "learning_rate": 1e-3, "tier": "full", "recompute": "none"}
    hot: dict = step | {"celsius": 68.0, "slowed_by": ("cpu-throttle-alert",)}
    lines = [
        RunLine(time=1.0, step=0, rung="tier full, micro-batch 4", **head),
        *(
            StepLine(time=1.0 + n, step=n, epoch=1, loss=1 / n, resident_bytes=(100 + n) << 20, micro_batch=4, **step)
            for n in range(1, 8)
        ),
        RungLine(time=8.5, step=7, before="micro-batch 4", after="micro-batch 2", reason="the machine has only 9 MiB"),
        EpochLine(time=9, step=7, epoch=1, training_loss=0.3, validation_accuracy=0.5, validation_loss=0.8),
        RunLine(time=10.0, step=7, rung="tier full, micro-batch 2", **head),
        *(
            StepLine(time=3.0 + n, step=n, epoch=2, loss=[0.1, 3e38][n == 9], resident_bytes=90, micro_batch=2, **hot)
            for n in range(8, 12)
        ),
    ]  # fmt: skip
    (folder / TELEMETRY).write_bytes(b"".join(encode(line) + b"\n" for line in lines) + b'{"kind":"step","ti')
    return folder


def test_a_finished_run_shows_memory_loss_accuracy_and_pace(adapted: Path, tmp_path: Path) -> None:
    adaptation_report(adapted, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    report = Adaptation.read(adapted / "report.json")
    assert report.linear_probe is not None and report.linear_probe.accuracy is not None
    assert report.evaluation is not None and report.evaluation.confusion
    for word in (
        "Memory",
        "Loss",
        "Accuracy",
        "Pace",
        "measured",
        "best epoch",
        "36 test",
        "test, before and after",
        "Run it again",
        "[adapt]",
        f"{report.linear_probe.accuracy:.1%} (",
        report.with_interval(report.accuracy.before),
        report.with_interval(report.accuracy.after),
        "<table class=confusion>",
        "Can its confidence be believed?",
        "<td>recall</td><td>precision</td>",
        *(f"<th>{wrong.image}</th><td>{wrong.label}</td>" for wrong in report.evaluation.most_wrong),
    ):
        assert word in page, word
    assert page.count("<div class=chart>") == 5 and "not finished" not in page
    drawn = [found["y_label"] for found in charts_of(page)]
    assert drawn == ["resident set, MiB", "cross-entropy, nats", "accuracy, %", "named right, %", "seconds a step"]
    assert "The MIT License (MIT)" in page  # the script that draws them says whose it is
    assert not re.search(r"""(src|href)\s*=|url\(|@import|fetch\(|XMLHttpRequest""", page)  # nothing is fetched


def charts_of(page: str) -> list[dict]:
    return [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]


def test_a_device_without_matplotlib_writes_the_page_and_is_told_what_a_picture_needs(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError, match=r"matplotlib is not installed; a picture needs it.*pip install matplotlib"
    ):
        adaptation_report(adapted, tmp_path / "a.html", tmp_path / "a.png")
    assert not (tmp_path / "a.html").exists()
    adaptation_report(adapted, tmp_path / "a.html")
    assert "<table class=blocks>" in (tmp_path / "a.html").read_text()


def test_a_picture_shows_the_same(adapted: Path, unfinished: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for folder in (adapted, unfinished):
        adaptation_report(folder, tmp_path / "a.html", tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30), st.floats(allow_nan=True, allow_infinity=True))
def test_a_chart_holds_any_name_and_number_and_cannot_leave_its_element(name: str, value: float) -> None:
    line = Line(f"{name}</script>", [0, 1], [value, None])
    shown = on_a_page(Chart("x", name, [line], (0, 1), (0, 1)))
    (found,) = charts_of(shown)
    assert shown.count("</script>") == 1 and found["y_label"] == name
    first = found["lines"][0]["y"][0]
    assert first is None if not math.isfinite(value) else first == pytest.approx(value, rel=1e-4, abs=1e-300)


def test_an_unfinished_run_shows_what_it_told_so_far(unfinished: Path, tmp_path: Path) -> None:
    lines, report = read_run(unfinished)
    assert report is None and len(lines) == 15
    adaptation_report(unfinished, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    for words in (
        "Adaptation of toy &lt;b&gt;, not finished",
        "At step 7 from micro-batch 4 to micro-batch 2: the machine has only 9 MiB.",
        "Resumed at step 7.",
        "slowed down by cpu-throttle-alert",
        "°C",
    ):
        assert words in page, words
    memory, loss, _, pace = charts_of(page)
    assert {level["label"]: level["value"] for level in memory["levels"]} == {
        "allowed, MiB": 200,
        "predicted, MiB": 150,
    }
    assert [(mark["x"], mark["is_dashed"]) for mark in memory["marks"]] == [(7, True), (7, False)]
    assert loss["lines"][0]["y"][8] is None  # of a step that diverged
    assert pace["second_label"] == "°C" and pace["lines"][1]["x"] == [8, 9, 10, 11]


def test_the_command_takes_folders_and_says_what_it_wrote(
    adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["report", str(adapted), "-o", str(tmp_path / "a.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "format_version": 1, "kind": "report", "output": str(tmp_path / "a.html"), "written": [str(tmp_path / "a.html")]
    }  # fmt: skip
    assert command(["report", str(adapted), "-o", str(tmp_path / "a.html")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert command(["report", str(adapted)]) == 2
    assert "--output" in capsys.readouterr().err
    assert command(["report", str(adapted / "bundle.json"), "--tensorboard", str(tmp_path / "t")]) == 2
    assert "is no folder of one" in capsys.readouterr().err


def test_a_folder_without_telemetry_or_without_a_step_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no telemetry\.jsonl: give a scores file, or the folder that edgeplast"):
        adaptation_report(bundle.path, tmp_path / "a.html")
    (tmp_path / TELEMETRY).write_bytes(b"")
    with pytest.raises(InputError, match="tells of no step yet"):
        adaptation_report(tmp_path, tmp_path / "a.html")


def test_tensorboard_gets_the_same_scalars(adapted: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = write_tensorboard(adapted, tmp_path / "logs")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    steps = [line for line in read_run(adapted)[0] if isinstance(line, StepLine)]
    losses = events.Scalars("loss/training")
    assert [event.step for event in losses] == [step.step for step in steps]
    assert [event.value for event in losses] == pytest.approx([step.loss for step in steps])
    assert "accuracy/validation" in events.Tags()["scalars"] and written >= 6 * len(steps)


def test_without_tensorboard_the_command_to_type_is_named(
    adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeplast\[tensorboard\]'"):
        write_tensorboard(adapted, tmp_path / "logs")
