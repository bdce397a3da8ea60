"""Quantize for inference: a deployed float32 model and pictures in, one whose matrix products run in 8 bits out.

The work is done by onnxruntime's own tools (``onnxruntime.quantization``), which need the onnx package; nothing else
on a device does. Static quantization in the QDQ form: weights int8 with a scale for each output channel, activations
uint8 with one range for each tensor, measured on the device's pictures. Of the weights' 8 bits 7 are used: processors
without instructions for such products (AVX2, say) add them up in pairs of 16 bits, which larger ones overflow. Layer
norms, softmax, GELU, the products inside attention and the head stay float32: they are a few percent of the work.

So does a linear layer whose input has outliers: 256 steps over a range of 200 leave nothing of channels that vary by
a fifth. One such layer (the fc2 of block 7 in ViT-Tiny) makes seven times the error of the other 47 together, so each
layer's input is looked at first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeplast.contract import IMAGES
from edgeplast.errors import EdgeplastError, InputError, MissingExtraError, UsageError
from edgeplast.progress import Progress, silent
from edgeplast.quiet_runtime import import_quietly

QUANTIZED = ("Gemm",)
"""Operators that are quantized: the linear layers."""

MOST_RANGE = 128.0
"""Widest range of a layer's input that is quantized, in standard deviations of its median channel: two of 256 steps
for each of them. In ViT-Tiny on aerial photos 47 layers lie between 11 and 108, and one at 1131."""

_LOOKED_AT = 8


class Pictures(Protocol):
    """Preprocessed pictures to calibrate on."""

    def __len__(self) -> int:
        """Return how many there are."""

    def tensor(self, index: int) -> np.ndarray:
        """Return float32 (3, H, W)."""


def check_installed() -> None:
    """Raise unless the packages that quantizing needs are there; they are not loaded yet.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError(
            "onnx is not installed; quantizing a model for inference needs it (deploying in float32 does not). "
            "Install it: pip install 'onnx>=1.16'. Or run this on the workstation, where edgeplast[offline] brings it."
        )


def quantize(
    model: Path, into: Path, pictures: Pictures, *, most: int = 64, seed: int = 0, progress: Progress = silent
) -> tuple[int, tuple[str, ...]]:
    """Write a quantized copy of a deployed model, its metadata included.

    Args:
        model: the float32 ONNX file.
        into: the file to write.
        pictures: to calibrate activation ranges on.
        most: how many of them to use.
        seed: which.
        progress: told of each picture.

    Returns:
        how many pictures were used, and the layers that stay float32 for the outliers in their input.

    Raises:
        MissingExtraError: onnx is not installed.
        UsageError: ``most`` is below 1.
        InputError: onnxruntime's tools cannot quantize this model.
    """
    check_installed()
    if most < 1:
        raise UsageError(f"--calibration-images {most}: activation ranges need at least 1 picture; 64 is the default.")
    import onnx

    tools = import_quietly("quantization")
    chosen = [int(i) for i in np.random.default_rng(seed).permutation(len(pictures))[:most]]
    loaded = onnx.load(model)
    nodes = loaded.graph.node
    heads = [node.name for node in nodes if set(node.input) & {"head.weight", "head_dist.weight"}]
    # onnxruntime 1.19 sets the range of every softmax's output, and fails where it was not calibrated.
    ranged = [node.name for node in nodes if node.op_type == "Softmax"]
    with _quiet():
        try:
            wide = outlying(loaded, (pictures.tensor(i)[None] for i in chosen[:_LOOKED_AT]))
            tools.quantize_static(
                str(model),
                str(into),
                _reader(tools.CalibrationDataReader, pictures, chosen, progress),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=[*QUANTIZED, "Softmax"],
                nodes_to_exclude=[*heads, *ranged, *wide],
                per_channel=True,
                reduce_range=True,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": list(QUANTIZED),  # sums leave the product in float32
                },
            )
        except EdgeplastError:
            raise
        except Exception as error:  # the runtime raises a dozen pybind types without a common base
            raise InputError(
                f"onnxruntime cannot quantize {model.name}: {error}. Deploy in float32: leave out --weight-bits."
            ) from error
    return len(chosen), tuple(wide.values())


def outlying(model: Any, images: Iterable[np.ndarray]) -> dict[str, str]:
    """Return node name to layer name of the linear layers whose input spans over ``MOST_RANGE`` deviations.

    Args:
        model: an onnx ModelProto in float32; not changed.
        images: float32 (1, 3, H, W) each.
    """
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    layers = [node for node in probe.graph.node if node.op_type in QUANTIZED]
    inputs = list(dict.fromkeys(node.input[0] for node in layers))
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inputs)
    session = import_quietly().InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges = dict.fromkeys(inputs, (0.0, 0.0))
    sums: dict[str, np.ndarray] = {}  # count, sum and sum of squares of each channel
    for image in images:
        for name, values in zip(inputs, session.run(inputs, {IMAGES: image}), strict=True):
            rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
            ranges[name] = min(ranges[name][0], rows.min()), max(ranges[name][1], rows.max())
            sums[name] = sums.get(name, 0) + np.stack([np.ones_like(rows), rows, rows**2]).sum(axis=1)
    found = {}
    for node in layers:
        count, total, squares = sums[node.input[0]]
        deviation = np.median(np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0)))
        least, most = ranges[node.input[0]]
        if most - least > MOST_RANGE * deviation:
            found[node.name] = node.input[1].removesuffix(".weight")
    return found


def _reader(base: Any, pictures: Pictures, chosen: list[int], progress: Progress) -> Any:
    """Return a reader of onnxruntime's kind that hands out one picture after the other."""
    waiting = iter(enumerate(chosen, 1))

    class Reader(base):
        def get_next(self) -> dict[str, np.ndarray] | None:
            done, index = next(waiting, (0, -1))
            if not done:
                return None
            progress("calibrating", done, len(chosen))
            return {IMAGES: pictures.tensor(index)[None]}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' advice on preprocessing, which this graph does not need, off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
