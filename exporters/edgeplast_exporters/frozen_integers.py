"""How frozen matrices compute in integers: samples, smoothing, ranges and a correction of the mean, put together.

Changes nothing it is given. What comes out is another set of parameters, of the same function in float32, and the way
each product reads its input. Rounding shifts the mean of what is computed; the shift is measured on the calibration
images and taken off the bias (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeplast.contract import factor_name, matrix_name, scale_name
from edgeplast.errors import InputError
from edgeplast.graphs.graph import Graph
from edgeplast.progress import Progress, silent
from edgeplast_exporters.activation_ranges import choose_range, clipped_share, quantized
from edgeplast_exporters.calibration import run_float, sample_inputs
from edgeplast_exporters.integer_products import (
    IntegerProduct,
    compute_in_integers,
    float_matrix,
    input_factor,
    quantize_columns,
)
from edgeplast_exporters.smoothing import smooth

HELD_OUT_SHARE = 4
"""One image in so many is not calibrated on, but measured with."""

_WORST_ERROR = 0.7
"""Relative error of the features above which integer arithmetic counts as failed."""


@dataclass(frozen=True)
class FrozenIntegers:
    """A model some of whose products are integer arithmetic.

    Attributes:
        parameters: every parameter, float32; matrices of integer products as they are dequantized.
        products: weight name to how its product reads its input.
        stored: what the graphs read in place of those matrices, by name.
        error: of what the last integer product's block hands on, root mean square relative to its deviation,
            on images that were not calibrated on.
        clipped_share: of the values read, the share outside their range, on the calibration images.
    """

    parameters: dict[str, np.ndarray]
    products: dict[str, IntegerProduct]
    stored: dict[str, np.ndarray]
    error: float
    clipped_share: float


def fit_integers(
    forward: Graph,
    parameters: Mapping[str, np.ndarray],
    images: Sequence[np.ndarray],
    weights: Sequence[str],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> FrozenIntegers:
    """Find out how some frozen matrices multiply in integers.

    Args:
        forward: the forward graph of the model.
        parameters: of the model, float32.
        images: preprocessed pictures, float32 (3, H, W) each, in random order; a quarter is only measured with.
        weights: matrices from ``integer_candidates``.
        seed: of the rows sampled.
        progress: told of each image.

    Raises:
        InputError: too few images, or the integers have little in common with the model.
    """
    held_out = len(images) // HELD_OUT_SHARE
    samples = sample_inputs(
        forward, parameters, images[: len(images) - held_out], weights, seed=seed, progress=progress
    )
    smoothed = smooth(forward, parameters, samples, weights)
    result = dict(smoothed.parameters)
    biases = {n.inputs[1]: n.inputs[2] for n in forward.nodes if n.op == "Gemm" and len(n.inputs) > 2 and n.inputs[2]}
    products: dict[str, IntegerProduct] = {}
    stored: dict[str, np.ndarray] = {}
    clipped = []
    for done, weight in enumerate(weights):
        progress("choosing integer ranges", done, len(weights))
        sample, matrix = smoothed.samples[weight], result[weight]
        scale, zero_point = choose_range(sample, [matrix])
        products[weight] = IntegerProduct(scale, zero_point, smoothed.divisors.get(weight))
        integers, scales = quantize_columns(matrix)
        result[weight] = float_matrix(integers, scales)
        stored |= {matrix_name(weight): integers, scale_name(weight): scales}
        if weight in smoothed.divisors:
            stored[factor_name(weight)] = input_factor(smoothed.divisors[weight])
        if weight in biases:
            read = quantized(sample.rows, scale, zero_point).mean(axis=0, dtype=np.float64)
            meant = sample.rows.mean(axis=0, dtype=np.float64)
            shift = meant @ matrix.T.astype(np.float64) - read @ result[weight].T.astype(np.float64)
            result[biases[weight]] = (result[biases[weight]] + shift).astype(np.float32)
        clipped.append(clipped_share(sample.rows, scale, zero_point))
    progress("choosing integer ranges", len(weights), len(weights))
    found = FrozenIntegers(result, products, stored, 0.0, float(np.mean(clipped)))
    error = _error(forward, parameters, found, images[len(images) - held_out :])
    return FrozenIntegers(result, products, stored, error, found.clipped_share)


def _error(
    forward: Graph, parameters: Mapping[str, np.ndarray], found: FrozenIntegers, images: Sequence[np.ndarray]
) -> float:
    """Compare what the last integer product's component makes with float32, on images not calibrated on."""
    weight = list(found.products)[-1]
    last = next(n.component for n in forward.nodes if weight in n.inputs)
    name = next(n.outputs[0] for n in reversed(forward.nodes) if n.component == last)
    exact = _stacked(run_float(forward, parameters, images, [name]))
    graph = compute_in_integers(forward, found.products)
    rounded = _stacked(run_float(graph, {**found.parameters, **found.stored}, images, [name]))
    error = float(np.sqrt(np.square(rounded - exact).mean() / exact.var()))
    if not error <= _WORST_ERROR:
        raise InputError(
            f"Integer arithmetic up to {last} changes what it computes by {error:.0%} on images it was not calibrated "
            "on. Use --frozen-compute fp32, or give more images of the kind the device will see."
        )
    return error


def _stacked(runs: object) -> np.ndarray:
    return np.stack([found[0] for found in runs])  # type: ignore[attr-defined]
