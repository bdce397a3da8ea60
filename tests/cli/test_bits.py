"""``--weight-bits``: one number for all, others for components that are named; ``--frozen-compute`` and its images."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import small_vit
from typer.testing import CliRunner
from vit_graphs import vit

from edgeplast.bundle import Bundle
from edgeplast.cli.app import app
from edgeplast.cli.bits import weight_bits_of
from edgeplast.errors import UsageError

pytest.importorskip("torch", reason="exporting needs it")

OUTLINE = vit(width=32, depth=3, heads=2, image=32, patch=8)[0]
MODEL = ("vit_tiny_patch16_224", "--model-kwargs")
KWARGS = '{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}'


def test_one_number_is_for_all() -> None:
    assert weight_bits_of("4", OUTLINE) == (4, {})


def test_named_components_differ_and_the_last_word_counts() -> None:
    overall, named = weight_bits_of("8, fc1=4, attn:0-1=32, blocks.1.fc1=32", OUTLINE)
    assert overall == 8
    assert named == {
        "blocks.0.fc1": 4, "blocks.1.fc1": 32, "blocks.2.fc1": 4, "blocks.0.attn": 32, "blocks.1.attn": 32,
    }  # fmt: skip
    assert weight_bits_of("blocks.2.fc2=4", OUTLINE) == (8, {"blocks.2.fc2": 4})


@pytest.mark.parametrize("given", ["7", "fc1", "fc1=5", "fc1=", "8.0"])
def test_what_cannot_be_read(given: str) -> None:
    with pytest.raises(UsageError, match=r"--weight-bits.*cannot be read.*8,fc1=4"):
        weight_bits_of(given, OUTLINE)


def test_a_component_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"blocks\.9\.fc1"):
        weight_bits_of("8,blocks.9.fc1=4", OUTLINE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("checkpoint") / "weights.safetensors"
    save_file(dict(small_vit(depth=3).state_dict()), path)
    return path


def exported(checkpoint: Path, into: Path, *words: str) -> tuple[int, str]:
    command = ["export", *MODEL, KWARGS, "--checkpoint", str(checkpoint), "-o", str(into), *words]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.output + str(result.exception or "")


def test_export_with_bits_by_component_and_integers(checkpoint: Path, blobs: Path, tmp_path: Path) -> None:
    words = ("--data", str(blobs), "--train", "attn:2,head", "--weight-bits", "8,blocks.0.fc2=4")
    code, output = exported(checkpoint, tmp_path / "b", *words, "--pairs", "2", "--frozen-compute", "int8")
    assert code == 0, output
    assert "multiply in integers" in " ".join(output.split())
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.parameters["blocks.0.mlp.fc2.weight"].weight_bits == 4
    integers = {name for name, p in manifest.parameters.items() if p.compute_bits == 8}
    assert "blocks.1.mlp.fc1.weight" in integers and "blocks.0.mlp.fc2.weight" not in integers


def test_integers_without_images_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    words = ("--plan", "plan.json", "--frozen-compute", "int8")
    code, output = exported(checkpoint, tmp_path / "b", *words)
    assert code != 0 and "--data" in output and "calibrated on images" in " ".join(output.split())


def test_another_word_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    code, output = exported(checkpoint, tmp_path / "b", "--plan", "plan.json", "--frozen-compute", "int4")
    assert code != 0 and "fp32, int8" in " ".join(output.split())


def test_auto_keeps_to_a_size_and_says_what_was_chosen(checkpoint: Path, blobs: Path, tmp_path: Path) -> None:
    words = ("--data", str(blobs), "--train", "attn:2,head", "--pairs", "2", "--weight-bits", "auto")
    code, output = exported(checkpoint, tmp_path / "b", *words, "--size", "200KiB")
    assert code == 0, output
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.bytes <= 200 * 1024
    assert "Bits chosen by plasticity and measured error" in " ".join(output.split())
    shown = CliRunner().invoke(app, ["inspect", str(bundle.path)])
    assert "note: Bits chosen by plasticity and measured error" in shown.output and "200 KiB allowed" in shown.output
    code, output = exported(checkpoint, tmp_path / "c", *words, "--size", "1KiB")
    assert code != 0 and "in 4 bits, takes" in " ".join(output.split()) and not (tmp_path / "c").exists()


def test_auto_for_an_accuracy_with_a_probe(checkpoint: Path, blobs: Path, tmp_path: Path) -> None:
    words = ("--data", str(blobs), "--train", "attn:2,head", "--pairs", "2", "--weight-bits", "auto")
    code, output = exported(checkpoint, tmp_path / "b", *words, "--max-accuracy-drop", "30")
    assert code == 0, output
    assert "Accuracy of a logistic probe on its features" in " ".join(output.split())
    assert 4 in {c.weight_bits for c in Bundle.open(tmp_path / "b").manifest.plan.components.values()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weight-bits", "auto", "--data", "d"), "needs a target: --size 8MiB or --max-accuracy-drop 0.5"),
        (("--weight-bits", "auto", "--size", "8MiB", "--plan", "p"), "Give them with --data"),
        (("--size", "8MiB", "--data", "d"), "Give --weight-bits auto with them"),
        (("--weight-bits", "8,fc1=4,auto", "--data", "d", "--size", "8MiB"), "Give --weight-bits auto with them"),
        (
            ("--weight-bits", "auto", "--size", "8MiB", "--data", "d", "--frozen-compute", "int8"),
            "cannot be combined with --frozen-compute int8",
        ),
    ],
)
def test_options_that_do_not_go_with_auto(checkpoint: Path, tmp_path: Path, words: tuple, message: str) -> None:
    code, output = exported(checkpoint, tmp_path / "b", *words)
    assert code != 0 and message in " ".join(output.split())


def test_auto_is_for_export_alone() -> None:
    with pytest.raises(UsageError, match=r"measured on the model.*goes with export"):
        weight_bits_of("auto", OUTLINE)
