"""Frozen matrices in 4 bits: rounding by the book, packing, and graphs that compute with just the rounded weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exporter_models import (
    CLASSES,
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    plan_of,
    small,
    torch_step,
    training_graph_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.models import preprocessing_of
from edgeplast.placement import ON_CPU
from edgeplast_devices.predicting import session_over
from edgeplast_devices.sessions import trains_on_pictures
from edgeplast_devices.weights import all_parameters, read_trainable
from edgeplast_exporters import export
from edgeplast_exporters.four_bits import BLOCK, float_matrix, pack, quantize_blocks
from edgeplast_exporters.quantization import quantizable, quantize_frozen

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 70)),
    elements=st.floats(-(2.0**90), 2.0**90, width=32) | st.floats(-1, 1, width=32) | st.just(0.0),
)


@settings(deadline=None)
@given(matrices)
def test_blocks_are_rounded_as_slow_arithmetic_rounds_them(weight: np.ndarray) -> None:
    quantized, scale = quantize_blocks(weight)
    assert quantized.shape == weight.shape and quantized.dtype == np.int8
    assert scale.shape == (len(weight), -(-weight.shape[1] // BLOCK)) and (scale > 0).all()
    for i, row in enumerate(weight.tolist()):
        for start in range(0, len(row), BLOCK):
            block, step = row[start : start + BLOCK], float(scale[i, start // BLOCK])
            largest = max(map(abs, block))
            assert step == pytest.approx(max(largest / 7, 2.0**-126) if largest else 1.0, rel=1e-6)
            for x, q in zip(block, quantized[i, start : start + BLOCK].tolist(), strict=True):
                assert -7 <= q <= 7
                assert abs(q * step - x) <= 0.5001 * step


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(-8, 7)))
def test_packing_is_onnxs(values: np.ndarray) -> None:
    """Two in a byte, the first in the lower half, rows without a gap."""
    flat = values.ravel().tolist()
    expected = [(a & 15) | (b & 15) << 4 for a, b in zip(flat[::2], [*flat[1::2], 0], strict=False)]
    assert pack(values).tolist() == expected
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.INT4, values.shape, pack(values).tobytes(), raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), values)


def test_a_block_of_zeros_and_an_outlier_stay_among_themselves() -> None:
    weight = np.full((1, 96), 0.01, np.float32)
    weight[0, :32], weight[0, 40] = 0, 100
    quantized, scale = quantize_blocks(weight)
    restored = float_matrix(quantized, scale)
    assert not restored[0, :32].any() and restored[0, 40] == pytest.approx(100)
    np.testing.assert_allclose(restored[0, 64:], 0.01, rtol=1e-6)


def test_scales_for_what_is_read_change_the_product_less() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 96), dtype=np.float32)
    rows = rng.standard_normal((200, 96), dtype=np.float32) * np.exp(rng.standard_normal(96)).astype(np.float32)

    def change(found: tuple[np.ndarray, np.ndarray]) -> float:
        return float(np.square(rows @ (float_matrix(*found) - weight).T).mean())

    assert change(quantize_blocks(weight, rows)) < 0.9 * change(quantize_blocks(weight))


def rounded(model: torch.nn.Module, names: list[str]) -> torch.nn.Module:
    result = copy.deepcopy(model)
    own = dict(result.named_parameters())
    for name in names:
        shape = own[name].shape
        matrix = own[name].detach().reshape(shape[0], -1).numpy()
        own[name].data = torch.from_numpy(float_matrix(*quantize_blocks(matrix))).reshape(shape)
    return result


def four_bit_bundle(model: torch.nn.Module, into: Path, pattern: str) -> Any:
    plan = plan_of(model, pattern, bits=4)
    return export(model, plan, into=into, classes=CLASSES, preprocessing=preprocessing_of(model))


@pytest.mark.parametrize("width", [32, 48], ids=["whole blocks", "a part of a block"])
def test_every_training_graph_equals_torch_with_the_rounded_weights(tmp_path: Path, width: int) -> None:
    model = small(depth=3, embed_dim=width)
    bundle = four_bit_bundle(model, tmp_path / "b", "attn:1-2,norm")
    trained = parameters_of(model, "attn:1-2,norm,head")
    frozen = [n for n, p in bundle.manifest.parameters.items() if p.weight_bits == 4]
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.2.mlp.fc2.weight"} <= set(frozen)
    images, answers = pictures(model, 4), labels(4)
    reference = torch_step(rounded(model, frozen), trained, images, answers)
    for graph in bundle.manifest.tiers[0].graphs:
        held = read_trainable(bundle)
        gradients = {n: np.zeros_like(held[n]) for n in trained}
        session = trains_on_pictures(bundle, graph.file, held, gradients, 1)
        loss, _ = session.accumulate(images, mean_targets(answers))
        assert loss == pytest.approx(reference.loss, rel=1e-5)
        for name, expected in reference.gradients.items():
            mine = gradients[name]
            assert (mine * expected).sum() >= 0.99999 * np.linalg.norm(mine) * np.linalg.norm(expected), name
    plain = torch_step(model, trained, images, answers)
    assert plain.loss != pytest.approx(reference.loss, rel=1e-3)  # so the test can tell rounded from not


def test_the_device_reads_them_back_as_the_graphs_compute_with_them(tmp_path: Path) -> None:
    model = small(global_pool="avg", embed_dim=48)
    bundle = four_bit_bundle(model, tmp_path / "b", "attn:1")
    whole = dict(all_parameters(bundle))
    expected = parameters(model)
    for name, stored in bundle.manifest.parameters.items():
        if stored.weight_bits == 4:
            np.testing.assert_array_equal(whole[name], float_matrix(*quantize_blocks(expected[name])))
        else:
            np.testing.assert_array_equal(whole[name], expected[name])
    images = pictures(model, 2)
    found = session_over(bundle, 1, ON_CPU).logits(images)
    quantized = [n for n, p in bundle.manifest.parameters.items() if p.weight_bits == 4]
    with torch.no_grad():
        reference = rounded(model, quantized)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, reference, atol=1e-4)


def test_they_take_an_eighth_and_their_scales(tmp_path: Path) -> None:
    model = small(embed_dim=64)
    bundle = four_bit_bundle(model, tmp_path / "b", "head")
    elements = sum(np.prod(p.shape) for p in bundle.manifest.parameters.values() if p.weight_bits == 4)
    rest = sum(np.prod(p.shape) for p in bundle.manifest.parameters.values() if p.weight_bits == 32 and not p.trainable)
    prefix = bundle.manifest.prefix
    assert prefix is not None  # the head alone trains
    assert prefix.footprint.frozen_bytes == elements * (0.5 + 4 / BLOCK) + 4 * rest
    assert bundle.manifest.evaluation.frozen_bytes == 0


def test_each_component_may_have_its_own_bits(tmp_path: Path) -> None:
    model = small(depth=3)
    plan = plan_of(model, "attn:2", bits=8)
    for name, bits in (("blocks.0.fc1", 4), ("blocks.1.attn", 32)):
        component = plan.components[name]
        plan.components[name] = type(component)(trainable=False, parameters=component.parameters, weight_bits=bits)
    bundle = export(model, plan, into=tmp_path / "b", classes=CLASSES, preprocessing=preprocessing_of(model))
    bits_of = {n: p.weight_bits for n, p in bundle.manifest.parameters.items() if n.endswith("weight")}
    assert bits_of["blocks.0.mlp.fc1.weight"] == 4
    assert bits_of["blocks.1.attn.qkv.weight"] == 32
    assert bits_of["blocks.0.mlp.fc2.weight"] == 8
    gradients = {n: np.zeros_like(a) for n, a in read_trainable(bundle).items()}
    session = trains_on_pictures(bundle, "train-full.onnx", read_trainable(bundle), gradients, 1)
    assert np.isfinite(session.accumulate(pictures(model, 2), mean_targets(labels(2)))[0])


def test_float_copies_wait_for_a_gradient_and_one_lives_at_a_time() -> None:
    def graph(depth: int) -> Any:
        model = small(depth=depth)
        again = recompute(training_graph_of(model, parameters_of(model, "attn,head")))
        return quantize_frozen(again, [], four_bits=quantizable(again))

    deep = graph(6)
    after_gradient: set[str] = set()
    waiting = 0
    for node in deep.nodes:
        depends = any(name in after_gradient for name in node.inputs)
        if node.op == "DequantizeLinear" and node.phase != "forward":
            assert depends, node.component
            waiting += 1
        if depends or (node.phase == "backward" and node.op not in ("Shape", "DequantizeLinear")):
            after_gradient.update(node.outputs)
    assert waiting > 6
    assert max(line.fixed_bytes for line in transient_lines(deep)) <= 4 * 32 * 128 + 64


def test_the_input_is_not_changed() -> None:
    model = small()
    graph = training_graph_of(model, parameters_of(model, "attn"))
    before = graph.copy()
    quantize_frozen(graph, [], four_bits=quantizable(graph))
    assert graph == before
