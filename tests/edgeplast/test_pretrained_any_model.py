"""Weights of models that are no vision transformers: names that end alike, counters of batch norms, wrappers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgeplast.models import import_timm, load_model, source_of


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_convolutional_models_are_read_whole(name: str, prefix: str, tmp_path: Path) -> None:
    import_timm()
    import timm

    made = timm.create_model(name, num_classes=7)
    state = {k: v.contiguous().clone() for k, v in made.state_dict().items()}
    kept = {prefix + k: v for k, v in state.items() if not (prefix and k.endswith("num_batches_tracked"))}
    save_file(kept, tmp_path / "weights.safetensors")
    loaded = load_model(name, checkpoint=tmp_path / "weights.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items())
    source = source_of(loaded)
    assert source is not None and "7 classes" in source.used and "left out" not in source.used
