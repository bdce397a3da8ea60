"""The size of the real thing, and memory in processes of their own: what loading takes, what a step takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exporter_models import CLASSES, parameters_of, plan_of, small, training_graph_of

from edgeplast.bundle import Bundle
from edgeplast.errors import InputError
from edgeplast.graphs.measures.liveness import transient_lines
from edgeplast.graphs.passes.recompute import recompute
from edgeplast.models import import_timm, preprocessing_of
from edgeplast_exporters import export


@pytest.fixture(scope="module")
def vit_tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return import_timm().create_model("vit_tiny_patch16_224", num_classes=len(CLASSES)).eval()


def written(model: torch.nn.Module, into: Path, pattern: str, bits: int = 8) -> Bundle:
    plan, how = plan_of(model, pattern, bits=bits), preprocessing_of(model)
    return export(model, plan, into=into, classes=CLASSES, preprocessing=how)


def test_a_bundle_is_no_larger_than_the_weights_and_little_for_each_tier(
    vit_tiny: torch.nn.Module, tmp_path: Path
) -> None:
    bundle = written(vit_tiny, tmp_path / "b", "all")
    weights = 4 * sum(p.numel() for p in vit_tiny.parameters())
    assert bundle.bytes <= weights + 3_000_000 * len(bundle.manifest.tiers)
    graphs = sum(f.bytes for name, f in bundle.manifest.files.items() if name.startswith("train-"))
    assert graphs <= 600_000 * len(bundle.manifest.tiers)


def test_activations_come_near_the_least_that_recomputation_needs(vit_tiny: torch.nn.Module) -> None:
    """Every block's input (N·D floats an image), and the inside of one block: what more depth adds when kept."""
    kept = training_graph_of(vit_tiny, parameters_of(vit_tiny, "attn,head"))
    tokens, width, depth = 197, 192, 12
    images = 64  # so many that what does not grow with them does not count
    alive = [max(line.at(images) for line in transient_lines(g)) / images for g in (recompute(kept), kept)]
    inside = alive[1] / depth
    assert alive[0] <= 1.4 * (depth * tokens * width * 4 + inside)


_LOADING = """
import json, sys
from pathlib import Path
import numpy as np
from edgeplast.bundle import Bundle
from edgeplast_devices.memory import peak_bytes, resident_bytes
from edgeplast_devices.optimizers import make_optimizer
from edgeplast_devices.runtime import EvaluationSession, TrainingSession, reserve_arena, runtime_name
from edgeplast_devices.weights import read_trainable

bundle = Bundle.open(Path(sys.argv[1]))
graph = bundle.manifest.tiers[0].graphs[-1]
runtime_name()
base = resident_bytes()
reserve_arena(graph.footprint.transient_bytes(1))
parameters = read_trainable(bundle)
gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
optimizer = make_optimizer("adamw", parameters, weight_decay=0.0, momentum=0.9)
training = TrainingSession(bundle.path / graph.file, parameters, gradients, 1)
evaluation = EvaluationSession(bundle.path / "evaluate.onnx", parameters, 1)
peak = peak_bytes()
for array in (*gradients.values(), *optimizer.state.values()):
    array.fill(0)  # memory that the system has promised and not yet given
print(json.dumps({"peak": peak - base, "stays": resident_bytes() - base}))
"""


def in_a_process(script: str, *arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's exact peak")
def test_loading_takes_little_more_than_what_stays(vit_tiny: torch.nn.Module, tmp_path: Path) -> None:
    bundle = written(vit_tiny, tmp_path / "b", "blocks:6-11,norm,head")
    found = in_a_process(_LOADING, str(bundle.path))
    assert found["stays"] > 4 * 4 * bundle.manifest.plan.trainable_parameters
    assert found["peak"] <= 1.2 * found["stays"]


def peak_rise(bundle: Bundle, file: str, micro_batch: int, region_bytes: int) -> int:
    script = Path(__file__).with_name("peak_of_one_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(bundle.path), file, str(micro_batch), str(region_bytes)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's resettable peak")
def test_all_passes_together_lower_the_measured_peak(tmp_path: Path) -> None:
    """Recomputed with 8-bit weights against kept with float32 ones: the same gradients from a third of the memory."""
    model = small(embed_dim=128, num_heads=4, depth=8, img_size=96)
    rises = []
    for bits, recomputed in ((8, "full"), (32, "none")):
        bundle = written(model, tmp_path / str(bits), "attn,head", bits)
        graph = next(g for g in bundle.manifest.tiers[0].graphs if g.recompute == recomputed)
        rises.append(peak_rise(bundle, graph.file, 8, graph.footprint.transient_bytes(8)))
    assert rises[0] < 0.5 * rises[1]


def test_a_model_that_no_onnx_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    monkeypatch.setattr("edgeplast_exporters.writer.MOST_MODEL_BYTES", 50_000)
    with pytest.raises(InputError, match=r"2 GiB.*patch_embed, whose Gemm reads"):
        written(model, tmp_path / "b", "attn:1")
    assert list(tmp_path.iterdir()) == []
