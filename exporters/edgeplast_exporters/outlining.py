"""Outline and forward graph of a model: what scores carry to the planner."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeplast.components import EMBED, HEAD, NORM, block_of, component_of
from edgeplast.contract import IMAGES, LOGITS
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.recording import recorded
from edgeplast.graphs.segments import segments
from edgeplast.models import describe
from edgeplast.outline import Component, Outline, Role, Segment, kind_of
from edgeplast.recorded_graph import RecordedGraph
from edgeplast_exporters.forward import forward_graph

_ROLES: dict[str, Role] = {EMBED: "embedding", NORM: "norm", HEAD: "head"}


def outlined(model: torch.nn.Module, name: str | None = None) -> tuple[Outline, Graph]:
    """Return the outline of a model and its forward graph.

    Args:
        model: in evaluation mode; not changed.
        name: of the model; by default timm's.

    Raises:
        InputError: a part of the model has no graph; the message names the component.
    """
    graph = forward_graph(model)
    sizes = describe(model, name)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for weight in graph.weights:
        shapes.setdefault(component_of(weight), {})[weight] = graph.values[weight].shape
    components = tuple(
        Component(
            name=name, kind=kind_of(name), role=_ROLES.get(name, "inner"), block=block_of(name), parameters=shapes[name]
        )
        for name in sizes.parameters
        if name in shapes
    )
    _, channels, height, width = graph.values[IMAGES].shape
    outline = Outline(
        model=sizes.model,
        input_shape=(channels, height, width),
        classes=graph.values[LOGITS].shape[1],
        components=components,
        segments=_segments(graph),
        kept_fraction=sizes.kept_fraction,
    )
    return outline, graph


def outline_of(model: torch.nn.Module) -> Callable[[], tuple[Outline, RecordedGraph]]:
    """Return what gives a model's outline and recorded graph, as :func:`edgeplast.scoring.score` takes it."""

    def found() -> tuple[Outline, RecordedGraph]:
        outline, graph = outlined(model)
        return outline, recorded(graph)

    return found


def _segments(graph: Graph) -> tuple[Segment, ...]:
    result: list[Segment] = []
    for part in segments(graph, IMAGES, LOGITS):
        read = (name for i in part.nodes for name in graph.nodes[i].inputs if name in set(graph.weights))
        names = tuple(dict.fromkeys(map(component_of, read)))
        start = part.start
        if result and (not names or set(names) & set(result[-1].components) or not result[-1].components):
            before = result.pop()
            start, names = before.start, tuple(dict.fromkeys((*before.components, *names)))
        blocks = {block_of(name) for name in names}
        block = blocks.pop() if len(blocks) == 1 else None
        result.append(Segment(start=start, end=part.end, components=names, block=block))
    return tuple(result)
