"""Tokens merged before what trains, through real commands: every verb after export works without knowing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeplast.cli.app import run

pytest.importorskip("torch", reason="exporting needs it")

MODEL = ("vit_tiny_patch16_224", "--image-size", "32", "--model-kwargs", '{"depth": 4, "patch_size": 4}')
Edgeplast = Callable[..., str]


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

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    model = import_timm().create_model(MODEL[0], img_size=32, patch_size=4, num_classes=5, depth=4)
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def edgeplast(capsys: pytest.CaptureFixture[str]) -> Edgeplast:
    """Run a command in this process; return what it prints."""

    def command(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        found = run(list(map(str, words)))
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    return command


@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_every_verb_works_without_knowing(
    checkpoint: Path, blobs: Path, tmp_path: Path, edgeplast: Edgeplast, compute: str
) -> None:
    bundle, adapted, model, adapter = (tmp_path / n for n in ("bundle", "adapted", "model.onnx", "adapter"))
    edgeplast(
        "export", *MODEL, "--checkpoint", checkpoint, "--data", blobs, "--train", "attn:2-3,norm,head", "--pairs", 4,
        "--batch", 8, "--frozen-compute", compute, "--merge-tokens", 6, "-o", bundle,
    )  # fmt: skip
    note = "6 tokens are merged into others in each of blocks 0 to 1: 65 at first, 53 where training begins."
    assert note in " ".join(edgeplast("inspect", bundle).split())
    assert any(line.startswith(note) for line in json.loads(edgeplast("inspect", bundle, "--json"))["notes"])
    assert edgeplast("doctor", bundle, "--memory", "none")
    scored = json.loads(edgeplast("score", bundle, "--data", blobs, "--pairs", 4, "--json"))
    assert {"blocks.0.attn", "blocks.3.attn"} <= scored["components"].keys()
    edgeplast("adapt", bundle, "--data", blobs, "--epochs", 5, "--lr", 3e-3, "--memory", "none", "-o", adapted)
    before = json.loads(edgeplast("evaluate", adapted, "--data", blobs, "--json"))
    assert before["accuracy"] > 0.6
    edgeplast("deploy", adapted, "-o", model)
    after = json.loads(edgeplast("evaluate", model, "--data", blobs, "--json"))
    assert after["accuracy"] == pytest.approx(before["accuracy"])
    assert "red" in edgeplast("predict", model, blobs / "test" / "red" / "000.png")
    edgeplast("detach", adapted, "-o", adapter)
    again = json.loads(edgeplast("evaluate", bundle, "--adapter", adapter, "--data", blobs, "--json"))
    assert again["accuracy"] == pytest.approx(before["accuracy"])


def test_what_cannot_be_merged_is_said_before_anything_is_scored(
    checkpoint: Path, blobs: Path, tmp_path: Path, edgeplast: Edgeplast
) -> None:
    from safetensors.torch import save_file

    from edgeplast.models import import_timm

    words = ("--checkpoint", checkpoint, "--data", blobs, "-o", tmp_path / "bundle")
    said = edgeplast("export", *MODEL, *words, "--merge-tokens", 40, code=2)
    assert "--merge-tokens 40: of the 64 patches of an image one block can merge 0 to 31." in " ".join(said.split())
    save_file(import_timm().create_model("resnet10t", num_classes=5).state_dict(), tmp_path / "weights.safetensors")
    words = ("--checkpoint", tmp_path / "weights.safetensors", "--data", blobs, "-o", tmp_path / "bundle")
    said = edgeplast("export", "resnet10t", *words, "--merge-tokens", 4, code=3)
    assert "resnet10t is no plain vision transformer" in said and "Token merging takes" in " ".join(said.split())


def test_bits_are_chosen_for_the_merged_model(
    checkpoint: Path, blobs: Path, tmp_path: Path, edgeplast: Edgeplast
) -> None:
    bundle = tmp_path / "bundle"
    said = edgeplast(
        "export", *MODEL, "--checkpoint", checkpoint, "--data", blobs, "--train", "attn:3,norm,head", "--pairs", 4,
        "--weight-bits", "auto", "--size", "4MiB", "--merge-tokens", 6, "-o", bundle, "--json",
    )  # fmt: skip
    assert json.loads(said)["bytes"] <= 4 << 20
