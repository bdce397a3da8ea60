"""Integer arithmetic of frozen products: slow reference, torch with fake quantization, device, deployment, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import (
    CLASSES,
    assert_gradients_agree,
    forward_graph,
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    plan_of,
    session_of,
    small,
    torch_step,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from edgeplast.bundle import Bundle
from edgeplast.contract import matrix_name, scale_name
from edgeplast.errors import UsageError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.models import preprocessing_of
from edgeplast.placement import ON_CPU
from edgeplast_devices.deploying import deploy
from edgeplast_devices.predicting import session_over
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_devices.sessions import trains_on_pictures
from edgeplast_devices.weights import all_parameters, read_trainable
from edgeplast_exporters import export
from edgeplast_exporters.activation_ranges import quantized
from edgeplast_exporters.frozen_integers import FrozenIntegers, fit_integers
from edgeplast_exporters.integer_products import (
    IntegerProduct,
    compute_in_integers,
    float_matrix,
    integer_candidates,
    quantize_columns,
)
from edgeplast_exporters.training import promote, training_graph

TRAINED = "fc1:2,attn:3-4,norm,head"


def images_of(model: nn.Module, count: int = 16) -> list[np.ndarray]:
    return list(pictures(model, count, seed=7))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small(depth=5, init_values=0.3)


@pytest.fixture(scope="module")
def fitted(model: nn.Module) -> FrozenIntegers:
    return fit_integers(forward_graph(model), parameters(model), images_of(model), candidates(model))


@pytest.fixture(scope="module")
def integer_bundle(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(
        model,
        plan_of(model, TRAINED),
        into=tmp_path_factory.mktemp("integers") / "b",
        classes=CLASSES,
        preprocessing=preprocessing_of(model),
        frozen_compute="int8",
        images=images_of(model),
    )


def candidates(model: nn.Module, pattern: str = TRAINED) -> list[str]:
    return integer_candidates(promote(forward_graph(model), parameters_of(model, pattern)))


def slow_product(x: list[float], how: IntegerProduct, matrix: list[list[float]], scales: list[float]) -> list[float]:
    """One row in Python's own integers; ``matrix`` is (in, out), int8."""
    steps = [max(0, min(255, round(float(np.float32(v) / np.float32(how.scale))) + how.zero_point)) for v in x]
    sums = [
        sum((q - how.zero_point) * int(row[j]) for q, row in zip(steps, matrix, strict=True))
        for j in range(len(scales))
    ]
    return [total * how.scale * scale for total, scale in zip(sums, scales, strict=True)]


@settings(deadline=None, max_examples=25)
@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-10, 10, width=32)),
    hnp.arrays(np.float32, (4, 5), elements=st.floats(-2, 2, width=32) | st.just(0.0)),
    st.integers(0, 255),
)
def test_products_equal_slow_integers(x: np.ndarray, weight: np.ndarray, zero_point: int) -> None:
    g = Graph()
    g.output(g.gemm(g.input("x", (3, 5), batched=True), g.weight("w", (4, 5)), trans_b=True), "y")
    how = IntegerProduct(0.037, zero_point)
    matrix, scales = quantize_columns(weight)
    changed = compute_in_integers(g, {"w": how})
    found = session_of(changed, {matrix_name("w"): matrix, scale_name("w"): scales}).run(None, {"x": x})[0]
    expected = [slow_product(row, how, matrix.tolist(), scales.tolist()) for row in x.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_large_sums_do_not_saturate() -> None:
    """255 · 127, two thousand times: pairs of these overflow 16 bits."""
    g = Graph()
    g.output(g.gemm(g.input("x", (1, 2000), batched=True), g.weight("w", (8, 2000)), trans_b=True), "y")
    matrix, scales = quantize_columns(np.ones((8, 2000), np.float32))
    changed = compute_in_integers(g, {"w": IntegerProduct(1.0, 0)})
    session = session_of(changed, {matrix_name("w"): matrix, scale_name("w"): scales})
    found = session.run(None, {"x": np.full((1, 2000), 255, np.float32)})[0]
    np.testing.assert_allclose(found, 255 * 2000, rtol=1e-6)


def test_an_output_of_zeros_and_an_outlier_stay_among_themselves() -> None:
    weight = np.full((3, 4), 0.01, np.float32)
    weight[0], weight[1, 0] = 0, 100
    matrix, scales = quantize_columns(weight)
    assert matrix.dtype == np.int8 and matrix.shape == (4, 3)
    assert np.abs(matrix).max() == 63  # two times 255 · 63 fit into 16 bits
    restored = float_matrix(matrix, scales)
    assert not restored[0].any() and restored[1, 0] == pytest.approx(100)
    np.testing.assert_allclose(restored[2], 0.01, rtol=1e-6)


def test_what_lies_before_everything_that_trains_and_nothing_else(model: nn.Module) -> None:
    names = candidates(model)
    assert names[0] == "patch_embed.proj.weight" and names[-1] == "blocks.2.attn.proj.weight"
    assert len(names) == 1 + 4 + 4 + 2
    assert candidates(model, "all") == []
    assert candidates(model, "head")[-1] == "blocks.4.mlp.fc2.weight"


def fake_quantized(model: nn.Module, fitted: FrozenIntegers) -> nn.Module:
    """torch's model whose chosen layers round what they read, with the fitted weights."""
    result: Any = copy.deepcopy(model)
    own = dict(result.named_parameters())
    for name, array in fitted.parameters.items():
        own[name].data = torch.from_numpy(array.copy()).reshape(own[name].shape)

    def reading(how: IntegerProduct) -> Any:
        def hook(_module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x = given[0] if how.divisor is None else given[0] / torch.from_numpy(how.divisor)
            return (torch.from_numpy(quantized(x.detach().numpy(), how.scale, how.zero_point)),)

        return hook

    for weight, how in fitted.products.items():
        result.get_submodule(weight.removesuffix(".weight")).register_forward_pre_hook(reading(how))
    return result


def test_every_tier_equals_torch_with_the_same_rounding(
    model: nn.Module, fitted: FrozenIntegers, integer_bundle: Bundle
) -> None:
    images, answers = pictures(model, 6), labels(6)
    reference_model = fake_quantized(model, fitted)
    for name, stored in integer_bundle.manifest.parameters.items():  # what is frozen behind is stored in 8 bits
        if stored.weight_bits == 8 and name not in fitted.products:
            matrix = dict(all_parameters(integer_bundle))[name]
            reference_model.get_parameter(name).data = torch.from_numpy(matrix)
    for tier in integer_bundle.manifest.tiers:
        trained = [n for n, p in integer_bundle.manifest.parameters.items() if p.component in tier.components]
        reference = torch_step(reference_model, trained, images, answers)
        for graph in tier.graphs:
            held = read_trainable(integer_bundle)
            gradients = {n: np.zeros_like(held[n]) for n in trained}
            loss, _ = trains_on_pictures(integer_bundle, graph.file, held, gradients, 1).accumulate(
                images, mean_targets(answers)
            )
            assert loss == pytest.approx(reference.loss, rel=1e-2)
            largest = max(np.linalg.norm(g) for g in reference.gradients.values())
            for name, expected in reference.gradients.items():
                if np.linalg.norm(expected) < 1e-4 * largest:  # zero in mathematics, e.g. of the keys' bias
                    continue
                mine = gradients[name]
                assert (mine * expected).sum() >= 0.999 * np.linalg.norm(mine) * np.linalg.norm(expected), name


def test_recomputation_gives_the_same_bits(integer_bundle: Bundle, model: nn.Module) -> None:
    graphs = integer_bundle.manifest.tiers[0].graphs
    found = []
    for graph in graphs:
        held = read_trainable(integer_bundle)
        gradients = {n: np.zeros_like(a) for n, a in held.items()}
        session = trains_on_pictures(integer_bundle, graph.file, held, gradients, 1)
        found.append((session.accumulate(pictures(model, 4), mean_targets(labels(4)))[0], gradients))
    assert len(found) == 3
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        for name, gradient in found[0][1].items():
            np.testing.assert_array_equal(gradient, gradients[name])


def test_the_micro_batch_changes_nothing(integer_bundle: Bundle, model: nn.Module) -> None:
    images, answers = pictures(model, 8), labels(8)
    whole: dict[str, np.ndarray] = {}
    for micro_batch in (8, 3, 1):
        held = read_trainable(integer_bundle)
        gradients = {n: np.zeros_like(a) for n, a in held.items()}
        session = trains_on_pictures(integer_bundle, "train-full.onnx", held, gradients, 1)
        for at in range(0, 8, micro_batch):
            part = slice(at, at + micro_batch)
            session.accumulate(images[part], mean_targets(answers[part], batch=8))
        whole = whole or gradients
        assert_gradients_agree(gradients, whole, 1e-5)


def test_evaluation_training_and_deployment_are_one_function(
    integer_bundle: Bundle, model: nn.Module, tmp_path: Path
) -> None:
    images = pictures(model, 5)
    held = read_trainable(integer_bundle)
    expected = session_over(integer_bundle, 1, ON_CPU).logits(images)
    gradients = {n: np.zeros_like(a) for n, a in held.items()}
    session = trains_on_pictures(integer_bundle, "train-full.onnx", held, gradients, 1)
    np.testing.assert_allclose(session.accumulate(images, mean_targets(labels(5)))[1], expected, atol=1e-5)
    model_file = deploy(integer_bundle, tmp_path / "model.onnx")
    np.testing.assert_allclose(EvaluationSession(model_file, {}, 1).logits(images), expected, atol=1e-4)
    import onnx

    deployed = onnx.load(str(model_file))
    onnx.checker.check_model(deployed)
    assert {node.domain for node in deployed.graph.node} == {""}
    assert sum(node.op_type == "MatMulInteger" for node in deployed.graph.node) == 11


def test_what_is_stored_and_said(integer_bundle: Bundle, fitted: FrozenIntegers) -> None:
    manifest = integer_bundle.manifest
    integers = {n for n, p in manifest.parameters.items() if p.compute_bits == 8}
    assert integers == set(fitted.products)
    assert all(manifest.parameters[n].weight_bits == 8 for n in integers)
    whole = dict(all_parameters(integer_bundle))
    for name, array in fitted.parameters.items():
        if name in integers or manifest.parameters[name].weight_bits == 32:
            np.testing.assert_array_equal(whole[name], array)
    assert "multiply in integers" in manifest.plan.notes[-1]


def test_without_the_pass_the_loss_is_another(model: nn.Module, fitted: FrozenIntegers) -> None:
    forward = forward_graph(model)
    held = {**fitted.parameters, **fitted.stored}
    changed = compute_in_integers(forward, fitted.products)
    ops = [n.op for n in changed.nodes]
    assert ops.count("MatMulIntegerToFloat") == len(fitted.products) == ops.count("QuantizeLinear")
    images = pictures(model, 2)
    plain, integer = (session_of(g, held).run(None, {"images": images})[0] for g in (forward, changed))
    assert np.abs(plain - integer).max() / np.abs(plain).max() > 1e-4


def test_bytes_and_operations_are_counted(model: nn.Module, fitted: FrozenIntegers) -> None:
    names = parameters_of(model, TRAINED)
    graph = recompute(training_graph(promote(forward_graph(model), names), names))
    before = graph.copy()
    changed = compute_in_integers(graph, fitted.products)
    assert graph == before  # the input is not changed
    assert flops_per_image(changed) == flops_per_image(graph)
    quantized_input = changed.values[next(n for n in changed.nodes if n.op == "QuantizeLinear").outputs[0]]
    assert quantized_input.batched and quantized_input.bytes == quantized_input.elements
    assert max(line.at(4) for line in transient_lines(changed)) <= 1.05 * max(
        line.at(4) for line in transient_lines(graph)
    )
    # What lies before everything that trains is as small kept as any of its inputs would be.
    assert not any(n.phase == "recompute" and n.op == "MatMulIntegerToFloat" for n in changed.nodes)


def test_a_dead_component_does_no_harm() -> None:
    model: Any = small(depth=3)
    for part in (model.blocks[0].attn.proj, model.blocks[0].norm2, model.blocks[1].mlp.fc1):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    found = fit_integers(forward_graph(model), parameters(model), images_of(model), candidates(model, "attn:2,head"))
    assert all(np.isfinite(a).all() for a in found.parameters.values())
    assert found.error < 0.2


def refused(model: nn.Module, into: Path, message: str, pattern: str = TRAINED, bits: int = 8, images: int = 8) -> None:
    with pytest.raises(UsageError, match=message):
        export(
            model,
            plan_of(model, pattern, bits=bits),
            into=into / "b",
            classes=CLASSES,
            preprocessing=preprocessing_of(model),
            frozen_compute="int8",
            images=images_of(model, images),
        )
    assert list(into.iterdir()) == []


def test_integers_need_images(model: nn.Module, tmp_path: Path) -> None:
    refused(model, tmp_path, r"at least 6 images to calibrate on and got 0.*--data", images=0)


def test_integers_need_something_to_compute(model: nn.Module, tmp_path: Path) -> None:
    refused(model, tmp_path, "nothing to compute.*attn:8-11", "all")
    refused(model, tmp_path, "nothing to compute.*--weight-bits 8", bits=32)
