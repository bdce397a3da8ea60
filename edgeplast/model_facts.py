"""What a model says of itself: its name, the images that it takes, and whether its weights are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeplast.errors import InputError

if TYPE_CHECKING:
    import torch


def name_of(model: torch.nn.Module) -> str:
    """Return the name of a model: what it was loaded as, timm's, or its class."""
    return str(model.__dict__.get("edgeplast_name") or timm_name(model))


def input_shape_of(model: torch.nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model takes, as far as timm knows it.

    Raises:
        InputError: the model does not say; the caller must.
    """
    m: Any = model
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    shape = tuple(int(n) for n in config.get("input_size") or ())
    size = getattr(getattr(m, "patch_embed", None), "img_size", None)
    if size is not None:
        first = next(p for p in m.patch_embed.parameters() if p.ndim > 1)
        channels = int(first.shape[1]) if first.ndim == 4 else (shape or (3,))[0]
        return channels, int(size[0]), int(size[1])
    # The configuration is that of the weights which timm knows; a model made for other channels says so only here.
    kernel = dict(model.named_parameters()).get(f"{config.get('first_conv')}.weight")
    if len(shape) == 3 and kernel is not None and kernel.ndim == 4:
        return int(kernel.shape[1]), shape[1], shape[2]
    if len(shape) != 3:
        raise InputError(
            f"{type(model).__name__} does not say what images it takes. Give their channels, height and width, "
            "input_shape=(3, 224, 224), or where pictures are prepared a Preprocessing."
        )
    return shape


def timm_name(model: torch.nn.Module) -> str:
    """Return the name that timm gave a model, else that of its class."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def check_finite(model: torch.nn.Module) -> None:
    """Raise unless every weight is a finite number.

    Raises:
        InputError: with the names of the first few that are not.
    """
    import torch

    broken = [name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{', '.join(broken[:5])}{' …' if len(broken) > 5 else ''}: the weights are not finite numbers. "
            "Take a checkpoint from before training broke down."
        )
