"""A graph of plain ONNX operators whose every value knows its shape, under construction.

Graphs are written here, not traced: each method adds one node, whose outputs the table of operators works out, and tags
it with the component, the block and the phase that it serves. Gradient rules, recomputation, quantization and the
liveness walk all read those tags and shapes, so none of them has to guess.

The batch size B is the one unknown. A *batched* value's first dimension is a multiple of B: tokens as rows,
``(197, 192)`` batched, stand for an array of shape ``(197·B, 192)``.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeplast.graphs.nodes import BYTES as BYTES
from edgeplast.graphs.nodes import Node as Node
from edgeplast.graphs.nodes import Phase as Phase
from edgeplast.graphs.nodes import Value as Value
from edgeplast.graphs.operators import forms_of, operator
from edgeplast.graphs.operators.record import Call, Extent, Form, ShapeError
from edgeplast.graphs.operators.shapes import content

LONG_CONSTANT = 64
"""Elements from which on a constant is named by its hash and not by what it holds."""


@dataclass
class Graph:
    """Nodes in execution order, with the values they exchange.

    Attributes:
        values: every value by name.
        nodes: in an order that is also the order in which the runtime executes them.
        inputs: names fed at every call (images, targets, trainable parameters, gradient accumulators).
        outputs: names handed back.
        weights: names of frozen parameters, stored outside the graph.
        constants: small arrays stored in the graph.
    """

    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    _component: str = ""
    _block: int | None = None
    _phase: Phase = "forward"
    _fresh: int = 0

    def copy(self) -> Graph:
        """Return a graph that can be changed without changing this one (nodes and values are frozen)."""
        return replace(
            self,
            values=dict(self.values),
            nodes=list(self.nodes),
            inputs=list(self.inputs),
            outputs=list(self.outputs),
            weights=list(self.weights),
            constants=dict(self.constants),
        )

    @contextlib.contextmanager
    def serving(self, component: str, block: int | None = None, phase: Phase | None = None) -> Iterator[None]:
        """Tag every node added inside with a component, a block and a phase."""
        before = self._component, self._block, self._phase
        self._component, self._block, self._phase = component, block, phase or self._phase
        try:
            yield
        finally:
            self._component, self._block, self._phase = before

    @contextlib.contextmanager
    def in_place_of(self, node: Node) -> Iterator[None]:
        """Put every node added inside where one node stood; they must compute its outputs, under their names."""
        at = next(i for i, n in enumerate(self.nodes) if n is node)
        before = self.copy()
        after, self.nodes = self.nodes[at + 1 :], self.nodes[:at]
        for name in filter(None, node.outputs):
            del self.values[name]
        try:
            with self.serving(node.component, node.block, node.phase):
                yield
        except BaseException:
            self.nodes, self.values, self.constants = before.nodes, before.values, before.constants
            raise
        self.nodes += after

    # -- values ---------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], *, batched: bool = False, dtype: str = "float32") -> Value:
        """Declare a value fed at every call."""
        self.inputs.append(name)
        return self._declare(Value(name, tuple(shape), batched, dtype))

    def weight(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Value:
        """Declare a frozen parameter, whose data lies in the bundle's weight store."""
        self.weights.append(name)
        return self._declare(Value(name, tuple(shape), dtype=dtype))

    def constant(self, array: np.ndarray | float | Sequence[int]) -> Value:
        """Return a small constant, one per distinct content (floats as float32, ints as int64)."""
        data = np.asarray(array)
        data = data.astype(np.int64 if data.dtype.kind in "iu" else np.float32)
        told = str(data.tolist())
        if data.size > LONG_CONSTANT:
            told = f"{data.shape}.{hashlib.sha256(data.tobytes()).hexdigest()[:16]}"
        name = f"constant.{data.dtype.name}.{told}".replace(" ", "")
        if name not in self.constants:
            self.constants[name] = data
            self._declare(Value(name, data.shape, dtype=data.dtype.name))
        return self.values[name]

    def output(self, value: Value, name: str | None = None) -> Value:
        """Hand a value back to the caller, under its own name or a given one (the producer is renamed)."""
        value = value if name is None else self.rename(value, name)
        self.outputs.append(value.name)
        return value

    def rename(self, value: Value, name: str) -> Value:
        """Give a computed value another name, where it is made and wherever it is read."""
        index = next(i for i, n in enumerate(self.nodes) if value.name in n.outputs)
        new = {value.name: name}
        node = self.nodes[index]
        self.nodes[index] = replace(node, outputs=tuple(new.get(o, o) for o in node.outputs))
        self.nodes = [n.rewired(new) for n in self.nodes]
        del self.values[value.name]
        return self._declare(replace(value, name=name))

    # -- operators ------------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shapes: Sequence[tuple[int, ...]] | None = None,
        *,
        outputs: int = 0,
        names: Sequence[str | None] = (),
        batched: bool | None = None,
        dtype: str | None = None,
        **attributes: Any,
    ) -> list[Value]:
        """Add any operator of the table; returns its outputs.

        Args:
            op: operator name.
            inputs: values read; None leaves an optional input out.
            shapes: of the outputs, where the caller wants them checked; so ``batched`` and ``dtype``.
            outputs: how many, where an operator leaves that open; 0 takes what it gives by itself.
            names: names of the outputs, where they must be given.
            batched: of the outputs.
            dtype: of the outputs.
            **attributes: operator attributes.

        Raises:
            InputError: the operator is not in the table.
            ShapeError: inputs and attributes do not go together, or the outputs are not as stated.
        """
        call = Call(op, tuple(inputs), attributes, self.known, outputs)
        forms = forms_of(call, self._component)
        for i, form in enumerate(forms):
            stated = Form(
                form.shape if shapes is None or i >= len(shapes) else tuple(shapes[i]),
                form.batched if batched is None else batched,
                form.dtype if dtype is None else dtype,
            )
            if stated != form:
                raise ShapeError(f"{self._component}: {op} gives {form}, not {stated}")
        made = []
        for i, form in enumerate(forms):
            name = names[i] if i < len(names) else None
            if name is None:
                self._fresh += 1
                stem = f"{self._component}/" if self._component else ""
                name = f"{stem}{'d/' if self._phase == 'backward' else ''}{op}.{self._fresh}"
            made.append(self._declare(Value(name, form.shape, form.batched, form.dtype)))
        self.nodes.append(
            Node(
                op,
                tuple("" if v is None else v.name for v in inputs),
                tuple(v.name for v in made),
                attributes,
                self._component,
                self._block,
                self._phase,
            )
        )
        return made

    def gemm(
        self,
        a: Value,
        b: Value,
        c: Value | None = None,
        *,
        trans_a: bool = False,
        trans_b: bool = False,
        alpha: float = 1.0,
        name: str | None = None,
    ) -> Value:
        """``alpha·A·B + C`` on matrices; the sum over a batched dimension leaves an unbatched value."""
        attributes: dict[str, Any] = {}
        if trans_a:
            attributes["transA"] = 1
        if trans_b:
            attributes["transB"] = 1
        if alpha != 1.0:
            attributes["alpha"] = alpha
        return self.node("Gemm", [a, b, c], names=[name], **attributes)[0]

    def matmul(self, a: Value, b: Value, *, trans_a: bool = False, trans_b: bool = False, alpha: float = 1.0) -> Value:
        """Matrix product over the last two dimensions, broadcast over those before."""
        return self.node("MatMul", [a, b], transA=int(trans_a), transB=int(trans_b), alpha=alpha)[0]

    def binary(self, op: str, a: Value, b: Value, name: str | None = None) -> Value:
        """``Add``, ``Sub``, ``Mul``, ``Div``, ``Min`` … with numpy's broadcasting."""
        return self.node(op, [a, b], names=[name])[0]

    def add(self, a: Value, b: Value, name: str | None = None) -> Value:
        """``a + b``."""
        return self.binary("Add", a, b, name)

    def sub(self, a: Value, b: Value) -> Value:
        """``a - b``."""
        return self.binary("Sub", a, b)

    def mul(self, a: Value, b: Value, name: str | None = None) -> Value:
        """``a · b``, element by element."""
        return self.binary("Mul", a, b, name)

    def div(self, a: Value, b: Value) -> Value:
        """``a / b``, element by element."""
        return self.binary("Div", a, b)

    def scale(self, a: Value, factor: float, name: str | None = None) -> Value:
        """``factor · a``."""
        return a if factor == 1.0 else self.binary("Mul", a, self.constant(factor), name)

    def unary(self, op: str, a: Value, **attributes: Any) -> Value:
        """An operator that keeps the shape: ``Exp``, ``Erf``, ``Tanh``, ``Sigmoid``, ``Gelu``, ``Softmax`` …"""
        return self.node(op, [a], **attributes)[0]

    def layer_norm(self, x: Value, gamma: Value, beta: Value | None, epsilon: float) -> tuple[Value, Value, Value]:
        """Normalise the last dimension; returns the result, the means and the inverse standard deviations."""
        y, mean, inverse = self.node("LayerNormalization", [x, gamma, beta], axis=-1, epsilon=epsilon)
        return y, mean, inverse

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Regroup the elements of each image; ``shape`` has a count per image in front."""
        shape = tuple(shape)
        if shape == x.shape:
            return x
        if math.prod(shape) != x.elements:
            raise ShapeError(f"{self._component}: {x} does not take the shape {shape}")
        target = self.constant([-1 if x.batched else shape[0], *shape[1:]] if shape else np.zeros(0, np.int64))
        return self.node("Reshape", [x, target])[0]

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """Permute dimensions (dimension 0 of a batched value stays in front)."""
        return self.node("Transpose", [x], perm=list(permutation))[0]

    def slice(
        self,
        x: Value,
        axis: int | Sequence[int],
        start: int | Sequence[int],
        end: int | Sequence[int],
        *,
        steps: Sequence[int] | None = None,
    ) -> Value:
        """Cut ``[start, end)`` out of one or several dimensions other than the batched one."""
        axes, starts, ends = ([v] if isinstance(v, int) else list(v) for v in (axis, start, end))
        bounds = [self.constant(starts), self.constant(ends), self.constant(axes)]
        if steps is not None and set(steps) != {1}:
            bounds.append(self.constant(list(steps)))
        return self.node("Slice", [x, *bounds])[0]

    def split(self, x: Value, axis: int, parts: int) -> list[Value]:
        """Cut one dimension into equal parts."""
        size = x.shape[axis] // parts
        return self.node("Split", [x, self.constant([size] * parts)], axis=axis)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Join along one dimension."""
        return self.node("Concat", list(parts), axis=axis)[0]

    def pad(self, x: Value, before: Mapping[int, int], after: Mapping[int, int]) -> Value:
        """Put zeros in front of dimensions and behind them, as many as stand under their numbers."""
        rank = range(len(x.shape))
        pads = [*(before.get(i, 0) for i in rank), *(after.get(i, 0) for i in rank)]
        return self.node("Pad", [x, self.constant(pads)])[0] if any(pads) else x

    def reduce(
        self, op: str, x: Value, axis: int | Sequence[int], *, keep: bool = True, name: str | None = None
    ) -> Value:
        """``ReduceSum``, ``ReduceMean``, ``ReduceMax`` over dimensions; over the batched one the sum is unbatched."""
        axes = [i % len(x.shape) for i in ([axis] if isinstance(axis, int) else axis)]
        if op == "ReduceSum":  # its axes are an input since opset 13, those of the others an attribute before 18
            return self.node(op, [x, self.constant(axes)], names=[name], keepdims=int(keep))[0]
        return self.node(op, [x], names=[name], axes=axes, keepdims=int(keep))[0]

    def expand_to_batch(self, x: Value, like: Value) -> Value:
        """Repeat a value of leading dimension 1 once per image of ``like`` (batched, one row per image)."""
        size = self.node("Shape", [like], start=0, end=1)[0]
        shape = self.node("Concat", [size, self.constant(list(x.shape[1:]))], axis=0)[0]
        return self.node("Expand", [x, shape])[0]

    def remove_dead(self) -> None:
        """Remove the nodes whose results reach no output, and the values that they computed."""
        wanted, alive = set(self.outputs), []
        for node in reversed(self.nodes):
            if any(name in wanted for name in node.outputs):
                alive.append(node)
                wanted.update(node.inputs)
        self.nodes = alive[::-1]
        made = {name for n in self.nodes for name in n.outputs}
        kept = {*made, *self.inputs, *self.weights, *self.constants}
        self.values = {name: value for name, value in self.values.items() if name in kept}

    # -- reading --------------------------------------------------------------------------------------------

    def producers(self) -> dict[str, Node]:
        """Return value name to the node that computes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def unread_options(self) -> set[str]:
        """Return optional outputs that nobody reads (means and deviations of norms): they are never computed."""
        options = {name for n in self.nodes if operator(n.op).unread_options for name in n.outputs[1:]}
        return options - {name for n in self.nodes for name in n.inputs} - set(self.outputs)

    def call(self, node: Node) -> Call:
        """Return a node as the rules of its operator see it."""
        inputs = tuple(self.values[name] if name else None for name in node.inputs)
        return Call(node.op, inputs, node.attributes, self.known, len(node.outputs))

    def known(self, name: str) -> tuple[Extent, ...] | None:
        """Return what a vector of integers holds, where that is known before a run."""
        if name in self.constants:
            array = np.atleast_1d(self.constants[name])
            return tuple(Extent(int(n)) for n in array) if array.dtype.kind in "iu" and array.ndim == 1 else None
        node = next((n for n in reversed(self.nodes) if n.outputs and n.outputs[0] == name), None)
        return None if node is None else content(self.call(node))

    def __str__(self) -> str:
        def shown(name: str) -> str:
            return str(self.values[name]) if name else "–"

        lines = [f"inputs: {', '.join(map(shown, self.inputs))}"]
        for node in self.nodes:
            how = "".join(f" {key}={value}" for key, value in node.attributes.items())
            outputs = ", ".join(map(shown, node.outputs))
            lines.append(f"{node.phase:9} {outputs} = {node.op}({', '.join(filter(None, node.inputs))}){how}")
        return "\n".join([*lines, f"outputs: {', '.join(map(shown, self.outputs))}"])

    def _declare(self, value: Value) -> Value:
        assert value.name not in self.values, f"{value.name} is defined twice"
        self.values[value.name] = value
        return value
