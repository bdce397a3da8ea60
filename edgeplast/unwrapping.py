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
    while isinstance(inner, torch.nn.Module) and not hasattr(inner, "patch_embed"):
        wrapped = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if wrapped is None:
            break
        inner = wrapped
    if not isinstance(inner, torch.nn.Module):
        raise UsageError(
            f"The model is a {type(model).__name__}; a torch.nn.Module is needed. By name, it is made by: "
            "edgeplast.models.load_model('vit_tiny_patch16_224', checkpoint=Path('weights.safetensors'))"
        )
    return inner
