"""Which values of a captured graph the components of a model start and end at: what a score graph listens to.

Components are found among torch's operators (``spanning.py``), and the walk that wrote the graph remembers which value
each of these became. How a value lies in memory does not matter here: a distance is the same in any order of elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeplast.graphs.graph import Graph
from edgeplast.outline import Outline
from edgeplast.wiring import Place, Wiring
from edgeplast_exporters.capture.tensors import BATCH, Tensor


@dataclass(frozen=True)
class Tap:
    """A value that is listened to.

    Attributes:
        value: its name in the graph.
        times: how often the model sees each of its elements.
        factor: name of what each channel was multiplied by after the place that is meant; empty for nothing.
    """

    value: str
    times: int = 1
    factor: str = ""


Ends = tuple[tuple[Tap, ...], tuple[Tap, ...]]
"""What enters a component, and what leaves it."""


@dataclass(frozen=True)
class Taps:
    """What to listen to.

    Attributes:
        graph: the forward graph, which computes every tapped value whole and hands it back.
        methods: score method to component to its ends.
        outline: of the model, before a plan grouped its parameters otherwise.
    """

    graph: Graph
    methods: Mapping[str, Mapping[str, Ends]]
    outline: Outline


def taps_of(graph: Graph, wiring: Wiring, made: Mapping[str, Any], outline: Outline) -> Taps | None:
    """Return what to listen to in a graph as the walk wrote it; None where no component has both ends in it.

    Args:
        graph: from images to logits, no pass applied.
        wiring: where each component lies among torch's operators.
        made: operator name to what the walk made of it.
        outline: says which components get a score: those inside the model.
    """
    inner = [c.name for c in outline.components if c.role == "inner" and c.name in wiring.spans]
    spans = {name: wiring.spans[name] for name in inner}
    placed = {
        "plasticity": {n: (s.source, s.sink) for n, s in spans.items()},
        "plasticity-branch": {n: (s.branch_source, s.branch_sink) for n, s in spans.items()},
    }
    methods = {
        method: {n: (_taps(source, made), _taps(sink, made)) for n, (source, sink) in units.items() if source and sink}
        for method, units in placed.items()
    }
    methods = {method: units for method, units in methods.items() if units and _all_there(graph, units)}
    if not methods:
        return None
    tapped = graph.copy()
    names = dict.fromkeys(t.value for units in methods.values() for ends in units.values() for end in ends for t in end)
    tapped.outputs += [name for name in names if name not in (*tapped.outputs, *tapped.inputs)]
    return Taps(tapped, methods, outline)


def _taps(places: Iterable[Place], made: Mapping[str, Any]) -> tuple[Tap, ...]:
    """Return taps on places; what does not depend on the image never moves, and is none."""
    found = (made.get(place.node) for place in places)
    return tuple(
        Tap(t.value.name, math.prod(a.size for a in t.seen if a not in t.stored))
        for t in found
        if isinstance(t, Tensor) and t.array is None and BATCH in t.stored
    )


def _all_there(graph: Graph, units: Mapping[str, Ends]) -> bool:
    return all(tap.value in graph.values for ends in units.values() for end in ends for tap in end)
