"""Small vision transformers with every weight random, and ways to run what the exporters write."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from edgeplast.components import component_of, select
from edgeplast.contract import gradient_input, gradient_output, quantized_name, scale_name
from edgeplast.graphs.graph import Graph
from edgeplast.models import import_timm, input_shape_of, name_of
from edgeplast.outline import Outline
from edgeplast.plans import Plan, plan_by_names
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.capture import Captured, capture
from edgeplast_exporters.onnx_writer import safetensors_layout, to_onnx
from edgeplast_exporters.quantization import quantize_rows
from edgeplast_exporters.training import promote, training_graph

CLASSES = ("field", "forest", "river")


def small(name: str = "vit_tiny_patch16_224", *, seed: int = 0, **options: Any) -> nn.Module:
    """A timm model of two narrow blocks on pictures of 32², in evaluation mode; no weight is zero or one."""
    settings: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "num_classes": len(CLASSES),
    }
    model = randomised(import_timm().create_model(name, **(settings | options)), seed)
    model.__dict__["recipe"] = repr((name, sorted((settings | options).items())))
    return model


_captured: dict[str, Captured] = {}


def captured(model: nn.Module) -> Captured:
    """The model as the exporter captures it; models of one recipe differ in their numbers alone."""
    recipe = model.__dict__.get("recipe")
    found = _captured.get(recipe) if recipe else None
    if found is None:
        found = capture(model, input_shape_of(model), name=name_of(model))
        if recipe:
            _captured[recipe] = found
    return found


def forward_graph(model: nn.Module) -> Graph:
    return captured(model).graph.copy()


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter as the graphs of vision transformers store it: the patch kernel as a matrix (out, rest)."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.ndim == 4 else tensor


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            around = 0.0 if name.endswith("bias") else 1.0
            nn.init.normal_(parameter.data, mean=around, std=0.3, generator=generator)
        else:
            width = matrix(parameter).shape[-1]
            nn.init.normal_(parameter.data, std=0.7 / math.sqrt(width), generator=generator)
    return model.eval()


def pictures(model: nn.Module, count: int, seed: int = 0) -> np.ndarray:
    height, width = model.patch_embed.img_size
    return np.random.default_rng(seed).standard_normal((count, 3, height, width), dtype=np.float32)


def labels(count: int, classes: int = len(CLASSES)) -> np.ndarray:
    return np.arange(count, dtype=np.int64) * 7 % 5 % classes


def mean_targets(answers: np.ndarray, classes: int = len(CLASSES), batch: int | None = None) -> np.ndarray:
    """One-hot targets whose cross-entropies add up to the mean over ``batch`` pictures."""
    return np.eye(classes, dtype=np.float32)[answers] / np.float32(batch or len(answers))


def parameters_of(model: nn.Module, pattern: str) -> list[str]:
    """Names of the parameters of the components that a pattern such as ``attn:1,head`` selects."""
    chosen = set(select(pattern, len(model.blocks)))
    return [name for name, _ in model.named_parameters() if component_of(name) in chosen]


@dataclass(frozen=True)
class Result:
    loss: float
    logits: np.ndarray
    gradients: dict[str, np.ndarray]


def torch_step(model: nn.Module, names: Collection[str], images: np.ndarray, answers: np.ndarray) -> Result:
    """Mean cross-entropy and its gradients by autograd, in the shapes that graphs use."""
    model = copy.deepcopy(model)
    logits = model(torch.from_numpy(images))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(answers))
    chosen = {name: p for name, p in model.named_parameters() if name in set(names)}
    found = torch.autograd.grad(loss, list(chosen.values()))
    gradients = {name: matrix(g).numpy() for name, g in zip(chosen, found, strict=True)}
    return Result(loss.item(), logits.detach().numpy(), gradients)


def session_of(graph: Graph, stored: Mapping[str, np.ndarray], *, plain: bool = False, basic: bool = True) -> Any:
    """Load a graph, its frozen weights in a safetensors file beside it (deleted once loaded)."""
    onnxruntime = import_quietly()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if basic:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file({name: stored[name] for name in graph.weights}, weights)
        path = Path(folder) / "graph.onnx"
        path.write_bytes(to_onnx(graph, "graph", safetensors_layout(weights), plain=plain))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(
    graph: Graph,
    parameters: Mapping[str, np.ndarray],
    images: np.ndarray,
    targets: np.ndarray,
    *,
    start: Mapping[str, np.ndarray] | None = None,
) -> Result:
    """Run a training graph once on the installed runtime; gradients start at zero unless given."""
    session = session_of(graph, stored_forms(parameters))
    outputs = [o.name for o in session.get_outputs()]
    trained = [n for n in parameters if gradient_output(n) in outputs]
    feeds = {"images": images, "targets": targets}
    feeds |= {i.name: parameters[i.name] for i in session.get_inputs() if i.name in parameters}
    feeds |= {gradient_input(n): (start or {}).get(n, np.zeros_like(parameters[n])) for n in trained}
    found = dict(zip(outputs, session.run(None, feeds), strict=True))
    return Result(float(found["loss"]), found["logits"], {n: found[gradient_output(n)] for n in trained})


def stored_forms(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every parameter under its name, and matrices also as int8 with scales."""
    forms = dict(parameters)
    for name, array in parameters.items():
        if array.ndim == 2:
            forms[quantized_name(name)], forms[scale_name(name)] = quantize_rows(array)
    return forms


def training_graph_of(model: nn.Module, names: Sequence[str]) -> Graph:
    return training_graph(promote(forward_graph(model), names), names)


def assert_gradients_agree(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = 1e-4
) -> None:
    """Each tensor within ``tolerance`` of its own largest entry.

    A gradient that is zero in mathematics (of a shift before a softmax) is rounding noise on both sides: nothing
    counts as larger than a hundredth of the largest gradient of all times the tolerance.
    """
    assert found.keys() == expected.keys()
    overall = max(np.abs(g).max() for g in expected.values())
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape, name
        scale = max(np.abs(gradient).max(), 0.01 * overall)
        difference = np.abs(found[name] - gradient).max() / scale
        assert difference <= tolerance, f"{name}: {difference:.2g}"


def plan_of(model: nn.Module, pattern: str = "attn,head", *, bits: int = 8, outline: Outline | None = None) -> Plan:
    """A plan that trains what a pattern selects and stores the rest in so many bits."""
    return plan_by_names(outline or captured(model).outline, pattern, weight_bits=bits)


def parameters(model: nn.Module) -> dict[str, np.ndarray]:
    graph = captured(model).graph
    arrays = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return {name: np.ascontiguousarray(array.reshape(graph.values[name].shape)) for name, array in arrays.items()}
