"""Every operator of the table against torch: value, gradients, shapes that vary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph_cases import Case, assert_case, numbers, run, written
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from edgeplast.errors import InputError
from edgeplast.graphs.checking import check
from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast.graphs.measures.flops import flops_per_image
from edgeplast.graphs.operators import OPERATORS, operator
from edgeplast.graphs.operators.record import ShapeError
from edgeplast.graphs.operators.sums import LONG_SUM, sum_rows

Reference = Callable[..., Tensor]

CURVES: dict[str, tuple[str, dict[str, Any], Reference]] = {
    "Relu": ("Relu", {}, torch.relu),
    "LeakyRelu": ("LeakyRelu", {"alpha": 0.1}, lambda x: functional.leaky_relu(x, 0.1)),
    "Elu": ("Elu", {"alpha": 1.0}, functional.elu),
    "Elu, another alpha": ("Elu", {"alpha": 0.5}, lambda x: functional.elu(x, 0.5)),
    "HardSigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, functional.hardsigmoid),
    "HardSwish": ("HardSwish", {}, functional.hardswish),
    "Sigmoid": ("Sigmoid", {}, torch.sigmoid),
    "Tanh": ("Tanh", {}, torch.tanh),
    "Softplus": ("Softplus", {}, functional.softplus),
    "Gelu": ("Gelu", {}, functional.gelu),
    "GeluTanh": ("GeluTanh", {}, lambda x: functional.gelu(x, approximate="tanh")),
    "Silu": ("Silu", {}, functional.silu),
    "QuickGelu": ("QuickGelu", {"alpha": 1.702}, lambda x: x * torch.sigmoid(1.702 * x)),
    "Mish": ("Mish", {}, functional.mish),
    "Exp": ("Exp", {}, torch.exp),
    "Erf": ("Erf", {}, torch.erf),
    "Abs": ("Abs", {}, torch.abs),
    "Neg": ("Neg", {}, torch.neg),
    "Sin": ("Sin", {}, torch.sin),
    "Cos": ("Cos", {}, torch.cos),
    "Identity": ("Identity", {}, lambda x: x * 1.0),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_equal_torch(name: str) -> None:
    op, how, reference = CURVES[name]
    assert_case(Case([3 * numbers(8, 5)], lambda g, x: g.unary(op, x, **how), reference))


@pytest.mark.parametrize(
    ("op", "reference"), [("Sqrt", torch.sqrt), ("Log", torch.log), ("Reciprocal", torch.reciprocal)]
)
def test_functions_of_positive_numbers_equal_torch(op: str, reference: Reference) -> None:
    assert_case(Case([numbers(8, 5, positive=True)], lambda g, x: g.unary(op, x), reference))


@pytest.mark.parametrize("name", [name for name, record in OPERATORS.items() if record.curve is not None])
def test_a_curve_keeps_one_array_between_the_passes(name: str) -> None:
    """Its slope, which takes the place of the input."""
    graph, _ = written(Case([numbers(8, 5)], lambda g, x: g.unary(name, g.scale(x, 2.0)), functional.silu), [0])
    before = {o for n in graph.nodes if n.phase == "forward" for o in n.outputs}
    read = {i for n in graph.nodes if n.phase == "backward" for i in n.inputs if i in before}
    assert len(read) == 1


def test_a_curve_that_nothing_trains_through_is_written_in_plain_operators() -> None:
    graph, _ = written(Case([numbers(8, 5)], lambda g, x: g.unary("HardSwish", x), functional.hardswish), [])
    assert [n.op for n in graph.nodes] == ["HardSigmoid", "Mul"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 1.0), (None, 0.5), (-0.5, None)])
def test_clipping_equals_torch(low: float | None, high: float | None) -> None:
    def build(g: Graph, x: Value) -> Value:
        return g.node("Clip", [x, *(None if v is None else g.constant(v) for v in (low, high))])[0]

    assert_case(Case([2 * numbers(8, 5)], build, lambda x: torch.clamp(x, low, high)))


@pytest.mark.parametrize("power", [2.0, 3.0, 0.5])
def test_powers_equal_torch(power: float) -> None:
    build = lambda g, x: g.binary("Pow", x, g.constant(power))  # noqa: E731
    assert_case(Case([numbers(8, 5, positive=True)], build, lambda x: x**power))


def test_learned_slopes_equal_torch() -> None:
    def build(g: Graph, x: Value, a: Value) -> Value:
        return g.node("PRelu", [x, a])[0]

    def reference(x: Tensor, a: Tensor) -> Tensor:
        return torch.relu(x) + a * -torch.relu(-x)

    assert_case(Case([numbers(4, 3, 5, 4), numbers(3, 1, 1)], build, reference))


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]), SIZES, st.data())
def test_two_arrays_of_any_shapes_that_broadcast(op: str, sizes: list[int], data: st.DataObject) -> None:
    """The batch is repeated over a parameter, parameters over rows, and dimensions of size 1 over whatever there is."""
    references = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}
    references |= {"Max": torch.maximum, "Min": torch.minimum}
    first = (2 * sizes[0], *(data.draw(st.sampled_from([1, n])) for n in sizes[1:]))
    second = [data.draw(st.sampled_from([1, n])) for n in sizes[1:]]
    if data.draw(st.booleans()):
        second = [1, *second]
    batched = [True, False]
    arrays = [numbers(*first, seed=1, positive=True), numbers(*second, seed=2, positive=True)]
    if data.draw(st.booleans()):
        arrays, batched = arrays[::-1], batched[::-1]
    assert_case(Case(arrays, lambda g, a, b: g.binary(op, a, b), references[op], batched))


def test_choosing_by_a_comparison_equals_torch() -> None:
    def build(g: Graph, a: Value, b: Value) -> Value:
        return g.node("Where", [g.node("Greater", [a, g.constant(0.2)])[0], a, b])[0]

    assert_case(Case([numbers(8, 5), numbers(5)], build, lambda a, b: torch.where(a > 0.2, a, b)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_products_of_stacks_equal_torch(data: st.DataObject) -> None:
    """Stacks of different depth and rank, either operand the constant one, transposed or not, scaled or not."""
    m, k, n = (data.draw(st.integers(1, 4)) for _ in range(3))
    trans_a, trans_b = data.draw(st.sampled_from([(False, False), (False, True), (True, False)]))
    alpha = data.draw(st.sampled_from([1.0, 0.5]))
    stack = [2, *(data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(1, 2))))]
    other = [data.draw(st.sampled_from([1, s])) for s in stack[1:]]
    other = data.draw(st.sampled_from([[], [1, *other], other]))
    both = data.draw(st.booleans())
    a = numbers(*stack, *((k, m) if trans_a else (m, k)), seed=1)
    b = numbers(*(stack if both else other), *((n, k) if trans_b else (k, n)), seed=2)
    swapped = not both and data.draw(st.booleans())
    if swapped:
        a = numbers(*other, *((k, m) if trans_a else (m, k)), seed=1)
        b = numbers(*stack, *((n, k) if trans_b else (k, n)), seed=2)

    def reference(x: Tensor, y: Tensor) -> Tensor:
        return alpha * ((x.mT if trans_a else x) @ (y.mT if trans_b else y))

    def build(g: Graph, x: Value, y: Value) -> Value:
        return g.matmul(x, y, trans_a=trans_a, trans_b=trans_b, alpha=alpha)

    assert_case(Case([a, b], build, reference, [not swapped, both or swapped]))


@pytest.mark.parametrize("trans_b", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_products_of_rows_equal_torch(trans_b: bool, alpha: float) -> None:
    def build(g: Graph, x: Value, w: Value, b: Value) -> Value:
        return g.gemm(x, w, b, trans_b=trans_b, alpha=alpha)

    def reference(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return alpha * (x @ (w.T if trans_b else w)) + b

    assert_case(Case([numbers(8, 5), numbers(3, 5) if trans_b else numbers(5, 3), numbers(3)], build, reference))


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
@pytest.mark.parametrize(("op", "reference"), [("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax)])
def test_softmax_along_any_dimension_equals_torch(op: str, reference: Reference, axis: int) -> None:
    assert_case(Case([numbers(2, 3, 4, 5)], lambda g, x: g.unary(op, x, axis=axis), lambda x: reference(x, axis)))


@pytest.mark.parametrize("shared", [1, 2])
def test_attention_whose_values_are_shared_by_heads_equals_torch(shared: int) -> None:
    """The short cut to the sums of rows holds for one value a weight only."""

    def build(g: Graph, z: Value, v: Value) -> Value:
        mixed = g.transpose(g.matmul(g.unary("Softmax", z, axis=-1), v), (0, 2, 1, 3))
        return g.unary("Tanh", g.reshape(mixed, (4, 2 * 3)))

    def reference(z: Tensor, v: Tensor) -> Tensor:
        return torch.tanh((z.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(8, 6))

    assert_case(Case([numbers(2, 2, 4, 5), numbers(2, shared, 5, 3)], build, reference, [True, True]))


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_layer_norms_over_the_last_dimensions_equal_torch(axis: int) -> None:
    shape = (2, 3, 4, 5)[axis:]

    def build(g: Graph, x: Value, gamma: Value, beta: Value) -> Value:
        return g.node("LayerNormalization", [x, gamma, beta], axis=axis, epsilon=1e-5)[0]

    def reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return functional.layer_norm(x, shape, gamma, beta, 1e-5)

    assert_case(Case([numbers(2, 3, 4, 5), numbers(*shape, seed=1), numbers(*shape, seed=2)], build, reference))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 3), (2, 3, 7)])
def test_batch_norms_with_fixed_statistics_equal_torch(shape: tuple[int, ...]) -> None:
    def build(g: Graph, *values: Value) -> Value:
        return g.node("BatchNormalization", values, epsilon=1e-3)[0]

    def reference(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.1, 1e-3)

    parameters = [numbers(3, seed=1), numbers(3, seed=2), numbers(3, seed=3), numbers(3, seed=4, positive=True)]
    assert_case(Case([numbers(*shape), *parameters], build, reference, wanted=(0, 1, 2)))


def test_group_norm_in_plain_operators_equals_torch() -> None:
    def build(g: Graph, x: Value) -> Value:
        rows = g.reshape(x, (1, 2, 2 * 5 * 3))
        centred = g.sub(rows, g.reduce("ReduceMean", rows, 2))
        variance = g.reduce("ReduceMean", g.mul(centred, centred), 2)
        root = g.unary("Sqrt", g.add(variance, g.constant(1e-5)))
        return g.reshape(g.div(centred, root), x.shape)

    assert_case(Case([numbers(2, 4, 5, 3)], build, lambda x: functional.group_norm(x, 2)))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"]), st.data())
def test_reductions_over_any_dimensions_equal_torch(op: str, data: st.DataObject) -> None:
    rank = data.draw(st.integers(2, 4))
    shape = (2, *(data.draw(st.integers(1, 4)) for _ in range(rank - 1)))
    first = 0 if op == "ReduceSum" else 1
    axes = data.draw(st.lists(st.integers(first, rank - 1), min_size=1, max_size=3, unique=True))
    keep = data.draw(st.booleans())
    functions = {"ReduceSum": torch.sum, "ReduceMean": torch.mean, "ReduceMax": torch.amax, "ReduceMin": torch.amin}
    reference = lambda x: functions[op](x, dim=axes, keepdim=keep)  # type: ignore[operator] # noqa: E731
    assert_case(Case([numbers(*shape)], lambda g, x: g.reduce(op, x, axes, keep=keep), reference))


def test_running_sums_equal_torch() -> None:
    build = lambda g, x: g.node("CumSum", [x, g.constant([2])])[0]  # noqa: E731
    assert_case(Case([numbers(2, 3, 5)], build, lambda x: x.cumsum(2)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_cuts_and_padding_in_several_dimensions_equal_torch(data: st.DataObject) -> None:
    shape = (2, *(data.draw(st.integers(2, 6)) for _ in range(data.draw(st.integers(1, 3)))))
    axes = data.draw(st.lists(st.integers(1, len(shape) - 1), min_size=1, unique=True))
    starts = [data.draw(st.integers(0, shape[a] - 1)) for a in axes]
    ends = [data.draw(st.integers(s + 1, shape[a])) for s, a in zip(starts, axes, strict=True)]
    steps = [data.draw(st.integers(1, 3)) for _ in axes]
    before, after = ({a: data.draw(st.integers(0, 2)) for a in axes} for _ in range(2))

    def build(g: Graph, x: Value) -> Value:
        return g.pad(g.slice(x, axes, starts, ends, steps=steps), before, after)

    def reference(x: Tensor) -> Tensor:
        for a, s, e, step in zip(axes, starts, ends, steps, strict=True):
            x = x[(slice(None),) * a + (slice(s, e, step),)]
        pads = [n for a in reversed(range(x.ndim)) for n in (before.get(a, 0), after.get(a, 0))]
        return functional.pad(x, pads) * 1.0

    assert_case(Case([numbers(*shape)], build, reference))


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (3,), (1, 3), (0, 1, 2, 3)])
def test_pieces_of_which_some_are_used_equal_torch(used: tuple[int, ...]) -> None:
    sizes = [1, 3, 2, 1]

    def build(g: Graph, x: Value) -> Value:
        parts = g.node("Split", [x, g.constant(sizes)], axis=1)
        return g.concat([g.unary("Tanh", parts[i]) for i in used], 1)

    def reference(x: Tensor) -> Tensor:
        parts = x.split(sizes, 1)
        return torch.cat([parts[i].tanh() for i in used], 1)

    assert_case(Case([numbers(2, 7, 3)], build, reference))


def test_a_piece_without_a_gradient_gets_zeros_also_where_it_is_infinite() -> None:
    """Zero times infinity would be no number."""
    x = numbers(2, 4, 3)
    x[:, 2:] = np.inf
    case = Case([x], lambda g, v: g.node("Split", [v, g.constant([2, 2])], axis=1)[0], lambda v: v[:, :2] * 1.0)
    assert_case(case)


@pytest.mark.parametrize(("shape", "repeats"), [((2, 1, 3), (1, 4, 1)), ((2, 2, 3), (1, 3, 2)), ((4, 5), (1, 1))])
def test_repetition_equals_torch(shape: tuple[int, ...], repeats: tuple[int, ...]) -> None:
    build = lambda g, x: g.node("Tile", [x, g.constant(list(repeats))])[0]  # noqa: E731
    assert_case(Case([numbers(*shape)], build, lambda x: x.repeat(*repeats)))


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 3, 1), (3, 5), (1,), ()])
def test_expansion_of_any_dimensions_and_over_the_batch_equals_torch(shape: tuple[int, ...]) -> None:
    def build(g: Graph, token: Value, like: Value) -> Value:
        size = g.node("Shape", [like], start=0, end=1)[0]
        wanted = g.concat([size, g.constant([3, 5])], 0)
        return g.add(g.node("Expand", [token, wanted])[0], like)

    case = Case([numbers(*shape), numbers(2, 3, 5, seed=1)], build, lambda t, x: t.expand(2, 3, 5) + x, [False, True])
    assert_case(case)


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_of_a_table_by_an_index_equal_torch(axis: int) -> None:
    """An index may name a row many times, or never."""
    index = np.array([0, 2, 2, 3, 0, 2], np.int64)

    def build(g: Graph, table: Value, x: Value) -> Value:
        return g.mul(x, g.node("Gather", [table, g.constant(index)], axis=axis)[0])

    def reference(table: Tensor, x: Tensor) -> Tensor:
        return x * table.index_select(axis, torch.from_numpy(index))

    shape = (6, 4) if axis == 0 else (5, 6)
    case = Case([numbers(5, 4), numbers(2, *shape, seed=1)], build, reference, [False, True])
    assert_case(case)


def test_gradients_are_added_to_what_was_there() -> None:
    case = Case([numbers(4, 5), numbers(3, 5)], lambda g, x, w: g.gemm(x, w, trans_b=True), functional.linear)
    upstream = numbers(4, 3)
    _, fresh = run(case, [1], upstream)
    _, added = run(case, [1], upstream, start=2.0)
    np.testing.assert_allclose(fresh[0], added[0], atol=1e-5)


def test_a_parameter_with_three_readers_gets_the_sum() -> None:
    def build(g: Graph, x: Value, w: Value) -> Value:
        once = g.gemm(x, w, trans_b=True)
        return g.add(g.gemm(g.unary("Tanh", once), w, trans_b=True), g.mul(x, g.reduce("ReduceSum", w, 0)))

    def reference(x: Tensor, w: Tensor) -> Tensor:
        return functional.linear(torch.tanh(functional.linear(x, w)), w) + x * w.sum(0, keepdim=True)

    assert_case(Case([numbers(4, 5), numbers(5, 5)], build, reference))


@pytest.mark.parametrize("rows", [1032, 3136, 12544])
def test_a_gradient_summed_over_thousands_of_rows_stays_exact(rows: int) -> None:
    inputs = [numbers(2 * rows, 8), numbers(8, seed=1)]
    case = Case(inputs, lambda g, x, b: g.add(x, b), lambda x, b: x + b, [True, False])
    upstream = np.full((2 * rows, 8), 0.1, np.float32)
    _, found = run(case, [1], upstream)
    np.testing.assert_allclose(found[0], upstream.sum(0, dtype=np.float64), rtol=3e-6)


def test_only_a_long_sum_is_written_in_two_levels() -> None:
    for shape, axes, nodes in (((197, 8), 0, 1), ((LONG_SUM, 8), 0, 1), ((1031, 8), 0, 1), ((3136, 8), 0, 3),
                               ((1, 56, 56, 8), (0, 1, 2), 2)):  # fmt: skip
        graph = Graph()
        summed = sum_rows(graph, graph.input("x", shape, batched=True), axes, keep=False)
        assert (len(graph.nodes), summed.shape, summed.batched) == (nodes, (8,), False), shape


# -- the table itself --------------------------------------------------------------------------------------------


def test_an_operator_that_is_not_in_the_table_is_an_error_by_its_name_everywhere() -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)
    with (
        g.serving("blocks.3.mixer"),
        pytest.raises(InputError, match=r"blocks\.3\.mixer: the operator Einsum is not known"),
    ):
        g.node("Einsum", [x])
    g.values["y"] = Value("y", (4, 5), True)
    g.nodes.append(Node("Einsum", ("x",), ("y",), component="blocks.3.mixer"))
    for measure in (flops_per_image, check):
        with pytest.raises(InputError, match=r"blocks\.3\.mixer.*Einsum is not known"):
            measure(g)
    with pytest.raises(InputError, match=r"Einsum is not known here\. Known: Abs, Add"):
        operator("Einsum")


def test_a_check_finds_shapes_that_were_declared_wrongly() -> None:
    g = Graph()
    x = g.input("x", (4, 6), batched=True)
    y = g.unary("Tanh", g.reshape(x, (8, 3)))
    g.output(y)
    check(g)
    g.values[y.name] = Value(y.name, (8, 4), True)
    with pytest.raises(ShapeError, match=r"Tanh gives Form\(shape=\(8, 3\), batched=True"):
        check(g)


def test_a_check_finds_values_that_are_read_before_they_are_made() -> None:
    g = Graph()
    a = g.unary("Tanh", g.input("x", (4, 6), batched=True))
    g.output(g.unary("Exp", a))
    g.nodes.reverse()
    with pytest.raises(ShapeError, match="is read before it is computed"):
        check(g)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g, x: g.reduce("ReduceMean", x, 0), "over the images there are sums only"),
        (lambda g, x: g.transpose(x, (1, 0)), "images stay in front"),
        (lambda g, x: g.slice(x, 0, 0, 2), "images, which do not mix"),
        (lambda g, x: g.concat([x, x], 0), "images, which do not mix"),
        (lambda g, x: g.unary("Softmax", x, axis=0), "images, which do not mix"),
        (lambda g, x: g.add(x, g.weight("w", (4, 5))), "does not go along with the images"),
        (lambda g, x: g.add(x, g.weight("w", (4,))), "do not broadcast"),
        (lambda g, x: g.node("Reshape", [x, g.constant([4, 5])])[0], "does not take the shape"),
        (lambda g, x: g.gemm(x, g.weight("w", (4, 4))), "do not multiply"),
    ],
)
def test_what_would_mix_images_or_does_not_fit_is_refused(build: Callable[[Graph, Value], Value], message: str) -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)
    with g.serving("blocks.0.attn"), pytest.raises(ShapeError, match=message) as caught:
        build(g, x)
    assert str(caught.value).startswith("blocks.0.attn: ")


def test_a_stated_shape_must_be_what_comes_out() -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)
    with pytest.raises(ShapeError, match="Tanh gives"):
        g.node("Tanh", [x], [(4, 6)])


def test_a_graph_prints_itself() -> None:
    g = Graph()
    x = g.input("x", (4, 5), batched=True)
    g.output(g.gemm(x, g.weight("w", (3, 5)), trans_b=True, name="y"))
    assert str(g).splitlines() == [
        "inputs: x(B·4×5)",
        "forward   y(B·4×3) = Gemm(x, w) transB=1",
        "outputs: y(B·4×3)",
    ]


def test_a_body_that_raises_leaves_the_graph_as_it_was() -> None:
    g = Graph()
    a = g.unary("Tanh", g.input("x", (4, 6), batched=True))
    g.output(g.unary("Exp", a))
    before = str(g)
    with pytest.raises(ZeroDivisionError), g.in_place_of(g.nodes[0]):
        g.scale(g.values["x"], 3.0)
        raise ZeroDivisionError
    assert str(g) == before
    check(g)


def test_long_constants_are_named_by_what_they_hold_and_shared() -> None:
    g = Graph()
    one, two, other = (g.constant(np.arange(n)) for n in (1000, 1000, 1001))
    assert one is two and other != one and len(one.name) < 60


def test_every_operator_with_a_kernel_of_its_own_runs(request: pytest.FixtureRequest) -> None:
    """Each row of the table is named in a test of this folder, so none is there that nothing has run."""
    told = " ".join(path.read_text() for path in request.path.parent.glob("test_*.py"))
    helpers = {"MatMul": "g.matmul", "Gemm": "g.gemm", "Add": "g.add", "Concat": "g.concat", "Transpose": "g.transpose"}
    helpers |= {"Slice": "g.slice", "Pad": "g.pad", "Reshape": "g.reshape", "Mul": "g.mul"}
    elsewhere = {"MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear", "ScatterElements", "Cast"}
    elsewhere |= {"Sign", "Floor", "Round", "Not", "GreaterOrEqual", "LessOrEqual", "Less", "Equal"}
    assert [
        n for n in OPERATORS if n not in elsewhere and f'"{n}"' not in told and helpers.get(n, "–") not in told
    ] == []
