"""Moves outliers from activations into weights, so that one range serves a whole activation.

Changes neither the graph nor the parameters it is given: it returns new parameters of the same function. Where a
column of an input x lies far from zero or is larger than the others, all columns get a range that only this one needs.
So columns are shifted and divided, x̃ = (x − c)/s, and what reads them takes it back: W·x = (W·S)·x̃ + W·c. Dividing is
SmoothQuant (Xiao et al. 2022, arXiv 2211.10438, equation 4: s = max|x|^α / max|W|^(1−α)), shifting is Outlier
Suppression+ (Wei et al. 2023, arXiv 2304.09145: c is the middle of a column's range); α is tried for each product. It
costs nothing where a frozen layer before can do it:

* a norm, in its scale and shift (before qkv, fc1, and a projection or fc2 with a norm before it);
* the values of the attention, in the rows of qkv's matrix and bias, since attention only averages them (before proj);
* elsewhere, after an activation function (before fc2), nobody can: the graph multiplies by 1/s, and nothing is shifted.

What would break it: a layer between that is not linear in each column. The pattern is looked for in the graph, and
where it is not found the graph divides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeplast.components import EMBED
from edgeplast.graphs.graph import Graph, Node
from edgeplast_exporters.activation_ranges import grid, product_error
from edgeplast_exporters.calibration import Sample
from edgeplast_exporters.quantization import quantize_rows

_ALPHAS = (0.0, 0.5, 0.65, 0.8)
"""How much of an outlier moves into the weight; with 0 columns are only made as wide as the weights ask for."""

_ROWS = 256
"""Sampled rows that divisors are compared on."""

_MOST = 100.0
"""Columns are multiplied or divided by no more than this."""


@dataclass(frozen=True)
class Smoothed:
    """A model of the same function whose activations have fewer outliers.

    Attributes:
        parameters: of the model, new arrays where they changed.
        samples: what the products read now.
        divisors: weight name to what the graph itself must divide its input by, where nothing before can.
    """

    parameters: dict[str, np.ndarray]
    samples: dict[str, Sample]
    divisors: dict[str, np.ndarray]


def smooth(
    forward: Graph, parameters: Mapping[str, np.ndarray], samples: Mapping[str, Sample], weights: Sequence[str]
) -> Smoothed:
    """Move outliers of what some matrices read into these matrices.

    Args:
        forward: the forward graph; not changed.
        parameters: of the model; not changed.
        samples: what each matrix reads, before.
        weights: matrices to smooth, all frozen, as is everything before them.
    """
    result = Smoothed(dict(parameters), dict(samples), {})
    before = _Before(forward)
    wanted = set(weights)
    products = [n for n in forward.nodes if n.op == "Gemm" and n.inputs[1] in wanted and n.component != EMBED]
    for value in dict.fromkeys(n.inputs[0] for n in products):
        own = [n for n in products if n.inputs[0] == value]
        maker = before.maker(value) if len(before.readers[value]) == len(own) else None
        sample, matrices = result.samples[own[0].inputs[1]], [result.parameters[n.inputs[1]] for n in own]
        shift = np.zeros_like(sample.low)
        if maker is not None and maker.can_shift and all(_bias(n) for n in own):
            shift = (sample.low + sample.high) / 2
        divisor = _best_divisor(sample.shifted(shift), matrices)
        if maker is not None:
            maker.change(result.parameters, shift, divisor)
        for node in own:
            weight = node.inputs[1]
            if maker is None:
                result.divisors[weight] = divisor
            elif shift.any():
                bias, matrix = result.parameters[node.inputs[2]], result.parameters[weight]
                result.parameters[node.inputs[2]] = (bias + matrix.astype(np.float64) @ shift).astype(np.float32)
            result.parameters[weight] = result.parameters[weight] * divisor
            result.samples[weight] = result.samples[weight].shifted(shift).divided(divisor)
    return result


def _best_divisor(sample: Sample, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return the divisor whose rounding of activation and weights costs the products least."""
    matrix = np.concatenate(list(matrices))
    tried = [np.ones_like(sample.low), *(_divisor(sample, matrices, alpha) for alpha in _ALPHAS)]
    return min(tried, key=lambda divisor: _cost(sample.divided(divisor), matrix * divisor))


def _cost(sample: Sample, matrix: np.ndarray) -> float:
    """Return the squared error of a product over some rows, with the whole range of its input."""
    rows = sample.rows[:: -(-len(sample.rows) // _ROWS)]
    quantized, scale = quantize_rows(matrix)
    by_weights = rows @ (quantized * scale[:, None] - matrix).T
    whole = grid(float(min(sample.low.min(), 0)), float(max(sample.high.max(), 0)))
    return product_error(rows, matrix, *whole) + float(np.square(by_weights).sum(dtype=np.float64))


def _divisor(sample: Sample, matrices: Sequence[np.ndarray], alpha: float) -> np.ndarray:
    """Return max|x|^α / max|W|^(1−α) of each column, around 1; one never read or always 0 is left alone."""
    activation = np.maximum(sample.high, -sample.low).astype(np.float64)
    weight = np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0).astype(np.float64)
    used = (activation > 0) & (weight > 0)
    ratio = np.ones(len(activation), np.float64)
    ratio[used] = activation[used] ** alpha / weight[used] ** (1 - alpha)
    if used.any():
        ratio[used] /= np.median(ratio[used])
    return np.clip(ratio, 1 / _MOST, _MOST).astype(np.float32)


@dataclass(frozen=True)
class _Maker:
    """Parameters that make the columns of a value: scale (or last rows of a matrix), and shift where there is one."""

    scale: str
    shift: str | None

    @property
    def can_shift(self) -> bool:
        return self.shift is not None

    def change(self, parameters: dict[str, np.ndarray], shift: np.ndarray, divisor: np.ndarray) -> None:
        """Make the value come out as (value − shift) / divisor."""
        columns = len(divisor)
        scale = parameters[self.scale].copy()
        scale[-columns:] /= divisor if scale.ndim == 1 else divisor[:, None]
        parameters[self.scale] = scale
        if self.shift is not None:
            added = parameters[self.shift].copy()
            added[-columns:] = (added[-columns:] - shift) / divisor
            parameters[self.shift] = added


class _Before:
    """Finds the parameters that make the columns of a value."""

    def __init__(self, graph: Graph) -> None:
        self.weights = set(graph.weights)
        self.values = graph.values
        self.producers = graph.producers()
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)

    def maker(self, value: str) -> _Maker | None:
        """Return who can shift and divide a value, or None: a norm, or the values before an average."""
        node = self.producers[value]
        if node.op == "LayerNormalization":
            return _Maker(node.inputs[1], _bias(node))
        if node.op == "Mul" and node.inputs[1] in self.weights:
            columns = self.values[value].shape[-1:]
            return _Maker(node.inputs[1], None) if self.values[node.inputs[1]].shape == columns else None
        product = self._values_of_attention(node)
        if product is None:
            return None
        return _Maker(product.inputs[1], _bias(product))

    def _values_of_attention(self, node: Node) -> Node | None:
        """Return the qkv product whose values ``node`` puts back in rows after averaging, if that is what it does."""
        path = (("Reshape", 0), ("Transpose", 0), ("MatMul", 1), ("Split", 0), ("Transpose", 0), ("Reshape", 0))
        made = node.outputs[0]
        for op, operand in path:
            step = self.producers.get(made)
            if step is None or step.op != op or (step is not node and len(self.readers[made]) > 1):
                return None
            if op == "Split" and (len(step.outputs) != 3 or step.outputs[2] != made):
                return None
            made = step.inputs[operand]
        product = self.producers.get(made)
        alone = product is not None and product.op == "Gemm" and len(self.readers[made]) == 1
        return product if alone else None


def _bias(node: Node) -> str | None:
    return (node.inputs[2] or None) if len(node.inputs) > 2 else None
