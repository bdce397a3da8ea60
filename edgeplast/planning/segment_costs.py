"""What a unit costs in each way to train it: by walking the graph that would run, cut down to the unit.

For each distinct unit the backward pass of everything is written once; a subset of its components is that graph
without the gradients that nobody wants. Quantized weights, recomputation and liveness are then those of the exporter,
node by node, so that costs of units add up to those of the whole graph. What flows in at the seams is a node of its
own here (``Neg``), so that the walk counts it as long as it lives in this unit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeplast.contract import gradient_input, gradient_output
from edgeplast.footprint import MemoryLine, envelope
from edgeplast.graphs.differentiate import differentiate
from edgeplast.graphs.graph import Graph
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.measures.liveness import Step, steps
from edgeplast.graphs.measures.serialized import EMPTY_GRAPH_BYTES, serialized_bytes
from edgeplast.graphs.operators import operator
from edgeplast.graphs.passes.dequantize import quantize_frozen
from edgeplast.graphs.passes.expand_activations import expand_activations
from edgeplast.graphs.passes.fold_scales import fold_scales
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.graphs.training import training_graph
from edgeplast.planning.units import Unit
from edgeplast.recomputation import Recompute

_SEAM, _ENTRY, _PROBE = "seam", "seam/in", "seam/probe"
_AFTER_ALL_BLOCKS = 1 << 30

_MOST_KNOWN = 256
"""Distinct units whose walks are kept for the next plan of this process."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one unit, on top of what earlier units hold.

    Attributes:
        held: what it keeps between its two passes.
        lines: candidates for the most alive while it computes, in either direction.
    """

    held: MemoryLine
    lines: tuple[MemoryLine, ...]

    def peak(self, micro_batch: int) -> int:
        """Return the most bytes alive at once."""
        return max(line.at(micro_batch) for line in self.lines)


@dataclass(frozen=True)
class UnitCost:
    """What one unit takes in one way to train it.

    Attributes:
        memory: where what it reads lives as long as this unit needs it.
        beside: where the unit before holds that anyway, so that it is not counted here.
        keeps_end: its own backward pass reads what it hands on, which is then counted here.
        flops: operations of one image.
        graph_bytes: of the serialized graph.
    """

    memory: Memory
    beside: Memory
    keeps_end: bool
    flops: float
    graph_bytes: int

    def of(self, held_before: bool) -> Memory:
        """Return its bytes where the unit before holds what it reads, or does not."""
        return self.beside if held_before else self.memory


_Walks = dict[tuple[tuple[int, ...], bool, Recompute], UnitCost]

_known: dict[tuple[object, ...], _Walks] = {}


class UnitCosts:
    """Costs of all units of a model, each distinct one walked once.

    Args:
        units: from :func:`edgeplast.planning.units.units_of`.
        eight_bits: frozen matrices that are stored in 8 bits.
        four_bits: in 4.
    """

    def __init__(self, units: Sequence[Unit], eight_bits: Collection[str], four_bits: Collection[str]) -> None:
        self.units = units
        self._bits = [_bits_of(unit, eight_bits, four_bits) for unit in units]
        kinds: dict[tuple[object, ...], int] = {}
        keys = [(unit.key, *map(tuple, self._places(i))) for i, unit in enumerate(units)]
        self._alike = [kinds.setdefault(key, i) for i, key in enumerate(keys)]
        while len(_known) > _MOST_KNOWN:
            del _known[next(iter(_known))]
        self._walked = {i: _known.setdefault(key, {}) for key, i in kinds.items()}
        self._crossed: dict[int, Graph] = {}

    @property
    def distinct(self) -> int:
        """How many units differ."""
        return len(set(self._alike))

    def _places(self, index: int) -> list[list[int]]:
        weights = self.units[index].graph.weights
        return [[i for i, name in enumerate(weights) if name in chosen] for chosen in self._bits[index]]

    def cost(self, index: int, trained: Collection[str], entered: bool, how: Recompute = "none") -> UnitCost:
        """Return what one unit costs.

        Args:
            index: of the unit.
            trained: its components that train.
            entered: whether something before it trains, so that the gradient goes through it.
            how: how much of it is computed again.
        """
        unit = self.units[index]
        places = tuple(i for i, name in enumerate(unit.components) if name in trained)
        crossed = bool(places) or entered
        entered = entered and not unit.first
        how = how if unit.in_blocks and crossed else "none"
        first = self._alike[index]
        walked, key = self._walked[first], (places, entered, how)
        if key not in walked:
            like = self.units[first]
            graph = self._graph(first, [like.components[i] for i in places], entered)
            walked[key] = _walked(like, recompute(graph, how), *self._bits[first])
        return walked[key]

    def _graph(self, index: int, trained: Collection[str], entered: bool) -> Graph:
        """Return the unit's part of a training graph."""
        unit = self.units[index]
        chosen = [name for name, owner in unit.owner.items() if owner in set(trained)]
        if not chosen and not entered:
            return _forward(unit)
        if not entered:  # the gradient ends inside
            return _graph_of(unit, chosen, crossed=False)
        if index not in self._crossed:
            self._crossed[index] = _graph_of(unit, list(unit.owner), crossed=True)
        return _without(self._crossed[index], [name for name in unit.owner if name not in set(chosen)])


def _without(graph: Graph, frozen: Collection[str]) -> Graph:
    """Return a unit's graph without the gradients of some parameters."""
    result = graph.copy()
    gone = {n for name in frozen for n in (name, gradient_input(name), gradient_output(name))}
    result.inputs = [name for name in result.inputs if name not in gone]
    result.outputs = [name for name in result.outputs if name not in gone]
    result.weights += frozen
    result.remove_dead()
    return result


def _bits_of(unit: Unit, eight: Collection[str], four: Collection[str]) -> tuple[list[str], list[str]]:
    return tuple([name for name in unit.graph.weights if name in chosen] for chosen in (eight, four))  # type: ignore[return-value]


def _with_entry(unit: Unit) -> Graph:
    """Return the forward graph of a unit, what it reads made by a node, what it hands on read by one."""
    g = unit.graph.copy()
    if not unit.first:
        value = g.values.pop(unit.start)
        g.inputs = [name for name in g.inputs if name != unit.start]
        before, g.nodes = g.nodes, []
        with g.serving(_SEAM):
            source = g.input(_ENTRY, value.shape, batched=value.batched, dtype=value.dtype)
            probe = g.input(_PROBE, (1,) * len(value.shape), dtype=value.dtype)
            g.add(source, probe, unit.start)
        g.nodes += before
    g.outputs = []
    return g


def _forward(unit: Unit) -> Graph:
    g = _with_entry(unit)
    with g.serving(_SEAM):
        g.output(g.values[unit.end] if unit.last else g.unary("Neg", g.values[unit.end]))
    return g


def _graph_of(unit: Unit, trained: Sequence[str], *, crossed: bool) -> Graph:
    """Return a unit's part of a training graph.

    Args:
        unit: the unit.
        trained: its parameters that have a gradient.
        crossed: whether the gradient of what it reads is handed on.
    """
    g = _with_entry(unit)
    g.weights = [name for name in g.weights if name not in set(trained)]
    g.inputs += trained
    crossed = crossed and not unit.first
    names = [*trained, _PROBE] if crossed else list(trained)
    if unit.last:
        g.outputs = [unit.end]
        g = training_graph(g, names)
    else:
        end = g.values[unit.end]
        with g.serving(_SEAM):
            g.output(g.unary("Neg", end))
        for name in names:
            g.input(gradient_input(name), g.values[name].shape)
        source = g.input(f"{_SEAM}/gradient", end.shape, batched=end.batched)
        block = None if unit.last_block else _AFTER_ALL_BLOCKS  # so that no block here is the last one
        with g.serving(_SEAM, block, "backward"):
            seed = g.unary("Neg", source)
        for value in differentiate(g, {unit.end: seed}, names).values():
            g.output(value)
        g = expand_activations(fold_scales(g))
    return _handing_on(g) if crossed else g


def _handing_on(graph: Graph) -> Graph:
    """Let the gradient of what was read end in one node, instead of being summed over the batch for the probe."""
    at = next(i for i, n in enumerate(graph.nodes) if n.component == _SEAM and n.phase == "backward" and n.op != "Neg")
    own = {name for n in graph.nodes[at:] if n.component == _SEAM for name in n.outputs}
    source = next(graph.values[n] for n in graph.nodes[at].inputs if n in graph.values and graph.values[n].batched)
    graph.nodes = [n for n in graph.nodes if own.isdisjoint(n.outputs)]
    graph.outputs = [name for name in graph.outputs if name != gradient_output(_PROBE)]
    for name in own:
        del graph.values[name]
    with graph.serving(_SEAM, None, "backward"):
        graph.output(graph.unary("Neg", source), _SEAM)
    return graph


def _walked(unit: Unit, graph: Graph, eight: Collection[str], four: Collection[str]) -> UnitCost:
    """Measure one graph of a unit."""
    graph = quantize_frozen(expand_activations(graph), eight, four_bits=four)
    turn = next((i for i, n in enumerate(graph.nodes) if n.phase != "forward"), len(graph.nodes))
    walk = steps(graph)
    end = _owner(graph, unit.end)
    keeps_end = any(value.name == end for _, freed in walk[turn:] for value in freed)
    return UnitCost(
        _memory(walk, turn, ""),
        _memory(walk, turn, "" if unit.first else unit.start),
        keeps_end,
        flops_per_image(graph),
        serialized_bytes(graph) - EMPTY_GRAPH_BYTES,
    )


def _memory(walk: Sequence[Step], turn: int, left_out: str) -> Memory:
    """Return what is alive along a walk, one value not counted.

    Args:
        walk: from :func:`edgeplast.graphs.measures.liveness.steps`.
        turn: its first step that is not forward.
        left_out: name of the value; none has an empty one.
    """
    lines: list[tuple[int, int]] = []
    held = (0, 0)
    fixed = per_image = 0
    for i, step in enumerate(walk):
        made, freed = ([v for v in values if v.name != left_out] for values in step)
        if i == turn:
            held = (fixed, per_image)
        fixed += sum(v.bytes for v in made if not v.batched)
        per_image += sum(v.bytes for v in made if v.batched)
        lines.append((fixed, per_image))
        fixed -= sum(v.bytes for v in freed if not v.batched)
        per_image -= sum(v.bytes for v in freed if v.batched)
    return Memory(MemoryLine(*held), envelope(lines or [(0, 0)]))


def _owner(graph: Graph, name: str) -> str:
    """Return the value whose bytes a value shows: itself, unless it is a view."""
    made = graph.producers()
    while name in made and operator(made[name].op).kind == "view":
        name = made[name].inputs[0]
    return name


def total_lines(costs: Sequence[UnitCost]) -> tuple[MemoryLine, ...]:
    """Return the most alive in a whole graph, as lines, from the costs of its units in the order of data."""
    fixed = per_image = 0
    lines = []
    held_before = False
    for cost in costs:
        memory = cost.of(held_before)
        lines += [(fixed + line.fixed_bytes, per_image + line.per_image_bytes) for line in memory.lines]
        fixed, per_image = fixed + memory.held.fixed_bytes, per_image + memory.held.per_image_bytes
        held_before = cost.keeps_end
    return envelope(lines)


def first_trained(units: Sequence[Unit], trained: Collection[str] | Mapping[str, object]) -> int:
    """Return the index of the first unit in which something trains; the number of units where nothing does."""
    chosen = set(trained)
    return next((i for i, unit in enumerate(units) if chosen.intersection(unit.components)), len(units))
