"""Reverse-mode differentiation of a Graph, one rule an operator.

A forward graph with a loss goes in; nodes that compute the gradients of the trainable parameters are appended.
Only what leads from a trainable parameter to the loss is visited, so frozen parts before the first trainable
tensor cost nothing, and no gradient of a frozen weight is ever formed. Each weight gradient is written the
moment its two factors exist, before the activation gradient that follows it, so that the saved activation can
be freed; and it is added onto the accumulator of earlier micro-batches by the product itself (``C`` of Gemm).

Every rule is plain mathematics, given in its docstring with ``d`` for the incoming gradient. Tests compare
each with torch autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph, Node, Value

Gradients = list[Value | None]
Rule = Callable[["Differentiation", Node, list[Value | None]], Gradients]


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
        InputError: an operator on the way has no gradient rule, or a parameter does not reach the seed.
    """
    return Differentiation(graph, seed, trainable).run()


def gradient_input(parameter: str) -> str:
    """Return the name of the graph input that carries the gradient accumulated so far."""
    return f"{parameter}.gradient"


def gradient_output(parameter: str) -> str:
    """Return the name of the graph output that carries the accumulated gradient after this micro-batch."""
    return f"{parameter}.gradient.sum"


class Differentiation:
    """The state of one reverse sweep: which values need a gradient, and the gradients found so far."""

    def __init__(self, graph: Graph, seed: dict[str, Value], trainable: Collection[str]) -> None:
        self.graph = graph
        self.trainable = set(trainable)
        self.found: dict[str, Value] = dict(seed)
        self.visited: dict[str, Value] = {}
        self.sums: dict[str, Value] = {}
        self.forward = [n for n in graph.nodes if n.phase == "forward"]
        self.producer = {name: n for n in self.forward for name in n.outputs if name}
        self.needed = set(trainable)
        for node in self.forward:
            if any(name in self.needed for name in node.inputs):
                self.needed.update(node.outputs)

    def run(self) -> dict[str, Value]:
        """Visit the forward nodes in reverse."""
        for node in reversed(self.forward):
            incoming = [self.found.pop(name, None) if name else None for name in node.outputs]
            self.visited.update((n, d) for n, d in zip(node.outputs, incoming, strict=True) if d is not None)
            if not any(incoming) or not any(name in self.needed for name in node.inputs):
                continue
            rule = _RULES.get(node.op)
            if rule is None:
                raise InputError(
                    f"{node.component}: the operator {node.op} has no gradient here, and a trainable parameter "
                    f"lies before it. Known: {', '.join(sorted(_RULES))}. "
                    f"Freeze what comes before {node.component}."
                )
            with self.graph.serving(node.component, node.block, "backward"):
                for name, gradient in zip(node.inputs, rule(self, node, incoming), strict=True):
                    if gradient is not None:
                        self.receive(name, gradient)
        silent = sorted(self.trainable - self.sums.keys())
        if silent:
            raise InputError(f"The loss does not depend on {', '.join(silent)}: they cannot be trained.")
        return self.sums

    def wants(self, name: str) -> bool:
        """Whether a gradient of this value leads to a trainable parameter."""
        return name in self.needed

    def value(self, name: str) -> Value:
        """Return the value of that name."""
        return self.graph.values[name]

    def receive(self, name: str, gradient: Value) -> None:
        """Add a gradient to what is known of ``name``; a parameter's goes onto its accumulator."""
        if name in self.trainable:
            self.accumulate(name, lambda total: self.graph.add(total, gradient, gradient_output(name)))
        elif name in self.found:
            self.found[name] = self.graph.add(self.found[name], gradient)
        else:
            self.found[name] = gradient

    def accumulate(self, parameter: str, add: Callable[[Value], Value]) -> None:
        """Form ``accumulator + gradient`` by one node that reads the accumulator."""
        if parameter in self.sums:
            raise InputError(f"{parameter} is used twice in the model; shared parameters cannot be trained here.")
        self.sums[parameter] = add(self.value(gradient_input(parameter)))

    def row_sums(self, p: Value, d: Value) -> Value:
        """Return Σ d·p over the last dimension, for each row of the attention weights p (…, heads, queries, keys).

        Where p only weighs values (o = p·v), that is Σ do·o over the head's few dimensions (the identity of
        FlashAttention, Dao et al. 2022, arXiv 2205.14135, appendix B), which spares a pass over N². Where o is then
        laid out as rows of tokens, the sum is taken there: the projection's gradient needs o in that form anyway.
        """
        g = self.graph
        product = self._only_reader(p.name)
        if product is None or product.op != "MatMul" or product.inputs[0] != p.name:
            return g.reduce("ReduceSum", g.mul(d, p), -1)
        heads = product.outputs[0]
        transposed = self._only_reader(heads)
        rows = self._only_reader(transposed.outputs[0]) if transposed is not None else None
        if transposed is None or rows is None or (transposed.op, rows.op) != ("Transpose", "Reshape"):
            return g.reduce("ReduceSum", g.mul(self.visited[heads], self.value(heads)), -1)
        out, perm = rows.outputs[0], transposed.attributes["perm"]
        split = g.reshape(g.mul(self.visited[out], self.value(out)), self.value(transposed.outputs[0]).shape)
        return g.transpose(g.reduce("ReduceSum", split, -1), [perm.index(i) for i in range(len(perm))])

    def _only_reader(self, name: str) -> Node | None:
        readers = [n for n in self.forward if name in n.inputs]
        return readers[0] if len(readers) == 1 else None

    def unbroadcast(self, gradient: Value, like: Value) -> Value:
        """Sum a gradient over the dimensions along which ``like`` was broadcast (the batch among them)."""
        g = self.graph
        while len(gradient.shape) > len(like.shape):
            gradient = g.reduce("ReduceSum", gradient, 0, keep=False)
        for axis, size in enumerate(like.shape):
            batch = axis == 0 and gradient.batched and not like.batched
            if batch or (size == 1 and gradient.shape[axis] != 1):
                gradient = g.reduce("ReduceSum", gradient, axis)
        return gradient


def _gemm(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``Y = X·Wᵀ + b``: dW += dᵀ·X, db += Σ_rows d, dX = d·W (X is never transposed by the forward graph)."""
    d = _only(incoming)
    g = s.graph
    x, w = s.value(node.inputs[0]), s.value(node.inputs[1])
    assert "transA" not in node.attributes and node.attributes.get("transB") == 1
    if s.wants(w.name):
        s.accumulate(w.name, lambda total: g.gemm(d, x, total, trans_a=True, name=gradient_output(w.name)))
    bias: Value | None = None
    if len(node.inputs) > 2 and node.inputs[2] and s.wants(node.inputs[2]):
        bias = g.reduce("ReduceSum", d, 0, keep=False)
    dx = g.gemm(d, w) if s.wants(x.name) else None
    return [dx, None, bias][: len(node.inputs)]


def _matmul(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``C = α·A·B`` with optional transposes; the smaller operand is the one that gets transposed copies."""
    d = _only(incoming)
    g = s.graph
    a, b = s.value(node.inputs[0]), s.value(node.inputs[1])
    trans_b, alpha = bool(node.attributes["transB"]), node.attributes["alpha"]
    assert not node.attributes["transA"]
    da = g.matmul(d, b, trans_b=not trans_b, alpha=alpha) if s.wants(a.name) else None
    db: Value | None = None
    if s.wants(b.name):
        left, right = (d, a) if trans_b else (a, d)
        db = g.matmul(left, right, trans_a=True, alpha=alpha)
    return [da, db]


def _add(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``a + b``: d to both, summed over what was broadcast."""
    d = _only(incoming)
    return [s.unbroadcast(d, s.value(name)) if s.wants(name) else None for name in node.inputs]


def _mul(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``a·b``: d·b to a, d·a to b."""
    d = _only(incoming)
    a, b = (s.value(name) for name in node.inputs)
    return [
        s.unbroadcast(s.graph.mul(d, other), mine) if s.wants(mine.name) else None for mine, other in ((a, b), (b, a))
    ]


def _div(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``a/b``: d/b to a, −(d/b)·y to b."""
    d = _only(incoming)
    g = s.graph
    a, b = (s.value(name) for name in node.inputs)
    scaled = g.div(d, b)
    db = g.scale(g.mul(scaled, s.value(node.outputs[0])), -1.0) if s.wants(b.name) else None
    return [
        s.unbroadcast(scaled, a) if s.wants(a.name) else None,
        None if db is None else s.unbroadcast(db, b),
    ]


def _layer_norm(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """With x̂ = (x − μ)/σ and e = d·γ: dγ = Σ d·x̂, dβ = Σ d, dx = (e − mean(e) − x̂·mean(e·x̂))/σ."""
    d = _only([incoming[0]])
    g = s.graph
    x, gamma = s.value(node.inputs[0]), s.value(node.inputs[1])
    _, mean, inverse = (s.value(name) for name in node.outputs)
    normalised = g.mul(g.sub(x, mean), inverse)
    dgamma = _sum_rows(s, g.mul(d, normalised), gamma) if s.wants(gamma.name) else None
    dbeta: Value | None = None
    if len(node.inputs) > 2 and node.inputs[2] and s.wants(node.inputs[2]):
        dbeta = _sum_rows(s, d, gamma)
    dx: Value | None = None
    if s.wants(x.name):
        e = g.mul(d, gamma)
        along = g.reduce("ReduceMean", g.mul(e, normalised), -1)
        centred = g.sub(e, g.reduce("ReduceMean", e, -1))
        dx = g.mul(g.sub(centred, g.mul(normalised, along)), inverse)
    return [dx, dgamma, dbeta][: len(node.inputs)]


def _sum_rows(s: Differentiation, gradient: Value, like: Value) -> Value:
    """Sum everything but the last dimension."""
    rows = gradient.elements // like.elements
    return s.graph.reduce("ReduceSum", s.graph.reshape(gradient, (rows, like.elements)), 0, keep=False)


def _softmax(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``p = softmax(z)``: dz = p·(d − Σ d·p)."""
    d = _only(incoming)
    g = s.graph
    p = s.value(node.outputs[0])
    return [g.mul(p, g.sub(d, s.row_sums(p, d)))]


def _gelu(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``x·Φ(x)``: d·(Φ(x) + x·φ(x)), with t = x/√2: 2Φ = 1 + erf t and 2x·φ(x) = (2t/√π)·exp(−t²).

    The slope is computed in the forward pass, which then takes its own product from the same erf: that is the most
    expensive of these, the slope needs as many bytes between the passes as x would, and the backward pass is left
    with one product over the largest arrays of a block.
    """
    d = _only(incoming)
    g, x = s.graph, s.value(node.inputs[0])
    with g.in_place_of(node):
        t = g.scale(x, math.sqrt(0.5))
        density = g.scale(g.div(t, g.unary("Exp", g.mul(t, t))), 2 / math.sqrt(math.pi))
        twice = g.add(g.unary("Erf", t), g.constant(1.0))
        slope = g.add(density, twice)
        g.scale(g.mul(t, twice), math.sqrt(0.5), name=node.outputs[0])
    return [g.scale(g.mul(d, slope), 0.5)]


def _sigmoid(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d·y·(1 − y)."""
    g, y = s.graph, s.value(node.outputs[0])
    return [g.mul(_only(incoming), g.mul(y, g.sub(g.constant(1.0), y)))]


def _tanh(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d·(1 − y²)."""
    g, y = s.graph, s.value(node.outputs[0])
    return [g.mul(_only(incoming), g.sub(g.constant(1.0), g.mul(y, y)))]


def _relu(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d where y > 0 (Sign of a ReLU's output is 0 or 1)."""
    g = s.graph
    return [g.mul(_only(incoming), g.unary("Sign", s.value(node.outputs[0])))]


def _sqrt(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d/(2·y)."""
    g = s.graph
    return [g.scale(g.div(_only(incoming), s.value(node.outputs[0])), 0.5)]


def _reduce_mean(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d/n, repeated along the reduced dimension (by adding it to zeros of the input's shape)."""
    d = _only(incoming)
    g = s.graph
    x = s.value(node.inputs[0])
    axis = node.attributes["axes"][0]
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    share = g.scale(g.reshape(d, shape), 1 / x.shape[axis])
    repeats = g.constant([1 if i != axis else x.shape[axis] for i in range(len(shape))])
    return [g.node("Tile", [share, repeats], [x.shape], batched=x.batched)[0]]


def _reshape(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d in the shape of the input."""
    return [s.graph.reshape(_only(incoming), s.value(node.inputs[0]).shape), None]


def _transpose(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d, permuted back."""
    perm = node.attributes["perm"]
    return [s.graph.transpose(_only(incoming), [perm.index(i) for i in range(len(perm))])]


def _slice(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d, with zeros around it."""
    g = s.graph
    x = s.value(node.inputs[0])
    start, end, axis = (int(g.constants[name][0]) for name in node.inputs[1:4])
    before = [start if i == axis else 0 for i in range(len(x.shape))]
    after = [x.shape[axis] - end if i == axis else 0 for i in range(len(x.shape))]
    pads = g.constant([*before, *after])
    return [g.node("Pad", [_only(incoming), pads], [x.shape], batched=x.batched)[0], None, None, None]


def _split(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """The parts' gradients, joined; zeros for a part that has none."""
    g = s.graph
    parts = [
        d if d is not None else g.scale(s.value(name), 0.0) for name, d in zip(node.outputs, incoming, strict=True)
    ]
    return [g.concat(parts, node.attributes["axis"]), None]


def _concat(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d, cut where the parts met."""
    d = _only(incoming)
    axis, at = node.attributes["axis"], 0
    gradients: Gradients = []
    for name in node.inputs:
        size = s.value(name).shape[axis]
        gradients.append(s.graph.slice(d, axis, at, at + size) if s.wants(name) else None)
        at += size
    return gradients


def _expand(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """d, summed over the batch."""
    return [s.graph.reduce("ReduceSum", _only(incoming), 0), None]


def _sub(s: Differentiation, node: Node, incoming: list[Value | None]) -> Gradients:
    """``a − b``: d to a, −d to b."""
    d = _only(incoming)
    a, b = (s.value(name) for name in node.inputs)
    return [
        s.unbroadcast(d, a) if s.wants(a.name) else None,
        s.unbroadcast(s.graph.scale(d, -1.0), b) if s.wants(b.name) else None,
    ]


def _only(incoming: list[Value | None]) -> Value:
    (gradient,) = incoming
    assert gradient is not None
    return gradient


_RULES: dict[str, Rule] = {
    "Add": _add,
    "Concat": _concat,
    "Div": _div,
    "Expand": _expand,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Mul": _mul,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _sqrt,
    "Sub": _sub,
    "Tanh": _tanh,
    "Transpose": _transpose,
}
