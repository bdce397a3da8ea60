"""``export --format ort-training`` as it is typed: from a model, from a bundle, and what does not go with it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from small_models import small_bundle, small_vit

from edgeplast.cli.app import run

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="artifacts are written on a workstation")

FILES = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint", "frozen.safetensors")


def test_a_bundle_becomes_training_artifacts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime.training.onnxblock", reason="the training build writes them")
    small_bundle(tmp_path / "bundle", train="attn,head", weight_bits=8, depth=4)
    words = ["export", str(tmp_path / "bundle"), "--format", "ort-training", "-o", str(tmp_path / "made")]
    assert run([*words, "--recompute", "full", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], said["recompute"]) == ("training artifacts", "full")
    assert {*said["files"]} == {*FILES} and {p.name for p in (tmp_path / "made").iterdir()} == {
        *FILES,
        "artifacts.json",
    }
    assert run([*words, "--force"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "images float32 (b, 3, 32 × 32), labels int64 (b,)" in shown and "kept" in shown


def test_a_model_becomes_training_artifacts_and_no_bundle_is_left(blobs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.training.onnxblock", reason="the training build writes them")
    from safetensors.torch import save_file

    save_file(small_vit(embed_dim=192, num_heads=3, patch_size=16).state_dict(), tmp_path / "w.safetensors")
    words = [
        "export",
        "vit_tiny_patch16_224",
        "--model-kwargs",
        '{"depth": 2}',
        "--image-size",
        "32",
        "--data",
        str(blobs),
    ]
    words += [
        "--checkpoint",
        str(tmp_path / "w.safetensors"),
        "--pairs",
        "2",
        "--train",
        "head",
        "--format",
        "ort-training",
        "-o",
        str(tmp_path / "made"),
    ]
    assert run(words) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"made", "w.safetensors"}
    assert {p.name for p in (tmp_path / "made").iterdir()} == {*FILES, "artifacts.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "ort-trainng"], "Unknown --format 'ort-trainng'. Did you mean 'ort-training'?"),
        (["--recompute", "full"], "--recompute goes with --format ort-training"),
        (["--format", "ort-training", "--recompute", "ful"], "Unknown --recompute 'ful'. Did you mean 'full'?"),
        (["--format", "ort-training", "--sign", "key"], "--sign is for bundles. Export one with it"),
        (["--format", "ort-training", "--choose", "measured"], "--choose measured is for bundles. Export one with it"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_work(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(["export", "vit_tiny_patch16_224", "--data", str(tmp_path), *options, "-o", str(tmp_path / "made")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "made").exists()
