"""Peak memory of scoring, measured in a process of its own: ViT-Base under 1.5 GB, and no growth with pairs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from scoring_models import Pictures, score

import edgeplast.models, edgeplast.moments as moments
moments.LEAST_SAMPLES = 10**9  # no early stopping: every pair is measured
model = edgeplast.models.import_timm().create_model({model!r}, pretrained=False)
images = Pictures(16, size=224)
for pairs in {pairs}:
    score(model, images, method={method!r}, pairs=pairs)
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def peaks_bytes(model: str, pairs: list[int], method: str = "plasticity") -> list[int]:
    root = Path(__file__).resolve().parents[2]
    code = SCRIPT.format(here=str(Path(__file__).parent), model=model, pairs=pairs, method=method)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [1024 * int(line) for line in done.stdout.split()]


needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


@needs_linux
def test_memory_does_not_grow_with_pairs() -> None:
    """Twelve chunks against two: forty more pairs kept would take 400 MB, the allocator's own wandering up to 50."""
    first, last = peaks_bytes("vit_tiny_patch16_224", [8, 48])
    assert last < 1.2 * first


@needs_linux
def test_vit_base_scores_under_one_and_a_half_gigabytes() -> None:
    """Eight pairs, two chunks: as the test above shows, more pairs take no more memory."""
    assert peaks_bytes("vit_base_patch16_224", [8])[0] < 1.5e9


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("method", ["plasticity", "plasticity-embedding"])
def test_vit_base_on_64_pairs_scores_under_one_and_a_half_gigabytes(method: str) -> None:
    assert peaks_bytes("vit_base_patch16_224", [64], method)[0] < 1.5e9
