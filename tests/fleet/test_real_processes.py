"""One SuperLink, three SuperNodes and Flower's own commands on loopback: one device dies, one sends what is no number.

Slow, and skipped without Flower: ``pip install 'edgeplast[fleet,stock]' pytest`` in an environment of its own, a bundle
and pictures of the tests in ``EDGEPLAST_TEST_BUNDLES`` (torch makes them), then ``pytest -m slow tests/fleet``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgeplast.bundle import Bundle
from edgeplast.fleet.flower import QUIET
from edgeplast.fleet.founding import write_app
from edgeplast.fleet.report import FleetReport
from edgeplast_devices.evaluating import evaluate
from edgeplast_devices.images import open_images

BIN = Path(sys.executable).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BIN / "flower-superlink").exists(), reason="Flower is not installed here"),
]

_POISON = '''

def poisoned(message, context, go_on):
    """What a broken device would send."""
    import numpy as np
    from edgeplast.fleet.flower import arrays_of, record_of

    answer = go_on(message, context)
    if context.node_config.get("name") == "broken" and "arrays" in answer.content:
        arrays = arrays_of(answer.content["arrays"])
        arrays[next(iter(arrays))][...] = np.nan
        answer.content["arrays"] = record_of(arrays)
    return answer


app = client_app([poisoned])
'''


class Fleet:
    """Flower's processes, in a folder, all of which end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._started = folder, []
        self.environment = os.environ | QUIET | {
            "FLWR_HOME": str(folder / "flower"), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        self.port = _free_port()

    def start(self, name: str, *words: str) -> subprocess.Popen:
        """Start a process whose output goes to a file."""
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            words, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        self._started.append(process)
        return process

    def link(self) -> subprocess.Popen:
        link = self.start(
            "link",
            "flower-superlink",
            "--insecure",
            "--port",
            str(self.port),
            "--disable-runtime-dependency-installation",
        )
        until(lambda: _answers(self.port), 60, "the SuperLink")
        return link

    def node(self, number: int, name: str, bundle: Path, data: Path) -> subprocess.Popen:
        folder = self.folder / name
        config = f'bundle="{bundle}" data="{data}" folder="{folder}" name="{name}" memory="512MiB" threads=1'
        return self.start(
            name, "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}",
            "--port", str(_free_port()), "--node-config", config,
        )  # fmt: skip

    def run(self, app: Path) -> None:
        (self.folder / "flower").mkdir(exist_ok=True)
        (self.folder / "flower" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        project = app / "pyproject.toml"  # or `flwr run` would move its connection
        project.write_text(project.read_text().partition("# `flwr run` moves")[0])
        done = subprocess.run(
            ["flwr", "run", str(app), "here"], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def end(self) -> None:
        for process in self._started:
            _end(process)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path)
    try:
        yield found
    finally:
        found.end()


def until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise AssertionError(f"{what} did not come within {seconds:g} seconds")
        time.sleep(0.2)


def test_one_device_dies_and_one_sends_nan_and_the_run_ends_well(
    fleet: Fleet, bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    settings = write_app(bundle.path, app, rounds=4, local_steps=12, least_devices=2, round_seconds=120.0)
    client = app / "edgeplast_fleet" / "client_app.py"
    client.write_text(client.read_text() + _POISON)
    fleet.link()
    nodes = {
        name: fleet.node(number, name, bundle.path, _share(blobs, tmp_path / f"pictures-{name}", number))
        for number, name in enumerate(("steady", "broken", "dying"))
    }
    until(
        lambda: all("Starting Flower SuperNode" in (tmp_path / f"{name}.log").read_text() for name in nodes),
        60,
        "nodes",
    )
    time.sleep(3)
    fleet.run(app)
    until(lambda: any((tmp_path / "dying").glob("round-*.partial")), 120, "the device that is to die, at work")
    _end(nodes["dying"], signal.SIGKILL)
    rounds = Path(settings.output)
    try:
        until(lambda: len(_report(rounds)) == 4, 400, "the fourth round")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{fleet.logs()}") from error
    found = FleetReport.read(rounds / "fleet.json")
    for each in found.rounds:
        by_name = {device.device: device for device in each.devices}
        assert by_name["steady"].taken and 0 < (by_name["steady"].peak_bytes or 0) <= 512 << 20
        if "broken" in by_name:
            assert not by_name["broken"].taken and "no finite number" in by_name["broken"].reason
    assert any("broken" in {device.device for device in each.devices} for each in found.rounds)
    left = [device for device in found.rounds[0].devices if not device.taken]
    assert len(left) == 2 and all(device.reason for device in left)
    last = Bundle.open(rounds / "round-004")
    before, after = (evaluate(each, open_images(blobs, "test")).accuracy for each in (bundle, last))
    assert after > before


def _share(blobs: Path, into: Path, number: int) -> Path:
    """Every third picture of each class."""
    for place in sorted((blobs / "train").iterdir()):
        (into / "train" / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[number::3]:
            shutil.copy(path, into / "train" / place.name)
    return into


def _report(rounds: Path) -> tuple:
    path = rounds / "fleet.json"
    return FleetReport.read(path).rounds if path.is_file() else ()


def _end(process: subprocess.Popen, number: int = signal.SIGTERM) -> None:
    """End a process that this test started, and what it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
        for each in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
