"""Writing bundles: whole or absent, proven equal to the model, and clear refusals before anything is written."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import CLASSES, labels, mean_targets, parameters, pictures, plan_of, small, torch_step
from safetensors.numpy import load_file

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, TRAINABLE, Bundle
from edgeplast.components import component_of
from edgeplast.errors import EdgeplastError, InputError, UsageError
from edgeplast.models import import_timm, preprocessing_of
from edgeplast.placement import ON_CPU
from edgeplast.plans import Plan
from edgeplast_devices.predicting import session_over
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_devices.sessions import trains_on_pictures
from edgeplast_devices.weights import all_parameters, read_trainable
from edgeplast_exporters import export
from edgeplast_exporters.capture import capture
from edgeplast_exporters.capture.parity import check_parity
from edgeplast_exporters.tiers import tier_components


def written(model: torch.nn.Module, into: Path, plan: Plan | None = None, **options: Any) -> Bundle:
    return export(
        model,
        plan or plan_of(model),
        into=into,
        **({"classes": CLASSES, "preprocessing": preprocessing_of(model)} | options),
    )


def assert_nothing_written(folder: Path) -> None:
    assert list(folder.iterdir()) == []


# -- what is written --------------------------------------------------------------------------------------------


def test_a_written_bundle_opens_and_says_what_it_holds(tmp_path: Path) -> None:
    model = small(depth=4)
    bundle = written(model, tmp_path / "b", plan_of(model, "attn,norm"))
    again = Bundle.open(tmp_path / "b")
    assert again == bundle
    manifest = again.manifest
    assert manifest.classes == CLASSES
    assert set(manifest.parameters) == {n for n, _ in model.named_parameters()}
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"bundle.json", *manifest.files}
    assert [t.name for t in manifest.tiers] == ["full", "half", "quarter", "head"]
    assert manifest.versions["torch"] == torch.__version__


def test_tiers_are_nested_and_end_with_the_head() -> None:
    model = small(depth=4)
    tiers = tier_components(plan_of(model, "patch_embed,attn,fc1:2,norm"))
    sets = [set(components) for _, components in tiers]
    assert all(small_one < large for large, small_one in itertools.pairwise(sets))
    assert sets[-1] == {"head"}
    assert "patch_embed" in sets[0] and "patch_embed" not in sets[1]


def test_a_plan_for_the_head_alone_has_one_tier() -> None:
    model = small()
    assert tier_components(plan_of(model, "head")) == [("full", ("head",))]


@pytest.mark.parametrize("bits", [8, 32])
def test_stored_weights_are_the_models(tmp_path: Path, bits: int) -> None:
    model = small()
    bundle = written(model, tmp_path / "b", plan_of(model, "attn:1", bits=bits))
    stored = dict(all_parameters(bundle))
    for name, array in parameters(model).items():
        entry = bundle.manifest.parameters[name]
        assert stored[name].shape == array.shape == entry.shape
        assert entry.component == component_of(name)
        step = np.abs(array).max() / 127 if entry.weight_bits == 8 else 0
        assert np.abs(stored[name] - array).max() <= step * 0.51
        matrix = array.ndim == 2 and not entry.trainable
        assert entry.weight_bits == (bits if matrix else 32)
    assert set(load_file(tmp_path / "b" / TRAINABLE)) == set(read_trainable(bundle))


def test_every_training_graph_runs_and_gives_torchs_gradients(tmp_path: Path) -> None:
    model = small(depth=4)
    bundle = written(model, tmp_path / "b", plan_of(model, "attn,norm", bits=32))
    images, answers = pictures(model, 3), labels(3)
    for tier in bundle.manifest.tiers:
        trained = [n for n in parameters(model) if component_of(n) in tier.components]
        expected = torch_step(model, trained, images, answers)
        for graph in tier.graphs:
            held = read_trainable(bundle)
            gradients = {n: np.zeros_like(held[n]) for n in trained}
            session = trains_on_pictures(bundle, graph.file, held, gradients, 1)
            loss, logits = session.accumulate(images, mean_targets(answers))
            assert loss == pytest.approx(expected.loss, rel=1e-5)
            np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
            for name in trained:
                scale = max(np.abs(g).max() for g in expected.gradients.values()) * 1e-4
                np.testing.assert_allclose(gradients[name], expected.gradients[name], atol=scale, rtol=1e-4)


def test_the_evaluation_graph_is_the_model(tmp_path: Path) -> None:
    model = small("deit_tiny_distilled_patch16_224")
    bundle = written(model, tmp_path / "b", plan_of(model, "attn:1", bits=32))
    session = session_over(bundle, 1, ON_CPU)
    images = pictures(model, 3)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.logits(images), expected, atol=1e-4)


def test_everything_may_train(tmp_path: Path) -> None:
    model = small()
    bundle = written(model, tmp_path / "b", plan_of(model, "all"))
    assert load_file(bundle.path / FROZEN) == {}
    held = read_trainable(bundle)
    EvaluationSession(bundle.path / EVALUATION_GRAPH, held, 1).logits(pictures(model, 2))


def test_the_same_model_and_plan_give_the_same_files(tmp_path: Path) -> None:
    model = small()
    one, other = (written(model, tmp_path / name) for name in ("one", "other"))
    assert one.manifest == other.manifest


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    model = small()
    model.train()
    before = copy.deepcopy(model.state_dict())
    written(model, tmp_path / "b")
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_model_in_training_mode_is_exported_as_it_evaluates(tmp_path: Path) -> None:
    model = small(drop_rate=0.5, proj_drop_rate=0.5, drop_path_rate=0.5)
    model.train()
    written(model, tmp_path / "b")


def test_a_half_precision_model_is_exported_in_single_precision(tmp_path: Path) -> None:
    bundle = written(small().half(), tmp_path / "b")
    assert {a.dtype for _, a in all_parameters(bundle)} == {np.dtype(np.float32)}


def test_the_whole_of_a_tiny_bundle_is_small(tmp_path: Path) -> None:
    """Tiers share one store: a bundle is no larger than fp32 weights and 3 MB a tier."""
    model = small(depth=4)
    bundle = written(model, tmp_path / "b", plan_of(model, "attn"))
    weights = sum(4 * p.numel() for p in model.parameters())
    assert bundle.bytes <= weights + 3_000_000 * len(bundle.manifest.tiers)


# -- whole or absent --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_failure_half_way_leaves_nothing(tmp_path: Path, when: int) -> None:
    calls = []

    def fails(activity: str, done: int, total: int) -> None:
        calls.append(activity)
        if activity == "writing training graphs" and done == when:
            raise KeyboardInterrupt

    model = small(depth=4)
    with pytest.raises(KeyboardInterrupt):
        written(model, tmp_path / "b", plan_of(model, "attn"), progress=fails)
    assert "writing training graphs" in calls
    assert_nothing_written(tmp_path)


def test_a_failure_while_replacing_keeps_the_old_bundle(tmp_path: Path) -> None:
    model = small()
    old = written(model, tmp_path / "b")

    def fails(activity: str, done: int, total: int) -> None:
        if activity == "writing training graphs":
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="disk is full"):
        written(small(seed=1), tmp_path / "b", force=True, progress=fails)
    assert Bundle.open(tmp_path / "b") == old
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_an_existing_folder_is_refused_unless_forced(tmp_path: Path) -> None:
    old = written(small(), tmp_path / "b")
    with pytest.raises(UsageError, match=r"exists already.*--force"):
        written(small(seed=1), tmp_path / "b")
    assert Bundle.open(tmp_path / "b") == old
    written(small(seed=1), tmp_path / "b", force=True)
    assert Bundle.open(tmp_path / "b") != old
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


# -- refusals ---------------------------------------------------------------------------------------------------


def refused(model: torch.nn.Module, folder: Path, message: str, plan: Plan | None = None, **options: Any) -> None:
    with pytest.raises(EdgeplastError, match=message) as caught:
        written(model, folder / "b", plan or plan_of(small()), **options)
    assert isinstance(caught.value, InputError)
    assert_nothing_written(folder)


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    refused(small(embed_dim=48), tmp_path, "another model.*Score and plan this model", plan_of(small()))


def test_a_plan_for_another_depth_is_refused(tmp_path: Path) -> None:
    refused(small(depth=3), tmp_path, "another model.*depth", plan_of(small()))


def test_the_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    refused(small(), tmp_path, "3 outputs but 4 classes", classes=("a", "b", "c", "d"))


def test_one_class_twice_is_refused(tmp_path: Path) -> None:
    refused(small(), tmp_path, "different class names", classes=("a", "b", "a"))


def test_a_forward_method_of_its_own_is_captured() -> None:
    model = small()
    plain = model(torch.zeros(1, 3, 32, 32))
    whole = model.forward_features
    model.forward_features = lambda x, **options: 1.01 * whole(x, **options) + 0.1
    assert check_parity(model, capture(model, (3, 32, 32))) < 1e-4
    assert not torch.allclose(model(torch.zeros(1, 3, 32, 32)), plain)


def test_a_module_that_cannot_run_is_refused_with_its_own_error(tmp_path: Path) -> None:
    model = small()
    model.forward_features = lambda x: x
    refused(model, tmp_path, "itself fails on images.*TypeError")


def test_a_hook_is_captured() -> None:
    model = small()
    plain = model(torch.zeros(1, 3, 32, 32))
    model.blocks[0].attn.register_forward_hook(lambda module, given, result: result * 1.5)
    assert check_parity(model, capture(model, (3, 32, 32))) < 1e-4
    assert not torch.allclose(model(torch.zeros(1, 3, 32, 32)), plain)


def test_a_fresh_head_of_zeros_hides_no_difference() -> None:
    model = small()
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    captured = capture(model, (3, 32, 32))
    assert check_parity(model, captured) < 1e-4
    model.blocks[0].attn.register_forward_hook(lambda module, given, result: result * 1.5)
    with pytest.raises(InputError, match=r"model disagree: logits differ by .*VisionTransformer computes something"):
        check_parity(model, captured)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = small()
    model.blocks[0].mlp.fc1.weight.data[3, 4] = torch.nan
    refused(model, tmp_path, r"blocks\.0\.mlp\.fc1\.weight.*not finite")


@pytest.mark.parametrize("shared", ["block", "matrix"])
def test_shared_parameters_are_one_weight(shared: str) -> None:
    model = small()
    if shared == "block":
        model.blocks[1] = model.blocks[0]
    else:
        model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    captured = capture(model, (3, 32, 32))
    assert check_parity(model, captured) < 1e-4
    assert {*captured.parameters} == {name for name, _ in model.named_parameters()}
    assert sum("blocks.0.mlp.fc1.weight" in node.inputs for node in captured.graph.nodes) == 2


OUTSIDE: dict[str, tuple[dict[str, Any], str]] = {
    "no pooling": ({"global_pool": ""}, r"returns a tensor of shape \(2, 17, 3\).*picks the logits"),
    "a plan for pictures in colour": ({"in_chans": 1}, "another model.*patch_embed has 6752 parameters there and 2656"),
    "no classifier": ({"num_classes": 0}, "32 outputs but 3 classes"),
    "another block": ({"block_fn": "ParallelThingsBlock"}, "another model.*Score and plan this model"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_does_not_fit_is_refused(kind: str, tmp_path: Path) -> None:
    options, message = OUTSIDE[kind]
    refused(made(**options), tmp_path, message)


def made(**options: Any) -> torch.nn.Module:
    """A small model; blocks and attention are named as timm names them."""
    import_timm()
    import timm.layers
    from timm.models import vision_transformer

    for part, module in (("block_fn", vision_transformer), ("attn_layer", timm.layers)):
        if part in options:
            options[part] = getattr(module, options[part])
    return small(**options)


INSIDE: dict[str, dict[str, Any]] = {
    "attention pooling": {"global_pool": "map"},
    "pooling by mean and maximum": {"global_pool": "avgmax"},
    "parallel branches": {"block_fn": "ParallelThingsBlock"},
    "one product for attention and MLP": {"block_fn": "ParallelScalingBlock"},
    "norms after": {"block_fn": "ResPostBlock", "init_values": 0.5},
    "differential attention": {"attn_layer": "DiffAttention"},
}


@pytest.mark.parametrize("kind", INSIDE)
def test_whatever_is_made_of_operators_is_exported(kind: str, tmp_path: Path) -> None:
    model = made(**INSIDE[kind])
    assert check_parity(model, capture(model, (3, 32, 32))) < 1e-4
    bundle = written(model, tmp_path / "b", plan_of(model, "blocks.1"))
    assert {p.component for p in bundle.manifest.parameters.values()} == {*bundle.manifest.plan.components}


def test_patches_that_overlap_are_a_convolution() -> None:
    model = small()
    model.patch_embed.proj.padding = (4, 4)
    model.pos_embed = torch.nn.Parameter(torch.randn(1, 26, 32))
    model.patch_embed.strict_img_size = False
    captured = capture(model, (3, 32, 32))
    assert check_parity(model, captured) < 1e-4
    assert [node.op for node in captured.graph.nodes].count("Conv") == 1
