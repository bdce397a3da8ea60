"""Every command that a page shows exists with its options, and those of the pages about the way itself are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import KWARGS, MODEL, PAGES, ROOT, SIDE, Command, commands, prose

from edgeplast.cli.app import app, run
from edgeplast.errors import EdgeplastError

SHOWN = [command for page in PAGES for command in commands(page)]
PATIENT = ("smaller.md", "compare.md", "my-model.md", "jetson.md", "raspberry-pi.md", "clinic-laptop.md", "README.md")
RUN = [
    pytest.param(page, marks=[pytest.mark.slow] if page.name in PATIENT else [], id=str(page.relative_to(ROOT)))
    for page in PAGES
    if page.name != "numbers.md" and any(command.alone for command in commands(page))
]
"""Pages whose commands are run: all but the one whose numbers take real weights."""

INLINE = re.compile(r"`edgeplast ([a-z]+)([^`]*)`")
WITH_A_MODEL = ("score", "compare", "export", "prune")
QUICK = {
    "--distill-steps": "2", "--pairs": "4", "--epochs": "1", "--calibration-images": "8", "--minutes": "1.5",
    "--merge-tokens": "1", "--train": {"attn:8-11,norm,head": "attn:2,norm,head"},
}  # fmt: skip
"""Options that ask for much, and what is run instead; of one whose words matter, in place of which."""


def _verb(name: str) -> Any:
    return typer.main.get_command(app).get_command(None, name)  # type: ignore[attr-defined]


def test_pages_show_commands() -> None:
    assert len(SHOWN) > 60 and len(RUN) > 12


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_a_shown_command_can_be_typed(command: Command) -> None:
    verb, *words = command.words
    if verb == "--version":
        return
    if "…" in words or any(word.startswith("[") for word in words):
        pytest.fail(f"{command}: a block holds commands that can be typed; what is left open belongs into a sentence")
    try:
        command = _verb(verb)
        if inner := getattr(command, "commands", {}):
            verb, *words = words
            command = inner[verb]
        command.make_context(verb, list(words))
    except (EdgeplastError, Exception) as error:  # click's errors have no base that typer shows
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        pytest.fail(f"{command}: {message}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_in_a_sentence_has_the_options_it_names(page: Path) -> None:
    for verb, rest in INLINE.findall(prose(page)):
        command = _verb(verb)
        if inner := getattr(command, "commands", {}):
            name = (rest.split() or [""])[0]
            assert not name or name in inner, f"{page.name}: edgeplast {verb}{rest}"
            command = inner.get(name, command)
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {
            "--help"
        }
        named = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest))
        assert named <= known, f"{page.name}: edgeplast {verb}{rest}"


BENCHMARK = re.compile(r"(examples/[\w/]+\.py)((?:\\\\\n|[^`\n)#|])*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_shown_benchmark_is_there_and_has_the_options_it_is_given(page: Path) -> None:
    for script, rest in BENCHMARK.findall(page.read_text()):
        assert (ROOT / script).is_file(), f"{page.name}: {script}"
        beside = "".join(each.read_text() for each in (ROOT / script).parent.glob("*.py"))
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest):
            assert f'"{option}"' in beside, f"{page.name}: {script} {option}"


def _small(words: tuple[str, ...]) -> list[str]:
    """The same command on the small model, quickly."""
    verb, *rest = words
    of_a_bundle = bool(rest) and Path(rest[0]).is_dir()
    if verb in WITH_A_MODEL and rest and not rest[0].startswith("-") and not of_a_bundle:
        rest[0] = MODEL
        rest += ["--image-size", SIDE, "--model-kwargs", KWARGS]
    for option, value in QUICK.items():
        if option in rest and rest[rest.index(option) + 1] != "0":
            given = rest[rest.index(option) + 1]
            rest[rest.index(option) + 1] = value.get(given, given) if isinstance(value, dict) else value
    if verb in WITH_A_MODEL and rest[0] != "--list-methods" and "--plan" not in rest and not of_a_bundle:
        rest += [] if "--pairs" in rest else ["--pairs", "4"]
    if "--classes" in rest:
        rest[rest.index("--classes") + 1] = "blue,green,red"  # those of the pictures that adapt is given
    if verb == "deploy":
        rest = [word for word in rest if word != "--force"]
    return [verb, *rest]


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run_in_its_order(
    page: Path, desk: Path, clear: Callable[[str], None], capsys: pytest.CaptureFixture
) -> None:
    if page.name == "signed-bundles.md":
        pytest.importorskip("nacl", reason="signatures need edgeplast[signing]")
    for command in filter(lambda shown: shown.alone, commands(page)):
        words = _small(command.words)
        for option in ("-o", "--output"):
            if option in words:
                clear(words[words.index(option) + 1])
        if words[0] == "adapt" or words[:2] == ["score", "adapted/"]:  # its budget is one for a process of its own
            code, said = _in_a_process(words)
        else:
            code = run(words)
            said = "".join(capsys.readouterr())
        assert code == 0 and "Traceback" not in said, f"{command}\n{said}"


def _in_a_process(words: list[str]) -> tuple[int, str]:
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-m", "edgeplast", *words], capture_output=True, text=True, env=settings)
    return done.returncode, done.stdout + done.stderr
