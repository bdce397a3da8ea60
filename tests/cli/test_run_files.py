"""Run files hold a command's options, a report the one that repeats its run; --quiet says nothing but errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from edgeplast.bundle import Bundle
from edgeplast.cli.app import VERBS, app, run
from edgeplast.cli.everywhere import read_config
from edgeplast.run_files import run_file

QUICK = ("--epochs", "1", "--learning-rate", "3e-3", "--seed", "5", "--threads", "1", "--memory", "none")


def edgeplast(*words: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "edgeplast", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=cwd, check=False)
    assert done.returncode == code, done.stderr
    return done


def command(verb: str) -> Any:
    found: Any = typer.main.get_command(app)
    for word in verb.split():
        found = found.get_command(None, word)
    return found


class TestRunFiles:
    def test_the_one_in_a_report_repeats_the_run(self, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        words = ("adapt", bundle.path, "--data", blobs, "-o", "out", *QUICK, "--label-smoothing", "0.1", "--private")
        first = json.loads(edgeplast(*words, "--json", cwd=tmp_path).stdout)
        assert str(blobs) not in first["run_file"]
        words = (
            "adapt",
            bundle.path,
            "--data",
            blobs,
            "-o",
            "out",
            *QUICK,
            "--label-smoothing",
            "0.1",
            "--force",
            "--exclude",
            "*3.png",
        )
        first = json.loads(edgeplast(*words, "--json", cwd=tmp_path).stdout)
        (tmp_path / "run.toml").write_text(first["run_file"])
        shutil.rmtree(tmp_path / "out")
        again = json.loads(edgeplast("adapt", "--config", "run.toml", "--json", cwd=tmp_path).stdout)
        assert again["losses"] == first["losses"] and again["options"] == first["options"]
        assert first["options"]["rung"] and f'rung = "{first["options"]["rung"]}"' in first["run_file"]
        assert again["run_file"] == first["run_file"] and (tmp_path / "out" / "bundle.json").is_file()

    def test_has_a_key_for_every_option_of_training(self, tmp_path: Path) -> None:
        from edgeplast.budget import Budget
        from edgeplast.run_files import of_adaptation
        from edgeplast_devices.options import TrainingOptions

        options = TrainingOptions(
            batch=4, micro_batch=2, optimizer="sgd", learning_rate=1e-3, head_learning_rate=1e-2, head="kept",
            weight_decay=0.1, threads=1, add_classes=("lynx", "wolf"), exclude=("a", "b"),
            rung="full:2:none",
        )  # fmt: skip
        budget = Budget(memory_bytes=256 << 20)
        (tmp_path / "run.toml").write_text(of_adaptation("b", "d", "o", ["x", "y"], budget, options, trusted="k"))
        read = read_config(tmp_path / "run.toml", "adapt", command("adapt"))
        given = {name: value for name in options.__struct_fields__ if (value := getattr(options, name)) is not None}
        given |= {"add_class": list(given.pop("add_classes")), "exclude": list(options.exclude)}
        assert {name: read[name] for name in given} == given
        assert read["also"] == ["x", "y"] and read["memory"] == "256MiB" and read["trusted"] == "k"

    def test_what_is_typed_goes_first(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "run.toml").write_text(f'bundle = "{bundle.path}"\noutput = "{tmp_path}/a.onnx"\n')
        assert run(["deploy", "--config", str(tmp_path / "run.toml"), "-o", str(tmp_path / "b.onnx"), "-q"]) == 0
        assert (tmp_path / "b.onnx").exists() and not (tmp_path / "a.onnx").exists()

    def test_a_table_for_each_command(self, bundle: Bundle, tmp_path: Path) -> None:
        text = f'bundle = "{bundle.path}"\n[deploy]\noutput = "{tmp_path}/a.onnx"\ntemperature = false\n'
        text += "[adapt]\nepochs = 1\n"
        (tmp_path / "run.toml").write_text(text)
        assert run(["deploy", "--config", str(tmp_path / "run.toml"), "-q"]) == 0
        assert (tmp_path / "a.onnx").exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("epoch = 3", r"'epoch' is no option of edgeplast adapt. Did you mean 'epochs'?"),
            ("[adpt]\nepochs = 3", r"[adpt] is no command. Tables are named as commands: [adapt]"),
            ("force = 1", "force = 1 is not possible; it takes true or false"),
            ("epochs = true", "epochs = True is not possible; it takes one text or number"),
            ("epochs = [1, 2]", "epochs = [1, 2] is not possible; it takes one text or number"),
            ("lr = 1e-3\nlearning_rate = 1e-3", "given twice, by two of its names"),
            ("epochs = 'many'", "'many' is not a valid int"),
            ("epochs 3", "It is TOML, a line an option: epochs = 4"),
            ("config = 'x.toml'", "'config' is no option"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture, text: str, message: str) -> None:
        (tmp_path / "run.toml").write_text(text)
        words = ["adapt", "b", "--data", "d", "-o", str(tmp_path / "out"), "--config", str(tmp_path / "run.toml")]
        assert run(words) == 2
        assert message in capsys.readouterr().err

    def test_one_that_is_not_there(self, capsys: pytest.CaptureFixture) -> None:
        assert run(["adapt", "--config", "nowhere.toml"]) == 2
        assert "Cannot read the run file nowhere.toml: No such file" in capsys.readouterr().err

    @pytest.mark.parametrize("verb", ["fleet init", *(verb for verb in VERBS if verb != "fleet")])
    def test_take_every_option_of_every_command(self, verb: str, tmp_path: Path) -> None:
        made = command(verb)
        named = [p for p in made.params if p.name not in ("config", "quiet", "help")]
        for parameter in named:
            key = max(parameter.opts, key=len).lstrip("-") if parameter.param_type_name == "option" else parameter.name
            value: Any = True if getattr(parameter, "is_flag", False) else "1"
            several = getattr(parameter, "multiple", False) or parameter.nargs != 1
            (tmp_path / "run.toml").write_text(run_file(verb, {key: [value] if several else value}))
            assert read_config(tmp_path / "run.toml", verb, made) == {parameter.name: [value] if several else value}

    def test_count_as_given_when_a_run_is_resumed(self, tmp_path: Path) -> None:
        context = command("adapt").make_context(
            "adapt", ["--config", str(_written(tmp_path, "bundle='b'\ndata='d'\noutput='o'\nthreads=2\n"))]
        )
        from edgeplast.cli.options import given_options

        assert given_options(context, ("threads", "epochs")) == {"threads"}

    @given(
        st.text(st.characters(exclude_categories=("Cs",))), st.lists(st.text(st.characters(exclude_categories=("Cs",))))
    )
    def test_carry_any_text(self, text: str, texts: list[str]) -> None:
        tomllib = pytest.importorskip("tomllib")
        written = tomllib.loads(run_file("adapt", {"data": text, "also": texts}))["adapt"]
        assert written["data"] == text and written.get("also", []) == texts


def _written(folder: Path, text: str) -> Path:
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


class TestQuiet:
    def test_a_command_that_writes_says_nothing(self, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        done = edgeplast("adapt", bundle.path, "--data", blobs, "-o", tmp_path / "out", *QUICK, "--quiet")
        assert done.stdout == "" and done.stderr == ""

    def test_a_result_is_printed_and_nothing_else(self, bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
        done = edgeplast("evaluate", bundle.path, "--data", blobs, "-q")
        assert "accuracy" in done.stdout and done.stderr == ""

    def test_json_is_printed(self, bundle: Bundle, tmp_path: Path) -> None:
        done = edgeplast("deploy", bundle.path, "-o", tmp_path / "m.onnx", "-q", "--json")
        assert json.loads(done.stdout)["bytes"] and done.stderr == ""

    def test_errors_are_said(self, tmp_path: Path) -> None:
        assert "error: There is no" in edgeplast("deploy", tmp_path / "no", "-o", tmp_path / "m", "-q", code=3).stderr

    def test_the_next_command_speaks(self, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        assert run(["deploy", str(bundle.path), "-o", str(tmp_path / "a.onnx"), "-q"]) == 0
        assert run(["deploy", str(bundle.path), "-o", str(tmp_path / "b.onnx")]) == 0
        printed = capsys.readouterr().out
        assert "b.onnx" in printed and "a.onnx" not in printed


class TestEnvelope:
    """Whatever is asked for as JSON is one object that says what it is; paths are those that were typed."""

    def said(self, capsys: pytest.CaptureFixture, *words: str | Path, code: int = 0) -> dict[str, Any]:
        assert run([*map(str, words), "--json"]) == code
        found = json.loads(capsys.readouterr().out)
        assert list(found)[:2] == ["format_version", "kind"] and isinstance(found["format_version"], int)
        return found

    def test_of_the_device(
        self,
        bundle: Bundle,
        blobs: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "b").symlink_to(bundle.path)
        assert self.said(capsys, "evaluate", "b", "--data", blobs)["kind"] == "evaluation"
        assert self.said(capsys, "inspect", "b")["kind"] == "bundle"
        deployed = self.said(capsys, "deploy", "b", "-o", "./m.onnx")
        assert deployed["kind"] == "deployment" and deployed["output"] == "m.onnx"
        assert self.said(capsys, "predict", "m.onnx", blobs / "test")["kind"] == "predictions"
        assert self.said(capsys, "devices")["kind"] == "devices"
        assert self.said(capsys, "devices", "jetson-nano")["kind"] == "device"
        assert self.said(capsys, "devices", "--detect")["kind"] == "machine"
        assert self.said(capsys, "deploy", "nothing", "-o", "n.onnx", code=3)["kind"] == "error"
        assert self.said(capsys, "deploy", "--wrong", code=2)["kind"] == "error"

    def test_of_the_workstation(self, capsys: pytest.CaptureFixture) -> None:
        methods = self.said(capsys, "score", "--list-methods")
        assert methods["kind"] == "score methods" and "plasticity" in methods["methods"]

    def test_one_device_means_a_board_in_every_command(self) -> None:
        for verb in filter(lambda verb: verb != "fleet", VERBS):
            for parameter in command(verb).params:
                if "--device" in parameter.opts:
                    assert "edgeplast devices" in parameter.help, verb
