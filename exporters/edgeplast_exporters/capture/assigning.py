"""Operators that change a tensor in place, a part of it among them: what each name of it stands for from then on.

A graph never changes a value. So the changed part is joined with the rest into a new one (``x[:, 1:] = y`` is a
concatenation), which is what later readers of the whole see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgeplast_exporters.capture.emitter import Emitter
from edgeplast_exporters.capture.program_nodes import operator_name
from edgeplast_exporters.capture.tensors import Tensor, UnfitError

_VIEWS = {"view", "reshape", "permute", "transpose", "select", "slice", "squeeze", "unsqueeze", "expand", "flatten",
          "unflatten", "unbind", "chunk", "split", "t", "alias", "detach", "getitem"}  # fmt: skip


def after_change(
    emit: Emitter, node: torch.fx.Node, known: Mapping[torch.fx.Node, Any], result: Any
) -> dict[torch.fx.Node, Any]:
    """Return what the nodes that share a changed tensor's memory stand for now.

    Args:
        emit: writes the joins.
        node: the operator in place; its first argument is what it changes.
        known: the nodes of :func:`family` that there are already, to what they stood for.
        result: what the operator made.

    Raises:
        UnfitError: another view of the same memory is read later.
    """
    target = node.args[0]
    assert isinstance(target, torch.fx.Node)
    changed = {node: result, target: result}
    while operator_name(target) in ("slice", "select"):
        source = target.args[0]
        assert isinstance(source, torch.fx.Node)
        changed[source] = _joined(emit, emit.lift(known[source]), target, changed[target])
        target = source
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    for other in known:
        if other not in changed and any(order[user] > order[node] for user in other.users):
            raise UnfitError("changes a tensor of which another view is read later")
    return changed


def _joined(emit: Emitter, whole: Tensor, view: torch.fx.Node, part: Tensor) -> Tensor:
    """Return a tensor in which the part that a view shows is another one."""
    _, dim, *bounds = view.args
    assert isinstance(dim, int)
    dim %= len(whole.dims)
    size = whole.sizes[dim].count
    if operator_name(view) == "select":
        (index,) = bounds
        assert isinstance(index, int)
        start = index % size
        end = start + 1
        part = part.with_dims([*part.dims[:dim], (), *part.dims[dim:]])
    else:
        given: list[object] = [*bounds, None, None]
        first, last, step = given[0], given[1], bounds[2] if len(bounds) > 2 else 1
        if step != 1 or not isinstance(first, int | None) or not isinstance(last, int | None):
            raise UnfitError("changes every other element of a tensor")
        start, end, _ = slice(first, last).indices(size)
    if (start, end) == (0, size):
        return part
    around = [(0, start), (end, size)]
    before, after = ([emit.slice(whole, dim, a, b)] if a < b else [] for a, b in around)
    return emit.concat([*before, part, *after], dim)


def family(node: torch.fx.Node) -> set[torch.fx.Node]:
    """Return all nodes that may be views of the memory that an operator changes, itself not."""
    target = node.args[0]
    assert isinstance(target, torch.fx.Node)
    found, waiting = {target}, [target]
    while waiting:
        n = waiting.pop()
        near = [u for u in n.users if operator_name(u) in _VIEWS]
        if operator_name(n) in _VIEWS and n.op == "call_function":
            near += [a for a in n.args[:1] if isinstance(a, torch.fx.Node)]
        waiting += [x for x in near if x not in found]
        found.update(near)
    return found - {node}
