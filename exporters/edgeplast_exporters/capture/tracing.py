"""From a module to an exported program: one symbolic batch, nothing decomposed, every trap sprung on purpose."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from edgeplast.copying import copied
from edgeplast.errors import InputError

_MOST_IMAGES = 1 << 12


def trace(model: torch.nn.Module, input_shape: Sequence[int]) -> ExportedProgram:
    """Trace a module on images with a symbolic batch.

    Args:
        model: as :func:`prepared` gives it.
        input_shape: channels, height, width.

    Raises:
        InputError: the module cannot be traced, takes more than images, or returns other things than logits.
    """
    images = torch.zeros(2, *input_shape)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Quiet():
            warnings.simplefilter("ignore")
            answer = model(images)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} itself fails on images of shape {tuple(images.shape)}: {type(error).__name__}: "
            f"{error}. Its forward method must take one batch of images (channels {input_shape[0]}, "
            f"{input_shape[1]}×{input_shape[2]}) and return logits."
        ) from error
    _check_answer(model, answer)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Quiet():
            warnings.simplefilter("ignore")
            return torch.export.export(
                model, (images,), dynamic_shapes=({0: Dim("B", min=1, max=_MOST_IMAGES)},), strict=False
            )
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be traced by torch.export{_line_of(error)}: {_first_line(error)} What "
            "depends on the values of images (if, while, indexing by a mask, .item()) has no graph; write it with "
            "torch.where or arithmetic."
        ) from error


@contextlib.contextmanager
def prepared(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Give a module in evaluation mode, float32, with its caches of derived tensors empty; put everything back.

    A module that is all float32 on the CPU is not copied: weights are large, and closures over it would be left behind.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.is_floating_point() and (t.dtype != torch.float32 or t.device.type != "cpu") for t in tensors):
        model = copied(model).float().cpu()
    modes = [(m, m.training) for m in model.modules()]
    kept: list[tuple[Any, str, Any]] = []

    def change(module: Any, name: str, value: Any) -> None:
        kept.append((module, name, module.__dict__[name]))
        module.__dict__[name] = value

    try:
        model.eval()
        for module in model.modules():
            if isinstance(
                module.__dict__.get("attention_bias_cache"), dict
            ):  # TinyViT and LeViT keep table[index] in it
                change(module, "attention_bias_cache", {})
                change(module, "training", True)  # reads the table itself
            if getattr(module, "relative_position_bias_table", None) is not None and "fused_attn" in module.__dict__:
                change(module, "fused_attn", False)  # a fused mask would be repeated for every window of every image
        yield model
    finally:
        for changed, name, value in reversed(kept):
            changed.__dict__[name] = value
        for changed, training in modes:
            changed.training = training


def _check_answer(model: torch.nn.Module, answer: Any) -> None:
    if isinstance(answer, torch.Tensor) and answer.ndim == 2 and answer.shape[0] == 2:
        return
    what = (
        f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else f"a {type(answer).__name__}"
    )
    raise InputError(
        f"{type(model).__name__} returns {what} for two images; logits of shape (2, classes) are needed. Wrap it in a "
        "module whose forward method picks the logits, or pools the feature map and ends in a Linear."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    line = text[0].partition(" (unhinted")[0] if text else type(error).__name__
    return line if line.endswith(".") else f"{line}."


def _line_of(error: Exception) -> str:
    """Say where in the module's own source it happened, where torch says so."""
    _, _, told = str(error).partition("The following call raised this error:")
    found = re.findall(r'File "([^"\n]+)", line (\d+), in [^\n]*\n\s+([^\n]+)', told)
    if not found:
        return ""
    file, line, code = found[-1]
    return f" at {Path(file).name}, line {line} ({code.strip()})"


class _Quiet(contextlib.redirect_stderr[io.StringIO]):
    """Keep what torch.export logs and prints on its way (graphs that it has not finished) off the screen."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())

    def __enter__(self) -> io.StringIO:
        self._before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        logging.disable(self._before)
