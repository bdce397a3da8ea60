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


class Unknown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A threshold, and what it was set on.

    Attributes:
        energy: of the logits as they are before a temperature, nats; a picture below it is unknown.
        false_alarms: share of the pictures that it was set on which lie below, though they show known classes.
        images: how many these were, none of them learned from.
    """

    energy: float
    false_alarms: Annotated[float, msgspec.Meta(ge=0, le=1)]
    images: Count

    def __post_init__(self) -> None:
        if not math.isfinite(self.energy):
            raise InputError("The energy below which a picture is unknown is no finite number.")
