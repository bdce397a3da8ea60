"""A pruned model on disk: written whole, opened as a model like any other, and what is said of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compression_models import Noise, table
from safetensors.torch import save_file
from small_models import CLASSES, small_vit

from edgeplast import compressing, verbs
from edgeplast.compression import Pruned, Target, prune, write_pruned
from edgeplast.errors import DamagedError, InputError, UsageError
from edgeplast.models import describe, import_timm, load_model, source_of, with_classes
from edgeplast.placement import ON_CPU
from edgeplast.pruned import PrunedRecord
from edgeplast_devices.predicting import session_over
from edgeplast_devices.runtime import EvaluationSession

NAME = "vit_tiny_patch16_224"
SMALL: dict = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


def loaded(folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = import_timm().create_model(NAME, num_classes=5, **{**SMALL, **options})
    save_file(model.state_dict(), folder / "weights.safetensors")
    return load_model(NAME, checkpoint=folder / "weights.safetensors", options={**SMALL, **options})


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    model = loaded(tmp_path_factory.mktemp("checkpoint"))
    uneven = table(model, {"blocks.0.attn": 0.1, "blocks.1.fc1": 0.1})
    return prune(model, Noise(), Target(keep=0.6), scores=uneven)


@pytest.fixture
def folder(pruned: Pruned, tmp_path: Path) -> Path:
    write_pruned(pruned, tmp_path / "pruned")
    return tmp_path / "pruned"


def test_what_is_opened_is_what_was_written(pruned: Pruned, folder: Path):
    opened = load_model(str(folder))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened(images), pruned.model(images))
    assert describe(opened) == describe(pruned.model) and not opened.training
    assert {p.name for p in folder.iterdir()} == {"pruned.json", "weights.safetensors"}
    written = PrunedRecord.read(folder / "pruned.json")
    assert written.blocks == pruned.record.blocks and written.before.macs > written.after.macs
    sizes = describe(opened)
    assert len(set(sizes.heads)) > 1 or len(set(sizes.mlp_width)) > 1  # or nothing here would be shown


def test_pruning_again_multiplies_what_is_kept(folder: Path, tmp_path: Path):
    again = prune(load_model(str(folder)), Noise(), Target(keep=0.8))
    write_pruned(again, tmp_path / "again")
    architecture = describe(load_model(str(tmp_path / "again")))
    before = describe(small_vit(embed_dim=32, num_heads=4)).parameters
    for component, share in architecture.kept_fraction.items():
        assert share == pytest.approx(architecture.parameters[component] / before[component]), component


def test_the_device_computes_what_torch_does(folder: Path, tmp_path: Path):
    model = with_classes(load_model(str(folder)), len(CLASSES))
    for parameter in model.head.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter)
    plan = verbs.plan(table(model, {}), train="blocks:1,norm,head", classes=CLASSES, weight_bits=32)
    assert plan.components["blocks.0.attn"].kept_fraction < 1 and plan.components["blocks.0.norm1"].kept_fraction == 1
    bundle = verbs.export(model, plan, into=tmp_path / "bundle", keep_head=True)
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)
    session = session_over(bundle, 1, ON_CPU)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    assert np.abs(session.logits(images) - expected).max() < 1e-4
    file = verbs.deploy(bundle, tmp_path / "model.onnx")
    deployed = EvaluationSession(file, {}, threads=1, optimized=True)
    assert np.abs(deployed.logits(images) - expected).max() < 1e-4


def test_a_folder_is_whole_or_absent(pruned: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def breaks(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PrunedRecord, "write", breaks)
    with pytest.raises(InputError, match="The disk is full"):
        write_pruned(pruned, tmp_path / "pruned")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_only_by_force(pruned: Pruned, folder: Path):
    with pytest.raises(UsageError, match="exists already"):
        write_pruned(pruned, folder)
    write_pruned(pruned, folder, force=True)
    assert load_model(str(folder)) is not None


def test_a_module_that_no_name_makes_is_pruned_but_not_written(tmp_path: Path):
    pruned = prune(small_vit(embed_dim=32, num_heads=4), Noise(), Target(keep=0.8))
    assert source_of(pruned.model) is None
    with pytest.raises(InputError, match="nothing says how to make it again"):
        write_pruned(pruned, tmp_path / "pruned")
    assert not list(tmp_path.iterdir())


def test_damage_is_found_and_named(folder: Path):
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(DamagedError, match=r"is damaged: weights\.safetensors was changed"):
        load_model(str(folder))
    (folder / "weights.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"weights\.safetensors is missing"):
        load_model(str(folder))
    (folder / "pruned.json").write_text("{")
    with pytest.raises(DamagedError, match="not a valid pruned model"):
        load_model(str(folder))


def test_a_record_of_other_sizes_than_the_weights_is_damage(folder: Path):
    record = json.loads((folder / "pruned.json").read_text())
    record["blocks"][0]["hidden"] += 1
    (folder / "pruned.json").write_text(json.dumps(record))
    with pytest.raises(DamagedError, match=r"the weights have other sizes than pruned\.json says"):
        load_model(str(folder))
    record["blocks"][0]["heads"] = 0
    (folder / "pruned.json").write_text(json.dumps(record))
    with pytest.raises(DamagedError, match="keeps 1 head and 1 hidden unit or more"):
        load_model(str(folder))


def test_a_loss_of_distillation_is_two_numbers_or_none(folder: Path):
    content = json.loads((folder / "pruned.json").read_text())
    (folder / "pruned.json").write_text(json.dumps({**content, "distill_loss": [1.0, 0.5, 0.2]}))
    with pytest.raises(InputError, match="The loss of distillation has two entries, or none; here 3"):
        PrunedRecord.read(folder / "pruned.json")


@pytest.mark.parametrize("cost", [{"parameters": 0, "macs": 1}, {"parameters": 1, "macs": 1, "latency_seconds": 0}])
def test_a_model_costs_something(folder: Path, cost: dict):
    content = json.loads((folder / "pruned.json").read_text())
    (folder / "pruned.json").write_text(json.dumps({**content, "before": cost}))
    with pytest.raises(InputError, match="is not a valid pruned model: Expected"):
        PrunedRecord.read(folder / "pruned.json")


def test_a_newer_record_asks_for_an_upgrade(folder: Path):
    record = json.loads((folder / "pruned.json").read_text())
    (folder / "pruned.json").write_text(json.dumps({**record, "format_version": 9}))
    with pytest.raises(InputError, match="has format 9; this edgeplast reads up to 1"):
        load_model(str(folder))


def test_a_pruned_model_takes_no_other_weights_or_sizes(folder: Path, tmp_path: Path):
    for options in ({"checkpoint": tmp_path / "w.pth"}, {"pretrained": True}, {"image_size": (64, 64)}):
        with pytest.raises(UsageError, match="is a pruned model and brings its own weights and sizes"):
            load_model(str(folder), **options)


def test_a_model_without_heads_and_hidden_units_is_refused_before_anything_is_scored() -> None:
    model = import_timm().create_model("resnet10t", num_classes=3)
    says = (
        r"ResNet is no plain vision transformer: it has no patch_embed and no blocks and no head\. Pruning takes models"
    )
    with pytest.raises(InputError, match=says):
        compressing.prune(model, "no/such/pictures", keep=0.8)
