"""Intervals of paired differences: what they say of known cases, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeplast.comparing.intervals import paired_difference, student_quantile


def test_the_quantile_is_students() -> None:
    t = pytest.importorskip("scipy.stats").t
    for freedom in (1.0, 1.7, 2.0, 5.3, 30.0, 1000.0):
        for probability in (0.6, 0.9, 0.975, 0.995):
            assert student_quantile(probability, freedom) == pytest.approx(t.ppf(probability, freedom), rel=1e-3)


def test_of_one_seed_it_is_the_adjusted_interval_for_matched_proportions() -> None:
    """Agresti and Min (2005): half a picture is added to each of the four cells, then Wald's interval."""
    t = pytest.importorskip("scipy.stats").t
    both, first, second, neither = 40, 12, 4, 4
    mine = np.repeat([1, 1, 0, 0], [both, first, second, neither])[None, :]
    theirs = np.repeat([1, 0, 1, 0], [both, first, second, neither])[None, :]
    found = paired_difference(mine, theirs)
    n = 62.0
    d = (first - second) / n
    error = np.sqrt((first + second + 1) / n - d**2) / np.sqrt(n)
    assert found.mean == pytest.approx(8 / 60)
    assert (found.low, found.high) == pytest.approx(
        (d - t.ppf(0.975, n - 1) * error, d + t.ppf(0.975, n - 1) * error), abs=1e-4
    )


def test_four_pictures_of_twenty_are_no_difference_and_ten_are() -> None:
    right = np.ones((1, 20))
    for wrong, shown in ((4, False), (10, True)):
        other = right.copy()
        other[0, :wrong] = 0
        assert (paired_difference(other, right).high < 0) is shown


def test_pictures_that_one_could_not_read_do_not_count() -> None:
    mine, theirs = np.array([[1.0, np.nan, 0.0, 1.0]]), np.array([[1.0, 0.0, np.nan, 0.0]])
    found = paired_difference(mine, theirs)
    assert (found.pictures, found.seeds, found.mean) == (2, 1, 0.5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrays(np.int8, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 30)), elements=st.integers(0, 1)),
    st.sampled_from([0.9, 0.95, 0.999]),
)
def test_it_is_antisymmetric_and_holds_what_was_measured(right: np.ndarray, confidence: float) -> None:
    forth, back = (paired_difference(*pair, confidence) for pair in ((right[0], right[1]), (right[1], right[0])))
    assert -1 <= forth.low <= forth.mean <= forth.high <= 1
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert forth.mean == pytest.approx(float(right[0].mean() - right[1].mean()))


@pytest.mark.parametrize(("seeds", "pictures"), [(1, 40), (2, 60), (5, 60)])
def test_it_holds_the_truth_as_often_as_it_says(seeds: int, pictures: int) -> None:
    """Pictures are hard or easy for both, and each run of each plan has a luck of its own."""
    rng, held, runs, gap = np.random.default_rng(0), 0, 300, 0.1
    for _ in range(runs):
        ease = rng.normal(0.8, 0.25, pictures)
        luck = rng.normal(0, 0.0 if seeds == 1 else 0.04, (2, seeds, 1))
        chance = np.clip(ease + luck + np.array([[[0.0]], [[-gap]]]), 0, 1)
        right = (rng.random((2, seeds, pictures)) < chance).astype(float)
        truth = (
            np.clip(rng.normal(0.8, 0.25, 100_000) + 0, 0, 1).mean()
            - np.clip(rng.normal(0.8, 0.25, 100_000) - gap, 0, 1).mean()
        )
        found = paired_difference(right[0], right[1])
        held += found.low <= truth <= found.high
    assert held / runs >= 0.93
