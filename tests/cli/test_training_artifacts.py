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


def _exported(*words: str) -> list[str]:
    return ["export", words[0], "--format", "ort-training", "-o", str(Path(words[0]).parent / "made"), *words[1:]]


@pytest.mark.parametrize(
    "words",
    [
        ("--train", "head"),
        ("--memory", "64MiB"),
        ("--weight-bits", "8"),
        ("--data", "photos"),
        ("--plan", "plan.json"),
        ("--classes", "a,b"),
        ("--pretrained",),
        ("--batch", "16"),
        ("--device", "auto"),
    ],
)
def test_what_a_bundle_says_itself_is_refused_beside_it(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxruntime.training.onnxblock", reason="the training build writes them")
    small_bundle(tmp_path / "bundle", train="")
    assert run(_exported(str(tmp_path / "bundle"), "--seed", "0", *words)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is a bundle, which has its model, its plan and its classes already: leave out" in said
    assert words[0] in said and "--seed" in said and "--force" not in said
    assert not (tmp_path / "made").exists()


def test_a_run_file_counts_as_typed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime.training.onnxblock", reason="the training build writes them")
    small_bundle(tmp_path / "bundle", train="")
    (tmp_path / "run.toml").write_text("[export]\ntrain = 'head'\n")
    assert run(_exported(str(tmp_path / "bundle"), "--config", str(tmp_path / "run.toml"))) == 2
    assert "leave out --train." in " ".join(capsys.readouterr().err.split())


def test_only_a_bundle_that_a_trusted_key_signed_becomes_artifacts(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxruntime.training.onnxblock", reason="the training build writes them")
    pytest.importorskip("nacl", reason="signatures are PyNaCl's")
    small_bundle(tmp_path / "bundle", train="")
    for name in ("mine", "other"):
        assert run(["keygen", str(tmp_path / name)]) == 0
    assert run(["sign", str(tmp_path / "bundle"), "--key", str(tmp_path / "mine.key")]) == 0
    words = _exported(str(tmp_path / "bundle"))
    assert run([*words, "--trusted", str(tmp_path / "other.pub")]) == 5
    assert not (tmp_path / "made").exists()
    capsys.readouterr()
    assert run([*words, "--trusted", str(tmp_path / "mine.pub")]) == 0


def test_who_signed_is_asked_of_bundles_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["export", "vit_tiny_patch16_224", "--pretrained", "--trusted", "key.pub", "-o", str(tmp_path / "made")]
    assert run(words) == 2
    assert "--trusted asks who signed a bundle, and vit_tiny_patch16_224 is exported as a model." in " ".join(
        capsys.readouterr().err.split()
    )
