"""How small a pruned model shall be (multiply–accumulates, bytes or time, exactly one of them), and in which steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeplast.errors import UsageError, one_of
from edgeplast.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from edgeplast.compression.costs import Costs

IMPORTANCES = {
    "taylor": "how far the features move when a unit goes, to first order, on pictures",
    "magnitude": "the squares of a unit's weights, without pictures",
}
"""torch-pruning's importances that can be asked for."""


def check_importance(kind: str) -> None:
    """Raise unless there is such an importance.

    Raises:
        UsageError: there is none.
    """
    if kind not in IMPORTANCES:
        raise one_of("importance", kind, tuple(IMPORTANCES))


def check_rounds(steps: int, distill_steps: int) -> None:
    """Raise unless so many rounds of pruning and steps of distillation can be done.

    Raises:
        UsageError: there is no round, or less than no step.
    """
    if steps < 1 or distill_steps < 0:
        raise UsageError(f"--prune-steps {steps} must be 1 or more, --distill-steps {distill_steps} 0 or more.")


def check_ratio(name: str, ratio: float) -> None:
    """Raise unless such a share of a component can be taken out.

    Raises:
        UsageError: it is below 0, or all of it, or no number.
    """
    if not 0 <= ratio < 1:
        raise UsageError(
            f"--ratio {name}={ratio:g}: the share to take out must be 0 or more and below 1, e.g. {name}=0.5."
        )


@dataclass(frozen=True)
class Target:
    """One of four.

    Attributes:
        keep: fraction of the multiply–accumulates, above 0 and below 1.
        macs: multiply–accumulates of one image.
        size_bytes: of the weights as float32.
        latency_seconds: of one image on this machine.
    """

    keep: float | None = None
    macs: int | None = None
    size_bytes: int | None = None
    latency_seconds: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("keep", "macs", "size_bytes", "latency_seconds") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"Say how small the model shall be in one way; {len(given)} were given. One of: --keep 0.7 (of the "
                "multiply–accumulates), --macs 800M, --size 16MiB, --latency 15ms."
            )
        if self.keep is not None and not 0 < self.keep < 1:
            raise UsageError(
                f"A fraction of {self.keep:g} cannot be kept; give one between 0 and 1, e.g. 0.7 for 70 % of the work."
            )
        for name in ("macs", "size_bytes", "latency_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"A target of {value:g} {name} cannot be reached; give a positive number.")

    def __str__(self) -> str:
        if self.keep is not None:
            return f"{self.keep:.0%} of the multiply–accumulates"
        if self.macs is not None:
            return f"{format_count(self.macs)} multiply–accumulates"
        if self.size_bytes is not None:
            return f"{format_bytes(self.size_bytes)} of weights"
        assert self.latency_seconds is not None
        return f"{format_seconds(self.latency_seconds)} an image"

    @property
    def by_size(self) -> bool:
        """Whether parameters are counted; else multiply–accumulates are."""
        return self.size_bytes is not None

    def units(self, costs: Costs) -> dict[str, int]:
        """Return component to what one unit costs in what is counted: bytes or multiply–accumulates."""
        if self.by_size:
            return {name: 4 * parameters for name, parameters in costs.unit_parameters.items()}
        return costs.unit_macs

    def whole(self, costs: Costs) -> int:
        """Return what the whole model costs in what is counted."""
        return 4 * costs.parameters if self.by_size else costs.macs

    def wanted(self, costs: Costs) -> float:
        """Return what may be left, in what is counted; a latency is not known before it is measured.

        Raises:
            UsageError: the model has no more than that already.
        """
        if self.keep is not None:
            return self.keep * costs.macs
        limit = self.macs if self.macs is not None else self.size_bytes
        assert limit is not None
        if limit >= self.whole(costs):
            raise UsageError(f"The model has {self.shown(costs)} already, no more than the {self} asked for.")
        return float(limit)

    def shown(self, costs: Costs) -> str:
        """Return what a model costs, in words."""
        if self.by_size:
            return f"{format_bytes(4 * costs.parameters)} of weights"
        return f"{format_count(costs.macs)} multiply–accumulates"
