"""A text will do where a number of bytes, a path or a name stands, as on the command line."""

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec
import pytest
from small_models import small_bundle, small_vit

import edgeplast
from edgeplast.errors import UsageError


def test_a_budget_reads_what_the_command_line_reads() -> None:
    assert edgeplast.Budget("256MiB") == edgeplast.Budget(memory_bytes=256 << 20)
    assert edgeplast.Budget(disk_bytes="30MB").disk_bytes == 30_000_000
    assert edgeplast.Budget("1GiB", step_seconds=0.5).step_seconds == 0.5
    assert msgspec.json.decode(msgspec.json.encode(edgeplast.Budget("256MiB")), type=edgeplast.Budget) == (
        edgeplast.Budget("256MiB")
    )
    assert [*inspect.signature(edgeplast.Budget).parameters] == ["memory_bytes", "step_seconds", "disk_bytes"]


@pytest.mark.parametrize("text", ["256", "lots", "-3MiB", ""])
def test_a_budget_that_is_no_size_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(UsageError, match=r"MiB"):
        edgeplast.Budget(text)


def test_a_bundle_opens_from_a_text(tmp_path: Path) -> None:
    small_bundle(tmp_path / "b", train="")
    assert edgeplast.Bundle.open(str(tmp_path / "b")).path == tmp_path / "b"


def test_a_model_loads_from_texts(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="models are loaded on a workstation")
    from safetensors.torch import save_file

    save_file(small_vit(embed_dim=192, num_heads=3, patch_size=16).state_dict(), tmp_path / "w.safetensors")
    model = edgeplast.load_model(
        "vit_tiny_patch16_224", checkpoint=str(tmp_path / "w.safetensors"), image_size=(32, 32), options={"depth": 2}
    )
    assert model.num_classes == 3
