"""A small bundle and small pictures, made once a session."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_models import blob_folder, small_bundle

if TYPE_CHECKING:
    from edgeplast.bundle import Bundle


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and what is ignored stays so in programs."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "fixtures"))
        yield (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _nothing_is_known_of_this_machine(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run measures is kept for the next one on a machine: neither from here into a test, nor the other way."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(_caches)))


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes, 16 of each to train and 12 to test; a few epochs learn them."""
    return blob_folder(tmp_path_factory.mktemp("blobs") / "data")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A fresh bundle in which everything trains."""
    return small_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="session")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A fresh bundle in which the last of three blocks trains and the rest is stored as int8."""
    return small_bundle(tmp_path_factory.mktemp("int8") / "bundle", "blocks:2,norm", weight_bits=8, depth=3)


@pytest.fixture(scope="session")
def alternatives_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A fresh bundle in which fc2 of four blocks trains, with alternatives beside it and the rest in int8."""
    scores = (("attn", 0.4), ("fc1", 3.0), ("fc2", 0.2))
    into = tmp_path_factory.mktemp("alternatives") / "bundle"
    return small_bundle(into, "fc2,norm", weight_bits=8, depth=4, scores=scores)


@pytest.fixture(scope="session")
def learned(bundle: Bundle, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that tells the blobs apart."""
    import edgeplast
    from edgeplast_devices.options import TrainingOptions

    into = tmp_path_factory.mktemp("learned") / "bundle"
    edgeplast.adapt(bundle, blobs, into=into, options=TrainingOptions(epochs=6, learning_rate=3e-3, threads=1))
    return edgeplast.Bundle.open(into)
