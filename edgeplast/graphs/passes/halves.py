"""Graph pass: a forward graph cut in two, before the first thing that trains. Does not change its input.

Whatever trains, everything before it computes the same for the same picture again and again. As a graph of its own (the
*prefix*) it is opened once, for training and evaluation alike, and what it hands on (*latents*, one array an image) can
be kept. The cut is a value through which everything goes (:mod:`~edgeplast.graphs.segments`); where the model leaves a
choice at hardly any cost, it is the smallest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeplast.contract import IMAGES, LATENTS, LOGITS
from edgeplast.graphs.graph import Graph, Value
from edgeplast.graphs.measures.flops import node_flops
from edgeplast.graphs.segments import articulation_values

LEAST_SHARE = 0.1
"""Of a forward pass, that a prefix must compute: a smaller one is not worth a third graph."""

_NEARLY_ALL = 0.98
"""Of the longest prefix's operations, with which a smaller cut is preferred."""


@dataclass(frozen=True)
class Halves:
    """A forward graph in two parts.

    Attributes:
        prefix: from images to latents; nothing in it trains.
        rest: from latents to logits.
    """

    prefix: Graph
    rest: Graph

    @property
    def latents(self) -> Value:
        """What the first hands to the second, float32, batched."""
        return self.rest.values[LATENTS]


def halves(promoted: Graph) -> Halves | None:
    """Cut a forward graph in two; None where what comes before everything that trains is not worth it.

    Args:
        promoted: from images to logits, everything that may train turned into an input.
    """
    changing = set(promoted.inputs) - {IMAGES}
    done: dict[str, int] = {}  # operations up to a value that never changes
    so_far = total = 0
    for node in promoted.nodes:
        flops = node_flops(promoted, node)
        total += flops
        if changing.intersection(node.inputs):
            changing.update(node.outputs)
        else:
            so_far += flops
            done |= dict.fromkeys(filter(None, node.outputs), so_far)
    cuts = [
        name for name in articulation_values(promoted, IMAGES, LOGITS) if name in done and _can_be_fed(promoted, name)
    ]
    while cuts:
        longest = done[cuts[-1]]
        if longest < LEAST_SHARE * total:
            return None
        near = [name for name in cuts if done[name] >= _NEARLY_ALL * longest]
        cut = min(reversed(near), key=lambda name: promoted.values[name].elements)
        rest = _rest(promoted, cut)
        if rest is not None:
            return Halves(_prefix(promoted, cut), rest)
        cuts.remove(cut)
    return None


def _can_be_fed(graph: Graph, name: str) -> bool:
    value = graph.values[name]
    return value.batched and value.dtype == "float32" and name not in (IMAGES, LOGITS)


def _prefix(graph: Graph, cut: str) -> Graph:
    result = graph.copy()
    result.inputs, result.outputs = [IMAGES], []
    result.output(result.values[cut], LATENTS)
    return _tidied(result)


def _rest(graph: Graph, cut: str) -> Graph | None:
    """Return what follows a value; None where it looks at the images again (at how many they are)."""
    result = graph.copy()
    value = result.values.pop(cut)
    result.nodes = [node.rewired({cut: LATENTS}) for node in result.nodes if cut not in node.outputs]
    result.inputs = [LATENTS, *(name for name in graph.inputs if name != IMAGES)]
    result.values[LATENTS] = replace(value, name=LATENTS)
    result = _tidied(result)
    return None if IMAGES in _read(result) or not _read(result) <= set(result.values) else result


def _tidied(graph: Graph) -> Graph:
    graph.remove_dead()
    read = _read(graph)
    graph.weights = [name for name in graph.weights if name in read]
    graph.constants = {name: array for name, array in graph.constants.items() if name in read}
    kept = {*graph.inputs, *graph.weights, *graph.constants, *(n for node in graph.nodes for n in node.outputs)}
    graph.values = {name: value for name, value in graph.values.items() if name in kept}
    return graph


def _read(graph: Graph) -> set[str]:
    return {name for node in graph.nodes for name in node.inputs if name}
