"""Paired differences in accuracy: two plans, the same held-out pictures, the same seeds; a confidence interval.

Two things vary: which pictures were held out, and which seed a run was given. The difference d[s, i] of picture i in
the runs of seed s is -1, 0 or 1. Over pictures the interval is Agresti and Min's for matched proportions (Statistics in
Medicine 2005; half a picture is added to each cell of the table of right and wrong, so that four pictures against none
do not pass for certain); over seeds the variance of the runs' means is added, with Student's t and the degrees of
freedom of Welch and Satterthwaite. The interaction of both is counted twice, so intervals err on the wide side. Of one
seed nothing tells how the next would differ, and the interval is that of the pictures alone.
"""

from __future__ import annotations

import math

import numpy as np

from edgeplast.comparison import Difference


def paired_difference(mine: np.ndarray, theirs: np.ndarray, confidence: float = 0.95) -> Difference:
    """Return the mean difference in accuracy and its confidence interval.

    Args:
        mine: (seeds, pictures) 1 where a picture was named right, 0 where not, NaN where it could not be read.
        theirs: the same of the other plan, by the same seeds on the same pictures.
        confidence: of the interval, between 0 and 1.
    """
    difference = np.asarray(mine, float) - np.asarray(theirs, float)
    difference = difference[:, np.isfinite(difference).all(axis=0)]
    seeds, pictures = difference.shape
    by_picture, by_seed = difference.mean(axis=0), difference.mean(axis=1)
    mean = float(by_picture.mean()) if pictures else 0.0
    count = pictures + 2
    middle = float(by_picture.sum()) / count
    of_pictures = ((float((by_picture**2).sum()) + 1) / count - middle**2) / count
    of_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 and pictures else 0.0
    variance = of_pictures + of_seeds
    freedom = variance**2 / (of_pictures**2 / (count - 1) + (of_seeds**2 / (seeds - 1) if of_seeds else 0.0))
    reach = student_quantile(0.5 + confidence / 2, freedom) * math.sqrt(variance)
    # The middle is drawn towards 0 a little; what was measured always lies within.
    low, high = min(middle - reach, mean), max(middle + reach, mean)
    return Difference(mean=mean, low=max(low, -1.0), high=min(high, 1.0), pictures=pictures, seeds=seeds)


def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t; scipy has it too, and the workstation need not have scipy.

    With t = √ν·tan θ the density becomes cos(θ)^(ν-1), which is smooth and ends at ±π/2.

    Args:
        probability: between 0.5 and 1, without 1.
        freedom: degrees of freedom, 1 or more.
    """
    theta = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(theta) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    at = float(np.interp(2 * probability - 1, area / area[-1], theta))
    return math.sqrt(freedom) * math.tan(at)
