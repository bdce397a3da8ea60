"""All score methods in one table: adding one is one function here and one line in :mod:`edgeplast.score_methods`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edgeplast.score_methods import METHOD_FACTS
from edgeplast.scoring import baselines, forward_rivals, gradients
from edgeplast.scoring.bound import bound
from edgeplast.scoring.jacobian import jacobian
from edgeplast.scoring.job import Estimate, Job
from edgeplast.scoring.plasticity import plasticity, plasticity_branch, plasticity_embedding


class Method(NamedTuple):
    """A score method.

    Attributes:
        function: computes the score of each unit.
        explanation: what it measures, one line.
        cost: what it costs; a picture, a pair, or nothing.
        needs: ``nothing``, ``pictures`` or ``labels``.
        plain: whether only plain vision transformers have it.
    """

    function: Callable[[Job], dict[str, Estimate]]
    explanation: str
    cost: str
    needs: str
    plain: bool = False


_FUNCTIONS: dict[str, Callable[[Job], dict[str, Estimate]]] = {
    "plasticity": plasticity,
    "plasticity-embedding": plasticity_embedding,
    "plasticity-branch": plasticity_branch,
    "jacobian": jacobian,
    "bound": bound,
    "rgn": gradients.rgn,
    "snr": gradients.snr,
    "fisher": gradients.fisher,
    "sensitivity": gradients.sensitivity,
    "elastic": gradients.elastic,
    "activation-fisher": gradients.activation_fisher,
    "fps": forward_rivals.fps,
    "weight-norm": baselines.weight_norm,
    "cls-delta": forward_rivals.cls_delta,
    "random": baselines.random,
    "last-k": baselines.last_k,
    "first-k": baselines.first_k,
}

METHODS: dict[str, Method] = {name: Method(_FUNCTIONS[name], *facts) for name, facts in METHOD_FACTS.items()}
"""Method name to method, the default first."""
