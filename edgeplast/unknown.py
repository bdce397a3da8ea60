"""The Unknown: below which energy a model says that it does not know what a picture shows.

Energy is the logarithm of the sum of exp(logit) over all classes: high where some class claims the picture, low where
none does (Liu et al., *Energy-based Out-of-distribution Detection*, arXiv 2010.03759, with the other sign).
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from edgeplast.documents import Count
from edgeplast.errors import InputError
from edgeplast.evaluation import wilson_interval

_LEAST = 20
_ROUNDING = 1e-9


class Unknown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A threshold, and what it was set on.

    Attributes:
        energy: of the logits as they are before a temperature, nats; a picture below it is unknown.
        false_alarms: share of the pictures that it was set on which lie below, though they show known classes.
        images: how many these were, none of them learned from.
        allowed: share of them that might have lain below.
    """

    energy: float
    false_alarms: Annotated[float, msgspec.Meta(ge=0, le=1)]
    images: Count
    allowed: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05

    def __post_init__(self) -> None:
        if not math.isfinite(self.energy):
            raise InputError("The energy below which a picture is unknown is no finite number.")

    @property
    def most_alarms(self) -> float:
        """Share of other known pictures that may lie below, at most: where Wilson's 95 % interval ends."""
        interval = wilson_interval(self.false_alarms * self.images, self.images)
        return interval[1] if interval else 1.0

    @property
    def wants(self) -> int:
        """How many pictures it takes to hold to what was allowed: so many that one of them may lie below."""
        return max(_LEAST, math.ceil(1 / self.allowed - _ROUNDING) if self.allowed else 0)

    @property
    def doubt(self) -> str:
        """What a user should know where it was set on too few pictures; empty where they were enough."""
        if self.images >= self.wants:
            return ""
        return (
            f"When the model does not know was fitted on {self.images} pictures alone: of other known ones up to "
            f"{self.most_alarms:.0%} may be called unknown, where {self.allowed:.3g} of them are allowed. Hold out "
            f"{self.wants} or more, of every class, and as they come by."
        )
