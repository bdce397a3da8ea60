"""A copy of a model, also of one that keeps what it computed before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """Return a deep copy of a model.

    Some models keep tensors that they computed from parameters for the next call (LeViT, TinyViT and EfficientFormer
    their attention biases); ``copy.deepcopy`` refuses those while a gradient hangs on them. A copy gets their values.
    """
    kept = {id(tensor): tensor.detach().clone() for m in model.modules() for tensor in _computed(m.__dict__)}
    return copy.deepcopy(model, kept)


def _computed(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors with a gradient behind them in what a module holds beside its parts."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, dict):
        for key, inside in value.items():
            if key not in ("_parameters", "_buffers", "_modules"):
                yield from _computed(inside)
    elif isinstance(value, (list, tuple)):
        for inside in value:
            yield from _computed(inside)
