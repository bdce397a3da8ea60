"""Low-rank factors, biases and norms trained alone: gradients against autograd, and what a device hands back."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exporter_models import (
    CLASSES,
    assert_gradients_agree,
    captured,
    labels,
    mean_targets,
    pictures,
    run_graph,
    session_of,
    small,
    stored_forms,
)
from small_models import blob_folder
from torch import nn

import edgeplast
from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.contract import low_rank_names
from edgeplast.errors import BudgetError, InputError, UsageError
from edgeplast.graphs.checking import check
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.dequantize import quantizable, quantize_frozen
from edgeplast.graphs.passes.merge_low_rank import merge_low_rank
from edgeplast.graphs.recording import recorded
from edgeplast.planning import contest, plan
from edgeplast.planning.estimating import Workload
from edgeplast.plans import Plan
from edgeplast.scores import ComponentScore, ScoreTable
from edgeplast_exporters.refining import regrouped, with_factors
from edgeplast_exporters.training import promote, training_graph


def planned(model: nn.Module, train: str, bits: int = 32) -> Plan:
    found = captured(model)
    components = {c.name: ComponentScore(score=1.0, parameters=c.size) for c in found.outline.components}
    scores = ScoreTable(
        method="plasticity",
        components=components,
        outline=found.outline,
        graph=recorded(found.graph),
        classes=CLASSES,
    )
    return plan(scores, Budget(), train=train, weight_bits=bits, micro_batch_size=4, batch_size=8)


def with_torch_factors(model: nn.Module, arrays: dict[str, np.ndarray]) -> nn.Module:
    """The model with factors of these numbers beside its linear layers, as peft adds them."""
    model = copy.deepcopy(model)
    for path, layer in [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Linear)]:
        names = low_rank_names(f"{path}.weight")
        if names[0] not in arrays:
            continue
        for attribute, name in zip(("lora_A", "lora_B"), names, strict=True):
            factor = nn.Linear(*arrays[name].shape[::-1], bias=False)
            factor.weight.data = torch.from_numpy(arrays[name])
            layer.add_module(attribute, factor)
        layer.register_forward_hook(lambda m, given, out: out + m.lora_B(m.lora_A(given[0])))
    return model


def trained_names(plan: Plan) -> list[str]:
    return [n for c in plan.outline.components if c.name in plan.trainable for n in c.parameters]


@pytest.mark.parametrize("train", ["lora:3", "lora-fa:2", "lora:4@attn:1,fc1", "bias,lora:1", "norms,lora-fa:2@fc2"])
def test_gradients_of_factors_equal_autograd(train: str) -> None:
    model = small()
    made = planned(model, train)
    whole = with_factors(regrouped(captured(model), made.outline))
    random = np.random.default_rng(0)
    arrays = {n: random.normal(0, 0.2, a.shape).astype(np.float32) for n, a in whole.parameters.items() if "lora" in n}
    arrays = {n: p.detach().numpy().reshape(whole.parameters[n].shape) for n, p in model.named_parameters()} | arrays
    images, answers = pictures(model, 3), labels(3)
    reference = with_torch_factors(model, arrays)
    logits = reference(torch.from_numpy(images))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(answers))
    names = trained_names(made)
    theirs = dict(reference.named_parameters())
    gradients = torch.autograd.grad(loss, [theirs[name] for name in names])
    expected = {n: g.numpy().reshape(arrays[n].shape) for n, g in zip(names, gradients, strict=True)}
    found = run_graph(training_graph(promote(whole.graph, names), names), arrays, images, mean_targets(answers))
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert_gradients_agree(found.gradients, expected)


def test_frozen_a_keeps_less_for_the_backward_pass() -> None:
    model = small(embed_dim=96)
    kept = {}
    for train in ("lora:2", "lora-fa:2"):
        made = planned(model, train)
        graph = promote(with_factors(regrouped(captured(model), made.outline)).graph, trained_names(made))
        kept[train] = max(line.at(8) for line in transient_lines(training_graph(graph, trained_names(made))))
    assert kept["lora-fa:2"] < 0.85 * kept["lora:2"]


@pytest.mark.parametrize(("train", "bits"), [("lora:4", 8), ("lora-fa:4@attn", 4), ("bias", 8), ("norms", 32)])
def test_a_device_trains_finer_parts_and_deploys_an_ordinary_model(train: str, bits: int, tmp_path: Path) -> None:
    model = small()
    made = planned(model, train, bits)
    folder = blob_folder(tmp_path / "data", classes=("blue", "green", "red"))
    bundle = edgeplast.export(model, made, into=tmp_path / "b", keep_head=True, classes=("blue", "green", "red"))
    assert tuple(bundle.manifest.tiers[0].components) == made.trainable
    options = edgeplast.TrainingOptions(epochs=2, batch=8, threads=1)
    edgeplast.adapt(bundle, folder, into=tmp_path / "a", options=options)
    before, after = (dict(np_arrays(tmp_path / name / "trainable.safetensors")) for name in "ba")
    assert {n for n in before if not np.array_equal(before[n], after[n])} == set(trained_names(made))
    adapted = Bundle.open(tmp_path / "a")
    edgeplast.deploy(adapted, tmp_path / "m.onnx")
    whole, merged = (edgeplast.evaluate(model, folder) for model in (adapted, tmp_path / "m.onnx"))
    assert merged.loss == pytest.approx(whole.loss, rel=1e-5) and merged.accuracy == whole.accuracy
    names = initializers(tmp_path / "m.onnx")
    assert names >= set(captured(model).parameters) and not any("lora" in name for name in names)


@pytest.mark.parametrize(("train", "stored"), [("lora:3", 32), ("lora:2", 8), ("lora-fa:2", 8)])
def test_where_nothing_is_trained_factors_are_added_to_their_matrices(train: str, stored: int) -> None:
    model = small(patch_size=4)  # 65 tokens
    made = planned(model, train)
    whole = with_factors(regrouped(captured(model), made.outline))
    random = np.random.default_rng(0)
    arrays = {n: random.normal(0, 0.2, a.shape).astype(np.float32) for n, a in whole.parameters.items() if "lora" in n}
    arrays = whole.parameters | arrays
    beside = promote(whole.graph, trained_names(made))
    if stored == 8:
        beside = quantize_frozen(beside, quantizable(beside))
    merged = merge_low_rank(beside)
    check(merged)
    before = products(captured(model).graph)
    assert (products(beside), products(merged)) == (
        before + 16,
        before + 16 - 5,
    )  # behind its attention, the last block has one row
    images = pictures(model, 3)
    found, expected = (
        session_of(graph, stored_forms(arrays)).run(
            ["logits"], {name: arrays[name] for name in graph.inputs if name != "images"} | {"images": images}
        )[0]
        for graph in (merged, beside)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - plain_logits(model, images)).max() > 0.1  # the factors do something


def test_factors_stay_beside_their_matrices_where_images_have_few_rows() -> None:
    model = small()  # 17 tokens
    graph = with_factors(regrouped(captured(model), planned(model, "lora:3").outline)).graph
    assert merge_low_rank(graph) is graph


def test_planner_and_exporter_predict_with_the_same_graph(tmp_path: Path) -> None:
    model = small(patch_size=4)
    made = planned(model, "lora:2")
    bundle = edgeplast.export(model, made, into=tmp_path / "b", keep_head=True, classes=CLASSES)
    nodes = onnx.load(bundle.path / "evaluate.onnx", load_external_data=False).graph.node
    assert sum(node.op_type == "Gemm" for node in nodes) == products(captured(model).graph) + 16 - 5
    found = captured(model)
    workload = Workload(
        made.outline, with_factors(regrouped(found, made.outline)).graph, dict.fromkeys(made.outline.names, 32)
    )
    told = workload.footprints(made.trainable, "none").evaluation.transient
    assert {(line.fixed_bytes, line.per_image_bytes) for line in told} == {
        (line.fixed_bytes, line.per_image_bytes) for line in bundle.manifest.evaluation.transient
    }


def products(graph: Graph) -> int:
    return sum(node.op == "Gemm" for node in graph.nodes)


def plain_logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


def np_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def initializers(path: Path) -> set[str]:
    import onnx

    return {tensor.name for tensor in onnx.load(path).graph.initializer}


def test_a_fresh_bundle_computes_what_the_model_does(tmp_path: Path) -> None:
    model = small()
    whole = with_factors(regrouped(captured(model), planned(model, "lora:4,bias").outline))
    again = with_factors(regrouped(captured(model), planned(model, "lora:4,bias").outline))
    a = [name for name in whole.parameters if "lora_A" in name]
    assert len(a) == 8 and all(np.array_equal(whole.parameters[name], again.parameters[name]) for name in a)
    assert all(not array.any() for name, array in whole.parameters.items() if "lora_B" in name)
    spread = np.concatenate([whole.parameters[name].ravel() * whole.parameters[name].shape[1] ** 0.5 for name in a])
    assert np.abs(spread).max() <= 1 and spread.std() == pytest.approx(3**-0.5, rel=0.1)


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    made = planned(small(depth=3), "lora:4")
    with pytest.raises(InputError, match="The plan was made for another model"):
        edgeplast.export(small(), made, into=tmp_path / "b", keep_head=True)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("lora", "'lora' needs a rank of 1 or more, e.g. lora:8, and for some of the model lora:8@attn:8-11"),
        ("lora-fa:0", "'lora-fa:0' needs a rank of 1 or more, e.g. lora-fa:8"),
        ("lora:40", "'lora:40': rank 40 is more than blocks.0.attn.qkv.weight has .96 × 32.. Give at most 32"),
        ("lora:2,lora-fa:2@fc1", "'lora-fa:2@fc1' puts a second pair of factors beside blocks.0.fc1"),
        ("lora:2@norm1", "'lora:2@norm1' names nothing in vit_tiny_patch16_224: there is no matrix product"),
        ("bias:3", "'bias:3': bias takes no number. Write bias, or bias@attn:8-11"),
        ("norms@attn", "'norms@attn' names nothing.*no component that is a norm alone"),
        ("bias@cow", "'cow' names nothing in"),
        ("lora:2,cow", "'cow' names nothing in"),
    ],
)
def test_what_cannot_be_meant_is_said(train: str, message: str) -> None:
    model = small()
    with pytest.raises(UsageError, match=message):
        planned(model, train)


def test_a_budget_that_is_too_small_is_told_in_the_callers_words() -> None:
    found = captured(small())
    scores = ScoreTable(method="plasticity", components={}, outline=found.outline, graph=recorded(found.graph))
    with pytest.raises(BudgetError, match=r"^--train lora:2,norms does not fit vit_tiny_patch16_224 into 1 MiB"):
        plan(scores, Budget(memory_bytes=1 << 20), train="lora:2,norms")
    with pytest.raises(BudgetError, match=r"^--train lora:2 does not fit"):
        contest(scores, Budget(memory_bytes=1 << 20), ["lora:2"])


def test_parts_that_are_named_twice_train_once_and_whole() -> None:
    made = planned(small(), "attn:1,bias")
    chosen = set(trained_names(made))
    assert {"blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.bias", "blocks.0.attn.qkv.bias", "norm.bias"} <= chosen
    assert not {"blocks.0.attn.qkv.weight", "norm.weight", "cls_token"} & chosen
    assert {"head.weight", "head.bias"} <= chosen
