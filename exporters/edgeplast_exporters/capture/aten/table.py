"""The table from an ATen operator's name to the function that writes it; filled by the files beside this one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

TABLE: dict[str, Callable[..., Any]] = {}
"""Operator name without overload and namespace (``layer_norm``); in-place forms (``relu_``) are found under these."""


def writes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function under some names; it gets the translation and then the operator's own arguments.

    A first argument that the function wants as a ``Tensor`` is one for it also where the program has a constant there
    (a grid of positions that a trained convolution reads).
    """

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        rule = _lifting(function) if _takes_tensor(function) else function
        TABLE.update(dict.fromkeys(names, rule))
        return function

    return enter


def _takes_tensor(function: Callable[..., Any]) -> bool:
    return [p.annotation for p in inspect.signature(function).parameters.values()][1:2] == ["Tensor"]


def _lifting(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def rule(s: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return function(s, s.emit.lift(x), *args, **kwargs)

    return rule
