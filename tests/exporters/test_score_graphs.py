"""A bundle scores its own components as torch scores the model that it is, fresh and adapted, however it is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CLASSES, hand_made_plan, small_bundle, small_vit
from torch import nn

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.contract import DISTANCES, PAIRS
from edgeplast.errors import UsageError
from edgeplast.models import import_timm
from edgeplast.outline import Outline
from edgeplast.plans import plan_by_names
from edgeplast.preprocessing import Preprocessing
from edgeplast.scores import ScoreTable
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.weights import all_parameters
from edgeplast_exporters import export
from edgeplast_exporters.outlining import traced

METHODS = ("plasticity", "plasticity-branch")
SIDE = 32
HOW = Preprocessing(
    image_size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear", crop_fraction=1.0
)


def randomised(model: nn.Module) -> nn.Module:
    """No norm of whose factors or statistics is zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3, generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.0 if name.endswith("bias") else 1.0, 0.2, generator=generator)
    return model.eval()


def test_model(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(import_timm().create_model(name, num_classes=len(CLASSES)))


test_model.__test__ = False  # type: ignore[attr-defined]


def exported(model: nn.Module, into: Path, train: str) -> Bundle:
    outline: Outline = traced(model, (3, SIDE, SIDE)).outline
    plan = plan_by_names(outline, train, weight_bits=32, classes=CLASSES)
    return export(model, plan, into=into, classes=CLASSES, preprocessing=HOW)


def both(bundle: Bundle, model: nn.Module, blobs: Path, pairs: int = 12) -> tuple[ScoreTable, ScoreTable]:
    there = edgeplast.score_bundle(bundle, blobs, method=METHODS[0], others=METHODS[1:], pairs=pairs, threads=1)
    how = bundle.manifest.preprocessing
    here = edgeplast.score(model, blobs, method=METHODS[0], others=METHODS[1:], pairs=pairs, preprocessing=how)
    return there, here


def assert_same(there: ScoreTable, here: ScoreTable, tolerance: float = 1e-4) -> None:
    assert there.methods == here.methods and there.classes == here.classes
    for method in here.methods:
        one, other = there.by(method), here.by(method)
        assert list(one) == list(other)
        for name, entry in one.items():
            assert entry.score == pytest.approx(other[name].score, rel=tolerance), (method, name)
            assert entry.standard_error == pytest.approx(other[name].standard_error, rel=10 * tolerance, abs=1e-6)
            assert (entry.parameters, entry.samples) == (other[name].parameters, other[name].samples)


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("test_resnet", "layer4.0.conv2,layer4.0.bn2,head"),  # frozen norms folded, one trained
        ("test_efficientnet", "blocks.2.0.conv_pwl,head"),  # a norm multiplied into a kernel that trains
        ("test_convnext", "fc1,head"),
        ("test_vit3", "attn,head"),
    ],
)
def test_any_model_is_scored_as_torch_does(name: str, train: str, blobs: Path, tmp_path: Path) -> None:
    model = test_model(name)
    if not hasattr(model, "patch_embed"):
        bundle = exported(model, tmp_path / "b", train)
        assert_same(*both(bundle, model, blobs))
        return
    outline = traced(model).outline
    plan = plan_by_names(outline, train, weight_bits=32, classes=CLASSES)
    bundle = edgeplast.export(model, plan, into=tmp_path / "b", keep_head=True)
    assert_same(*both(bundle, model, blobs, pairs=4))


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_an_adapted_bundle_is_scored_with_what_it_learned(bits: int, blobs: Path, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "b", "blocks:1,norm", weight_bits=bits)
    options = TrainingOptions(epochs=1, learning_rate=1e-2, threads=1)
    edgeplast.adapt(bundle, blobs, into=tmp_path / "a", options=options)
    fresh = edgeplast.score_bundle(bundle, blobs, pairs=12, threads=1)
    there, here = both(Bundle.open(tmp_path / "a"), as_stored(tmp_path / "a"), blobs)
    assert_same(there, here)
    moved = there.by("plasticity-branch")["blocks.1.fc1"].score / fresh.components["blocks.1.fc1"].score
    assert abs(moved - 1) > 1e-3


def as_stored(folder: Path) -> nn.Module:
    """The model with the very numbers that a bundle holds."""
    model = small_vit()
    arrays = dict(all_parameters(Bundle.open(folder)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(arrays[name])).reshape(parameter.shape))
    return model


def test_low_rank_factors_count_once_they_have_learned(blobs: Path, tmp_path: Path) -> None:
    table = edgeplast.score_bundle(small_bundle(tmp_path / "first", "head"), blobs, pairs=4)
    plan = edgeplast.plan(table, train="lora:2@attn,lora:2@fc1", weight_bits=32, classes=CLASSES)
    bundle = edgeplast.export(small_vit(), plan, into=tmp_path / "b", keep_head=True)
    edgeplast.adapt(
        bundle, blobs, into=tmp_path / "a", options=TrainingOptions(epochs=1, learning_rate=1e-2, threads=1)
    )
    there, here = both(Bundle.open(tmp_path / "a"), as_stored(tmp_path / "a"), blobs)
    assert list(there.components) == [n for n in traced(small_vit()).outline.names if n.startswith("blocks")]
    assert_same(there, here)


def test_products_in_integers_are_scored_as_they_are_computed(blobs: Path, tmp_path: Path) -> None:
    model = small_vit()
    plan = hand_made_plan(model, "blocks:1,norm", 8)
    bundle = edgeplast.export(
        model, plan, into=tmp_path / "b", keep_head=True, frozen_compute="int8", images=blobs, calibration_images=16
    )
    there, here = both(bundle, model, blobs)
    for name, entry in there.components.items():
        assert entry.score == pytest.approx(here.components[name].score, rel=0.2), name


def test_what_a_norm_hides_has_no_score_of_its_own(blobs: Path, tmp_path: Path) -> None:
    """Multiplied by zero and folded away, what a convolution made cannot be seen; with its norm it can."""
    model = test_model("test_resnet")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        norms[3].weight[0] = 0
    bundle = exported(model, tmp_path / "b", "head")
    with pytest.raises(
        UsageError, match=r"Unknown score method of this bundle 'plasticity'.*Known: plasticity-branch\."
    ):
        edgeplast.score_bundle(bundle, blobs, method="plasticity", pairs=4)
    there = edgeplast.score_bundle(bundle, blobs, pairs=12, threads=1)
    here = edgeplast.score(model, blobs, pairs=12, preprocessing=HOW)
    assert_same(there, here)


def test_a_table_from_a_device_is_planned_with(blobs: Path, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "b", "blocks:1,norm")
    edgeplast.score_bundle(bundle, blobs, pairs=8).write(tmp_path / "scores.json")
    plan = edgeplast.plan(tmp_path / "scores.json", train="attn:1,head")
    assert plan.trainable == ("blocks.1.attn", "head")
    made = edgeplast.export(small_vit(), plan, into=tmp_path / "again", keep_head=True)
    assert made.manifest.scoring is not None


def test_the_graph_asks_only_for_what_it_reads(tmp_path: Path) -> None:
    import onnx

    bundle = small_bundle(tmp_path / "b", "blocks:1,norm")
    graph = onnx.load(bundle.path / "score.onnx", load_external_data=False).graph
    assert [o.name for o in graph.output] == [DISTANCES]
    inputs = [i.name for i in graph.input]
    assert inputs[0] == PAIRS and not {"head.weight", "norm.weight"} & {*inputs}
    footprint = bundle.manifest.scoring
    assert footprint is not None and footprint.transient_bytes(2) > footprint.transient_bytes(1)
