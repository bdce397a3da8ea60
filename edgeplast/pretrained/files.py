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
_HEAD_BYTES = 512
_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")


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
    path = checkpoint_file(path)
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


def checkpoint_file(path: Path) -> Path:
    """Return the file with the weights, once its first bytes look like one; torch is not needed for it.

    Args:
        path: the file, or a folder that holds one under a usual name.

    Raises:
        InputError: it is missing, or neither safetensors nor a file of torch's.
    """
    file = _file_of(path)
    try:
        with file.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"The checkpoint {file} cannot be read: {error.strerror or error}.") from error
    if not _is_safetensors(file, head) and not _is_torchs(head):
        raise InputError(
            f"The checkpoint {file} is {_looks_like(head)}. Give weights as safetensors, or as torch.save writes them."
        )
    return file


def _is_safetensors(file: Path, head: bytes) -> bool:
    return head[8:9] == b"{" or (file.suffix == ".safetensors" and not _is_torchs(head) and not _text(head))


def _is_torchs(head: bytes) -> bool:
    """A zip, a pickle of protocol 2 or later, or the tar of before 2017."""
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in _PROTOCOLS) or head[257:262] == b"ustar"


def _text(head: bytes) -> str:
    """Return the first line of what is text, empty for anything else."""
    try:
        line = head.decode("ascii").strip().splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        return ""
    return line if line.isprintable() else ""


def _looks_like(head: bytes) -> str:
    line = _text(head)
    if not head:
        return "empty"
    if line.startswith("version https://git-lfs"):
        return "a Git LFS pointer and not the file that it stands for: fetch that with git lfs pull"
    if line.startswith("<"):
        return "a web page: was it downloaded by another address than that of the file itself?"
    if head[:4] == b"\x89HDF" or head[:4] == b"GGUF":
        return f"a file of another library ({'HDF5' if head[1:2] == b'H' else 'GGUF'})"
    return f"text, which begins {line[:60]!r}" if line else "in no format that is known here"


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
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
            if _is_safetensors(path, head):
                return dict(load_file(path))
            handle.seek(0)
            with _harmless_types():  # by handle: some versions of torch go by the suffix of a name
                return torch.load(handle, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"The checkpoint {path} cannot be read: {_reason(error)}") from error
    except Exception as error:  # torch raises pickle.UnpicklingError subclasses for unsafe content
        raise InputError(
            f"The checkpoint {path} is no plain file of tensors, and edgeplast does not run "
            f"code from checkpoints ({type(error).__name__}{_unsafe(path)}). "
            "Save it with torch.save(model.state_dict(), …) or as safetensors."
        ) from error


def _reason(error: Exception) -> str:
    """A lookup that failed says the key alone."""
    return f"it is damaged ({type(error).__name__} {error})" if isinstance(error, KeyError) else str(error)


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
