"""Graph pass: slices that tile a dimension of one value are one Split, and all parts joined again are the value.

Does not change its input. One node instead of several, forward and backward: the gradient is one Concat instead of
padded slices that are added up.

What would break it: nothing that a runtime does.
"""

from __future__ import annotations

from edgeplast.graphs.graph import Graph, Node


def join_slices(graph: Graph) -> Graph:
    """Return a graph that computes the same with fewer slices."""
    found: dict[tuple[str, int], list[tuple[int, int, Node]]] = {}
    for node in graph.nodes:
        if node.op == "Slice":
            start, end, axis = (int(graph.constants[name][0]) for name in node.inputs[1:4])
            found.setdefault((node.inputs[0], axis), []).append((start, end, node))
    instead: dict[int, Node] = {}
    gone: set[int] = set()
    result = graph.copy()
    for (source, axis), slices in found.items():
        ordered = sorted(slices, key=lambda s: s[0])
        bounds = [0, *(end for _, end, _ in ordered)]
        tiles = len(slices) > 1 and [start for start, _, _ in ordered] == bounds[:-1]
        if not tiles or bounds[-1] != graph.values[source].shape[axis]:
            continue
        sizes = result.constant([end - start for start, end, _ in ordered])
        first = slices[0][2]
        outputs = tuple(node.outputs[0] for _, _, node in ordered)
        instead[id(first)] = Node(
            "Split", (source, sizes.name), outputs, {"axis": axis}, first.component, first.block, first.phase
        )
        gone.update(id(node) for _, _, node in slices)
    result.nodes = [instead.get(id(n), n) for n in graph.nodes if id(n) not in gone or id(n) in instead]
    return _without_cutting_and_joining(result)


def _without_cutting_and_joining(graph: Graph) -> Graph:
    """Return the graph reading a value where it reads all parts of it, joined."""
    cut = {node.outputs: node for node in graph.nodes if node.op == "Split"}
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = node.rewired(same)
        source = cut.get(node.inputs) if node.op == "Concat" else None
        if source is None or source.attributes["axis"] != node.attributes["axis"] or node.outputs[0] in graph.outputs:
            nodes.append(node)
        else:
            same[node.outputs[0]] = source.inputs[0]
    graph.nodes = nodes
    if same:
        graph.remove_dead()
    return graph
