"""Run one micro-batch of a training graph as a device does, and print by how many bytes the peak rose.

python peak_of_one_run.py BUNDLE GRAPH MICRO_BATCH REGION_BYTES
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgeplast.bundle import Bundle
from edgeplast_devices.memory import peak_bytes
from edgeplast_devices.runtime import reserve_arena
from edgeplast_devices.sessions import trains_on_pictures
from edgeplast_devices.weights import read_trainable


def main(folder: str, graph: str, micro_batch: int, region_bytes: int) -> None:
    bundle = Bundle.open(Path(folder))
    manifest = bundle.manifest
    tier = next(t for t in manifest.tiers if any(g.file == graph for g in t.graphs))
    parameters = read_trainable(bundle)
    trained = [n for n in parameters if manifest.parameters[n].component in tier.components]
    gradients = {n: np.ones_like(parameters[n]) for n in trained}
    height, width = manifest.preprocessing.image_size
    images = np.ones((micro_batch, 3, height, width), np.float32)
    targets = np.ones((micro_batch, len(manifest.classes)), np.float32)
    reserve_arena(region_bytes)
    session = trains_on_pictures(bundle, graph, parameters, gradients, 1)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = peak_bytes()
    session.accumulate(images, targets)
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
