"""Kendall's tau against scipy, closed cases and simulated coverage of its interval; the training-cost formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeplast.reporting.agreement import agreement, kendall_tau
from edgeplast.scores import ComponentScore


def test_tau_by_hand() -> None:
    # (1,2,3,4) against (1,3,2,4): five pairs agree, one does not.
    assert kendall_tau(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])).tau == pytest.approx(4 / 6)
    assert kendall_tau(np.arange(9), -np.arange(9)) == (-1, -1, -1, 9)
    # ties: of three pairs one is tied in the first, so tau-b = 2 / sqrt(2 · 3)
    assert kendall_tau(np.array([1, 1, 2]), np.array([1, 2, 3])).tau == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau(np.array([1, 1, 2]), np.array([1, 2, 3]))[1:3] == (-1, 1)
    assert math.isnan(kendall_tau(np.ones(6), np.arange(6)).tau)


def test_tau_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 12, size=30), rng.normal(size=30)
        assert kendall_tau(a, b).tau == pytest.approx(stats.kendalltau(a, b).statistic)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Normal pairs with correlation r have tau = 2/π·asin r."""
    rng, truth, hits = np.random.default_rng(0), 2 / math.pi * math.asin(0.6), 0
    for _ in range(400):
        x = rng.normal(size=60)
        found = kendall_tau(x, 0.6 * x + 0.8 * rng.normal(size=60))
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def test_only_components_that_both_score_count() -> None:
    first = {f"blocks.{i}.attn": ComponentScore(score=i, parameters=1) for i in range(8)}
    second = {f"blocks.{i}.attn": ComponentScore(score=-i, parameters=1) for i in range(2, 8)}
    assert agreement(first, second)[::3] == (-1, 6)
