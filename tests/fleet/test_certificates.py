"""The site's own authority, as the page on fleets makes it: TLS and keys of devices, over Flower's own processes.

Slow, and skipped without Flower; see ``test_real_processes.py``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flower_processes import Fleet, report, share, until, with_flower

from edgeplast.bundle import Bundle
from edgeplast.fleet.founding import write_app

pytestmark = with_flower
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "fleet.md"
REGISTERED = re.compile(r"SuperNode \d+ registered")


def commands(beginning: str) -> list[list[str]]:
    """Return the commands of the page that begin so, as they stand there, lines that go on joined."""
    joined = PAGE.read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip().startswith(beginning)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path, certified=True)
    try:
        for command in commands("openssl "):
            as_here = [word.replace("server.lan", "localhost") for word in command]
            subprocess.run(as_here, cwd=tmp_path, check=True, capture_output=True)
        yield found
    finally:
        found.end()


def key_of(name: str, folder: Path) -> Path:
    """Make a device's key as the page does; return its public half."""
    (command,) = commands("ssh-keygen ")
    as_here = [word.replace("device.key", f"{name}.key") for word in command]
    subprocess.run(as_here, cwd=folder, check=True, capture_output=True)
    return folder / f"{name}.key.pub"


def test_devices_with_keys_learn_over_tls_and_strangers_do_not(
    fleet: Fleet, bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    fleet.link()
    pictures = [share(blobs, tmp_path / f"pictures-{number}", number) for number in range(2)]
    for name in ("porch", "gate"):
        done = fleet.flwr("supernode", "register", str(key_of(name, tmp_path)), "site")
        assert done.returncode == 0 and REGISTERED.search(done.stdout), done.stdout + done.stderr
    key_of("stranger", tmp_path)
    key_of("fooled", tmp_path)
    other = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=other -keyout other.key -out other.crt"
    subprocess.run(other.split(), cwd=tmp_path, check=True, capture_output=True)
    for name, data in zip(("porch", "gate"), pictures, strict=True):
        fleet.node(name, bundle.path, data)
    stranger = fleet.node("stranger", bundle.path, pictures[0])
    fooled = fleet.node("fooled", bundle.path, pictures[0], authority="other.crt")
    settings = write_app(bundle.path, tmp_path / "app", rounds=1, local_steps=2, least_devices=2)
    fleet.run(tmp_path / "app")
    rounds = Path(settings.output)
    until(lambda: len(report(rounds)) == 1, 240, "the round", fleet)
    (only,) = report(rounds)
    assert {device.device: device.taken for device in only.devices} == {"porch": True, "gate": True}
    assert Bundle.open(rounds / "round-001").manifest.adapted_from == bundle.fingerprint
    assert not (tmp_path / "stranger").exists() and not (tmp_path / "fooled").exists()  # neither was asked to learn
    assert stranger.poll() not in (None, 0)
    assert fooled.poll() != 0
