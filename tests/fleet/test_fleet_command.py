"""``edgeplast fleet``: an app that Flower can read, and the rounds as tables; without Flower installed."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle
from edgeplast.cli.app import run as command
from edgeplast.errors import MissingExtraError
from edgeplast.fleet.report import DeviceReport, FleetReport, RoundReport
from edgeplast.fleet.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def run(*words: object) -> int:
    return command(["fleet", *map(str, words)])


def test_init_writes_an_app_whose_settings_are_those_given(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = tmp_path / "fleet"
    words = ("init", bundle.path, "-o", app, "--data", tmp_path / 'pictures "of" ü', "--devices", 5, "--travel", "int8")
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "export FLWR_TELEMETRY_ENABLED=0" in said and f"flwr run {app} local-simulation" in said
    project = tomllib.loads((app / "pyproject.toml").read_text())
    flower = project["tool"]["flwr"]
    settings = Settings.of(flower["app"]["config"])
    assert (settings.travel, settings.least_devices) == ("int8", 5)
    assert settings.data == str(tmp_path / 'pictures "of" ü') and settings.bundle == str(bundle.path)
    assert settings.output == str(tmp_path / "fleet-rounds")
    assert project["project"]["dependencies"] == []  # Flower would download them
    assert flower["federations"]["local-simulation"]["options"]["num-supernodes"] == 5
    for name, place in flower["app"]["components"].items():
        module, _, attribute = place.partition(":")
        source = (app / f"{module.replace('.', '/')}.py").read_text()
        assert attribute in {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}, name


def test_an_app_that_is_there_is_replaced_only_when_asked(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = tmp_path / "fleet"
    assert run("init", bundle.path, "-o", app) == 0
    assert run("init", bundle.path, "-o", app) == 2
    assert "exists already. Choose another name, or add --force" in capsys.readouterr().err
    assert run("init", bundle.path, "-o", app, "--force", "--rounds", 3, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pyproject.toml").touch()
    assert run("init", bundle.path, "-o", tmp_path / "mine", "--force") == 2
    assert (tmp_path / "mine" / "pyproject.toml").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--rounds", 0), 2, "rounds = 0 is out of range"),
        (("--strategy", "fedsgd"), 2, "Unknown strategy 'fedsgd'"),
        (("--devices", 0), 2, "--devices 0 is out of range; give 1 to 1000000"),
        (("--secure", "--travel", "int8"), 2, "can neither unpack nor clip"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(
    words: tuple[object, ...], code: int, said: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", bundle.path, "-o", tmp_path / "fleet", *words) == code
    assert said in capsys.readouterr().err and not (tmp_path / "fleet").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inti",), "Unknown command of fleet 'inti'. Did you mean 'init'? Known: init, report."),
        ((), "Missing command. See: edgeplast fleet --help"),
        (("init",), "Missing argument 'BUNDLE'. See: edgeplast fleet init --help"),
    ],
)
def test_a_typing_mistake_is_told(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_help_lists_arguments_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "--help") == 0
    assert capsys.readouterr().out.count("Bundle folder that every device has") == 1


def test_no_bundle_no_app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", tmp_path / "none", "-o", tmp_path / "fleet") == 3
    assert "There is no" in capsys.readouterr().err


@pytest.fixture
def rounds(tmp_path: Path) -> Path:
    devices = (
        DeviceReport(device="kitchen", taken=True, examples=30, accuracy=0.5, measured_on=6, sent_bytes=2_000_000),
        DeviceReport(device="porch\x1b[31m", reason="it did not answer in time, or is gone"),
    )
    done = RoundReport(
        round=1, seconds=12.0, accuracy=0.5, received_bytes=4_000_000, sent_bytes=2_000_000, devices=devices
    )
    FleetReport(bundle="0", settings={}, rounds=(done,)).write(tmp_path / "fleet.json")
    return tmp_path


def test_report_shows_rounds_and_who_was_left_out(rounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", rounds) == 0
    said = capsys.readouterr().out
    assert "50.0%" in said and "1 of 2" in said and "porch" in said and "\x1b[31m" not in said
    assert run("report", rounds, "--round", 1) == 0
    said = capsys.readouterr().out
    assert "it did not" in said and "answer in time" in said
    assert run("report", rounds, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rounds"][0]["sent_bytes"] == 2_000_000
    assert run("report", rounds, "--round", 7) == 2
    assert "--round 7 is not there" in capsys.readouterr().err


def test_without_flower_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeplast.fleet.client import client_app
    from edgeplast.fleet.server import server_app

    monkeypatch.setitem(sys.modules, "flwr.app", None)
    monkeypatch.setitem(sys.modules, "flwr", None)
    for make in (client_app, server_app):
        with pytest.raises(MissingExtraError, match=r"needs Flower.*pip install 'edgeplast\[fleet,stock\]'"):
            make()
