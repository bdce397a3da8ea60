"""The score methods as users name them: what each measures, costs and needs, and which options go together.

Light enough to be asked before torch is loaded; the functions that compute are in :mod:`edgeplast.scoring.methods`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgeplast.errors import UsageError, one_of

GRANULARITIES = ("component", "head", "branch")


class MethodFacts(NamedTuple):
    """What a user should know of a score method.

    Attributes:
        explanation: what it measures, one line.
        cost: what it costs; a picture, a pair, or nothing.
        needs: ``nothing``, ``pictures`` or ``labels``.
        plain: whether only plain vision transformers have it.
    """

    explanation: str
    cost: str
    needs: str
    plain: bool = False


METHOD_FACTS: dict[str, MethodFacts] = {
    "plasticity": MethodFacts(
        "mean output change over input change between two pictures, at each component's true input",
        "2 forward passes a pair",
        "pictures",
    ),
    "plasticity-embedding": MethodFacts(
        "the paper's: every component of every block is fed the raw embedding, one denominator",
        "under 2 forward passes a pair",
        "pictures",
        plain=True,
    ),
    "plasticity-branch": MethodFacts(
        "plasticity with each norm folded into what follows: blind to how scale is split between them",
        "2 forward passes a pair",
        "pictures",
    ),
    "jacobian": MethodFacts(
        "mean norm of Jacobian-vector products over random directions; the identity scores 1",
        "about 3 forward passes a picture",
        "pictures",
    ),
    "bound": MethodFacts(
        "upper bound of plasticity: norms by token spread, linear layers by spectral norm, attention loosely",
        "2 forward passes a pair, one eigenvalue problem a weight",
        "pictures",
        plain=True,
    ),
    "rgn": MethodFacts(
        "relative gradient norm ‖g‖/‖θ‖ (surgical fine-tuning)",
        "forward + backward a picture",
        "labels",
    ),
    "snr": MethodFacts(
        "signal-to-noise ratio of the gradient over pictures, mean of ḡ²/(var g + 1e-8)",
        "forward + backward a picture, one at a time",
        "labels",
    ),
    "fisher": MethodFacts(
        "mean diagonal Fisher information, labels drawn from the model's own prediction",
        "2 forward + 1 backward a picture, one at a time",
        "pictures",
    ),
    "sensitivity": MethodFacts(
        "summed squared gradients over batches (SPT)",
        "forward + backward a picture",
        "labels",
    ),
    "elastic": MethodFacts(
        "loss that one trial step gains by each component, -Σ g·Δw (ElasticTrainer)",
        "2 × (forward + backward) a picture",
        "labels",
    ),
    "activation-fisher": MethodFacts(
        "½ (Σ activation·gradient)² of each output channel (TinyTrain)",
        "forward + backward a picture",
        "labels",
    ),
    "fps": MethodFacts(
        "mean |weight|·|input|",
        "1 forward pass a picture",
        "pictures",
    ),
    "weight-norm": MethodFacts(
        "root mean square weight, ‖W‖/√size",
        "none",
        "nothing",
    ),
    "cls-delta": MethodFacts(
        "how far the block moves the class token, ‖CLS_l - CLS_l-1‖² (ALaST)",
        "1 forward pass a picture",
        "pictures",
        plain=True,
    ),
    "random": MethodFacts(
        "chance, from the seed",
        "none",
        "nothing",
    ),
    "last-k": MethodFacts(
        "later blocks first",
        "none",
        "nothing",
    ),
    "first-k": MethodFacts(
        "earlier blocks first",
        "none",
        "nothing",
    ),
}
"""Method name to what it is, the default first."""


def check_scoring(methods: Sequence[str], pairs: int, granularity: str) -> None:
    """Raise unless these options of scoring mean something together.

    Raises:
        UsageError: an unknown method or granularity, or fewer than two pairs.
    """
    for name in methods:
        if name not in METHOD_FACTS:
            raise one_of("score method", name, tuple(METHOD_FACTS))
    if pairs < 2:
        raise UsageError(f"--pairs {pairs}: a standard error needs at least 2 pairs; 64 is the default.")
    if granularity not in GRANULARITIES:
        raise one_of("granularity", granularity, GRANULARITIES)
    if granularity == "branch" and set(methods) != {"plasticity-branch"}:
        raise UsageError(
            "Granularity 'branch' exists for the method plasticity-branch alone; given: "
            f"{', '.join(dict.fromkeys(methods))}."
        )
