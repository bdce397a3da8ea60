"""The model inside what trainers put around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeplast.errors import UsageError

if TYPE_CHECKING:
    import torch


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and averages of weights.

    Raises:
        UsageError: what was given is no module.
    """
    import torch

    inner: Any = model
    while isinstance(inner, torch.nn.Module):
        parts = inner._modules  # a compiled module answers for the attributes of the one inside
        wrapped = parts.get("_orig_mod") or (None if "patch_embed" in parts else parts.get("module"))
        if wrapped is None:
            break
        inner = wrapped
    if not isinstance(inner, torch.nn.Module):
        raise UsageError(
            f"The model is a {type(model).__name__}; a torch.nn.Module is needed. By name, it is made by: "
            "edgeplast.models.load_model('vit_tiny_patch16_224', checkpoint=Path('weights.safetensors'))"
        )
    return inner
