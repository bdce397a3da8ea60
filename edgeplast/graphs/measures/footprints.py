"""The footprint of a graph as it will run: what planner and exporter both tell the device."""

from __future__ import annotations

from edgeplast.footprint import Footprint
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.arena import arena_lines


def footprint_of(graph: Graph, *, graph_bytes: int, trained_parameters: int, held_parameters: int) -> Footprint:
    """Measure a graph.

    Args:
        graph: as it will run, frozen matrices read as they are stored.
        graph_bytes: of the serialized graph.
        trained_parameters: numbers with a gradient in it.
        held_parameters: numbers that are fed to it, trained in it or not.
    """
    return Footprint(
        transient=arena_lines(graph),
        frozen_bytes=sum(graph.values[name].bytes for name in graph.weights),
        trained_parameters=trained_parameters,
        held_parameters=held_parameters,
        graph_bytes=graph_bytes,
    )
