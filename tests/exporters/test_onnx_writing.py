"""The ONNX that is written: readable by old runtimes, plain where asked, weights by reference, nothing mixed up."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from exporter_models import (
    forward_graph,
    labels,
    mean_targets,
    parameters,
    parameters_of,
    pictures,
    session_of,
    small,
    stored_forms,
    training_graph_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.numpy import save_file

from edgeplast.contract import gradient_input
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.passes.recompute import recompute
from edgeplast_exporters.onnx_writer import StoredTensor, safetensors_layout, to_onnx
from edgeplast_exporters.quantization import quantizable, quantize_frozen


def nowhere(graph: Graph) -> dict[str, StoredTensor | None]:
    return dict.fromkeys(graph.weights)


def training() -> Graph:
    model = small(depth=3)
    graph = recompute(training_graph_of(model, parameters_of(model, "attn,norm1,head")))
    return quantize_frozen(graph, quantizable(graph))


@pytest.mark.parametrize("plain", [False, True])
def test_opset_and_format_are_within_what_runtimes_read(plain: bool) -> None:
    model = onnx.load_from_string(to_onnx(training(), "train", nowhere(training()), plain=plain))
    domains = {o.domain: o.version for o in model.opset_import}
    assert 13 <= domains.pop("") <= 21 and model.ir_version <= 10
    assert domains == ({} if plain else {"com.microsoft": 1})
    assert {n.domain for n in model.graph.node} <= {"", *domains}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "act_layer": "gelu_tanh"}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_giant_patch14_dinov2", {"norm_layer": "rmsnorm"}),
    ],
)
def test_plain_graphs_pass_onnx_own_checker(name: str, options: dict, tmp_path: Path) -> None:
    model = small(name, **options)
    for graph in (forward_graph(model), training_graph_of(model, parameters_of(model, "attn,head"))):
        save_file({n: parameters(model)[n] for n in graph.weights}, tmp_path / "w.safetensors")
        data = to_onnx(graph, "g", safetensors_layout(tmp_path / "w.safetensors"), plain=True)
        (tmp_path / "g.onnx").write_bytes(data)
        onnx.checker.check_model(str(tmp_path / "g.onnx"), full_check=True)


def test_plain_and_fused_operators_compute_the_same() -> None:
    model = small()
    names = [n for n, _ in model.named_parameters()]
    graph = training_graph_of(model, names)
    stored = parameters(model)
    feeds = {"images": pictures(model, 3), "targets": mean_targets(labels(3))}
    feeds |= {n: stored[n] for n in names} | {gradient_input(n): np.zeros_like(stored[n]) for n in names}
    fused = session_of(graph, stored).run(None, feeds)
    for plain in (
        session_of(graph, stored, plain=True).run(None, feeds),
        session_of(graph, stored, plain=True, basic=False).run(None, feeds),
    ):
        for a, b in zip(fused, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_any_batch_goes_through_the_same_session() -> None:
    model = small()
    graph = forward_graph(model)
    session = session_of(graph, parameters(model), plain=True)
    images = pictures(model, 5)
    (whole,) = session.run(None, {"images": images})
    for size in (1, 2, 3):
        (part,) = session.run(None, {"images": images[:size]})
        np.testing.assert_allclose(part, whole[:size], rtol=1e-5, atol=1e-6)


def test_external_data_lie_where_the_graph_says(tmp_path: Path) -> None:
    model = small()
    graph = forward_graph(model)
    graph = quantize_frozen(graph, quantizable(graph))
    stored = stored_forms(parameters(model))
    save_file({n: stored[n] for n in graph.weights}, tmp_path / "w.safetensors")
    proto = onnx.load_from_string(to_onnx(graph, "g", safetensors_layout(tmp_path / "w.safetensors")))
    data = (tmp_path / "w.safetensors").read_bytes()
    found = set()
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entry = {e.key: e.value for e in tensor.external_data}
            assert entry["location"] == "w.safetensors"
            raw = data[int(entry["offset"]) : int(entry["offset"]) + int(entry["length"])]
            array = stored[tensor.name]
            assert raw == array.tobytes() and tuple(tensor.dims) == array.shape
            found.add(tensor.name)
    assert found == set(graph.weights)
    assert {stored[n].dtype for n in found} == {np.dtype(np.int8), np.dtype(np.float32)}


def test_weights_that_come_later_are_left_out_of_the_file() -> None:
    graph = forward_graph(small())
    proto = onnx.load_from_string(to_onnx(graph, "g", nowhere(graph), plain=True))
    names = {t.name for t in proto.graph.initializer}
    assert not names & set(graph.weights)
    assert {i for n in proto.graph.node for i in n.input} >= set(graph.weights)


def test_inputs_and_outputs_carry_their_shapes() -> None:
    graph = training()
    proto = onnx.load_from_string(to_onnx(graph, "g", nowhere(graph)))
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes["images"] == ["batch", 3, 32, 32]
    assert shapes["targets"] == shapes["logits"] == ["batch", 3]
    assert shapes["loss"] == []
    assert shapes["head.weight"] == shapes["head.weight.gradient"] == shapes["head.weight.gradient.sum"] == [3, 32]


constants = st.one_of(
    st.floats(allow_nan=False, width=32),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.integers(-5, 5), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=3),
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=3),
)


@settings(deadline=None)
@given(st.lists(constants, max_size=20))
def test_constants_share_a_name_when_and_only_when_they_are_equal(given: list) -> None:
    g = Graph()
    seen: dict[str, np.ndarray] = {}
    for content in given:
        array = np.asarray(content)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = g.constant(content).name
        if name in seen:
            assert seen[name].dtype == array.dtype and seen[name].tobytes() == array.tobytes()
            assert seen[name].shape == array.shape
        seen[name] = array
    distinct = {(a.dtype.name, a.shape, a.tobytes()) for a in seen.values()}
    assert len(distinct) == len(seen) == len(g.constants)


def test_constants_reach_the_file_unchanged() -> None:
    g = Graph()
    x = g.input("x", (1, 4), batched=True)
    g.output(g.add(g.scale(x, math.pi), g.constant(float(np.float32(0.1)))))
    proto = onnx.load_from_string(to_onnx(g, "g", {}))
    assert sorted(numpy_helper.to_array(t).item() for t in proto.graph.initializer) == [
        np.float32(0.1),
        np.float32(math.pi),
    ]


def test_names_are_unique_in_every_file() -> None:
    for plain in (False, True):
        proto = onnx.load_from_string(to_onnx(training(), "g", nowhere(training()), plain=plain))
        outputs = [o for n in proto.graph.node for o in n.output if o]
        names = outputs + [i.name for i in proto.graph.input] + [t.name for t in proto.graph.initializer]
        assert len(names) == len(set(names))


def test_every_parameter_keeps_timms_name() -> None:
    model = small("deit_tiny_distilled_patch16_224")
    assert set(forward_graph(model).weights) == {n for n, _ in model.named_parameters()}


def test_the_same_graph_gives_the_same_bytes() -> None:
    assert to_onnx(training(), "g", nowhere(training())) == to_onnx(training(), "g", nowhere(training()))


_RUN = """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
y = session.run(None, {"images": np.arange(24, dtype=np.float32).reshape(2, 3, 4)})[0]
np.save(sys.argv[2], y)
"""


def test_norms_without_a_shift_after_a_sum_run_with_every_optimization(tmp_path: Path) -> None:
    """onnxruntime fuses the two and reads the shift that is not there: the process of whoever deploys would crash."""
    g = Graph()
    x = g.input("images", (1, 3, 4), batched=True)
    gamma = g.constant(np.array([1.0, 2.0, 3.0, 4.0], np.float32))
    total = g.add(g.unary("Relu", x), g.unary("Sigmoid", x))
    with g.serving("norm"):
        g.output(g.layer_norm(total, gamma, None, 1e-5)[0], "logits")
    (tmp_path / "plain.onnx").write_bytes(to_onnx(g, "g", {}, plain=True))
    command = [sys.executable, "-c", _RUN, str(tmp_path / "plain.onnx"), str(tmp_path / "y.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    values = values + 1 / (1 + np.exp(-values))
    centred = values - values.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * [1, 2, 3, 4]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-4)
