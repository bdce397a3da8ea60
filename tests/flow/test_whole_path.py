"""Front door to back door through real commands, and what the device process is made of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import CLASSES

from edgeplast.bundle import Bundle

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
MODEL = "vit_tiny_patch16_224"  # at 32 pixels it has four patches


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "100"}


def edgeplast(*words: object, code: int = 0) -> str:
    """Run a command; return its standard output and check its exit code."""
    command = [sys.executable, "-m", "edgeplast", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch", reason="exporting needs it")
    from safetensors.torch import save_file

    from edgeplast.models import import_timm

    timm = import_timm()
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    save_file(timm.create_model(MODEL, img_size=32, num_classes=5).state_dict(), path)
    return path


def test_from_a_checkpoint_to_a_prediction(checkpoint: Path, blobs: Path, tmp_path: Path) -> None:
    bundle, adapted, model = tmp_path / "bundle", tmp_path / "adapted", tmp_path / "model.onnx"
    edgeplast(
        "export", MODEL, "--checkpoint", checkpoint, "--image-size", 32, "--data", blobs,
        "--train", "blocks:10-11,norm,head", "--pairs", 4, "--batch", 8, "-o", bundle,
    )  # fmt: skip
    parts = json.loads(edgeplast("inspect", bundle, "--json"))["components"]
    assert parts["blocks.11.attn"]["trainable"] and not parts["blocks.9.attn"]["trainable"]
    out = edgeplast("adapt", bundle, "--data", blobs, "--memory", "300MiB", "--epochs", 5, "--lr", 3e-3, "-o", adapted)
    assert "accuracy (test)" in out
    report = json.loads((adapted / "report.json").read_text())
    assert report["accuracy"]["after"] > 0.6 > report["accuracy"]["before"]
    assert report["memory"]["measured_peak_bytes"] <= report["memory"]["budget_bytes"]
    result = json.loads(edgeplast("evaluate", adapted, "--data", blobs, "--json"))
    assert result["accuracy"] == pytest.approx(report["accuracy"]["after"])
    edgeplast("deploy", adapted, "-o", model)
    predictions = json.loads(edgeplast("predict", model, blobs / "test", "--top", 1, "--json"))["predictions"]
    right = [next(iter(p["probabilities"])) == p["image"].split("/")[0] for p in predictions]
    assert sum(right) / len(right) == pytest.approx(result["accuracy"])
    assert {next(iter(p["probabilities"])) for p in predictions} <= set(CLASSES)
    edgeplast("adapt", bundle, "--data", blobs, "-o", adapted, code=2)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_leaves_what_can_be_resumed(
    bundle: Bundle, blobs: Path, tmp_path: Path, number: int
) -> None:
    command = [
        sys.executable, "-m", "edgeplast", "adapt", str(bundle.path),
        "--data", str(blobs), "-o", str(tmp_path / "adapted"), "--epochs", "100000",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment())
    assert process.stderr is not None
    told = []
    while len(told) < 5 and not (told and told[-1].startswith("epoch 1 ")):
        told.append(process.stderr.readline())
    process.send_signal(number)  # before anything is looked at: else a failure here leaves it running
    out, err = process.communicate(timeout=60)
    assert " classes: " in told[0]  # what the data set was taken for
    assert told[-2].startswith("Tier full, micro-batch ") and told[-1].startswith("epoch 1 of 100000")
    assert process.returncode == 130 and "go on with the same command and --resume" in err
    assert "Traceback" not in out + err
    assert [path.name for path in tmp_path.iterdir()] == ["adapted.partial"]


DEVICE = """
import json, sys
from importlib.abc import MetaPathFinder

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

class Watch(MetaPathFinder):
    before_runtime = 0
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            Watch.before_runtime = resident()

sys.meta_path.insert(0, Watch())
from edgeplast.cli.app import run
bundle, data, out = sys.argv[1:]
codes = [run(words) for words in (
    ["adapt", bundle, "--data", data, "-o", out + "/a", "--epochs", "1"],
    ["evaluate", out + "/a", "--data", data],
    ["deploy", out + "/a", "-o", out + "/m.onnx"],
    ["predict", out + "/m.onnx", data + "/test"],
    ["inspect", out + "/a"],
)]
print(json.dumps({"codes": codes, "before_runtime": Watch.before_runtime, "modules": sorted(sys.modules)}))
"""


@LINUX
def test_a_device_process_is_small_and_never_sees_the_workstations_packages(
    bundle: Bundle, blobs: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DEVICE, str(bundle.path), str(blobs), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["codes"] == [0] * 5
    foreign = {"torch", "timm", "onnx", "matplotlib", "torchvision", "onnxruntime.training", "edgeplast_exporters"}
    assert not foreign & set(facts["modules"])
    assert not [name for name in facts["modules"] if name.startswith(("edgeplast.scoring", "edgeplast.planning"))]
    assert 1 << 20 < facts["before_runtime"] < 80_000_000
