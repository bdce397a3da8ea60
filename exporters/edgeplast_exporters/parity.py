"""Proof that an exported graph computes what the torch module computes, before anything is written."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeplast.contract import IMAGES
from edgeplast.errors import InputError
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.forward import forward_graph, stored_parameters
from edgeplast_exporters.onnx_writer import safetensors_layout, to_onnx

TOLERANCE = 1e-3
"""Largest allowed difference of a logit over the largest logit; equal float32 arithmetic stays below 1e-5."""


def check_forward(model: torch.nn.Module, *, seed: int = 0) -> float:
    """Compare the float32 forward graph of a model with the model itself on random images.

    A fresh head is all zeros and would hide whatever comes before it, so the comparison is made on a copy
    whose head is random.

    Args:
        model: not changed; what is compared is its evaluation mode, in float32.
        seed: of the images and that head.

    Returns:
        the largest difference of a logit, relative to the largest logit.

    Raises:
        InputError: they disagree; the module then computes something that its structure does not show.
    """
    from safetensors.numpy import save_file

    probe: Any = copy.deepcopy(model).eval().float().cpu()
    generator = torch.Generator().manual_seed(seed)
    for head in (probe.head, getattr(probe, "head_dist", None)):
        if isinstance(head, torch.nn.Linear):
            head.weight.data.normal_(std=head.in_features**-0.5, generator=generator)
    parameters = stored_parameters(probe)
    graph = forward_graph(probe)
    unnamed = sorted(set(graph.weights) ^ set(parameters))
    if unnamed:
        raise InputError(
            f"Parameters and graph of {type(model).__name__} do not match one to one; on one side only: "
            f"{', '.join(unnamed[:5])}. Remove parameters that the prediction does not use, and give modules "
            "that share one parameter a copy each."
        )
    shape = graph.values[IMAGES].shape
    images = np.random.default_rng(seed).standard_normal((2, *shape[1:]), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file({name: parameters[name] for name in graph.weights}, weights)
        path = Path(folder) / "forward.onnx"
        path.write_bytes(to_onnx(graph, "forward", safetensors_layout(weights)))
        session = import_quietly().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        logits = session.run(None, {IMAGES: images})[0]
    reference = _logits(probe, images)
    largest = float(np.abs(reference).max())
    difference = float(np.abs(logits - reference).max()) / largest
    if not difference <= TOLERANCE:
        raise InputError(
            f"The exported graph and the model disagree: logits differ by {difference:.2g} of the largest "
            f"(allowed: {TOLERANCE:g}). {type(model).__name__} computes something that its module tree does not "
            "show (a forward method of its own, hooks, or dropout in evaluation). Export a plain VisionTransformer."
        )
    return difference


def _logits(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Run the module; whatever it raises is about the module, not about edgeplast."""
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(torch.from_numpy(images))
            return logits.numpy()
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} itself fails on images of shape {images.shape}: "
            f"{type(error).__name__}: {error}. Its forward method must take images and return logits."
        ) from error
