"""Proof that a captured graph computes what the torch module computes, before anything is written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from edgeplast.contract import IMAGES
from edgeplast.copying import copied
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.capture.capturing import Captured
from edgeplast_exporters.capture.tracing import prepared
from edgeplast_exporters.onnx_writer import safetensors_layout, to_onnx

TOLERANCE = 1e-4
"""Largest allowed difference of a logit over the largest logit; equal float32 arithmetic stays below 1e-5."""

_BATCHES = 3
"""Of random images that are tried where a model chooses by rank (``TopK``): of two nearly equal numbers, torch and the
runtime may each take the other, within rounding. A wrong graph agrees on none."""

_AS_EXACT = 10.0
"""Of a model whose numbers are badly conditioned, float32 itself is further off: then the graph may differ from float64
by this many times what torch's float32 does: the order of magnitude, since both are one draw of rounding errors."""


def check_parity(model: torch.nn.Module, captured: Captured, *, seed: int = 0) -> float:
    """Compare the graph of a captured model with the model itself on random images.

    A fresh head is all zeros and would hide whatever comes before it, so the comparison is made with random numbers
    wherever a whole parameter is zero.

    Args:
        model: not changed; what is compared is its evaluation mode, in float32.
        captured: from :func:`~edgeplast_exporters.capture.capture` of this model.
        seed: of the images and those numbers.

    Returns:
        the largest difference of a logit, relative to the largest logit.

    Raises:
        InputError: they disagree.
    """
    chooses = any(node.op == "TopK" for node in captured.graph.nodes)
    for i in range(_BATCHES if chooses else 1):
        difference, allowed = _compared(model, captured, seed + i)
        if difference <= allowed:
            return difference
    raise InputError(
        f"The exported graph and the model disagree: logits differ by {difference:.2g} of the largest "
        f"(allowed: {allowed:.2g}). {type(model).__name__} computes something at random or keeps a state between "
        "calls; its forward method must depend on the images and its parameters alone."
    )


def _compared(model: torch.nn.Module, captured: Captured, seed: int) -> tuple[float, float]:
    """Return by how much logits differ on one batch of random images, and how much is allowed."""
    generator = torch.Generator().manual_seed(seed)
    weights = captured.weights
    images = np.random.default_rng(seed).standard_normal((2, *captured.outline.input_shape), dtype=np.float32)
    with prepared(model) as probe:
        silent = {n: p for n, p in probe.named_parameters() if n in weights and not p.detach().any()}
        for name, parameter in silent.items():
            parameter.data.normal_(std=max(parameter[0].numel(), 1) ** -0.5, generator=generator)
            weights[name] = parameter.detach().numpy().copy().reshape(weights[name].shape)
        try:
            with torch.no_grad():
                reference: np.ndarray = probe(torch.from_numpy(images)).numpy()
            logits = run_once(captured.graph, weights, images)
            difference = _distance(logits, reference)
            allowed = TOLERANCE
            if not difference <= allowed and (exact := _in_float64(probe, images)) is not None:
                difference = _distance(logits, exact)
                allowed = max(TOLERANCE, _AS_EXACT * _distance(reference, exact))
        finally:
            for parameter in silent.values():
                parameter.data.zero_()
    return difference, allowed


def _distance(logits: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(logits - reference).max()) / float(np.abs(reference).max())


def _in_float64(model: torch.nn.Module, images: np.ndarray) -> np.ndarray | None:
    """Return the logits in double precision; None where a module insists on another."""
    try:
        with torch.no_grad():
            logits: np.ndarray = copied(model).double()(torch.from_numpy(images).double()).numpy()
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return logits


def run_once(graph: Graph, weights: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Return the logits that a forward graph computes on the installed runtime."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "weights.safetensors"
        save_file({name: weights[name] for name in graph.weights}, stored)
        path = Path(folder) / "forward.onnx"
        path.write_bytes(to_onnx(graph, "forward", safetensors_layout(stored)))
        onnxruntime = import_quietly()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as on the device
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        logits: np.ndarray = session.run(None, {IMAGES: images})[0]
        return logits
