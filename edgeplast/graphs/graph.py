"""A graph of plain ONNX operators whose every value knows its shape, under construction.

Graphs are built here, not traced: each method adds one node, works out the shape of what it returns, and tags
the node with the component, the block and the phase it serves. Gradient rules, recomputation, quantization and
the liveness walk all read those tags and shapes, so none of them has to guess.

The batch size B is the one unknown. A *batched* value's first dimension is a multiple of B: tokens as rows,
``(197, 192)`` batched, stand for an array of shape ``(197·B, 192)``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Phase = Literal["forward", "recompute", "backward"]

BYTES = {"float32": 4, "int64": 8, "int8": 1, "uint8": 1, "int32": 4, "int4": 0.5}
"""Bytes per element of every dtype that occurs in a graph."""


@dataclass(frozen=True)
class Value:
    """One tensor of the graph.

    Attributes:
        name: unique in the graph; parameters carry timm's name.
        shape: dimensions; of a batched value the first is a count per image.
        batched: whether the first dimension is multiplied by the batch size.
        dtype: a key of ``BYTES``.
    """

    name: str
    shape: tuple[int, ...]
    batched: bool = False
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """Elements per image (batched) or in all."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes per image (batched) or in all."""
        return math.ceil(self.elements * BYTES[self.dtype])


@dataclass(frozen=True)
class Node:
    """One operator call.

    Attributes:
        op: ONNX operator; ``MatMul`` may carry ``transA``, ``transB`` and ``alpha``, which the ONNX writer
            turns into one fused or several plain operators; ``Gelu``, ``QuickGelu`` likewise.
        inputs: value names, ``""`` for an optional input left out.
        outputs: value names, ``""`` for an optional output left out.
        attributes: operator attributes.
        component: the component served, for messages and the footprint.
        block: index of the block it belongs to, None before, after and between blocks.
        phase: whether it computes the prediction, computes it again, or computes gradients.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    component: str = ""
    block: int | None = None
    phase: Phase = "forward"

    def rewired(self, names: dict[str, str]) -> Node:
        """Return this node reading other values, by ``names`` (old name to new)."""
        if not any(i in names for i in self.inputs):
            return self
        return replace(self, inputs=tuple(names.get(i, i) for i in self.inputs))


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
        after, self.nodes = self.nodes[at + 1 :], self.nodes[:at]
        for name in filter(None, node.outputs):
            del self.values[name]
        with self.serving(node.component, node.block, node.phase):
            yield
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
        name = f"constant.{data.dtype.name}.{data.tolist()}".replace(" ", "")
        if name not in self.constants:
            self.constants[name] = data
            self._declare(Value(name, data.shape, dtype=data.dtype.name))
        return self.values[name]

    def output(self, value: Value, name: str | None = None) -> Value:
        """Hand a value back to the caller, under its own name or a given one (the producer is renamed)."""
        if name is not None:
            index = next(i for i, n in enumerate(self.nodes) if value.name in n.outputs)
            new = {value.name: name}
            node = self.nodes[index]
            self.nodes[index] = replace(node, outputs=tuple(new.get(o, o) for o in node.outputs))
            self.nodes = [n.rewired(new) for n in self.nodes]
            del self.values[value.name]
            value = self._declare(replace(value, name=name))
        self.outputs.append(value.name)
        return value

    # -- operators ------------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        shapes: Sequence[tuple[int, ...]],
        *,
        batched: bool | None = None,
        dtype: str = "float32",
        names: Sequence[str | None] = (),
        **attributes: Any,
    ) -> list[Value]:
        """Add any operator; returns one value per entry of ``shapes``.

        Args:
            op: operator name.
            inputs: values read; None leaves an optional input out.
            shapes: shape of each output.
            batched: of the outputs; by default true when any input is.
            dtype: of the outputs.
            names: names of the outputs, where they must be given.
            **attributes: operator attributes.
        """
        if batched is None:
            batched = any(v is not None and v.batched for v in inputs)
        outputs = []
        for i, shape in enumerate(shapes):
            name = names[i] if i < len(names) else None
            if name is None:
                self._fresh += 1
                stem = f"{self._component}/" if self._component else ""
                name = f"{stem}{'d/' if self._phase == 'backward' else ''}{op}.{self._fresh}"
            outputs.append(self._declare(Value(name, tuple(shape), batched, dtype)))
        self.nodes.append(
            Node(
                op,
                tuple("" if v is None else v.name for v in inputs),
                tuple(v.name for v in outputs),
                attributes,
                self._component,
                self._block,
                self._phase,
            )
        )
        return outputs

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
        rows, inner = a.shape if not trans_a else a.shape[::-1]
        inner_b, columns = b.shape if not trans_b else b.shape[::-1]
        assert inner == inner_b, f"Gemm {a} {b}"
        batched = a.batched and not trans_a
        attributes: dict[str, Any] = {}
        if trans_a:
            attributes["transA"] = 1
        if trans_b:
            attributes["transB"] = 1
        if alpha != 1.0:
            attributes["alpha"] = alpha
        return self.node("Gemm", [a, b, c], [(rows, columns)], batched=batched, names=[name], **attributes)[0]

    def matmul(self, a: Value, b: Value, *, trans_a: bool = False, trans_b: bool = False, alpha: float = 1.0) -> Value:
        """Batched matrix product over the last two dimensions."""
        rows, inner = a.shape[-2:] if not trans_a else a.shape[-2:][::-1]
        inner_b, columns = b.shape[-2:] if not trans_b else b.shape[-2:][::-1]
        assert inner == inner_b, f"MatMul {a} {b}"
        attributes: dict[str, Any] = {"transA": int(trans_a), "transB": int(trans_b), "alpha": alpha}
        return self.node("MatMul", [a, b], [(*a.shape[:-2], rows, columns)], **attributes)[0]

    def binary(self, op: str, a: Value, b: Value, name: str | None = None) -> Value:
        """``Add``, ``Sub``, ``Mul`` or ``Div`` with numpy's broadcasting."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        return self.node(op, [a, b], [tuple(shape)], names=[name])[0]

    def add(self, a: Value, b: Value, name: str | None = None) -> Value:
        """``a + b``."""
        return self.binary("Add", a, b, name)

    def sub(self, a: Value, b: Value) -> Value:
        """``a - b``."""
        return self.binary("Sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """``a · b``, element by element."""
        return self.binary("Mul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        """``a / b``, element by element."""
        return self.binary("Div", a, b)

    def scale(self, a: Value, factor: float, name: str | None = None) -> Value:
        """``factor · a``."""
        return a if factor == 1.0 else self.binary("Mul", a, self.constant(factor), name)

    def unary(self, op: str, a: Value, **attributes: Any) -> Value:
        """An operator that keeps the shape: ``Exp``, ``Erf``, ``Tanh``, ``Sigmoid``, ``Gelu``, ``Softmax`` …"""
        return self.node(op, [a], [a.shape], **attributes)[0]

    def layer_norm(self, x: Value, gamma: Value, beta: Value | None, epsilon: float) -> tuple[Value, Value, Value]:
        """Normalise the last dimension; returns the result, the means and the inverse standard deviations."""
        reduced = (*x.shape[:-1], 1)
        y, mean, inverse = self.node(
            "LayerNormalization", [x, gamma, beta], [x.shape, reduced, reduced], axis=-1, epsilon=epsilon
        )
        return y, mean, inverse

    def reshape(self, x: Value, shape: Sequence[int], *, batched: bool | None = None) -> Value:
        """Regroup the elements of each image; ``shape`` has a count per image in front."""
        shape = tuple(shape)
        assert math.prod(shape) == x.elements, f"Reshape {x} to {shape}"
        if shape == x.shape:
            return x
        target = self.constant([-1 if x.batched else shape[0], *shape[1:]])
        return self.node("Reshape", [x, target], [shape], batched=x.batched if batched is None else batched)[0]

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        """Permute dimensions (dimension 0 of a batched value stays in front)."""
        perm = tuple(permutation)
        assert not x.batched or perm[0] == 0
        return self.node("Transpose", [x], [tuple(x.shape[i] for i in perm)], perm=list(perm))[0]

    def slice(self, x: Value, axis: int, start: int, end: int) -> Value:
        """Cut ``[start, end)`` out of one dimension other than the batched one."""
        assert axis > 0 or not x.batched
        shape = (*x.shape[:axis], end - start, *x.shape[axis + 1 :])
        bounds = [self.constant([start]), self.constant([end]), self.constant([axis])]
        return self.node("Slice", [x, *bounds], [shape], batched=x.batched)[0]

    def split(self, x: Value, axis: int, parts: int) -> list[Value]:
        """Cut one dimension into equal parts."""
        size = x.shape[axis] // parts
        assert size * parts == x.shape[axis]
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        sizes = self.constant([size] * parts)
        return self.node("Split", [x, sizes], [shape] * parts, batched=x.batched, axis=axis)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Join along one dimension."""
        first = parts[0]
        length = sum(p.shape[axis] for p in parts)
        return self.node("Concat", list(parts), [(*first.shape[:axis], length, *first.shape[axis + 1 :])], axis=axis)[0]

    def reduce(self, op: str, x: Value, axis: int, *, keep: bool = True, name: str | None = None) -> Value:
        """``ReduceSum`` or ``ReduceMean`` over one dimension; over the batched one the result is unbatched."""
        axis = axis % len(x.shape)
        shape = (*x.shape[:axis], *([1] if keep else []), *x.shape[axis + 1 :])
        batched = x.batched and axis != 0
        if op == "ReduceSum":  # its axes are an input since opset 13, those of ReduceMean an attribute before 18
            return self.node(
                op, [x, self.constant([axis])], [shape], batched=batched, names=[name], keepdims=int(keep)
            )[0]
        return self.node(op, [x], [shape], batched=batched, names=[name], axes=[axis], keepdims=int(keep))[0]

    def expand_to_batch(self, x: Value, like: Value) -> Value:
        """Repeat a value of leading dimension 1 once per image of ``like`` (batched, one row per image)."""
        assert x.shape[0] == 1 and like.batched and like.shape[0] == 1
        size = self.node("Shape", [like], [(1,)], batched=False, dtype="int64", start=0, end=1)[0]
        rest = self.constant(list(x.shape[1:]))
        shape = self.node("Concat", [size, rest], [(len(x.shape),)], batched=False, dtype="int64", axis=0)[0]
        return self.node("Expand", [x, shape], [x.shape], batched=True)[0]

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
        """Return LayerNormalization's means and inverse deviations that nobody reads: they are never computed."""
        options = {name for n in self.nodes if n.op == "LayerNormalization" for name in n.outputs[1:]}
        return options - {name for n in self.nodes for name in n.inputs} - set(self.outputs)

    def _declare(self, value: Value) -> Value:
        assert value.name not in self.values, f"{value.name} is defined twice"
        self.values[value.name] = value
        return value
