"""What decides a plan beside scores, budget and strategy: the further keyword arguments of planning, by type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from edgeplast.progress import Progress


class Settings(TypedDict, total=False):
    """Arguments of :func:`edgeplast.planning.plan`, with the defaults that it has."""

    method: str | None
    optimizer: str
    batch_size: int
    micro_batch_size: int | None
    weight_bits: int
    component_weight_bits: Mapping[str, int] | None
    classes: int | Sequence[str] | None
    flops_per_second: float
    progress: Progress
