"""``adapt``, ``evaluate``, ``deploy``, ``predict`` and ``inspect`` as typed: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import truncated_png
from typed_commands import Typed, on_a_terminal

import edgeplast
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.cli.console import print_table
from edgeplast_devices import training
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import OutOfMemoryError

QUICK = ["--epochs", "2", "--lr", "3e-3", "--threads", "1", "--augment", "none"]


@pytest.fixture(scope="module")
def adapted(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("cli") / "adapted"
    edgeplast.adapt(bundle, blobs, into=into, options=TrainingOptions(epochs=2, learning_rate=3e-3))
    return into


@pytest.fixture
def typed(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return on_a_terminal(100, capsys, monkeypatch)


def test_the_path_is_explained_in_about_ten_lines(typed) -> None:
    code, out, _ = typed()
    assert code == 0 and 8 <= len(out.splitlines()) <= 14 and max(map(len, out.splitlines())) <= 80
    verbs = [line.split()[1] for line in out.splitlines() if line.startswith("    edgeplast")]
    assert verbs == ["export", "adapt", "evaluate", "deploy", "predict"]


def test_version_and_help(typed) -> None:
    shown = typed("--version")[1]
    assert (
        shown.startswith("edgeplast 0.") and f"Python {platform.python_version()}" in shown and "onnxruntime" in shown
    )
    for verb in ("adapt", "evaluate", "deploy", "predict", "inspect"):
        code, out, _ = typed(verb, "--help")
        assert code == 0 and "--json" in out


def test_every_verb_has_its_line_in_the_help_uncut(typed) -> None:
    code, out, _ = typed("--help")
    assert (
        code == 0 and "..." not in out.partition("Commands:")[2] and "fine-tune a bundle on this device's images" in out
    )


def test_help_explains_arguments(typed) -> None:
    for verb, said in (
        ("adapt", "Bundle"),
        ("inspect", "Folder of a bundle"),
        ("predict", "ONNX file from"),
        ("predict", "Pictures, folders of pictures, or tars"),
        ("export", "timm's name of any model"),
    ):
        shown = " ".join(typed(verb, "--help")[1].split())
        arguments = shown.partition("Arguments:")[2].partition("Options:")[0]
        assert said in arguments and shown.count(said) == 1, (verb, shown)


def test_shells_complete_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"_EDGEPLAST_COMPLETE": "complete_bash", "COMP_WORDS": "edgeplast ada", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "edgeplast"]
    shown = subprocess.run(command, env=os.environ | words, capture_output=True, text=True)
    assert shown.stdout.split() == ["adapt"], shown.stderr


class TestStableNames:
    """Others read these; see the issue that fixed them."""

    def test_report(self, typed, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        code, out, err = typed("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "a", *QUICK, "--json")
        report = json.loads(out)
        of_what, how_long, doubt = err.splitlines()
        assert of_what.startswith("3 classes: blue (") and how_long.startswith("Tier full, ")
        assert doubt.startswith("When the model does not know was fitted on 6 pictures alone: ")
        envelope = {"kind": "adaptation", "output": str(tmp_path / "a")}
        assert code == 0 and report == json.loads((tmp_path / "a/report.json").read_text()) | envelope
        for name, parts in {
            "memory": {"budget_bytes", "predicted_peak_bytes", "measured_peak_bytes", "enforced_by"},
            "seconds": {"total", "load", "train", "step_median"},
            "accuracy": {"before", "after"},
            "expected_calibration_error": {"before", "after"},
        }.items():
            assert report[name].keys() == parts
        assert report.keys() >= {"runtime", "tier", "batch_size", "micro_batch_size", "epochs", "steps"}
        assert len(report["losses"]) == len(report["gradient_norms"]) == report["steps"]
        assert report["stopped_because"] == "finished" and report["format_version"] == 1
        assert report["memory"]["budget_bytes"] is None and report["memory"]["measured_peak_bytes"] > 1 << 20

    def test_evaluation(self, typed, adapted: Path, blobs: Path) -> None:
        code, out, _ = typed("evaluate", adapted, "--data", blobs, "--json")
        result = json.loads(out)
        assert code == 0 and result["images"] == 36
        assert result.keys() == {
            "format_version", "kind", "accuracy", "loss", "expected_calibration_error", "images", "per_class",
            "unreadable", "runtime", "provider", "temperature", "without_temperature", "accuracy_interval", "confusion",
            "reliability", "most_wrong",
        }  # fmt: skip
        assert result["per_class"]["red"].keys() == {"images", "accuracy", "precision"}

    def test_inspection(self, typed, int8_bundle: Bundle) -> None:
        code, out, _ = typed("inspect", int8_bundle.path, "--json")
        result = json.loads(out)
        assert code == 0 and result.keys() >= {"model", "components", "tiers", "files", "bytes"}
        for component in result["components"].values():
            assert component.keys() == {
                "trainable",
                "weight_bits",
                "kept_fraction",
                "parameters",
                "score",
                "standard_error",
            }
        assert result["components"]["blocks.0.fc1"]["weight_bits"] == 8
        assert result["components"]["blocks.2.fc1"]["trainable"] is True
        assert result["bytes"] == sum(f["bytes"] for f in result["files"].values()) + (
            (int8_bundle.path / "bundle.json").stat().st_size
        )


def test_adapt_tells_each_epoch_and_ends_with_a_summary(
    typed,
    bundle: Bundle,
    blobs: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(blobs, data)
    (data / "train/red/000.png").write_bytes(truncated_png())
    code, out, err = typed("adapt", bundle.path, "--data", data, "-o", tmp_path / "a", *QUICK, "--memory", "4GiB")
    assert code == 0
    lines = err.splitlines()
    told = [line.partition(":")[0] for line in lines if not line.startswith("Tier full, micro-batch 4, ")]
    doubt = "When the model does not know was fitted on 6 pictures alone"
    assert told == ["3 classes", "epoch 1 of 2", "epoch 2 of 2", doubt, "left out"] and len(lines) == 6
    assert "10 steps, about" in lines[1], lines[1]
    assert "training loss" in lines[2] and "validation loss" in lines[2] and "train/red/000.png" in lines[5]
    for words in ("accuracy (test)", "33.3% → ", "allowed 4 GiB", "steps of", "tier full", "best epoch", "next: edge"):
        assert words in out
    assert max(len(line.rstrip()) for line in out.splitlines() if "Written" not in line) <= 100


def test_evaluate_shows_every_class_and_names_what_was_left_out(
    typed,
    adapted: Path,
    blobs: Path,
    tmp_path: Path,
) -> None:
    shutil.copytree(blobs / "test", tmp_path / "data")
    (tmp_path / "data/red/003.png").write_bytes(b"")
    code, out, err = typed("evaluate", adapted, "--data", tmp_path / "data")
    assert code == 0 and "red/003.png: the file is empty" in err
    assert [line.split()[:2] for line in out.splitlines()[1:5]] == [
        ["blue", "12"],
        ["green", "12"],
        ["red", "11"],
        ["all", "35"],
    ]


@pytest.mark.parametrize(("splits", "expected"), [("train val test", 2), ("train val", 1), ("train", 16)])
def test_evaluate_prefers_test_then_val_then_train(
    typed,
    adapted: Path,
    blobs: Path,
    tmp_path: Path,
    splits: str,
    expected: int,
) -> None:
    for split, count in {"train": 16, "val": 1, "test": 2}.items():
        if split in splits.split():
            (tmp_path / split / "red").mkdir(parents=True)
            for i in range(count):
                shutil.copy(blobs / f"train/red/{i:03d}.png", tmp_path / split / "red")
    assert json.loads(typed("evaluate", adapted, "--data", tmp_path, "--json")[1])["images"] == expected


def test_deploy_and_predict(typed, adapted: Path, blobs: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    code, out, _ = typed("deploy", adapted, "-o", model)
    assert code == 0 and "next: edgeplast predict" in out
    (tmp_path / "bad.png").write_bytes(b"text")
    photo = blobs / "test/red/000.png"
    code, out, err = typed("predict", model, photo, tmp_path / "bad.png", "--top", "2")
    assert code == 0 and "bad.png: it is not a JPEG" in err and out.count("%") == 2
    code, out, _ = typed("predict", model, photo, "--json")
    (entry,) = json.loads(out)["predictions"]
    assert entry["image"] == "000.png" and sum(entry["probabilities"].values()) == pytest.approx(1)
    code, out, _ = typed("predict", model, blobs / "test", "--json")
    assert len(json.loads(out)["predictions"]) == len(out.splitlines()) - 2 == 36  # a line each, as soon as it is known
    code, out, err = typed("predict", model, tmp_path / "bad.png", "--json")
    assert code == 3 and json.loads(out)["exit_code"] == 3 and "The picture could not be read" in err


def test_evaluate_says_what_the_images_were_taken_for(typed, adapted: Path, blobs: Path) -> None:
    _, _, err = typed("evaluate", adapted, "--data", blobs, "--split", "testing")
    assert err.splitlines()[0] == "3 classes: blue (12), green (12), red (12); 36 pictures"


def test_names_of_unreadable_pictures_stay_private_where_that_is_asked_for(
    typed, bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    shutil.copytree(blobs, tmp_path / "data")
    for number in range(2):
        (tmp_path / f"data/train/red/secret-{number}.jpg").write_bytes(truncated_png())
    given = ("adapt", bundle.path, "--data", tmp_path / "data", *QUICK, "--checkpoint-every", "1steps")
    code, _, err = typed(*given, "-o", tmp_path / "a", "--private")
    report = (tmp_path / "a/report.json").read_text()
    assert code == 0 and "left out: 2 pictures" in err and json.loads(report)["unreadable"] == 2
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "a").rglob("*") if file.is_file())
    code, _, err = typed(*given, "-o", tmp_path / "b")
    assert "secret-0.jpg: it is damaged" in err and "secret-0" in (tmp_path / "b/report.json").read_text()


def test_inspect_shows_what_trains_and_what_each_tier_needs(typed, int8_bundle: Bundle) -> None:
    code, out, _ = typed("inspect", int8_bundle.path)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert code == 0 and len(rows["blocks.0"]) == 5 and "8" in rows["blocks.0"]
    assert rows["blocks.2"] == ["T"] * 5 and "full" in rows and "head" in rows


class TestExitCodes:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["adapt"], "See: edgeplast adapt --help"),
            (["adpat"], "Did you mean 'adapt'"),
            (["adapt", "BUNDLE", "--data", "DATA", "-o", "NEW", "--memory", "lots"], "256MiB"),
            (["adapt", "BUNDLE", "--data", "DATA", "-o", "NEW", "--memory", ""], "256MiB"),
            (
                ["adapt", "BUNDLE", "--data", "DATA", "-o", "NEW", "--epochs", "0"],
                "--epochs 0 learns nothing but a fitted head",
            ),
            (["adapt", "BUNDLE", "--data", "DATA", "-o", "NEW", "--optimizer", "adam"], "Did you mean 'adamw'"),
            (["adapt", "BUNDLE", "--data", "DATA", "-o", "DATA"], "exists already"),
            (["adapt", "BUNDLE", "--data", "DATA", "-o", "DATA", "--force"], "--force does not delete"),
            (["evaluate", "BUNDLE", "--data", "DATA", "--split", "tset"], "Did you mean 'test'"),
            (["evaluate", "BUNDLE", "--data", "DATA", "--micro-batch", "0"], "micro-batch"),
            (["deploy", "BUNDLE", "-o", "DATA"], "exists already"),
        ],
    )
    def test_2_usage(
        self,
        typed,
        bundle: Bundle,
        blobs: Path,
        tmp_path: Path,
        words: list[str],
        message: str,
    ) -> None:
        places = {"BUNDLE": str(bundle.path), "DATA": str(blobs), "NEW": str(tmp_path / "new")}
        code, out, err = typed(*(places.get(word, word) for word in words))
        assert (code, out) == (2, "") and err.startswith("error: ") and message in err
        assert not (tmp_path / "new").exists() and (blobs / "train").is_dir()

    def test_3_bad_input(self, typed, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for words, message in (
            (["adapt", tmp_path / "none", "--data", blobs, "-o", tmp_path / "new"], "There is no"),
            (["predict", blobs, blobs], "is no bundle: it has no bundle.json"),
            (["adapt", bundle.path, "--data", tmp_path / "none", "-o", tmp_path / "new"], "does not exist"),
            (["adapt", bundle.path, "--data", tmp_path / "empty", "-o", tmp_path / "new"], "holds no pictures"),
            (["adapt", bundle.path, "--data", blobs / "train/red", "-o", tmp_path / "new"], "in no class folder"),
            (["predict", tmp_path / "none.onnx", blobs], "There is no model"),
        ):
            code, _, err = typed(*words)
            assert code == 3 and message in err

    def test_3_a_newer_format(self, typed, bundle: Bundle, tmp_path: Path) -> None:
        shutil.copytree(bundle.path, tmp_path / "b")
        manifest = json.loads((tmp_path / "b/bundle.json").read_text())
        (tmp_path / "b/bundle.json").write_text(json.dumps(manifest | {"format_version": 99}))
        code, _, err = typed("inspect", tmp_path / "b")
        assert code == 3 and "format 99" in err and "pip install --upgrade edgeplast" in err

    def test_4_the_budget(self, typed, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        code, out, err = typed(
            "adapt", bundle.path, "--data", blobs, "-o", tmp_path / "new", "--memory", "1MiB", "--json"
        )
        assert code == 4 and "Allow --memory" in err
        said = {"error": err.splitlines()[-1].removeprefix("error: "), "exit_code": 4}
        assert json.loads(out) == {"format_version": 1, "kind": "error"} | said

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (OutOfMemoryError("buffer of size 9"), "buffer of size 9"),
            (MemoryError("buffer of size 9"), "buffer of size 9"),
            (MemoryError(), "Memory ran out: an allocation failed"),
        ],
    )
    def test_4_memory_that_runs_out(
        self,
        typed,
        bundle: Bundle,
        blobs: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        said: str,
    ) -> None:
        from edgeplast_devices.runtime import EvaluationSession

        def full(*_: object) -> None:
            raise error

        monkeypatch.setattr(EvaluationSession, "logits", full)
        code, _, err = typed("evaluate", bundle.path, "--data", blobs, "--micro-batch", "1")
        assert code == 4 and said in err

    def test_4_memory_that_python_alone_lacks(self, typed, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Bundle, "open", full)
        code, _, err = typed("inspect", bundle.path)
        assert code == 4 and "Memory ran out (no more could be had). Allow more" in err

    def test_5_damage(self, typed, bundle: Bundle, tmp_path: Path) -> None:
        shutil.copytree(bundle.path, tmp_path / "b")
        data = bytearray((tmp_path / "b" / TRAINABLE).read_bytes())
        data[-5] ^= 1
        (tmp_path / "b" / TRAINABLE).write_bytes(data)
        code, _, err = typed("inspect", tmp_path / "b")
        assert code == 5 and f"{TRAINABLE} was changed" in err

    def test_130_interruption(
        self,
        typed,
        bundle: Bundle,
        blobs: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(training.Trainer, "step", interrupted)
        code, _, err = typed("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "new")
        assert code == 130 and "nothing was left half-written" in err and not list(tmp_path.iterdir())

    def test_3_a_mistake_of_ours_is_a_message_too(
        self,
        typed,
        bundle: Bundle,
        blobs: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("edgeplast.evaluating.evaluate", broken)
        code, _, err = typed("evaluate", bundle.path, "--data", blobs)
        assert code == 3 and "Unexpected ZeroDivisionError: oops. Set EDGEPLAST_DEBUG=1" in err


def test_cells_are_shown_as_they_are(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    print_table("a title longer than its table", ("class", "images"), [("[red]", "3"), (":dog:", "12")])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "a title longer than its table",
        "class  images",
        "[red]       3",
        ":dog:      12",
    ]


def test_a_closed_pipe_is_no_error(bundle: Bundle) -> None:
    import subprocess
    import sys

    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edgeplast", "inspect", str(bundle.path), "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
