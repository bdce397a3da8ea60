"""Signed bundles in a fleet: who is asked on the server and on a device, and that a round's bundle is signed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_settings_and_outcome import settings

from edgeplast.bundle import Bundle
from edgeplast.errors import UntrustedError
from edgeplast.fleet.client import device_of
from edgeplast.fleet.founding import write_app
from edgeplast.fleet.outcome import Outcome
from edgeplast.given import signed_bundle
from edgeplast_devices.weights import read_trainable

pytest.importorskip("nacl", reason="signatures need edgeplast[signing]")


@pytest.fixture
def signed(bundle: Bundle, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A signed bundle, a folder of public keys, and the private key."""
    from edgeplast.trust.keys import keygen
    from edgeplast.trust.signing import sign, signer_of

    (tmp_path / "keys").mkdir()
    keygen(tmp_path / "site")
    shutil.move(tmp_path / "site.pub", tmp_path / "keys")
    copy = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    sign(copy, signer_of(tmp_path / "site.key"))
    return copy, tmp_path / "keys", tmp_path / "site.key"


def test_a_rounds_bundle_is_signed_and_names_its_parent(signed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder, keys, private = signed
    opened, seal = signed_bundle(folder, keys, private)
    written = Outcome(tmp_path / "rounds", opened, settings(), seal).write_bundle(1, read_trainable(opened))
    found = Bundle.open(written, trusted=keys)
    assert found.signature is not None and found.manifest.adapted_from == opened.fingerprint


def test_a_device_refuses_what_its_keys_did_not_sign(
    signed: tuple[Path, Path, Path], bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    folder, keys, _ = signed
    node = {"data": str(blobs), "folder": str(tmp_path / "work"), "trusted": str(keys)}
    assert device_of({**node, "bundle": str(folder)}, settings(), 1, {}).bundle.signature is not None
    with pytest.raises(UntrustedError, match="not signed"):
        device_of({**node, "bundle": str(bundle.path)}, settings(), 1, {})
    with pytest.raises(UntrustedError, match="not signed"):
        device_of(
            {"partition-id": 0, "num-partitions": 2},
            settings(bundle=str(bundle.path), data=str(blobs), trusted=str(keys)), 1, {},
        )  # fmt: skip


def test_no_app_is_written_for_what_nobody_signed(
    signed: tuple[Path, Path, Path], bundle: Bundle, tmp_path: Path
) -> None:
    folder, keys, private = signed
    with pytest.raises(UntrustedError, match="not signed"):
        write_app(bundle.path, tmp_path / "app", trusted=str(keys))
    assert not (tmp_path / "app").exists()
    found = write_app(folder, tmp_path / "app", trusted=str(keys), sign=str(private))
    assert (found.trusted, found.sign) == (str(keys), str(private))
