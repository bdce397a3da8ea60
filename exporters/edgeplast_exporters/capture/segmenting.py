"""Segments of a captured graph, and the numbered blocks that they make up."""

from __future__ import annotations

from dataclasses import replace

from edgeplast.contract import IMAGES, LOGITS
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.segments import GraphSegment, segments
from edgeplast.outline import Segment
from edgeplast_exporters.capture.naming import Naming, block_path


def with_blocks(graph: Graph, naming: Naming) -> Graph:
    """Return the graph with every node tagged with the number of its block, and of a component in it."""
    result = graph.copy()
    for part, number in numbered(graph, naming):
        foreign, names = _foreign(graph, part), _components(graph, part)
        for i in part.nodes:
            node = result.nodes[i]
            component = names[0] if node.component in foreign else node.component
            result.nodes[i] = replace(node, block=number, component=component)
    return result


def outline_segments(graph: Graph, naming: Naming) -> tuple[Segment, ...]:
    """Return the segments of a graph as an outline lists them."""
    return tuple(
        Segment(start=part.start, end=part.end, components=_components(graph, part), block=number)
        for part, number in numbered(graph, naming)
    )


def numbered(graph: Graph, naming: Naming) -> list[tuple[GraphSegment, int | None]]:
    """Return segments that have parameters of their own, and the number of the block of each.

    Neighbouring segments in one numbered module of the model make up a block; one in no numbered module is a block too.
    """
    result: list[tuple[GraphSegment, int | None]] = []
    before: str | None = None
    number = -1
    for part in _joined(graph, segments(graph, IMAGES, LOGITS)):
        names = _components(graph, part)
        if all(naming.role[n] != "inner" for n in names):
            result.append((part, None))
            before = None
            continue
        inner = [n for n in names if naming.role[n] == "inner"]
        here = _common([block_path(n) or n for n in inner])
        if here != before or not here:
            number += 1
        before = here
        result.append((part, number))
    return result


def _joined(graph: Graph, parts: list[GraphSegment]) -> list[GraphSegment]:
    """Join segments without components of their own to the one before (the first ones to the one after)."""
    result: list[GraphSegment] = []
    for part in parts:
        names = _components(graph, part)
        previous = _components(graph, result[-1]) if result else ()
        if result and (set(names) <= set(previous) or set(previous) <= set(names)):
            last = result.pop()
            part = GraphSegment(last.start, part.end, tuple(sorted((*last.nodes, *part.nodes))))
        result.append(part)
    return result


def _components(graph: Graph, part: GraphSegment) -> tuple[str, ...]:
    """Return the components that a segment's operators serve; views serve whoever asked for them first."""
    nodes = (graph.nodes[i] for i in part.nodes)
    names = dict.fromkeys(node.component for node in nodes if node.op != "Reshape" and node.component)
    foreign = _foreign(graph, part)
    return tuple(name for name in names if name not in foreign)


def _foreign(graph: Graph, part: GraphSegment) -> set[str]:
    """Return components of another block that operators of a segment name because they take apart what it made."""
    nodes = [node for i in part.nodes if (node := graph.nodes[i]).op != "Reshape" and node.component]
    apart = [node for node in nodes if node.op in ("Split", "Slice") and node.inputs[0] == part.start]
    own = {node.component for node in nodes if not any(node is other for other in apart)}
    return {n.component for n in apart if own and not any(_related(n.component, name) for name in own)}


def _related(one: str, other: str) -> bool:
    """Whether one of two components lies in the innermost numbered module of the other."""
    a, b = (f"{block_path(name) or ''}." for name in (one, other))
    return a.startswith(b) or b.startswith(a)


def _common(paths: list[str]) -> str:
    steps = [p.split(".") for p in paths]
    shared = []
    for level in zip(*steps, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
