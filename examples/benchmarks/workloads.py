"""What benchmarks train, by name; pictures of noise; what a step takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEVEN = (
    "swin_tiny_patch4_window7_224", "convnext_atto", "mobilevit_xxs", "tiny_vit_5m_224", "efficientnet_b0", "resnet18",
    "vit_small_patch16_dinov3",
)  # fmt: skip
"""Models that are not plain vision transformers, one of each kind."""


def wanted(outline: Any, train: str) -> str:
    """Return a pattern of ``Outline.select``; ``last-quarter`` is the last quarter of the blocks."""
    if train != "last-quarter":
        return train
    return f"blocks:{outline.blocks - max(outline.blocks // 4, 1)}-{outline.blocks - 1}"


def write_pictures(folder: Path, classes: tuple[str, ...], size: int = 256) -> None:
    """Write pictures of noise, 20 a class to train and some to validate and test, as a camera might send."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8), ("test", 4)):
        for label in classes:
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((size, size)).save(folder / split / label / f"{i}.jpg")


WARM_UP = 2
SLOW = 1.5


def timed(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Take steps after two to warm up; return the peak of the process, and how long steps took.

    A slow step is one of more than ``SLOW`` times the fastest: the machine's doing, not the graph's.
    """
    seconds = []
    for i in range(WARM_UP + steps):
        start = time.perf_counter()
        step()
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return {
        "peak_bytes": _peak_bytes(),
        "step_seconds": statistics.median(seconds),
        "fastest_step_seconds": min(seconds),
        "slow_share": sum(each > SLOW * min(seconds) for each in seconds) / len(seconds),
    }


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("VmHWM needs Linux")
