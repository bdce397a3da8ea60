"""What is asked of one node of an exported program: its operator, the module it was traced in."""

from __future__ import annotations

import torch


def module_path(node: torch.fx.Node) -> str:
    """Return the path of the module in whose forward method a node was traced."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.removeprefix("L['self']").removeprefix(".")


def operator_name(node: torch.fx.Node) -> str:
    """Return the name of a node's operator without namespace and overload (``layer_norm``)."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return getattr(target, "__name__", str(target))
