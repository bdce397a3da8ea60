"""How long one image takes through the forward graph of a model on this machine, as a deployed file runs there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from edgeplast.contract import IMAGES
from edgeplast.progress import Progress, silent
from edgeplast.quiet_runtime import import_quietly
from edgeplast_exporters.capture import capture
from edgeplast_exporters.onnx_writer import safetensors_layout, to_onnx

_ACTIVITY, _WARM_UP = "timing an image", 3


def inference_seconds(
    models: Sequence[torch.nn.Module],
    *,
    rounds: int = 30,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[float]:
    """Return the median time of one image for each model, in seconds.

    The models take turns, image by image, so that a machine that slows down does so for all of them.

    Args:
        models: of the supported family.
        rounds: images a model, after three to warm up.
        threads: of the runtime; by default its own choice.
        seed: of the image.
        progress: told of each model and image.
    """
    parts = len(models) + _WARM_UP + rounds
    onnxruntime = import_quietly()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    with tempfile.TemporaryDirectory() as folder:
        sessions, images = [], []
        for i, model in enumerate(models):
            progress(_ACTIVITY, i, parts)
            embed: Any = model.patch_embed
            captured = capture(model, (embed.proj.in_channels, *embed.img_size))
            graph, path = captured.graph, Path(folder) / f"{i}.onnx"
            save_file({name: captured.weights[name] for name in graph.weights}, path.with_suffix(".safetensors"))
            path.write_bytes(to_onnx(graph, "timed", safetensors_layout(path.with_suffix(".safetensors")), plain=True))
            sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
            shape = (1, *graph.values[IMAGES].shape[1:])
            images.append(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
        times: list[list[float]] = [[] for _ in models]
        for done in range(_WARM_UP + rounds):
            progress(_ACTIVITY, len(models) + done, parts)
            for session, image, taken in zip(sessions, images, times, strict=True):
                start = time.perf_counter()
                session.run(None, {IMAGES: image})
                if done >= _WARM_UP:
                    taken.append(time.perf_counter() - start)
    progress(_ACTIVITY, parts, parts)
    return [median(taken) for taken in times]
