"""The liveness walk: how many bytes are alive at each node of the very graph that will run.

The runtime executes nodes in the order in which they stand, allocates an output when its node starts and frees a
tensor after its last reader. With buffer reuse off no operator writes onto its input either, also where it could
(measured on onnxruntime 1.19 and 1.32: without the arena the peak follows this walk within half a percent).
Graph inputs, outputs and frozen weights live outside the walk; ``Reshape`` gives a view, and so keeps what it
views alive. What a kernel takes for itself while it runs (a convolution's patches) is known by its operator's rule and
counted as a value that lives for one node. What the arena adds by scattering all this is in ``arena.py``.
"""

from __future__ import annotations

from edgeplast.footprint import MemoryLine, envelope
from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast.graphs.operators import operator
from edgeplast.graphs.operators.record import Form

Step = tuple[list[Value], list[Value]]


def steps(graph: Graph) -> list[Step]:
    """Return, for each node, the values that get memory when it starts and those that lose it when it ends."""
    owner: dict[str, str] = {}
    outside = {*graph.inputs, *graph.weights, *graph.constants, *graph.outputs, *graph.unread_options()}
    for node in graph.nodes:
        for name in filter(None, node.outputs):
            source = node.inputs[0]
            owner[name] = owner.get(source, source) if operator(node.op).kind == "view" else name
    last: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in (*node.inputs, *node.outputs):
            if name:
                last[owner.get(name, name)] = i
    walk: list[Step] = [([], []) for _ in graph.nodes]
    for i, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name and owner[name] == name and name not in outside:
                walk[i][0].append(graph.values[name])
    for i, node in enumerate(graph.nodes):
        for space in _workspace(graph, node):
            walk[i][0].append(space)
            walk[i][1].append(space)
    for name, i in last.items():
        if name not in outside:
            walk[i][1].append(graph.values[name])
    return walk


def _workspace(graph: Graph, node: Node) -> list[Value]:
    """Return what the kernel of a node allocates beside its outputs, in all and for each image."""
    record = operator(node.op, node.component)
    if record.workspace is None:
        return []
    out = graph.values[node.outputs[0]]
    sizes = record.workspace(graph.call(node), Form(out.shape, out.batched, out.dtype))
    name = f"{out.name}/workspace"
    pairs = zip((name, f"{name}/image"), sizes, (False, True), strict=True)
    return [Value(n, (size,), batched, "uint8") for n, size, batched in pairs if size]


def transient_lines(graph: Graph) -> tuple[MemoryLine, ...]:
    """Return the upper envelope of bytes alive, as lines over the micro-batch size."""
    lines: list[tuple[int, int]] = []
    fixed = per_image = 0
    for made, freed in steps(graph):
        fixed += sum(v.bytes for v in made if not v.batched)
        per_image += sum(v.bytes for v in made if v.batched)
        lines.append((fixed, per_image))
        fixed -= sum(v.bytes for v in freed if not v.batched)
        per_image -= sum(v.bytes for v in freed if v.batched)
    return envelope(lines)
