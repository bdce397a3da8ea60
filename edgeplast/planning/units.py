"""Units: runs of segments that are planned as one, each cut out of the forward graph as a graph of its own.

A unit is a block (recomputation works block by block) or one segment outside blocks; segments that share a component
are one unit. What flows in and out becomes an input and an output, so that a unit is walked by itself, and units of
the same operators and shapes are walked once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from edgeplast.contract import IMAGES, LOGITS
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.segments import segments
from edgeplast.outline import Outline


@dataclass(frozen=True)
class Unit:
    """A part of the forward graph between two values through which everything goes.

    Attributes:
        graph: its nodes; what it reads from outside is declared as inputs and weights.
        start: the value that it reads.
        end: the value that it hands on.
        components: with parameters in it, in the order in which data flows.
        owner: weight to its component, of the weights that are parameters.
        last_block: it holds the last block, of which nothing is computed again.
    """

    graph: Graph
    start: str
    end: str
    components: tuple[str, ...]
    owner: Mapping[str, str]
    last_block: bool

    @property
    def first(self) -> bool:
        """Whether it reads the images."""
        return self.start == IMAGES

    @property
    def last(self) -> bool:
        """Whether it makes the logits."""
        return self.end == LOGITS

    @property
    def in_blocks(self) -> bool:
        """Whether parts of it can be computed again."""
        return not self.last_block and any(node.block is not None for node in self.graph.nodes)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What makes units alike: operators, shapes, and which weights belong together."""
        number: dict[str, int] = {"": -1}
        place = {name: i for i, name in enumerate(self.components)}
        first = min((n.block for n in self.graph.nodes if n.block is not None), default=0)

        def told(name: str) -> tuple[object, ...]:
            value = self.graph.values[name]
            number[name] = len(number)
            kind = name if name in self.graph.constants else place.get(self.owner.get(name, ""), -1)
            return (value.shape, value.batched, value.dtype, kind, name in self.graph.weights)

        nodes = []
        for node in self.graph.nodes:
            new = tuple(told(name) for name in (*node.inputs, *node.outputs) if name and name not in number)
            wires = tuple(number[name] for name in (*node.inputs, *node.outputs))
            block = None if node.block is None else node.block - first
            nodes.append((node.op, repr(sorted(node.attributes.items())), wires, new, block, len(node.inputs)))
        return (*nodes, self.first, self.last, self.last_block, number.get(self.start), number.get(self.end))


def units_of(outline: Outline, graph: Graph) -> tuple[Unit, ...]:
    """Cut a forward graph into units.

    Args:
        outline: of the model.
        graph: its forward graph.

    Raises:
        InputError: the two do not belong together.
    """
    owner = {parameter: c.name for c in outline.components for parameter in c.parameters}
    missing = sorted(set(owner) - set(graph.weights))
    if missing or IMAGES not in graph.values or LOGITS not in graph.values:
        what = f"the parameter {missing[0]}" if missing else f"{IMAGES} and {LOGITS}"
        raise InputError(f"The graph of {outline.model} lacks {what}, which its outline has. Score the model again.")
    parts = _joined(graph, owner, _by_segment(outline, graph))
    place = {name: i for i, name in enumerate(outline.names)}
    last = max((n.block for n in graph.nodes if n.block is not None), default=None)
    return tuple(_cut_out(graph, owner, place, *part, last) for part in parts)


_Part = tuple[str, str, tuple[int, ...]]


def _by_segment(outline: Outline, graph: Graph) -> list[_Part]:
    """Return start, end and nodes of runs of the finest segments: the outline's, those of one block as one."""
    ends = {}
    for segment, after in zip(outline.segments, (*outline.segments[1:], None), strict=False):
        same = after is not None and segment.block is not None and after.block == segment.block
        ends[segment.end] = not same
    parts: list[_Part] = []
    start = IMAGES
    nodes: list[int] = []
    for fine in segments(graph, IMAGES, LOGITS):
        nodes += fine.nodes
        if ends.get(fine.end, fine.end == LOGITS):
            parts.append((start, fine.end, tuple(sorted(nodes))))
            start, nodes = fine.end, []
    return parts


def _joined(graph: Graph, owner: Mapping[str, str], parts: list[_Part]) -> list[_Part]:
    """Join parts that share a component, and all between them."""
    seen: dict[str, int] = {}
    result: list[_Part] = []
    for start, end, nodes in parts:
        here = {owner[name] for i in nodes for name in graph.nodes[i].inputs if name in owner}
        at = min((seen[name] for name in here if name in seen), default=len(result))
        if at < len(result) or (not here and result):
            at = min(at, len(result) - 1)
            start = result[at][0]
            nodes = tuple(sorted({i for part in result[at:] for i in part[2]} | set(nodes)))
            del result[at:]
        result.append((start, end, nodes))
        for name in {owner[n] for i in nodes for n in graph.nodes[i].inputs if n in owner}:
            seen[name] = at
    if len(result) > 1 and not any(n in owner for i in result[0][2] for n in graph.nodes[i].inputs):
        first, second = result[:2]  # nothing to train before the first parameters
        result[:2] = [(first[0], second[1], tuple(sorted({*first[2], *second[2]})))]
    return result


def _cut_out(
    graph: Graph,
    owner: Mapping[str, str],
    place: Mapping[str, int],
    start: str,
    end: str,
    numbers: tuple[int, ...],
    last_block: int | None,
) -> Unit:
    nodes = [graph.nodes[i] for i in numbers]
    made = {name for n in nodes for name in n.outputs if name}
    read = dict.fromkeys(name for n in nodes for name in n.inputs if name and name not in made)
    weights = [name for name in read if name in set(graph.weights)]
    constants = {name: graph.constants[name] for name in read if name in graph.constants}
    inputs = [name for name in read if name not in constants and name not in set(weights)]
    part = Graph(
        values={name: graph.values[name] for name in (*read, *made)},
        nodes=[replace(n) for n in nodes],
        inputs=inputs,
        outputs=[end],
        weights=weights,
        constants=constants,
        _fresh=1 << 20,
    )
    own = {name: owner[name] for name in weights if name in owner}
    components = tuple(sorted(set(own.values()), key=place.__getitem__))
    return Unit(part, start, end, components, own, any(n.block is not None and n.block == last_block for n in nodes))
