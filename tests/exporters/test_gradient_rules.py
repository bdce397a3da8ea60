"""Each gradient rule alone against torch autograd: a graph of one operator, differentiated from a given seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from exporter_models import session_of
from torch import Tensor
from torch.nn import functional

from edgeplast.contract import gradient_input, gradient_output
from edgeplast.errors import InputError
from edgeplast.graphs.differentiate import differentiate
from edgeplast.graphs.graph import Graph, Value

BATCH = 3


@dataclass(frozen=True)
class Rule:
    """One operator in a graph and in torch.

    Attributes:
        shapes: of the inputs, per image where batched.
        build: from inputs to the value whose gradient is given.
        torch: the same in torch, on whole arrays.
        batched: per input, whether its first dimension counts images.
        positive: whether inputs stay away from zero and below (Sqrt, divisors).
    """

    shapes: tuple[tuple[int, ...], ...]
    build: Callable[..., Value]
    torch: Callable[..., Tensor]
    batched: tuple[bool, ...] = (True, True, True)
    positive: bool = False


def unary(op: str, reference: Callable[[Tensor], Tensor], *, positive: bool = False) -> Rule:
    return Rule(((4, 5),), lambda g, x: g.unary(op, x), reference, positive=positive)


def binary(op: str, reference: Callable[[Tensor, Tensor], Tensor], *, positive: bool = False) -> dict[str, Rule]:
    """Equal shapes, a row and a whole parameter repeated over the batch, a column, and the repeated one first."""

    def build(g: Graph, a: Value, b: Value) -> Value:
        return g.binary(op, a, b)

    same, first, second = (True, True), (False, True), (True, False)
    return {
        op: Rule(((4, 5), (4, 5)), build, reference, same, positive),
        f"{op}, a row repeated": Rule(((4, 5), (5,)), build, reference, second, positive),
        f"{op}, a parameter repeated over the batch": Rule(((1, 4, 5), (1, 4, 5)), build, reference, second, positive),
        f"{op}, a column repeated": Rule(((4, 5), (4, 1)), build, reference, same, positive),
        f"{op}, the first repeated": Rule(((5,), (4, 5)), build, reference, first, positive),
    }


def layer_norm(bias: bool, shape: tuple[int, ...]) -> Rule:
    def build(g: Graph, x: Value, gamma: Value, beta: Value | None = None) -> Value:
        return g.layer_norm(x, gamma, beta, 1e-5)[0]

    def reference(x: Tensor, gamma: Tensor, beta: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x, (shape[-1],), gamma, beta, 1e-5)

    last = (shape[-1],)
    shapes = (shape, last, last) if bias else (shape, last)
    return Rule(shapes, build, reference, (True, False, False))


def matmul(trans_b: bool, alpha: float) -> Rule:
    def reference(a: Tensor, b: Tensor) -> Tensor:
        return alpha * (a @ (b.transpose(-1, -2) if trans_b else b))

    return Rule(
        ((1, 2, 4, 5), (1, 2, 3, 5) if trans_b else (1, 2, 5, 3)),
        lambda g, a, b: g.matmul(a, b, trans_b=trans_b, alpha=alpha),
        reference,
    )


def gemm(bias: bool) -> Rule:
    shapes = ((4, 5), (3, 5), (3,)) if bias else ((4, 5), (3, 5))
    return Rule(shapes, lambda g, x, w, b=None: g.gemm(x, w, b, trans_b=True), functional.linear, (True, False, False))


def attention_rows(g: Graph, z: Value, v: Value) -> Value:
    return g.matmul(g.unary("Softmax", z, axis=-1), v)


def expanded(g: Graph, token: Value, like: Value) -> Value:
    return g.add(g.expand_to_batch(token, like), like)


def gelu_by_tanh(g: Graph, x: Value) -> Value:
    cubic = g.add(x, g.scale(g.mul(x, g.mul(x, x)), 0.044715))
    return g.mul(g.scale(x, 0.5), g.add(g.unary("Tanh", g.scale(cubic, 0.7978845608028654)), g.constant(1.0)))


RULES: dict[str, Rule] = {
    **binary("Add", torch.add),
    **binary("Sub", torch.sub),
    **binary("Mul", torch.mul),
    **binary("Div", torch.div, positive=True),
    "Mul of a value with itself": Rule(((4, 5),), lambda g, x: g.mul(x, x), lambda x: x * x),
    "Sqrt": unary("Sqrt", torch.sqrt, positive=True),
    "Tanh": unary("Tanh", torch.tanh),
    "Relu": unary("Relu", torch.relu),
    "Sigmoid": unary("Sigmoid", torch.sigmoid),
    "Gelu": unary("Gelu", functional.gelu),
    "Softmax": Rule(((2, 4, 5),), lambda g, x: g.unary("Softmax", x, axis=-1), lambda x: x.softmax(-1)),
    "Softmax that weighs values": Rule(((1, 2, 4, 5), (1, 2, 5, 3)), attention_rows, lambda z, v: z.softmax(-1) @ v),
    "SiLU": Rule(((4, 5),), lambda g, x: g.mul(x, g.unary("Sigmoid", x)), functional.silu),
    "QuickGELU": Rule(
        ((4, 5),), lambda g, x: g.mul(x, g.unary("Sigmoid", g.scale(x, 1.702))), lambda x: x * (1.702 * x).sigmoid()
    ),
    "GELU by tanh": Rule(((4, 5),), gelu_by_tanh, lambda x: functional.gelu(x, approximate="tanh")),
    "ReduceMean of the last": Rule(((4, 5),), lambda g, x: g.reduce("ReduceMean", x, -1), lambda x: x.mean(-1, True)),
    "ReduceMean of the tokens": Rule(
        ((1, 4, 5),), lambda g, x: g.reduce("ReduceMean", x, 1, keep=False), lambda x: x.mean(1)
    ),
    "Reshape": Rule(((4, 6),), lambda g, x: g.reshape(x, (1, 4, 2, 3)), lambda x: x.reshape(-1, 4, 2, 3)),
    "Transpose": Rule(((1, 4, 2, 3),), lambda g, x: g.transpose(x, (0, 2, 3, 1)), lambda x: x.permute(0, 2, 3, 1)),
    "Slice of the beginning": Rule(((1, 4, 5),), lambda g, x: g.slice(x, 1, 0, 2), lambda x: x[:, :2]),
    "Slice of the middle": Rule(((1, 4, 5),), lambda g, x: g.slice(x, 2, 1, 4), lambda x: x[:, :, 1:4]),
    "Split, all parts used": Rule(
        ((4, 6),),
        lambda g, x: g.concat([g.unary("Tanh", p) for p in g.split(x, 1, 3)], 1),
        torch.tanh,
    ),
    "Split, one part used": Rule(((4, 6),), lambda g, x: g.split(x, 1, 3)[1], lambda x: x.chunk(3, 1)[1]),
    "Concat": Rule(
        ((1, 4, 5), (1, 2, 5), (1, 1, 5)),
        lambda g, a, b, c: g.concat([a, b, c], 1),
        lambda a, b, c: torch.cat([a, b, c], 1),
    ),
    "Concat of one value twice": Rule(((1, 4, 5),), lambda g, x: g.concat([x, x], 2), lambda x: torch.cat([x, x], 2)),
    "Expand": Rule(((1, 2, 5), (1, 2, 5)), expanded, lambda token, x: token.expand(len(x), -1, -1) + x, (False, True)),
    "LayerNormalization of rows": layer_norm(True, (4, 8)),
    "LayerNormalization of heads": layer_norm(True, (1, 2, 4, 8)),
    "LayerNormalization without bias": layer_norm(False, (4, 8)),
    "MatMul": matmul(False, 1.0),
    "MatMul, scaled": matmul(False, 0.25),
    "MatMul, second transposed": matmul(True, 1.0),
    "MatMul, second transposed and scaled": matmul(True, 0.5),
    "Gemm": gemm(True),
    "Gemm without bias": gemm(False),
}


def arrays(rule: Rule, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for shape, batched in zip(rule.shapes, rule.batched, strict=False):
        whole = (shape[0] * BATCH, *shape[1:]) if batched else shape
        array = rng.standard_normal(whole, dtype=np.float32)
        found.append(np.abs(array) + np.float32(0.5) if rule.positive else array)
    return found


def graph_gradients(rule: Rule, given: list[np.ndarray], upstream: np.ndarray, wanted: list[int]) -> list[np.ndarray]:
    """Build, differentiate and run. Batched inputs go through a sum with zero: a parameter may be read only once."""
    g = Graph()
    inputs = [
        g.input(f"x{i}", shape, batched=batched)
        for i, (shape, batched) in enumerate(zip(rule.shapes, rule.batched, strict=False))
    ]
    with g.serving("part"):
        out = rule.build(g, *(g.add(x, g.constant(0.0)) if x.batched else x for x in inputs))
    assert (out.shape[0] * BATCH if out.batched else out.shape[0], *out.shape[1:]) == upstream.shape
    seed = g.input("seed", out.shape, batched=out.batched)
    names = [f"x{i}" for i in wanted]
    for name in names:
        g.input(gradient_input(name), g.values[name].shape, batched=g.values[name].batched)
    for value in differentiate(g, {out.name: seed}, names).values():
        g.output(value)
    session = session_of(g, {})
    feeds = {f"x{i}": a for i, a in enumerate(given)} | {"seed": upstream}
    feeds |= {gradient_input(n): np.zeros_like(feeds[n]) for n in names}
    read = {i.name for i in session.get_inputs()}
    return session.run([gradient_output(n) for n in names], {k: v for k, v in feeds.items() if k in read})


@pytest.mark.parametrize("name", RULES)
def test_rule_equals_autograd(name: str) -> None:
    rule = RULES[name]
    given = arrays(rule)
    tensors = [torch.from_numpy(a).requires_grad_() for a in given]
    out = rule.torch(*tensors)
    upstream = np.random.default_rng(1).standard_normal(tuple(out.shape), dtype=np.float32)
    expected = torch.autograd.grad(out, tensors, torch.from_numpy(upstream))
    found = graph_gradients(rule, given, upstream, list(range(len(given))))
    for mine, reference in zip(found, expected, strict=True):
        assert mine.shape == tuple(reference.shape)
        np.testing.assert_allclose(mine, reference.numpy(), rtol=1e-4, atol=2e-6)
    for i, reference in enumerate(expected):  # and each input alone: the rule leaves the others out
        (mine,) = graph_gradients(rule, given, upstream, [i])
        np.testing.assert_allclose(mine, reference.numpy(), rtol=1e-4, atol=2e-6)


def test_gelu_has_a_gradient_far_from_zero() -> None:
    """exp(−t²) underflows and its inverse overflows there; the gradient is 1, 0, and never a NaN."""
    far = np.array([[-1e4, -60.0, -20.0, -14.0, -6.0, 0.0, 6.0, 14.0, 20.0, 60.0, 1e4]], np.float32)
    rule = Rule(((1, 11),), lambda g, x: g.unary("Gelu", x), functional.gelu, (False,))
    (found,) = graph_gradients(rule, [far], np.ones_like(far), [0])
    x = torch.from_numpy(far).requires_grad_()
    (expected,) = torch.autograd.grad(functional.gelu(x).sum(), [x])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_relu_passes_nothing_at_zero() -> None:
    flat = np.array([[-1.0, 0.0, 2.0]], np.float32)
    rule = Rule(((1, 3),), lambda g, x: g.unary("Relu", x), torch.relu, (False,))
    (found,) = graph_gradients(rule, [flat], np.full_like(flat, 5), [0])
    assert found.tolist() == [[0, 0, 5]]


def test_an_operator_without_a_rule_is_named_with_its_component() -> None:
    g = Graph()
    x = g.input("x", (4, 5))
    g.input(gradient_input("x"), (4, 5))
    with g.serving("blocks.2.fc1", 2):
        out = g.unary("Floor", x)
    with pytest.raises(InputError, match=r"blocks\.2\.fc1: the operator Floor has no gradient"):
        differentiate(g, {out.name: g.input("seed", (4, 5))}, ["x"])


def test_an_operator_without_a_rule_may_stand_before_everything_that_trains() -> None:
    g = Graph()
    w = g.input("w", (3, 5))
    g.input(gradient_input("w"), (3, 5))
    with g.serving("blocks.0.fc1", 0):
        out = g.gemm(g.unary("Floor", g.input("x", (4, 5), batched=True)), w, trans_b=True)
    differentiate(g, {out.name: g.input("seed", (4, 3), batched=True)}, ["w"])
    assert [n.op for n in g.nodes if n.phase == "backward"] == ["Gemm"]


def test_a_parameter_the_seed_does_not_depend_on_is_named() -> None:
    g = Graph()
    used, unused = g.input("used", (4, 5)), g.input("unused", (4, 5))
    out = g.unary("Tanh", used)
    g.unary("Tanh", unused)
    for name in ("used", "unused"):
        g.input(gradient_input(name), (4, 5))
    with pytest.raises(InputError, match="does not depend on unused"):
        differentiate(g, {out.name: g.input("seed", (4, 5))}, ["used", "unused"])


def test_a_matrix_read_twice_gets_the_sum_of_both_gradients() -> None:
    def twice(g: Graph, x: Value, w: Value) -> Value:
        return g.gemm(g.unary("Tanh", g.gemm(x, w, trans_b=True)), w, trans_b=True)

    def reference(x: Tensor, w: Tensor) -> Tensor:
        return functional.linear(torch.tanh(functional.linear(x, w)), w)

    rule = Rule(((4, 5), (5, 5)), twice, reference, (True, False))
    given = arrays(rule)
    upstream = np.random.default_rng(1).standard_normal((4 * BATCH, 5), dtype=np.float32)
    found = graph_gradients(rule, given, upstream, [0, 1])
    leaves = [torch.from_numpy(a).requires_grad_() for a in given]
    expected = torch.autograd.grad(reference(*leaves), leaves, torch.from_numpy(upstream))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=2e-6)
