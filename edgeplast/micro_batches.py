"""What small micro-batches cost in time: the one price that the planner and the device's ladder reckon with."""

from __future__ import annotations

_TIME_PER_IMAGE = {1: 1.45, 2: 1.15, 3: 1.15}
"""Relative to micro-batches of 4 and more, which all take the same; measured on ViT-Tiny (2 cores). Matrix
products over so few rows do not fill the cores."""


def slowdown(micro_batch: int) -> float:
    """Return the time per image at a micro-batch over that at 4 and more."""
    return _TIME_PER_IMAGE.get(micro_batch, 1.0)
