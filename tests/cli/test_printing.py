"""Printing decides no result: standard streams that are closed, full, cut off or in a narrow encoding, for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast_devices.options import TrainingOptions

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")

QUICK = "--epochs 1 --lr 3e-3 --threads 1 --augment none"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which EDGEPLAST is the command; its exit code is that of ``edgeplast``, pipes or not."""
    settings = os.environ | {"PYTHONPATH": ":".join(sys.path), "COLUMNS": "80"} | environment
    command = f"set -o pipefail; {line}".replace("EDGEPLAST", f"'{sys.executable}' -m edgeplast")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=settings, errors="replace")


@pytest.fixture(scope="module")
def deployed(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    edgeplast.adapt(bundle, blobs, into=folder / "a", options=TrainingOptions(epochs=1))
    return edgeplast.deploy(folder / "a", folder / "model.onnx")


@pytest.mark.parametrize(
    ("streams", "form"),
    [("| true", "--json"), ("2>&1 | head -1", ""), (">&-", "--json"), ("2>&-", ""), ("<&- >&- 2>&-", ""),
     ("> /dev/full", ""), ("> /dev/full 2>&1", "--json")],
)  # fmt: skip
def test_a_run_is_done_whoever_listens(bundle: Bundle, blobs: Path, tmp_path: Path, streams: str, form: str) -> None:
    out = tmp_path / "adapted"
    done = shell(f"EDGEPLAST adapt {bundle.path} --data {blobs} -o {out} {QUICK} {form} {streams}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert Bundle.open(out).manifest.adapted_from and [p.name for p in tmp_path.iterdir()] == ["adapted"]
    if streams == "> /dev/full":
        assert "Standard output could not be written: No space left on device. The result is whole." in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_arrows_in_narrow_encodings(bundle: Bundle, blobs: Path, tmp_path: Path, encoding: str) -> None:
    line = f"EDGEPLAST adapt {bundle.path} --data {blobs} -o {tmp_path / 'a'} {QUICK}"
    done = shell(line, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    accuracy = next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert "->" in accuracy
    assert edgeplast.evaluate(tmp_path / "a", blobs).accuracy


def test_json_keeps_its_meaning_in_ascii(deployed: Path, blobs: Path, tmp_path: Path) -> None:
    (tmp_path / "grüße→").mkdir()
    shutil.copy(blobs / "test/red/000.png", tmp_path / "grüße→/über.png")
    (tmp_path / "model.onnx").symlink_to(deployed)
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = shell(f"cd {tmp_path} && EDGEPLAST predict model.onnx grüße→ --json", PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [picture["image"] for picture in found["predictions"]] == ["über.png"]


@pytest.mark.parametrize(
    ("streams", "code", "says"),
    [
        ("> /dev/full", 3, "error: The result could not be written to standard output: No space left on device."),
        ("| true", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_where_the_printed_text_is_the_result(deployed: Path, blobs: Path, streams: str, code: int, says: str) -> None:
    done = shell(f"EDGEPLAST predict {deployed} {blobs / 'test'} {streams}")
    assert done.returncode == code and says in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_errors_keep_their_codes(tmp_path: Path) -> None:
    for streams in (">&- 2>&-", "> /dev/full", "2>&1 | true"):
        done = shell(f"EDGEPLAST adapt {tmp_path / 'none'} --data {tmp_path} -o {tmp_path / 'a'} --json {streams}")
        assert done.returncode == 3, (streams, done.returncode)
    assert shell("EDGEPLAST adapt --nonsense >&- 2>&-").returncode == 2


def test_files_of_a_run_never_get_the_number_of_a_closed_stream(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """A library that writes to descriptor 2 would write into a checkpoint."""
    script = (
        "import os, sys; from edgeplast.cli.streams import Streams; Streams([]);"
        f"file = open({str(tmp_path / 'file')!r}, 'wb'); assert file.fileno() > 2; os.write(2, b'warning');"
        "file.close(); sys.exit(0 if os.path.getsize(file.name) == 0 else 9)"
    )
    settings = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    line = f"'{sys.executable}' -c \"$SCRIPT\" <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", line], env=settings | {"SCRIPT": script}).returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_still_come_as_they_are_made(bundle: Bundle, blobs: Path, tmp_path: Path, unbuffered: str) -> None:
    line = f"EDGEPLAST adapt {bundle.path} --data {blobs} -o {tmp_path / 'a'} {QUICK}"
    done = shell(line, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0 and "epoch 1 of 1" in done.stderr and "Written" in done.stdout


def test_a_slow_reader_of_a_pipe_that_does_not_block() -> None:
    script = (
        "import fcntl, os, sys; from edgeplast.cli.streams import Streams; s = Streams([]);"
        "fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_NONBLOCK);"
        "print('x' * 1_000_000); sys.exit(s.finish(0))"
    )
    settings = os.environ | {"PYTHONPATH": ":".join(sys.path), "SCRIPT": script}
    line = f"'{sys.executable}' -c \"$SCRIPT\" | (sleep 0.5; wc -c)"
    assert subprocess.run(["bash", "-c", line], env=settings, capture_output=True).stdout.strip() == b"1000001"
