"""Checkpoint files: safetensors or torch files in, the mapping from names to tensors that they hold out."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.errors import InputError

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher")
"""Under which of these a training script keeps its weights, the first that is there. Averages (EMA) before raw weights,
as in timm's ``load_state_dict``: they are what was evaluated. ``teacher`` is DINO's average."""

USUAL_NAMES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Files with weights in a folder of a model hub."""

_DEEPEST = 4


@dataclass(frozen=True)
class StateDict:
    """What a checkpoint holds.

    Attributes:
        path: the file that was read.
        tensors: name to tensor, names as in the file.
        wrapper: the entry that they lay under, ``""`` for a plain state dict.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    wrapper: str = ""


def read_state_dict(path: Path) -> StateDict:
    """Read the weights of a checkpoint; a torch file is read with ``weights_only=True``.

    Args:
        path: the file, or a folder that holds one under a usual name.

    Raises:
        InputError: the file is missing, damaged, or holds anything but tensors.
    """
    path = _file_of(path)
    content = _load(path)
    wrapper = ""
    for _ in range(_DEEPEST):
        found = next((w for w in WRAPPERS if isinstance(content, dict) and isinstance(content.get(w), dict)), None)
        if found is None:
            break
        content, wrapper = content[found], f"{wrapper}.{found}" if wrapper else found
    if not isinstance(content, dict):
        raise InputError(
            f"The checkpoint {path} holds no state dict (a mapping from parameter names to tensors) but a "
            f"{type(content).__name__}. Save it with torch.save(model.state_dict(), …) or as safetensors."
        )
    tensors = _tensors_of(content)
    if tensors is None:
        names = [str(name) for name in content]
        raise InputError(
            f"The checkpoint {path} holds no state dict (a mapping from parameter names to tensors). It has "
            f"{bounded(names)}; weights are looked for under {', '.join(WRAPPERS)}, or at the top."
        )
    return StateDict(path, tensors, wrapper)


def bounded(names: list[str], most: int = 5) -> str:
    """Put at most so many names into words, and how many there are more."""
    return ", ".join(names[:most]) + (f" … ({len(names) - most} more)" if len(names) > most else "")


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = next((path / name for name in USUAL_NAMES if (path / name).is_file()), None)
        if found is not None:
            return found
        parts = sorted(path.glob("*.index.json"))
        reason = f"its weights lie in several files ({parts[0].name})" if parts else f"none of {', '.join(USUAL_NAMES)}"
        raise InputError(f"The folder {path} holds no checkpoint in one file: {reason}. Give the file's name.")
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}.")
    return path


def _load(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with _harmless_types():
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"The checkpoint {path} cannot be read: {error}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError subclasses for unsafe content
        raise InputError(
            f"The checkpoint {path} is no plain file of tensors, and edgeplast does not run "
            f"code from checkpoints ({type(error).__name__}{_unsafe(path)}). "
            "Save it with torch.save(model.state_dict(), …) or as safetensors."
        ) from error


def _harmless_types() -> Any:
    """Allow what timm's training script writes beside the weights (its arguments), as timm's own reader does."""
    import torch

    safe_globals: Any = getattr(torch.serialization, "safe_globals", None)  # torch 2.5 and later
    return safe_globals([argparse.Namespace]) if safe_globals else contextlib.nullcontext()


def _unsafe(path: Path) -> str:
    import torch

    list_unsafe: Any = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    try:
        names = list_unsafe(str(path)) if list_unsafe else []
    except Exception:  # a file that is no archive of torch's at all
        return ""
    return f"; it asks for {bounded([str(name) for name in names], 3)}" if names else ""


def _tensors_of(content: dict[Any, Any]) -> dict[str, torch.Tensor] | None:
    """Return the tensors, or None where something else lies among them; torch's own ``_extra_state`` may."""
    import torch

    tensors = {str(name): value for name, value in content.items() if not str(name).endswith("_extra_state")}
    return tensors if tensors and all(isinstance(value, torch.Tensor) for value in tensors.values()) else None
