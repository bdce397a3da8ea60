"""One bundle on both builds of onnxruntime: the same losses, the same accuracy.

Needs a second environment with stock onnxruntime (``tests/run.py`` makes it and names its Python), because one
environment holds one build. What a run leaves behind, checkpoints too, is numpy's arrays on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import blob_folder

from edgeplast.bundle import Bundle
from edgeplast_devices.runtime import runtime_name

STOCK_PYTHON = "EDGEPLAST_STOCK_PYTHON"
STEPS = 54

pytestmark = pytest.mark.skipif(
    STOCK_PYTHON not in os.environ or not runtime_name().startswith("ort-training"),
    reason=f"needs the training build here and the other one in ${STOCK_PYTHON}",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of 8 an epoch, and 201 pictures to test: half a point is one of them."""
    return blob_folder(tmp_path_factory.mktemp("both") / "data", train=20, test=67)


def _run(python: str, *words: object, code: int = 0) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(_checkout())}
    done = subprocess.run(
        [python, *map(str, words)], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def _adapt(
    python: str,
    bundle: Path,
    data: Path,
    into: Path,
    *options: str,
    program: tuple[str, ...] = ("-m", "edgeplast"),
    code: int = 0,
) -> dict[str, Any]:
    """Adapt on a build of onnxruntime by the command line; what it prints."""
    out = _run(
        python, *program, "adapt", bundle, "--data", data, "-o", into, "--json",
        "--epochs", 9, "--lr", 3e-3, "--threads", 1, *options, code=code,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(out)
    return report


def _checkout() -> list[str]:
    """Where edgeplast's packages lie, and nothing of this environment's."""
    import edgeplast
    import edgeplast_devices

    return [str(Path(package.__path__[0]).parent) for package in (edgeplast, edgeplast_devices)]


@pytest.mark.parametrize("kind", ["all weights", "int8, micro-batches of 2"])
def test_losses_and_accuracy_are_the_same(
    bundle: Bundle, int8_bundle: Bundle, pictures: Path, tmp_path: Path, kind: str
) -> None:
    start, options = (bundle, []) if kind == "all weights" else (int8_bundle, ["--micro-batch", "2"])
    ours = _adapt(sys.executable, start.path, pictures, tmp_path / "ours", *options)
    theirs = _adapt(os.environ[STOCK_PYTHON], start.path, pictures, tmp_path / "theirs", *options)
    assert ours["runtime"].startswith("ort-training") and theirs["runtime"].startswith("stock")
    assert len(ours["losses"]) == STEPS and ours["losses"][-1] < 0.8 * ours["losses"][0]
    np.testing.assert_allclose(theirs["losses"], ours["losses"], atol=1e-4)
    assert abs(theirs["accuracy"]["after"] - ours["accuracy"]["after"]) <= 0.005
    assert theirs["accuracy"]["before"] == ours["accuracy"]["before"]


STOPPING = """
import os, signal, sys
from edgeplast_devices.training import Trainer

step = Trainer.step

def stopping(trainer, *words):
    if trainer.state.steps == 20:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(trainer, *words)

Trainer.step = stopping
from edgeplast.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("first", ["stock", "ort-training"])
def test_a_run_begun_on_one_is_resumed_on_the_other(bundle: Bundle, pictures: Path, tmp_path: Path, first: str) -> None:
    stock = os.environ[STOCK_PYTHON]
    begins, ends = (stock, sys.executable) if first == "stock" else (sys.executable, stock)
    whole = _adapt(ends, bundle.path, pictures, tmp_path / "whole")
    _adapt(begins, bundle.path, pictures, tmp_path / "shared", program=("-c", STOPPING), code=130)
    resumed = _adapt(ends, bundle.path, pictures, tmp_path / "shared", "--resume")
    assert resumed["resumed_at"] == [20] and resumed["steps"] == STEPS
    np.testing.assert_allclose(resumed["losses"], whole["losses"], atol=1e-4)
    assert abs(resumed["accuracy"]["after"] - whole["accuracy"]["after"]) <= 0.005


def test_what_one_adapted_the_other_goes_on_with(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    first, stock = tmp_path / "first", os.environ[STOCK_PYTHON]
    report = _adapt(stock, bundle.path, pictures, first)
    ours = _adapt(sys.executable, first, pictures, tmp_path / "ours")
    theirs = _adapt(stock, first, pictures, tmp_path / "theirs")
    assert ours["accuracy"]["before"] == theirs["accuracy"]["before"] == report["accuracy"]["after"]
    np.testing.assert_allclose(theirs["losses"], ours["losses"], atol=1e-4)


GRADIENTS = """
import sys
from pathlib import Path
import numpy as np
from edgeplast.bundle import Bundle
from edgeplast.components import component_of
from edgeplast_devices.sessions import trains_on_pictures
from edgeplast_devices.weights import read_trainable

bundle, found = Bundle.open(Path(sys.argv[1])), {}
parameters, rng = read_trainable(bundle), np.random.default_rng(0)
images, targets = rng.normal(size=(4, 3, 32, 32)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
for tier in bundle.manifest.tiers:
    for graph in tier.graphs:
        gradients = {n: np.zeros_like(a) for n, a in parameters.items() if component_of(n) in tier.components}
        trains_on_pictures(bundle, graph.file, parameters, gradients, 1).accumulate(images, targets)
        found |= {f"{graph.file} {name}": array for name, array in gradients.items()}
np.savez(sys.argv[2], **found)
"""


@pytest.mark.parametrize("kind", ["all weights", "int8"])
def test_every_graph_of_a_bundle_gives_the_same_gradients(
    bundle: Bundle, int8_bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    start = bundle if kind == "all weights" else int8_bundle
    for python, name in ((sys.executable, "ours"), (os.environ[STOCK_PYTHON], "theirs")):
        _run(python, "-c", GRADIENTS, start.path, tmp_path / f"{name}.npz")
    ours, theirs = np.load(tmp_path / "ours.npz"), np.load(tmp_path / "theirs.npz")
    assert ours.files == theirs.files
    graphs = {name.split()[0] for name in ours.files}
    assert graphs == {graph.file for tier in start.manifest.tiers for graph in tier.graphs}
    recomputed = [graph for tier in start.manifest.tiers for graph in tier.graphs if graph.recompute != "none"]
    assert recomputed or kind == "int8"  # where one block trains, recomputing saves nothing
    for name in ours.files:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-5 * np.abs(ours[name]).max(), err_msg=name)
