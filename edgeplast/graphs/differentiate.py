"""Reverse-mode differentiation of a Graph by the rules in the table of operators.

A forward graph with a loss goes in; nodes that compute the gradients of the trainable parameters are appended.
Only what leads from a trainable parameter to the loss is visited, so frozen parts before the first trainable
tensor cost nothing, and no gradient of a frozen weight is ever formed. Rules say how the gradient of each input would
be written; which are wanted, the sum over what was broadcast, and adding up what arrives from several readers is done
here, once. Weight gradients of products are added onto the accumulator of earlier micro-batches by the product itself
(``C`` of Gemm); a parameter with several readers goes from one to the next.

Every rule is plain mathematics, given in its docstring with ``d`` for the incoming gradient. Tests compare
each with torch autograd.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from edgeplast.contract import gradient_input, gradient_output
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast.graphs.operators import operator
from edgeplast.graphs.operators.record import Backward, Onto, ShapeError
from edgeplast.graphs.operators.sums import sum_rows


class NoGradientError(InputError):
    """An operator has no gradient, and something that trains lies before it.

    Attributes:
        node: the operator's.
    """

    def __init__(self, message: str, node: Node) -> None:
        super().__init__(message)
        self.node = node


def differentiate(graph: Graph, seed: dict[str, Value], trainable: Collection[str]) -> dict[str, Value]:
    """Append the nodes that compute gradients.

    Args:
        graph: changed in place; forward nodes only.
        seed: gradients already known, by the name of the value they belong to (usually of the logits).
        trainable: inputs of the graph to differentiate with respect to. Each needs a declared input
            ``gradient_input(name)`` of its own shape, onto which its gradient is added.

    Returns:
        for each trainable name, the value ``accumulator + gradient``.

    Raises:
        NoGradientError: an operator on the way has no gradient rule.
        InputError: a parameter does not reach the seed.
    """
    return _Sweep(graph, seed, trainable).run()


class _Sweep:
    """The state of one reverse sweep: which values need a gradient, and the gradients found so far."""

    def __init__(self, graph: Graph, seed: dict[str, Value], trainable: Collection[str]) -> None:
        self.graph = graph
        self.trainable = set(trainable)
        self.found: dict[str, Value] = dict(seed)
        self.visited: dict[str, Value] = {}
        self.sums: dict[str, Value] = {}
        self.slopes: list[tuple[Node, Value]] = []
        self.forward = [n for n in graph.nodes if n.phase == "forward"]
        self.reads = Counter(name for n in self.forward for name in set(n.inputs))
        self.readers = {name: n for n in self.forward for name in n.inputs}
        self.needed = set(trainable)
        for node in self.forward:
            if any(name in self.needed for name in node.inputs):
                self.needed.update(filter(None, node.outputs))

    def run(self) -> dict[str, Value]:
        """Visit the forward nodes in reverse."""
        for node in reversed(self.forward):
            incoming = [self.found.pop(name, None) if name else None for name in node.outputs]
            self.visited.update((n, d) for n, d in zip(node.outputs, incoming, strict=True) if d is not None)
            if any(incoming) and any(name in self.needed for name in node.inputs):
                with self.graph.serving(node.component, node.block, "backward"):
                    self.visit(node, incoming)
        for node, slope in self.slopes:
            with self.graph.in_place_of(node):
                del self.graph.values[slope.name]
                curve = operator(node.op).curve
                assert curve is not None
                curve(self.graph, self.graph.values[node.inputs[0]], node.outputs[0], slope.name, node.attributes)
        silent = sorted(self.trainable - self.sums.keys())
        if silent:
            raise InputError(f"The loss does not depend on {', '.join(silent)}: they cannot be trained.")
        return self.sums

    def visit(self, node: Node, incoming: list[Value | None]) -> None:
        """Write the gradients of what a node reads, as far as they are wanted, and hand them on."""
        rule = operator(node.op, node.component).gradient
        if rule is None:
            raise self.refused(node)
        values = self.graph.values
        wanted = tuple(name in self.needed for name in node.inputs)
        step = Backward(
            self.graph,
            self.graph.call(node),
            tuple(values[name] if name else None for name in node.outputs),
            tuple(incoming),
            wanted,
            self.only_reader,
            self.visited,
            lambda: self.slope(node),
        )
        written: dict[int, Value | None] = {}
        try:
            for index, how in rule(step).items():
                if index < len(wanted) and wanted[index]:
                    name = node.inputs[index]
                    if isinstance(how, Onto) and name in self.trainable:
                        self.accumulate(name, how)
                    else:
                        gradient = how.write(None, None) if isinstance(how, Onto) else how()
                        written[index] = self.unbroadcast(gradient, values[name])
        except ShapeError as error:
            raise self.refused(node, f" ({error})") from error
        for index in sorted(written):
            gradient_of_input = written[index]
            assert gradient_of_input is not None
            self.receive(node.inputs[index], gradient_of_input)

    def refused(self, node: Node, why: str = "") -> NoGradientError:
        """Return the error that names the operator, what must be frozen for it, and what can train all the same."""
        before = ancestors(self.forward, node)
        owner: dict[str, str] = {}
        for reader in self.forward:
            owner |= {name: reader.component for name in reader.inputs if name in self.trainable and name not in owner}
        closed = list(dict.fromkeys(c for name, c in owner.items() if name in before))
        free = [c for c in dict.fromkeys(owner.values()) if c not in closed]
        known = f"{node.component}: the operator {node.op} has no gradient here{why}, and what trains lies before it"
        behind = (
            f"What lies behind it can train: --train {','.join(free[-6:])}."
            if free
            else "Nothing of what was to train lies behind it; the head always can."
        )
        return NoGradientError(f"{known}. Freeze {_some(closed)}. {behind}", node)

    def slope(self, node: Node) -> Value:
        """Declare a value that the forward pass will compute beside the output of an activation."""
        value = replace(self.graph.values[node.outputs[0]], name=f"{node.outputs[0]}/slope")
        self.graph.values[value.name] = value
        self.slopes.append((node, value))
        return value

    def receive(self, name: str, gradient: Value) -> None:
        """Add a gradient to what is known of ``name``; a parameter's goes onto its accumulator."""
        if name in self.trainable:
            g = self.graph
            self.accumulate(name, Onto(lambda total, new: gradient if total is None else g.add(total, gradient, new)))
        elif name in self.found:
            self.found[name] = self.graph.add(self.found[name], gradient)
        else:
            self.found[name] = gradient

    def accumulate(self, parameter: str, gradient: Onto) -> None:
        """Add a gradient to the accumulator, or to the sum of it and what other readers of the parameter gave."""
        before = self.sums.get(parameter)
        if before is None:
            total = self.graph.values[gradient_input(parameter)]
        else:
            total = self.graph.rename(before, f"{parameter}.gradient.{len(self.visited)}")
        self.sums[parameter] = gradient.write(total, gradient_output(parameter))

    def only_reader(self, name: str) -> Node | None:
        """Return the node that reads a value, None where several do or none."""
        return self.readers[name] if self.reads[name] == 1 else None

    def unbroadcast(self, gradient: Value, like: Value) -> Value:
        """Sum a gradient over the dimensions along which ``like`` was broadcast (the batch among them)."""
        g = self.graph
        extra = len(gradient.shape) - len(like.shape)
        axes = []
        for axis, size in enumerate(like.shape, extra):
            batch = axis == 0 and gradient.batched and not like.batched
            if batch or (size == 1 and gradient.shape[axis] != 1):
                axes.append(axis)
        if extra and not axes and like.shape:  # rows of parameters: what lies before is one dimension
            rows = gradient.elements // like.elements
            return sum_rows(g, g.reshape(gradient, (rows, *like.shape)), 0, keep=False)
        if extra:
            summed = sum_rows(g, gradient, [*range(extra), *axes], keep=False)
            return g.reshape(summed, like.shape)
        return sum_rows(g, gradient, axes) if axes else gradient


def ancestors(nodes: Collection[Node], node: Node) -> set[str]:
    """Return the names of all values that a node depends on, given the nodes that stand before it in order."""
    found = {name for name in node.inputs if name}
    for earlier in reversed([*nodes]):
        if not found.isdisjoint(earlier.outputs):
            found.update(filter(None, earlier.inputs))
    return found


def _some(names: Sequence[str]) -> str:
    """Return names for a sentence, of many the first and the last."""
    return ", ".join(names) if len(names) <= 6 else f"{names[0]} to {names[-1]} ({len(names)} components)"
