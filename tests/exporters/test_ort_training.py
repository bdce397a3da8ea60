"""ONNX Runtime's own training API runs what is written for it as a device runs the bundle it was made of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file
from small_models import CLASSES, small_bundle, small_vit

import edgeplast
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast.errors import MissingExtraError, UsageError
from edgeplast.quiet_runtime import import_quietly
from edgeplast.training_artifacts import ArtifactsRecord
from edgeplast_devices.latents import PrefixSession
from edgeplast_devices.optimizers import make_optimizer
from edgeplast_devices.runtime import TrainingSession

STEPS, RATE, BATCH = 20, 1e-3, 8

KINDS: dict[str, dict[str, Any]] = {
    "everything": {},
    "int8, recomputed": {"train": "attn,head", "weight_bits": 8, "depth": 4},
    "last block": {"train": "attn:3,head", "weight_bits": 8, "depth": 4},
    "last block, 4 bits": {"train": "attn:3,head", "weight_bits": 4, "depth": 4},
    "head alone": {"train": "", "weight_bits": 8},
}


CONVOLUTIONAL = {
    "resnet10t, last stage": ("resnet10t", "layer4"),
    "efficientnet, its last blocks and norms": ("test_efficientnet", "all"),
}
FINER = ("lora:3", "lora-fa:2@attn,fc1", "bias", "norms,lora:2@fc2")


def made_of(model: Any, train: str, into: Path, bits: int = 8) -> Bundle:
    """A bundle of a model, planned under no limit; what trains is named."""
    from edgeplast.budget import Budget
    from edgeplast.planning import plan
    from edgeplast.preprocessing import Preprocessing
    from edgeplast.scores import ComponentScore, ScoreTable
    from edgeplast_exporters.outlining import traced

    preprocessing = Preprocessing(image_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    found = traced(model, (3, 32, 32))
    table = ScoreTable(
        method="plasticity",
        components={c.name: ComponentScore(score=1.0, parameters=c.size) for c in found.outline.components},
        outline=found.outline,
        graph=found.graph,
        classes=CLASSES,
    )
    names = [c.name for c in found.outline.components if c.name.startswith(train)] if train == "layer4" else None
    chosen = ",".join([*names, "head"]) if names else train
    made = plan(table, Budget(), train=chosen, weight_bits=bits, micro_batch_size=4, batch_size=BATCH)
    return edgeplast.export(model, made, into=into, keep_head=True, preprocessing=preprocessing)


@pytest.fixture(scope="module")
def api() -> Any:
    pytest.importorskip("torch", reason="artifacts are written on a workstation")
    try:
        return import_quietly("training.api")
    except ImportError:
        pytest.skip("ONNX Runtime's training API is in its training build")


def batches() -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    pictures = [rng.standard_normal((BATCH, 3, 32, 32), dtype=np.float32) for _ in range(3)]
    return [pictures[i % 3] for i in range(STEPS)], np.arange(BATCH, dtype=np.int64) % len(CLASSES)


def losses_of_a_device(bundle: Bundle, graph: str, optimizer: str = "adamw") -> list[float]:
    parameters = load_file(bundle.path / TRAINABLE)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    session = TrainingSession(bundle.path / graph, parameters, gradients, 1)
    prefix = bundle.manifest.prefix
    before = PrefixSession(bundle.path / "prefix.onnx", prefix, 1).latents if prefix else None
    steps = make_optimizer(optimizer, parameters, weight_decay=0.0, momentum=0.0)
    losses = []
    pictures, labels = batches()
    targets = np.eye(len(CLASSES), dtype=np.float32)[labels] / np.float32(BATCH)
    for images in pictures:
        for gradient in gradients.values():
            gradient.fill(0)
        losses.append(session.accumulate(before(images) if before else images, targets)[0])
        steps.update(gradients, RATE)
    return losses


def opened(api: Any, folder: Path, options: Any = None) -> tuple[Any, Any]:
    state = api.CheckpointState.load_checkpoint(folder / "checkpoint")
    module = api.Module(folder / "training_model.onnx", state, folder / "eval_model.onnx", session_options=options)
    optimizer = api.Optimizer(folder / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(RATE)
    return module, optimizer


def losses_of_the_api(module: Any, optimizer: Any) -> list[float]:
    losses = []
    pictures, labels = batches()
    module.train()
    for images in pictures:
        losses.append(float(module(images, labels)))
        optimizer.step()
        module.lazy_reset_grad()
    return losses


def as_on_a_device() -> Any:
    ort = import_quietly()
    options = ort.SessionOptions()
    options.enable_mem_reuse = options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_twenty_steps_are_those_of_a_device(kind: str, api: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", **KINDS[kind])
    made = edgeplast.export_ort_training(bundle, into=tmp_path / "made", recompute="full")
    (graph,) = (g for g in bundle.manifest.tiers[0].graphs if g.recompute == made.record.recompute)
    assert (bundle.manifest.prefix is None) == (kind == "everything")
    expected = losses_of_a_device(bundle, graph.file)
    assert expected[-1] < expected[0] - 0.02
    for options in (None, as_on_a_device()):
        module, optimizer = opened(api, tmp_path / "made", options)
        assert module.input_names() == ["images", "labels"]
        np.testing.assert_allclose(losses_of_the_api(module, optimizer), expected, rtol=0, atol=1e-4)


def check_steps(api: Any, bundle: Bundle, into: Path) -> None:
    made = edgeplast.export_ort_training(bundle, into=into)
    (graph,) = (g for g in bundle.manifest.tiers[0].graphs if g.recompute == made.record.recompute)
    expected = losses_of_a_device(bundle, graph.file)
    assert expected[-1] < expected[0] - 0.005
    module, optimizer = opened(api, into, as_on_a_device())
    np.testing.assert_allclose(losses_of_the_api(module, optimizer), expected, rtol=0, atol=1e-4)
    module.eval()
    module.export_model_for_inferencing(into / "model.onnx", ["logits"])
    session = import_quietly().InferenceSession(str(into / "model.onnx"))
    pictures, labels = batches()
    (found,) = session.run(["logits"], {"images": pictures[0]})
    np.testing.assert_allclose(found, module(pictures[0], labels)[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_a_convolutional_network_takes_the_steps_of_a_device(kind: str, api: Any, tmp_path: Path) -> None:
    import torch

    from edgeplast.models import import_timm

    name, train = CONVOLUTIONAL[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = import_timm().create_model(name, num_classes=len(CLASSES)).eval()
    check_steps(api, made_of(model, train, tmp_path / "bundle"), tmp_path / "made")


@pytest.mark.parametrize("train", FINER)
def test_parts_finer_than_components_take_the_steps_of_a_device(train: str, api: Any, tmp_path: Path) -> None:
    model = small_vit(num_classes=len(CLASSES))
    check_steps(api, made_of(model, train, tmp_path / "bundle"), tmp_path / "made")


def test_the_adapted_model_comes_out_as_a_plain_one(api: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", train="attn:3,head", weight_bits=8, depth=4)
    edgeplast.export_ort_training(bundle.path, into=tmp_path / "made")
    module, optimizer = opened(api, tmp_path / "made")
    losses_of_the_api(module, optimizer)
    pictures, labels = batches()
    module.eval()
    loss, logits = module(pictures[0], labels)
    module.export_model_for_inferencing(tmp_path / "made" / "model.onnx", ["logits"])
    session = import_quietly().InferenceSession(str(tmp_path / "made" / "model.onnx"))
    assert [i.name for i in session.get_inputs()] == ["images"]
    (found,) = session.run(["logits"], {"images": pictures[0]})
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)
    shifted = logits - logits.max(1, keepdims=True)
    by_hand = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(BATCH), labels]
    np.testing.assert_allclose(loss, by_hand.mean(), rtol=1e-5)


def test_calls_before_a_step_add_their_gradients_up(api: Any, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle", train="attn,head")
    edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made")
    state = api.CheckpointState.load_checkpoint(tmp_path / "made" / "checkpoint")
    module = api.Module(tmp_path / "made" / "training_model.onnx", state)
    pictures, labels = batches()
    module(pictures[0], labels)
    whole = {name: parameter.grad.copy() for name, parameter in state.parameters}
    module.lazy_reset_grad()
    for half in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
        module(pictures[0][half], labels[half])
    for name, parameter in state.parameters:
        np.testing.assert_allclose(parameter.grad / 2, whole[name], rtol=1e-3, atol=1e-6)


def test_a_label_that_is_no_class_does_not_reach_memory(api: Any, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle", train="", weight_bits=8)
    edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made")
    module, _ = opened(api, tmp_path / "made")
    pictures, labels = batches()
    usual = float(module(pictures[0], labels))
    assert float(module(pictures[0][:1], np.array([1 << 40]))) == 0.0 and usual > 0


def test_an_adapted_bundle_goes_on_with_what_it_learned(api: Any, tmp_path: Path, blobs: Path) -> None:
    small_bundle(tmp_path / "bundle", train="attn,head")
    options = edgeplast.TrainingOptions(epochs=1, learning_rate=3e-3)
    edgeplast.adapt(tmp_path / "bundle", blobs, into=tmp_path / "adapted", options=options, budget=edgeplast.Budget())
    edgeplast.export_ort_training(tmp_path / "adapted", into=tmp_path / "made")
    state = api.CheckpointState.load_checkpoint(tmp_path / "made" / "checkpoint")
    learned = load_file(tmp_path / "adapted" / TRAINABLE)
    assert {name for name, _ in state.parameters} == learned.keys()
    for name, parameter in state.parameters:
        np.testing.assert_array_equal(parameter.data, learned[name])


def test_frozen_weights_lie_in_one_file_and_int8_stays_int8(api: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", train="attn,head", weight_bits=8, depth=4)
    made = edgeplast.export_ort_training(bundle, into=tmp_path / "made")
    assert (made.path / "frozen.safetensors").read_bytes() == (bundle.path / "frozen.safetensors").read_bytes()
    for file in ("training_model.onnx", "eval_model.onnx"):
        graph = onnx.load(made.path / file, load_external_data=False).graph
        outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        kinds = {t.data_type for t in outside if t.name.endswith(".int8")}
        assert kinds == {onnx.TensorProto.INT8} and all(
            {e.value for e in t.external_data if e.key == "location"} == {"frozen.safetensors"} for t in outside
        )
    assert ArtifactsRecord.read(made.path / "artifacts.json") == made.record


def test_sgd_is_plain(api: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", train="attn,head")
    plan = msgspec.structs.replace(bundle.manifest.plan, optimizer="sgd")
    bundle = msgspec.structs.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, plan=plan))

    made = edgeplast.export_ort_training(bundle, into=tmp_path / "made")
    module, optimizer = opened(api, made.path)
    expected = losses_of_a_device(bundle, bundle.manifest.tiers[0].graphs[0].file, "sgd")
    np.testing.assert_allclose(losses_of_the_api(module, optimizer), expected, rtol=0, atol=1e-4)


def test_a_degree_of_recomputation_that_is_none_is_named(api: Any, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle", train="")
    with pytest.raises(UsageError, match=r"Unknown recompute 'ful'. Did you mean 'full'\? Known: none"):
        edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made", recompute="ful")  # type: ignore[arg-type]


def test_what_is_there_stays_unless_force_replaces_it(api: Any, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle", train="")
    edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made")
    with pytest.raises(UsageError, match=r"exists already. Choose another name, or add --force"):
        edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made")
    edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made", force=True)
    assert not list(tmp_path.glob(".*"))


def test_another_build_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_bundle(tmp_path / "bundle", train="")
    monkeypatch.setitem(sys.modules, "onnxruntime.training.onnxblock", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeplast\[offline,train\]'"):
        edgeplast.export_ort_training(tmp_path / "bundle", into=tmp_path / "made")
    assert not (tmp_path / "made").exists()
