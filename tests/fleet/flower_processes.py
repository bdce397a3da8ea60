"""Flower's own processes on loopback: a SuperLink, SuperNodes and runs, with a home-made authority or without."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgeplast.fleet.flower import QUIET
from edgeplast.fleet.report import FleetReport

BIN = Path(sys.executable).parent
with_flower = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BIN / "flower-superlink").exists(), reason="Flower is not installed here"),
]


class Fleet:
    """Flower's processes, in a folder, all of which end with the test.

    Args:
        folder: of keys, logs and what the devices write.
        certified: whether they speak TLS, with an authority of this site's own, and the SuperLink asks SuperNodes for
            keys that it knows; else they are told that it is not secure.
    """

    def __init__(self, folder: Path, *, certified: bool = False) -> None:
        self.folder, self._started, self.certified = folder, [], certified
        self.environment = os.environ | QUIET | {
            "FLWR_HOME": str(folder / "flower"), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        self.port = free_port()
        (folder / "flower").mkdir()
        how = f'root-certificates = "{folder / "ca.crt"}"' if certified else "insecure = true"
        (folder / "flower" / "config.toml").write_text(
            f'[superlink]\ndefault = "site"\n[superlink.site]\naddress = "localhost:{self.port}"\n{how}\n'
        )

    def start(self, name: str, *words: str) -> subprocess.Popen:
        """Start a process whose output goes to a file."""
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            words, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        self._started.append(process)
        return process

    def link(self) -> subprocess.Popen:
        """Start the SuperLink."""
        how = ["--insecure"]
        if self.certified:
            how = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key",
                   "--enable-supernode-auth"]  # fmt: skip
        words = ["--port", str(self.port), "--disable-runtime-dependency-installation"]
        link = self.start("link", "flower-superlink", *how, *words)
        until(lambda: answers(self.port), 60, "the SuperLink", self)
        return link

    def node(self, name: str, bundle: Path, data: Path, authority: str = "ca.crt") -> subprocess.Popen:
        """Start a SuperNode."""
        config = (
            f'bundle="{bundle}" data="{data}" folder="{self.folder / name}" name="{name}" memory="512MiB" threads=1'
        )
        how = ["--insecure"]
        if self.certified:
            how = ["--root-certificates", authority, "--auth-supernode-private-key", f"{name}.key"]
        words = ["--superlink", f"localhost:{self.port}", "--port", str(free_port()), "--node-config", config]
        return self.start(name, "flower-supernode", *how, *words)

    def said(self, name: str, text: str) -> bool:
        """Whether a process has written this to its log."""
        return text in (self.folder / f"{name}.log").read_text()

    def flwr(self, *words: str) -> subprocess.CompletedProcess:
        """Run one of Flower's commands."""
        return subprocess.run(
            ["flwr", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )

    def run(self, app: Path) -> None:
        """Start a run of an app."""
        project = app / "pyproject.toml"  # or `flwr run` would move its connection
        project.write_text(project.read_text().partition("# `flwr run` moves")[0])
        done = self.flwr("run", str(app), "site")
        assert done.returncode == 0, done.stdout + done.stderr

    def end(self) -> None:
        """End all that was started."""
        for process in self._started:
            end(process)

    def logs(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


def until(holds: Callable[[], bool], seconds: float, what: str, fleet: Fleet) -> None:
    """Wait for something."""
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise AssertionError(f"{what} did not come within {seconds:g} seconds\n{fleet.logs()}")
        time.sleep(0.2)


def share(blobs: Path, into: Path, number: int) -> Path:
    """Every third picture of each class."""
    for place in sorted((blobs / "train").iterdir()):
        (into / "train" / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[number::3]:
            shutil.copy(path, into / "train" / place.name)
    return into


def report(rounds: Path) -> tuple:
    path = rounds / "fleet.json"
    return FleetReport.read(path).rounds if path.is_file() else ()


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> None:
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


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
