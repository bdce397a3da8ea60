"""Run a training graph once in an arena that may not grow, as a device does; exit with 4 where it does not fit.

python arena_run.py GRAPH MICRO_BATCH REGION_BYTES PARAMETERS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgeplast.footprint import FIRST_REGION_BYTES
from edgeplast_devices.runtime import OutOfMemoryError, TrainingSession, reserve_arena


def main(graph: str, micro_batch: int, region_bytes: int, stored: str) -> None:
    with np.load(stored) as arrays:
        parameters = {name: arrays[name] for name in arrays.files}
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    reserve_arena(region_bytes, region_bytes + FIRST_REGION_BYTES)
    try:
        session = TrainingSession(Path(graph), parameters, gradients, 2)
        images = np.ones((micro_batch, 3, 96, 96), np.float32)
        session.accumulate(images, np.ones((micro_batch, 5), np.float32))
    except OutOfMemoryError as error:
        print(error)
        sys.exit(4)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
