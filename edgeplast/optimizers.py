"""The optimizers that a device offers: one record each, for planner, exporter, device and command line alike.

A new one is a record here and a class of its name in ``edgeplast_devices/optimizers.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeplast.errors import one_of


@dataclass(frozen=True)
class OptimizerFacts:
    """What everybody but the update itself needs to know of an optimizer.

    Attributes:
        slots: arrays of a parameter's size that it keeps of each, by name; a checkpoint has them under
            ``<slot>/<parameter>``.
        rate_factor: its learning rate over AdamW's, by default.
        weight_decay: of matrices, by default.
    """

    slots: tuple[str, ...]
    rate_factor: float
    weight_decay: float


OPTIMIZERS: dict[str, OptimizerFacts] = {
    "adamw": OptimizerFacts(slots=("mean", "square"), rate_factor=1.0, weight_decay=0.05),
    "sgd": OptimizerFacts(slots=("momentum",), rate_factor=30.0, weight_decay=0.0),
}
"""Name to record, the default first."""

DEFAULT_OPTIMIZER = next(iter(OPTIMIZERS))

IN_WORDS = " or ".join(OPTIMIZERS)
"""For help and messages."""


def optimizer_facts(name: str) -> OptimizerFacts:
    """Return an optimizer's record.

    Raises:
        UsageError: there is no such optimizer; the message names those there are.
    """
    if name not in OPTIMIZERS:
        raise one_of("optimizer", name, tuple(OPTIMIZERS))
    return OPTIMIZERS[name]
