"""The learning rates of a fleet: what ``adapt`` would choose for this bundle, falling to 0 over the rounds."""

from __future__ import annotations

import msgspec

from edgeplast.bundle import Bundle
from edgeplast.fleet.settings import Settings
from edgeplast_devices.options import default_head_learning_rate, default_learning_rate
from edgeplast_devices.schedules import learning_rate
from edgeplast_devices.weights import head_is_new


class Rates(msgspec.Struct, frozen=True):
    """Learning rates.

    Attributes:
        peak: of the first round.
        head: of the head then.
        rounds: over which both fall.
    """

    peak: float
    head: float
    rounds: int

    @classmethod
    def of(cls, bundle: Bundle, settings: Settings) -> Rates:
        """Return those of a fleet that starts from this bundle."""
        plan = bundle.manifest.plan
        trained = {*bundle.manifest.tiers[0].components}
        parts = (c for c in plan.outline.components if c.name in trained)
        peak = settings.learning_rate or default_learning_rate(parts, plan.optimizer)
        head = default_head_learning_rate(peak, plan.optimizer, new=head_is_new(bundle))
        return cls(peak, head, settings.rounds)

    def at(self, number: int) -> tuple[float, float]:
        """Return both in a round, which is counted from 1."""
        share = learning_rate(number - 1, self.rounds, peak=1.0, warmup_steps=0, schedule="cosine")
        return self.peak * share, self.head * share
