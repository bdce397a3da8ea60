"""Prune, store in 8 bits, adapt, deploy in 8 bits, predict: one chain through real commands on a small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeplast.cli.app import run

pytest.importorskip("torch", reason="pruning and exporting need it")

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models on one thread: waiting for a second one takes longer than their work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    from edgeplast.models import import_timm

    timm = import_timm()
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    save_file(timm.create_model(MODEL, img_size=32, num_classes=5, depth=4).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pruned(checkpoint: Path, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "pruned"
    words = [
        "prune", MODEL, "--checkpoint", checkpoint, "--image-size", 32, "--model-kwargs", '{"depth": 4}',
        "--data", blobs, "--keep", 0.6, "--ratio", "blocks.3.attn=0.34", "--distill-steps", 4, "--prune-steps", 2,
        "--pairs", 4, "-o", folder,
    ]  # fmt: skip
    assert run(list(map(str, words))) == 0
    return folder


def edgeplast(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """Run a command in this process; return its standard output and check its exit code."""
    capsys.readouterr()
    found = run(list(map(str, words)))
    out, err = capsys.readouterr()
    assert found == code, err
    return out if code == 0 else err


def test_from_pruning_to_a_prediction_in_8_bits(
    pruned: Path, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, adapted, model = tmp_path / "bundle", tmp_path / "adapted", tmp_path / "model.onnx"
    record = json.loads(edgeplast(capsys, "inspect", pruned, "--json"))
    assert record["blocks"][3]["heads"] == 2 and record["after"]["macs"] <= 0.6 * record["before"]["macs"]
    assert record["after"]["latency_seconds"] > 0
    shown = edgeplast(capsys, "inspect", pruned)
    assert "2 of 3" in shown and "one image, measured" in shown and "4 steps of distillation" in shown
    edgeplast(
        capsys, "export", pruned, "--data", blobs, "--train", "blocks:2-3,norm,head", "--pairs", 4, "--batch", 8,
        "--weight-bits", 8, "-o", bundle,
    )  # fmt: skip
    parts = json.loads(edgeplast(capsys, "inspect", bundle, "--json"))["components"]
    assert parts["blocks.3.attn"]["kept_fraction"] < 1 and parts["blocks.0.fc1"]["weight_bits"] == 8
    edgeplast(capsys, "adapt", bundle, "--data", blobs, "--epochs", 5, "--lr", 3e-3, "-o", adapted)
    before = json.loads(edgeplast(capsys, "evaluate", adapted, "--data", blobs, "--json"))
    assert before["accuracy"] > 0.6
    words = ("deploy", adapted, "-o", model, "--weight-bits", 8, "--data", blobs, "--calibration-images", 16)
    deployed = json.loads(edgeplast(capsys, *words, "--json"))
    assert deployed["accuracy"]["before"] == pytest.approx(before["accuracy"])
    assert deployed["calibrated_on"] == 16 and deployed["measured_on"] == "test" and deployed["images"] == 36
    after = json.loads(edgeplast(capsys, "evaluate", model, "--data", blobs, "--json"))
    assert after["accuracy"] == pytest.approx(deployed["accuracy"]["after"])
    assert after["accuracy"] >= before["accuracy"] - 0.1
    predictions = json.loads(edgeplast(capsys, "predict", model, blobs / "test", "--top", 1, "--json"))["predictions"]
    right = [next(iter(p["probabilities"])) == p["image"].split("/")[0] for p in predictions]
    assert sum(right) / len(right) == pytest.approx(after["accuracy"])
    assert "exists already" in edgeplast(capsys, *words, code=2)


def test_export_prunes_on_the_way(
    checkpoint: Path, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "export", MODEL, "--checkpoint", checkpoint, "--image-size", 32, "--model-kwargs", '{"depth": 4}',
        "--prune", 0.7, "--train", "head", "--pairs", 4,
    ]  # fmt: skip
    edgeplast(capsys, *words, "--data", blobs, "-o", tmp_path / "bundle")
    parts = json.loads(edgeplast(capsys, "inspect", tmp_path / "bundle", "--json"))["components"]
    assert min(part["kept_fraction"] for part in parts.values()) < 1
    assert "--prune makes another model" in edgeplast(capsys, *words, "--plan", "p.json", "-o", "x", code=2)
    words[words.index("--prune") + 1] = 1.5
    assert "A fraction of 1.5 cannot be kept" in edgeplast(capsys, *words, "--data", blobs, "-o", "x", code=2)


def test_words_that_mean_nothing_are_refused(
    pruned: Path, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("prune", pruned, "--data", blobs, "-o", tmp_path / "again")
    for more, message in (
        (("--keep", 0.5, "--ratio", "blocks.0.fc1"), "Cannot read --ratio 'blocks.0.fc1'"),
        (("--keep", 0.5, "--ratio", "blocks.0.fc1=1", "--ratio", "blocks.0.fc1=0"), "names 'blocks.0.fc1' twice"),
        (("--latency", "soon"), "Cannot read 'soon' as a time"),
        (("--macs", "many"), "Cannot read 'many' as a number"),
        ((), "in one way; 0 were given"),
    ):
        assert message in edgeplast(capsys, *words, *more, code=2)
    message = edgeplast(capsys, *words, "--keep", 0.01, "--pairs", 2, code=4)
    assert "Pruning to 1% of the multiply–accumulates is not possible" in message
    assert not list(tmp_path.iterdir())


def test_deploying_in_8_bits_says_what_it_needs(
    bundle: object, blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = bundle.path, tmp_path / "model.onnx"  # type: ignore[attr-defined]
    assert "go together" in edgeplast(capsys, "deploy", path, "-o", model, "--weight-bits", 8, code=2)
    assert "--weight-bits 4 is not possible" in edgeplast(
        capsys, "deploy", path, "-o", model, "--weight-bits", 4, code=2
    )
    words = ("deploy", path, "-o", model, "--weight-bits", 8, "--data", blobs, "--calibration-images", 0)
    assert "--calibration-images 0: activation ranges need" in edgeplast(capsys, *words, code=2)
    assert not list(tmp_path.iterdir())


WITHOUT_ONNX = """
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "torch"):
            raise ModuleNotFoundError(name, name=name)
import importlib.util
true = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "onnx" else true(name, *rest)
sys.meta_path.insert(0, Absent())
from edgeplast.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def test_without_onnx_one_message_names_what_to_install(bundle: object, blobs: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = ["deploy", bundle.path, "-o", tmp_path / "m.onnx", "--weight-bits", 8, "--data", blobs]  # type: ignore[attr-defined]
    command = [sys.executable, "-c", WITHOUT_ONNX, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 3 and "pip install 'onnx>=1.16'" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
