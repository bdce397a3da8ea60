"""Graph pass: compute only those rows of tokens that somebody reads.

Does not change its input. A head that reads the class token reads one row in two hundred, and what mixes no rows
(norms, products with a weight, sums, activations, the queries' side of attention) need not compute the others. The wish
for some rows goes from a ``Slice`` back through such operators, as long as nobody else wants the rest, and the slice is
made where it stops: in the last block of a vision transformer, at its input and at its queries.

What would break it: nothing that a runtime does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast.graphs.operators import operator

_LEAST_TIMES = 3
"""The rows that there are over those wanted, at least: with more wanted, two slices cost what fewer rows save."""


@dataclass(frozen=True)
class _Rows:
    """A range of one dimension of a value: ``start`` to ``end`` of ``size``, counted within each image."""

    axis: int
    start: int
    end: int
    size: int

    def at(self, axis: int) -> _Rows:
        return replace(self, axis=axis)


def narrow_rows(graph: Graph) -> Graph:
    """Return a forward graph that computes the same from fewer rows."""
    wanted = _wanted(graph)
    if not wanted:
        return graph
    result = graph.copy()
    result.nodes = []
    writing = _Writer(result, wanted)
    for node in graph.nodes:
        writing.write(node)
    result.remove_dead()
    return result


def _wanted(graph: Graph) -> dict[str, _Rows]:
    """Return value name to rows, of computed values of which nobody wants the rest."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in filter(None, node.inputs):
            readers.setdefault(name, []).append(node)
    asked: dict[tuple[int, str], _Rows] = {}
    wanted: dict[str, _Rows] = {}
    for node in reversed(graph.nodes):
        rows = _slice_rows(graph, node)
        if rows is None:
            parts = node.outputs if node.op == "Split" else node.outputs[:1]
            wish = _hull([asked.get((id(reader), name)) for name in parts for reader in readers.get(name, ())])
            others = any(readers.get(name) for name in node.outputs[1:] if name not in parts)
            if wish is None or others or any(name in graph.outputs for name in parts):
                continue
            passed = list(_passed_on(graph, node, wish))
            if not passed:
                continue
            wanted.update(dict.fromkeys(parts, wish))
            for name, rows in passed:
                asked[id(node), name] = rows
        elif _is_few(rows):
            asked[id(node), node.inputs[0]] = rows
    return wanted


def _is_few(rows: _Rows) -> bool:
    return _LEAST_TIMES * (rows.end - rows.start) <= rows.size


def _hull(wishes: list[_Rows | None]) -> _Rows | None:
    """Return the rows that hold all that is wished for; None where somebody wants another dimension, or most."""
    given = [w for w in wishes if w is not None]
    if not given or len(given) < len(wishes) or len({(w.axis, w.size) for w in given}) > 1:
        return None
    hull = replace(given[0], start=min(w.start for w in given), end=max(w.end for w in given))
    return hull if _is_few(hull) else None


def _slice_rows(graph: Graph, node: Node) -> _Rows | None:
    if node.op != "Slice":
        return None
    start, end, axis = (int(graph.constants[name][0]) for name in node.inputs[1:4])
    return _Rows(axis, start, end, graph.values[node.inputs[0]].shape[axis])


def _passed_on(graph: Graph, node: Node, rows: _Rows) -> Iterator[tuple[str, _Rows]]:
    """Yield which rows of its inputs an operator needs to compute some of its output; nothing where it mixes rows."""
    out = graph.values[node.outputs[0]]
    first = graph.values[node.inputs[0]]
    last = len(out.shape) - 1
    if node.op == "Reshape":
        inner = math.prod(out.shape[rows.axis + 1 :])
        for axis, size in enumerate(first.shape):
            if size == rows.size and math.prod(first.shape[axis + 1 :]) == inner and first.batched:
                yield first.name, rows.at(axis)
                return
    elif node.op == "Transpose":
        yield first.name, rows.at(node.attributes["perm"][rows.axis])
    elif first.batched and _keeps_rows(node, rows.axis, last):
        yield first.name, rows
    elif node.op == "MatMul" and rows.axis == last - 1 and not node.attributes["transA"] and first.batched:
        yield first.name, rows.at(len(first.shape) - 2)
    elif operator(node.op).kind == "pointwise":
        found = []
        for name in filter(None, node.inputs):
            value = graph.values[name]
            axis = rows.axis - (len(out.shape) - len(value.shape))
            if axis >= 0 and value.shape[axis] == rows.size and (value.batched or rows.axis > 0):
                found.append((name, rows.at(axis)))
        yield from found


def _keeps_rows(node: Node, axis: int, last: int) -> bool:
    """Whether rows along a dimension of the output are computed from the same rows of the first input alone."""
    if node.op in ("LayerNormalization", "Softmax"):
        return axis != last
    if node.op == "Gemm":
        return axis == 0 and not node.attributes.get("transA")
    if node.op == "Split":
        return axis != int(node.attributes["axis"])
    if node.op == "ReduceMean":
        return bool(node.attributes["keepdims"]) and axis != int(node.attributes["axes"][0])
    return node.op == "BatchNormalization" and axis == 0 and last == 1


class _Writer:
    """Writes nodes that compute fewer rows, and the slices where that begins."""

    def __init__(self, graph: Graph, narrowed: dict[str, _Rows]) -> None:
        self._graph, self._narrowed = graph, narrowed
        self._before = dict(graph.values)
        self._pieces: dict[tuple[str, _Rows], str] = {}
        self._instead: dict[str, str] = {}

    def write(self, node: Node) -> None:
        node = node.rewired(self._instead)
        out = node.outputs[0]
        rows = self._narrowed.get(out)
        if rows is None:
            if not self._is_done(node):
                self._graph.nodes.append(self._in_what_is_left(node))
            return
        source = replace_values(self._graph, self._before)
        names = {
            name: self._piece(name, wanted, node)
            for name, wanted in _passed_on(source, node, rows)
            if self._narrowed.get(name) != wanted
        }
        shape = list(self._before[out].shape)
        shape[rows.axis] = rows.end - rows.start
        inputs = tuple(names.get(name, name) for name in node.inputs)
        if node.op == "Reshape":
            target = [-1 if self._before[out].batched else shape[0], *shape[1:]]
            inputs = (inputs[0], self._graph.constant(target).name)
        for name in filter(None, node.outputs):
            old = self._before[name].shape
            here = [rows.end - rows.start if i == rows.axis else n for i, n in enumerate(old)]
            self._graph.values[name] = replace(self._graph.values[name], shape=tuple(here))
        self._graph.nodes.append(replace(node, inputs=inputs))

    def _is_done(self, node: Node) -> bool:
        """Whether a slice takes what is already all there is; its readers then read that."""
        rows = self._narrowed.get(node.inputs[0])
        if node.op != "Slice" or rows is None:
            return False
        start, end, axis = (int(self._graph.constants[name][0]) for name in node.inputs[1:4])
        if (rows.axis, rows.start, rows.end) != (axis, start, end) or node.outputs[0] in self._graph.outputs:
            return False
        self._instead[node.outputs[0]] = node.inputs[0]
        return True

    def _in_what_is_left(self, node: Node) -> Node:
        """Let a slice of fewer rows count from the first one that is left."""
        rows = self._narrowed.get(node.inputs[0])
        if node.op != "Slice" or rows is None:
            return node
        start, end, axis = (int(self._graph.constants[name][0]) for name in node.inputs[1:4])
        bounds = [self._graph.constant([n]).name for n in (start - rows.start, end - rows.start, axis)]
        return replace(node, inputs=(node.inputs[0], *bounds))

    def _piece(self, name: str, rows: _Rows, reader: Node) -> str:
        """Return some rows of a value, cut out right before their first reader."""
        key = name, rows
        if key not in self._pieces:
            g, value = self._graph, self._graph.values[name]
            if (left := self._narrowed.get(name)) is not None:
                rows = replace(rows, start=rows.start - left.start, end=rows.end - left.start)
            with g.serving(reader.component, reader.block):
                self._pieces[key] = _cut(g, value, rows).name
        return self._pieces[key]


def _cut(graph: Graph, value: Value, rows: _Rows) -> Value:
    if rows.axis > 0 or not value.batched:
        return graph.slice(value, rows.axis, rows.start, rows.end)
    apart = graph.reshape(value, (1, *value.shape))
    kept = graph.slice(apart, 1, rows.start, rows.end)
    return graph.reshape(kept, (rows.end - rows.start, *value.shape[1:]))


def replace_values(graph: Graph, values: dict[str, Value]) -> Graph:
    """Return the graph with values as they were; nodes are shared."""
    return replace(graph, values=values)
