"""Keys, and a bundle of which they sign a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeplast.bundle import Bundle
from edgeplast.trust.keys import PrivateKey, keygen, read_private


@pytest.fixture
def key_of(tmp_path: Path) -> Callable[[str], PrivateKey]:
    """A key by name; its public half lies in ``keys/``."""
    pytest.importorskip("nacl", reason="signatures need edgeplast[signing]")

    def make(name: str) -> PrivateKey:
        (tmp_path / "keys").mkdir(exist_ok=True)
        if not (tmp_path / f"{name}.key").exists():
            keygen(tmp_path / name)
            shutil.move(tmp_path / f"{name}.pub", tmp_path / "keys")
        return read_private(tmp_path / f"{name}.key")

    return make


@pytest.fixture
def site(key_of: Callable[[str], PrivateKey]) -> PrivateKey:
    """The workstation's key."""
    return key_of("site")


@pytest.fixture
def keys(site: PrivateKey, tmp_path: Path) -> Path:
    """A folder of public keys."""
    return tmp_path / "keys"


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of one's own, not signed."""
    return Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
