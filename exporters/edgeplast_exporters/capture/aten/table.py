"""The table from an ATen operator's name to the function that writes it; filled by the files beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TABLE: dict[str, Callable[..., Any]] = {}
"""Operator name without overload and namespace (``layer_norm``); in-place forms (``relu_``) are found under these."""


def writes(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function under some names; it gets the translation and then the operator's own arguments."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        TABLE.update(dict.fromkeys(names, function))
        return function

    return enter
