"""Without PyNaCl everything works that asks for no signature, and what asks for one says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle

WITHOUT = "import sys; sys.modules['nacl'] = None; from edgeplast.cli import main; main()"


def edgeplast(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("keygen", "mine"),
        ("verify", "bundle", "--key", "site.pub"),
        ("adapt", "bundle", "--data", "photos", "-o", "out", "--trusted", "site.pub"),
        ("deploy", "bundle", "-o", "m.onnx", "--trusted", "site.pub"),
        ("predict", "bundle", "photo.jpg", "--trusted", "site.pub"),
    ],
    ids=lambda words: words[0],
)
def test_the_command_to_install_it_is_named(
    words: tuple[str, ...], bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"bundle": bundle.path, "photos": blobs, "photo.jpg": next((blobs / "test").rglob("*.png"))}
    (tmp_path / "site.pub").write_text("whatever it holds")
    done = edgeplast(*(places.get(word, word) for word in words))
    assert done.returncode == 3, done.stderr
    assert "Signatures need PyNaCl" in done.stderr and "pip install 'edgeplast[signing]'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["site.pub"]


def test_a_bundle_is_opened_and_deployed(bundle: Bundle, tmp_path: Path) -> None:
    done = edgeplast("deploy", bundle.path, "-o", tmp_path / "m.onnx")
    assert done.returncode == 0, done.stderr
