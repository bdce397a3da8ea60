"""Outliers moved into weights: the same function, found back in the layer before, and less error in 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from exporter_models import forward_graph, parameters, pictures, session_of, small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeplast.graphs.graph import Graph
from edgeplast_exporters.activation_ranges import choose_range, clipped_share, grid, product_error, quantized
from edgeplast_exporters.calibration import Sample, sample_inputs
from edgeplast_exporters.frozen_integers import fit_integers
from edgeplast_exporters.integer_products import integer_candidates
from edgeplast_exporters.smoothing import Smoothed, smooth

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_tiny_patch16_224", {}),
    "average pooling": ("vit_tiny_patch16_224", {"global_pool": "avg", "init_values": 0.3}),
    "no bias of qkv": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "norms of queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True, "scale_attn_norm": True}),
    "RMS norms and SwiGLU": ("vit_giant_patch14_dinov2", {"norm_layer": "rmsnorm"}),
}


def with_outliers(model: Any) -> Any:
    """As in pretrained transformers: some columns after a norm are far larger, or far from zero."""
    for block in model.blocks:
        for norm in (block.norm1, block.norm2):
            norm.weight.data[3] *= 30
            if getattr(norm, "bias", None) is not None:
                norm.bias.data[5] += 20
    return model


def smoothed(model: nn.Module) -> tuple[Graph, list[str], Smoothed]:
    graph, stored = forward_graph(model), parameters(model)
    weights = [n for n in integer_candidates(graph) if not n.startswith("head")]
    samples = sample_inputs(graph, stored, list(pictures(model, 6)), weights)
    return graph, weights, smooth(graph, stored, samples, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_the_same(kind: str) -> None:
    name, options = KINDS[kind]
    model = with_outliers(small(name, **options))
    graph, _, found = smoothed(model)
    images = pictures(model, 3, seed=5)
    own = {n: a / 1 for n, a in found.parameters.items()}
    for weight, divisor in found.divisors.items():  # what the graph divides by is put back here
        own[weight] = own[weight] / divisor
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    result = session_of(graph, own).run(None, {"images": images})[0]
    np.testing.assert_allclose(result, expected, atol=2e-4 * np.abs(expected).max())


def test_who_divides() -> None:
    _, weights, found = smoothed(with_outliers(small()))
    assert set(found.divisors) == {n for n in weights if ".fc2." in n}  # an activation function lies before
    _, weights, found = smoothed(with_outliers(small("vit_giant_patch14_dinov2", norm_layer="rmsnorm")))
    assert all(".fc2." in n for n in found.divisors)


def test_samples_are_of_what_is_read_afterwards() -> None:
    model = with_outliers(small())
    graph, weights, found = smoothed(model)
    own = {n: found.parameters[n] / found.divisors.get(n, np.float32(1)) for n in found.parameters}
    again = sample_inputs(graph, own, list(pictures(model, 6)), weights)
    for name in weights:
        read = again[name].divided(found.divisors.get(name, np.ones_like(again[name].low)))
        np.testing.assert_allclose(read.rows, found.samples[name].rows, atol=1e-3)


def test_the_parameters_given_are_not_changed() -> None:
    model = with_outliers(small())
    graph, stored = forward_graph(model), parameters(model)
    before = {n: a.copy() for n, a in stored.items()}
    weights = [n for n in integer_candidates(graph) if not n.startswith("head")]
    fit_integers(graph, stored, list(pictures(model, 8)), weights)
    for name, array in before.items():
        np.testing.assert_array_equal(stored[name], array)


def test_without_it_integers_are_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_outliers(small(depth=3))
    graph, stored = forward_graph(model), parameters(model)
    weights = [n for n in integer_candidates(graph) if not n.startswith("head")]
    images = list(pictures(model, 16))
    with_it = fit_integers(graph, stored, images, weights).error
    monkeypatch.setattr(
        "edgeplast_exporters.frozen_integers.smooth",
        lambda forward, parameters, samples, weights: Smoothed(dict(parameters), dict(samples), {}),
    )
    assert with_it < 0.75 * fit_integers(graph, stored, images, weights).error


# -- ranges -----------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 0), st.floats(0, 1e6), st.floats(-2e6, 2e6))
def test_rounding_is_to_the_nearest_step_within_the_range(low: float, high: float, x: float) -> None:
    scale, zero_point = grid(low, high)
    assert scale > 0 and 0 <= zero_point <= 255
    found = float(quantized(np.array([x], np.float32), scale, zero_point)[0])
    assert found == pytest.approx(round(found / scale) * scale, rel=1e-5)
    inside = min(max(x, -zero_point * scale), (255 - zero_point) * scale)
    assert abs(found - inside) <= 0.51 * scale + 1e-6 * abs(x)
    assert quantized(np.zeros(1, np.float32), scale, zero_point)[0] == 0


def sample_of(rows: np.ndarray) -> Sample:
    return Sample(rows, np.minimum(rows.min(axis=0), 0), np.maximum(rows.max(axis=0), 0))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(1, 200))
def test_no_range_tried_is_better_than_the_one_chosen(seed: int, outlier: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((64, 6), dtype=np.float32)
    rows[0, 0] = outlier
    matrix = rng.standard_normal((5, 6), dtype=np.float32)
    sample = sample_of(rows)
    chosen = product_error(rows, matrix, *choose_range(sample, [matrix]))
    whole = product_error(rows, matrix, *grid(float(sample.low.min()), float(sample.high.max())))
    assert chosen <= whole


def test_an_outlier_that_nobody_reads_is_clipped() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 4), dtype=np.float32)
    rows[0, 0] = 12
    matrix = rng.standard_normal((8, 4), dtype=np.float32)
    matrix[:, 0] = 0
    scale, zero_point = choose_range(sample_of(rows), [matrix])
    assert (255 - zero_point) * scale < 11
    assert 0 < clipped_share(rows, scale, zero_point) < 0.01


def test_activations_that_are_always_zero() -> None:
    assert choose_range(sample_of(np.zeros((8, 4), np.float32)), [np.ones((2, 4), np.float32)]) == (1.0, 0)
