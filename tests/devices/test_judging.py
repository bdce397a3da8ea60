"""Judging without labels: what a collapse looks like, and what recentring does to a linear head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeplast_devices.judging import judge
from edgeplast_devices.objectives import information
from edgeplast_devices.reheading import of_prototypes, recentred_bias


def test_variety_counts_the_classes_that_are_predicted() -> None:
    sure = 30 * np.eye(5, dtype=np.float32)
    assert judge(iter([sure])).variety == pytest.approx(5)
    assert judge(iter([sure[:2], sure[1:2], sure[:1]])).variety == pytest.approx(2)
    assert judge(iter([sure[:1]] * 4)).variety == pytest.approx(1)
    assert judge(iter([sure, sure])).images == 10


def test_the_same_answer_to_everything_is_a_collapse_however_sure() -> None:
    before = judge(iter([np.random.default_rng(0).normal(0, 2, (60, 4)).astype(np.float32)]))
    collapsed = judge(iter([np.tile(np.float32([9, 0, 0, 0]), (60, 1))]))
    surer = judge(iter([30 * np.eye(4, dtype=np.float32)[np.arange(60) % 4]]))
    assert collapsed.has_collapsed_since(before) and not surer.has_collapsed_since(before)
    assert surer.objective < before.objective < collapsed.objective + 2


def test_it_does_not_matter_how_pictures_were_batched() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (50, 6)).astype(np.float32)
    whole, parts = judge(iter([logits])), judge(iter(np.array_split(logits, 7)))
    assert parts.objective == pytest.approx(whole.objective, rel=1e-12) and parts.images == 50
    assert parts.objective == pytest.approx(information(logits)[0], rel=1e-9)


def test_logits_that_are_not_finite_say_nothing() -> None:
    found = judge(iter([np.float32([[np.nan, 1], [0, np.inf], [5, -5]])]))
    assert np.isfinite(found.objective) and 1 <= found.variety <= 2


def test_prototypes_point_where_their_features_lie() -> None:
    weight = np.asarray([[3.0, 0.0], [0.0, 1.0]])
    rows = of_prototypes(weight, [[np.asarray([0.0, 1.0])] * 3, []])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 2)  # as long as rows were on average
    np.testing.assert_allclose(rows[0] / 2, np.asarray([1, 3]) / np.sqrt(10))
    np.testing.assert_allclose(rows[1], [0, 2])  # no picture was called so


@given(seed=st.integers(0, 99), pictures=st.integers(1, 20), width=st.integers(1, 8), classes=st.integers(2, 5))
def test_recentring_is_what_subtracting_the_mean_feature_does(
    seed: int, pictures: int, width: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    features, weight = random.normal(1, 2, (pictures, width)), random.normal(size=(classes, width))
    bias = random.normal(size=classes)
    logits = features @ weight.T + bias
    expected = (features - features.mean(0)) @ weight.T + bias
    np.testing.assert_allclose(logits - bias + recentred_bias(bias, logits.mean(0)), expected, atol=1e-9)
