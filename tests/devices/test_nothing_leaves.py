"""Nothing is sent and nothing is left behind: a whole ``adapt`` watched for sockets and for files beside its output.

Native code is watched too: by the home folder before and after, by the sockets among the process's open files, and by
strace where it is installed (it need not be).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.errors import InterruptedRunError
from edgeplast_devices.workplace import unfinished

WATCHED = """
import json, os, sys
from pathlib import Path

seen = {"sockets": [], "written": [], "switch": []}
output = os.path.realpath(os.environ["WATCHED_OUTPUT"])
lock = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.lock")  # beside it while the run lasts
allowed = (output, lock, "/dev/null", "/proc/self", "/proc/thread-self")

def watch(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":  # the name of this machine is asked of the system
        seen["sockets"].append(f"{event} {arguments!r}"[:200])
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = os.path.realpath(os.fsdecode(path))
            if not path.startswith(allowed):
                seen["written"].append(path)

class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            seen["switch"].append(os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.addaudithook(watch)
sys.meta_path.insert(0, AtImport())
from edgeplast.cli.app import run
code = run(sys.argv[1:])
Path(os.environ["WATCHED_RECORD"]).write_text(json.dumps(seen | {"code": code}))
"""


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _environment(home: Path, into: Path, record: Path) -> dict[str, str]:
    """A person who has nothing but a home folder; what pytest or a desktop added is gone."""
    kept = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(home),
        "WATCHED_OUTPUT": str(into),
        "WATCHED_RECORD": str(record),
    }


def _sockets(pid: int) -> set[str]:
    """Sockets among the open files of a process; empty where the system does not say."""
    try:
        targets = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # a file that was closed in between, or a process that ended
        return set()
    return {target for target in targets if target.startswith("socket:")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def _words(bundle: Bundle, blobs: Path, into: Path) -> list[str]:
    options = ["--epochs", "2", "--threads", "1", "--memory", "300MiB", "--json"]
    return ["adapt", str(bundle.path), "--data", str(blobs), "-o", str(into), *options]


def test_a_whole_run_opens_no_socket_and_writes_nothing_but_its_output(
    bundle: Bundle, blobs: Path, home: Path, tmp_path: Path
) -> None:
    into, record = tmp_path / "out", tmp_path / "record.json"
    running = subprocess.Popen(
        [sys.executable, "-c", WATCHED, *_words(bundle, blobs, into)],
        env=_environment(home, into, record),
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    sockets: set[str] = set()
    while running.poll() is None:
        sockets |= _sockets(running.pid)
        time.sleep(0.01)
    assert running.stderr is not None
    complaint = running.stderr.read().decode()
    assert running.returncode == 0, complaint
    seen = json.loads(record.read_text())
    assert seen == {"sockets": [], "written": [], "switch": ["1"], "code": 0}, complaint
    assert sockets == set() and _tree(home) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "record.json"]


@pytest.mark.parametrize(
    "program",
    [
        "from edgeplast_devices.runtime import import_onnxruntime; import_onnxruntime()",
        "from edgeplast.cli.app import run; run(['doctor', '--json'])",
    ],
)
def test_other_doors_leave_the_home_folder_empty_too(home: Path, tmp_path: Path, program: str) -> None:
    environment = _environment(home, tmp_path / "out", tmp_path / "record.json")
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=home, check=True, capture_output=True)
    assert _tree(home) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_saw_no_socket_and_no_file_written_elsewhere(
    bundle: Bundle, blobs: Path, home: Path, tmp_path: Path
) -> None:
    into, log = tmp_path / "out", tmp_path / "strace.log"
    calls_watched = "trace=socket,connect,sendto,sendmsg,sendmmsg,open,openat,creat"
    command = ["strace", "-f", "-qq", "-e", calls_watched, "-o", str(log), sys.executable, "-m", "edgeplast"]
    done = subprocess.run(
        [*command, *_words(bundle, blobs, into)],
        env=_environment(home, into, tmp_path / "record.json"),
        cwd=home,
        capture_output=True,
        check=False,
    )
    calls = log.read_text().splitlines() if log.exists() else []
    if not calls:
        pytest.skip(f"strace cannot trace here: {done.stderr.decode()[:200]}")
    assert done.returncode == 0, done.stderr.decode()
    assert [call for call in calls if " socket(" in call or " connect(" in call or " send" in call] == []
    writing = [call for call in calls if "O_WRONLY" in call or "O_RDWR" in call or "O_CREAT" in call]
    assert writing, "a run that writes its output writes something"
    expected = (f'"{into}', f'"{into.parent}/.{into.name}.lock"', '"/dev/null"')
    elsewhere = [call for call in writing if not any(part in call for part in expected)]
    assert elsewhere == []


def test_a_checkpoint_names_no_picture(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    """A run that was stopped has measured, and knows which pictures were named wrong."""
    photos = tmp_path / "photos"
    shutil.copytree(blobs, photos)
    for path in sorted(photos.rglob("*.png")):
        path.rename(path.with_name(f"patient-{path.name}"))

    def stopped() -> None:
        raise InterruptedRunError("Interrupted.")

    wrapped = Wrapped(tmp_path / "a")
    wrapped.at_step(3, stopped)
    with pytest.raises(InterruptedRunError):
        adapt_over(wrapped, bundle, photos, tmp_path / "a", edgeplast.TrainingOptions(private=True))
    left = [path for path in unfinished(tmp_path / "a").rglob("*") if path.is_file()]
    assert any(path.name.startswith("checkpoint") for path in left)
    for path in left:
        assert b"patient-" not in path.read_bytes(), path
