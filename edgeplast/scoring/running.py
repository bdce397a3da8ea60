"""Running a model piece by piece while listening: embed, one block at a time, and every failure with a name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from edgeplast.copying import copied
from edgeplast.errors import EdgeplastError, InputError
from edgeplast.scoring.anatomy import Anatomy, Tap, Unit


@contextlib.contextmanager
def prepared(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Give the model in evaluation mode on a device; afterwards each module is in the mode it was in.

    A model that lies elsewhere is copied, so that the caller's stays where it is.
    """
    weight = next(model.parameters())
    if weight.device != device and (weight.device.type, weight.device.index or 0) != (
        device.type,
        device.index or 0,
    ):
        yield copied(model).to(device).eval()
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def embed(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the tokens that enter the first block, (B, N, D), class and register tokens included.

    Raises:
        InputError: the embedding is not finite.
    """
    m: Any = model
    with naming("patch_embed"):
        tokens = m.patch_embed(batch)
        tokens = m._pos_embed(tokens)
        tokens = m.norm_pre(m.patch_drop(tokens))
    if not torch.isfinite(tokens).all():
        raise InputError(
            "patch_embed: the embedded tokens are NaN or infinite. Are the weights complete and the pictures sound?"
        )
    return tokens


@contextlib.contextmanager
def listening(taps: Iterable[Tap], read: Callable[[Tap, torch.Tensor], Any]) -> Iterator[dict[Tap, Any]]:
    """Fill a dict with ``read(tap, tokens)`` for each tap that tokens pass; hooks are gone afterwards.

    Only what ``read`` returns is kept, so nothing holds activations unless ``read`` hands them back.
    """
    heard: dict[Tap, Any] = {}
    handles = []

    def attach(tap: Tap) -> None:
        if tap.side == "input":

            def before(_module: nn.Module, inputs: Any) -> None:
                heard[tap] = read(tap, inputs[0])

            handles.append(tap.module.register_forward_pre_hook(before))
        else:

            def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
                heard[tap] = read(tap, output)

            handles.append(tap.module.register_forward_hook(after))

    try:
        for tap in taps:
            attach(tap)
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def run_block(
    block: Anatomy, tokens: torch.Tensor, taps: Iterable[Tap], read: Callable[[Tap, torch.Tensor], Any]
) -> tuple[torch.Tensor, dict[Tap, Any]]:
    """Run one block on tokens (B, N, D) and return its output and what was heard.

    Raises:
        InputError: the block failed (the message names it).
    """
    with listening(taps, read) as heard, naming(f"blocks.{block.index}"):
        output = block.module(tokens)
    return output, heard


def taps_of(units: Iterable[Unit]) -> list[Tap]:
    """Return all taps of some units, each once."""
    return list(dict.fromkeys(tap for unit in units for tap in (*unit.source, *unit.sink)))


def heard_by(unit: Unit, taps: Sequence[Tap], heard: dict[Tap, Any]) -> list[Any]:
    """Return what was heard at some taps of a unit.

    Raises:
        InputError: no tokens passed one of them: the component never ran.
    """
    if any(tap not in heard for tap in taps):
        raise never_ran(unit)
    return [heard[tap] for tap in taps]


def never_ran(unit: Unit) -> InputError:
    """Return the error for a unit that nothing went through."""
    block = ".".join(unit.name.split(".")[:2])
    return InputError(
        f"{unit.name} never ran while {block} computed its output, so it has no score. The block's forward "
        "pass goes around it; scoring needs blocks that use their norm1, attn, norm2, fc1 and fc2."
    )


def not_finite(unit: Unit, *, at: str) -> InputError:
    """Return the error for NaN or infinite values at the input or output of a unit."""
    return InputError(
        f"{unit.name}: its {at} is NaN or infinite. Are the weights complete and in range? "
        "A half-precision model may overflow: convert it with model.float()."
    )


@contextlib.contextmanager
def naming(part: str) -> Iterator[None]:
    """Turn a failed computation into an error that names the part of the model; out of memory stays itself."""
    try:
        yield
    except (EdgeplastError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise InputError(f"{part}: the forward pass failed: {error}") from error
