"""Count, mean and M2 of every component's score at once, and whether more samples would change the ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SAMPLES = 32
"""No ranking counts as settled on fewer samples: their standard errors are themselves uncertain by 13 %."""

SETTLED = 0.98
"""A ranking has settled when its expected Kendall tau with the ranking of infinitely many samples is this."""


@dataclass(frozen=True)
class Moments:
    """Running count, mean and sum of squared deviations (M2) of C quantities, float64 (C,) each.

    Merging two of them gives the moments of all samples together, whatever way they were split (Chan, Golub
    and LeVeque 1979), so memory does not grow with the number of samples.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Return the moments of samples (S, C); NaN entries are missing and count for nothing."""
        values = np.asarray(values, dtype=np.float64)
        present = ~np.isnan(values)
        count = present.sum(axis=0).astype(np.float64)
        mean = np.where(present, values, 0).sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, np.where(present, (values - mean) ** 2, 0).sum(axis=0))

    @classmethod
    def none(cls, width: int) -> Moments:
        """Return the moments of no samples of ``width`` quantities."""
        return cls(np.zeros(width), np.zeros(width), np.zeros(width))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both sets of samples together."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        step = other.mean - self.mean
        return Moments(count, self.mean + step * share, self.m2 + other.m2 + step * step * self.count * share)

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error of the mean, (C,): sqrt(M2 / (n - 1) / n); 0 for fewer than two samples."""
        n = self.count
        return np.where(n > 1, np.sqrt(self.m2 / np.maximum(n - 1, 1) / np.maximum(n, 1)), 0.0)


NEGLIGIBLE = 0.02
"""Two scores this close, relative to the larger one, may stand in either order: no plan would care."""


def expected_tau(mean: np.ndarray, standard_error: np.ndarray, negligible: float = NEGLIGIBLE) -> float:
    """Expected Kendall tau between a measured ranking and the one of infinitely many samples.

    Two components whose means differ by d with standard error s are in the right order, or swapped by no more
    than t, with probability Φ((d + t)/s) (normal approximation, errors taken as independent), so they add
    2Φ((d + t)/s) - 1 = erf((d + t) / (s√2)). Errors over the same pairs correlate positively in practice,
    which makes this cautious.

    Args:
        mean: (C,) scores.
        standard_error: (C,) of the scores.
        negligible: t as a fraction of the larger of the two scores.
    """
    i, j = np.triu_indices(len(mean), k=1)
    if not len(i):
        return 1.0
    difference = np.abs(mean[i] - mean[j]) + negligible * np.maximum(np.abs(mean[i]), np.abs(mean[j]))
    error = np.sqrt(standard_error[i] ** 2 + standard_error[j] ** 2)
    certain = np.where(difference > 0, np.inf, 0.0)
    ratio = np.where(error > 0, difference / np.where(error > 0, error, 1), certain)
    return float(np.mean([math.erf(r / math.sqrt(2)) for r in ratio]))


def settled(moments: Moments) -> bool:
    """Whether more samples would hardly change the ranking (see :data:`SETTLED`)."""
    if moments.count.min(initial=np.inf) < LEAST_SAMPLES:
        return False
    return expected_tau(moments.mean, moments.standard_error) >= SETTLED


def notes_on(method: str, names: Sequence[str], moments: Moments, limit: int, what: str) -> list[str]:
    """Return what a reader should know of a score: that it stopped early, which components gave no evidence.

    Args:
        method: name of the score.
        names: C component names.
        moments: of the samples of each.
        limit: the most samples there could be.
        what: a sample is, in the plural.
    """
    seen, notes = int(moments.count.max(initial=0)), []
    if seen < limit:
        notes.append(f"{method}: the ranking had settled after {seen} of {limit} {what}.")
    idle = [name for name, count in zip(names, moments.count, strict=True) if count == 0]
    if idle:
        notes.append(f"{method}: the input of {', '.join(idle)} was the same for all pictures; scored 0.")
    return notes
