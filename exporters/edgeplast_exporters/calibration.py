"""What the frozen matrices of a model read on real images: samples of rows, and the range of every column.

The float32 forward graph runs on the workstation, one image at a time, with the inputs of the matrix products as
further outputs. Nothing is kept of an image but a few of its rows, so memory does not grow with the images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeplast.contract import IMAGES
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.progress import Progress, silent
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.onnx_writer import safetensors_layout, to_onnx

LEAST_IMAGES = 4
"""Fewer say nothing about the range of an activation."""

_ROWS_PER_IMAGE = 16
"""Rows kept of each image and product; 64 images give 1,024 samples of every column."""


@dataclass(frozen=True)
class Sample:
    """What one product reads.

    Attributes:
        rows: float32 (n, columns), drawn at random from all images.
        low: float32 (columns,), the smallest value of each column in any row of any image, at most 0.
        high: float32 (columns,), the largest, at least 0.
    """

    rows: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def shifted(self, by: np.ndarray) -> Sample:
        """Return the sample after a number was subtracted from each column."""
        if not by.any():
            return self
        return Sample(self.rows - by, np.minimum(self.low - by, 0), np.maximum(self.high - by, 0))

    def divided(self, by: np.ndarray) -> Sample:
        """Return the sample after each column was divided by a positive number."""
        return Sample(self.rows / by, self.low / by, self.high / by)


def sample_inputs(
    forward: Graph,
    parameters: Mapping[str, np.ndarray],
    images: Sequence[np.ndarray],
    weights: Collection[str],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Sample]:
    """Run the forward graph on images and note what the products with some weights read.

    Args:
        forward: of the captured model; not changed.
        parameters: of the model, float32.
        images: preprocessed pictures, float32 (3, H, W) each.
        weights: names of matrices that Gemm reads.
        seed: of the rows that are kept.
        progress: told of each image.

    Returns:
        weight name to what is multiplied with it.

    Raises:
        InputError: too few images, or activations that are not finite.
    """
    if len(images) < LEAST_IMAGES:
        raise InputError(f"{len(images)} images are too few to calibrate on; give at least {LEAST_IMAGES}.")
    reads = {n.inputs[1]: n.inputs[0] for n in forward.nodes if n.op == "Gemm" and n.inputs[1] in weights}
    names = list(dict.fromkeys(reads.values()))
    rng = np.random.default_rng(seed)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    for done, found in enumerate(run_float(forward, parameters, images, names)):
        progress("calibrating", done, len(images))
        for name, array in zip(names, found, strict=True):
            if not np.isfinite(array).all():
                raise InputError(
                    f"{name}: an activation is not a finite number on image {done}. "
                    "Check the checkpoint and the preprocessing."
                )
            low[name] = np.minimum(low.get(name, np.float32(0)), array.min(axis=0))
            high[name] = np.maximum(high.get(name, np.float32(0)), array.max(axis=0))
            chosen = rng.choice(len(array), min(len(array), _ROWS_PER_IMAGE), replace=False)
            rows[name].append(array[chosen])
    progress("calibrating", len(images), len(images))
    samples = {name: Sample(np.concatenate(rows[name]), low[name], high[name]) for name in names}
    return {weight: samples[name] for weight, name in reads.items()}


def run_float(
    graph: Graph, parameters: Mapping[str, np.ndarray], images: Sequence[np.ndarray], names: Sequence[str]
) -> Iterator[list[np.ndarray]]:
    """Yield, image by image, the values of a graph that ``names`` lists; weights come from ``parameters``."""
    from safetensors.numpy import save_file

    onnxruntime = import_quietly()
    probed = graph.copy()
    probed.outputs = list(dict.fromkeys(names))
    with tempfile.TemporaryDirectory() as folder:
        weights, path = Path(folder) / "weights.safetensors", Path(folder) / "probed.onnx"
        save_file({name: parameters[name] for name in graph.weights}, weights)
        path.write_bytes(to_onnx(probed, "probed", safetensors_layout(weights)))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        held = {name: parameters[name] for name in graph.inputs if name != IMAGES}
        for image in images:
            found = session.run(probed.outputs, held | {IMAGES: np.asarray(image, np.float32)[None]})
            by_name = dict(zip(probed.outputs, found, strict=True))
            yield [by_name[name] for name in names]
