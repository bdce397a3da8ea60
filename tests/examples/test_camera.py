"""The camera example as someone uses it: frames are predicted, the page takes examples and learns, Ctrl-C closes it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_models import CLASSES

from edgeplast.bundle import Bundle

CAMERA = Path(__file__).resolve().parents[2] / "examples" / "camera" / "camera.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


class Page:
    """What a browser does, by requests."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Open http://"):
                self.address = line.split()[1]
                return
        raise AssertionError(process.stderr.read() if process.stderr else "")

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
        base, _, query = self.address.partition("/?")
        url = f"{base.rstrip('/')}{path}{'?' if query else ''}{query}"
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers.setdefault("X-Edgeplast", "page")
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def wait(self, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for _ in range(600):
            state = self.ask("/state")[1]
            if until(state):
                return state
            time.sleep(0.05)
        raise AssertionError(state)


@pytest.fixture
def camera(bundle: Bundle, blobs: Path, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Start the program on a stream of all test pictures."""
    started: list[subprocess.Popen[str]] = []

    def start(*more: object) -> Page:
        words = [bundle.path, "--into", tmp_path / "adapted", "--frames", blobs / "test", "--port", 0, "--fps", 20]
        command = [sys.executable, str(CAMERA), *map(str, [*words, "--seconds", 0.5, *more])]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return Page(started[-1])

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_someone_shows_it_what_it_sees_and_it_learns(camera: Callable[..., Page], tmp_path: Path) -> None:
    page = camera("--memory", "none")
    with urllib.request.urlopen(page.address, timeout=60) as answer:
        assert "<title>edgeplast camera</title>" in answer.read().decode()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    state = page.wait(lambda state: state["number"] > 0)
    assert state["classes"] == list(CLASSES) and len(state["probabilities"]) == 3
    Image.open(io.BytesIO(base64.b64decode(state["picture"]))).load()

    assert page.ask("/learn", {})[0] == 200  # nothing was given yet
    assert "nothing to learn from yet" in page.wait(lambda state: "nothing" in state["said"])["said"]
    for label in CLASSES:
        number = page.ask("/state")[1]["number"]
        assert page.ask("/hold", {"number": number})[0] == 200
        code, found = page.ask("/add", {"number": number, "class": label})
        assert code == 200 and found["examples"][label] == 1
    code, found = page.ask("/add", {"number": number, "class": "purple"})
    assert code == 400 and "'purple' is no class" in found["error"]
    assert "is gone" in page.ask("/add", {"number": 0, "class": "red"})[1]["error"]
    assert page.ask("/add", {"number": "many"})[1]["error"] == "That was not understood."
    before = page.ask("/state")[1]["number"]
    assert page.ask("/learn", {}) == (200, {"learning": True})
    state = page.wait(lambda state: state["said"].startswith("Learned"))
    assert "from 3 pictures" in state["said"] and state["number"] > before  # it went on to predict
    assert 0 < state["memory"]["now"] <= state["memory"]["peak"] and state["memory"]["budget"] is None

    page.process.send_signal(signal.SIGINT)
    out, err = page.process.communicate(timeout=60)
    assert page.process.returncode == 0, err
    assert str(tmp_path / "adapted") in out
    again = camera("--memory", "none")
    state = again.wait(lambda state: state["number"] > 0)
    assert state["said"] == "What was learned before is here again." and set(state["examples"].values()) == {1}
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(timeout=60) == 0
    assert Bundle.open(tmp_path / "adapted").manifest.adapted_from
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapted", "adapted.examples"]


def test_a_new_class_is_named_on_the_page_shown_and_learned(camera: Callable[..., Page], tmp_path: Path) -> None:
    page = camera("--memory", "none")
    page.wait(lambda state: state["number"] > 0)

    def shows(label: str, times: int) -> None:
        for _ in range(times):
            number = page.ask("/state")[1]["number"]
            assert page.ask("/add", {"number": number, "class": label})[0] == 200

    for label in CLASSES:
        shows(label, 2)
    assert page.ask("/learn", {})[0] == 200
    page.wait(lambda state: state["said"].startswith("Learned"))
    code, found = page.ask("/class", {"name": " lynx "})
    assert code == 200 and found["classes"] == [*CLASSES, "lynx"] and found["examples"]["lynx"] == 0
    code, found = page.ask("/class", {"name": "lynx"})
    assert code == 400 and "lynx" in found["error"] and "known" in found["error"]
    assert page.ask("/class", {"name": "  "})[0] == 400
    shows("lynx", 2)
    assert page.ask("/learn", {})[0] == 200
    state = page.wait(lambda state: state["said"].startswith("lynx was placed by 2 pictures; Learned"))
    assert state["classes"][-1] == "lynx" and len(state["probabilities"]) == 4
    assert Bundle.open(tmp_path / "adapted").manifest.classes == (*CLASSES, "lynx")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="asks for Chromium")
def test_the_page_in_a_browser(camera: Callable[..., Page], tmp_path: Path) -> None:
    """Buttons for each class and the frame are drawn; nothing runs out of the side on a telephone."""
    page = camera("--memory", "none")
    page.wait(lambda state: state["number"] > 0)
    for label in CLASSES:
        assert page.ask("/add", {"number": page.ask("/state")[1]["number"], "class": label})[0] == 200
    assert page.ask("/class", {"name": "lynx"})[0] == 200

    def browse(*more: str) -> str:
        words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        words += ["--virtual-time-budget=4000", *more, page.address]
        return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120).stdout

    drawn = browse("--dump-dom")
    for label in (*CLASSES, "lynx"):
        assert f'data-name="{label}"' in drawn
    assert "red (1)" in drawn and "lynx (0)" in drawn and "data:image/jpeg;base64," in drawn and "in use" in drawn
    for width in (390, 1200):
        kept = Path(os.environ.get("EDGEPLAST_SCREENSHOTS", tmp_path))
        kept.mkdir(parents=True, exist_ok=True)
        shot = kept / f"camera-{width}.png"
        browse(f"--window-size={width},900", f"--screenshot={shot}")
        with Image.open(shot) as seen:
            assert seen.width == width and len(seen.convert("L").getcolors() or []) > 50


def test_other_sites_and_other_machines_are_kept_out(camera: Callable[..., Page], tmp_path: Path) -> None:
    page = camera("--memory", "none")
    assert page.ask("/state", Host="evil.example")[0] == 403
    assert page.ask("/learn", {}, **{"X-Edgeplast": ""})[0] == 403
    assert page.ask("/nowhere")[0] == 404
    page = camera("--memory", "none", "--host", "0.0.0.0", "--into", tmp_path / "other")
    assert "?token=" in page.address
    page.address = page.address.replace("0.0.0.0", "127.0.0.1")
    assert page.ask("/state")[0] == 200
    page.address = page.address.partition("?")[0]
    code, found = page.ask("/state")
    assert code == 403 and "The token is missing" in found["error"]


def test_what_is_wrong_is_said_in_a_line(bundle: Bundle, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        done = subprocess.run([sys.executable, str(CAMERA), *map(str, words)], capture_output=True, text=True)
        assert done.returncode in (2, 3) and "Traceback" not in done.stderr
        return done.stderr

    assert "does not exist" in said(bundle.path, "--into", tmp_path / "a", "--frames", tmp_path / "none")
    with contextlib.suppress(ImportError):
        import cv2  # noqa: F401

        return
    assert "OpenCV, which is not installed" in said(bundle.path, "--into", tmp_path / "a", "--camera", 0)
