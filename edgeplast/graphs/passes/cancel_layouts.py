"""Graph pass: a view of a view is a view of the first; one into the shape that is already there is nothing.

Does not change its input. Only ``Reshape`` is looked at, which is all that a view ever is in these graphs. Equal views
of one value become one.

What would break it: nothing that a runtime does.
"""

from __future__ import annotations

from dataclasses import replace

from edgeplast.graphs.graph import Graph, Node


def cancel_layouts(graph: Graph) -> Graph:
    """Return a graph that computes the same with fewer reshapes."""
    result = graph.copy()
    result.nodes = []
    source: dict[str, str] = {}  # of views, what they view
    instead: dict[str, str] = {}
    known: dict[tuple[str, tuple[int, ...], bool], str] = {}
    for node in graph.nodes:
        node = node.rewired(instead)
        if node.op != "Reshape" or not _is_plain(graph, node):
            result.nodes.append(node)
            continue
        out = graph.values[node.outputs[0]]
        first = source.get(node.inputs[0], node.inputs[0])
        viewed = graph.values[first]
        key = first, out.shape, out.batched
        same = first if (viewed.shape, viewed.batched) == (out.shape, out.batched) else known.get(key)
        if same is not None and out.name not in graph.outputs:
            instead[out.name] = same
            continue
        source[out.name] = first
        known.setdefault(key, out.name)
        result.nodes.append(replace(node, inputs=(first, node.inputs[1])))
    result.remove_dead()
    return result


def _is_plain(graph: Graph, node: Node) -> bool:
    """Whether the target shape is a constant: one that is computed (an anchor) orders what runs when."""
    return node.inputs[1] in graph.constants
