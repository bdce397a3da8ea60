"""What a plan promises against the bundle that is exported for it: bytes, to the percent, and never over the budget."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from planning_models import MEDIANS
from small_models import CLASSES, small_vit

from edgeplast.budget import Budget
from edgeplast.bundle import Manifest
from edgeplast.footprint import ASSUMED_RESIDENT_BYTES, peak_bytes
from edgeplast.planning import plan
from edgeplast.plans import Plan
from edgeplast.scores import ComponentScore, ScoreTable

pytest.importorskip("torch", reason="exporting needs it")
if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)

WIDE = {"img_size": 64, "embed_dim": 96, "num_heads": 3, "depth": 4}


def exported_peak(manifest: Manifest, made: Plan) -> int:
    """Peak of the full plan, as the device adds it up, with the assumed process."""
    tier = manifest.tiers[0]
    graph = next(g.footprint for g in tier.graphs if g.recompute == made.recompute)
    evaluation, size = manifest.evaluation, made.micro_batch_size
    channels, height, width = made.outline.input_shape
    return peak_bytes(
        resident_bytes=ASSUMED_RESIDENT_BYTES,
        graph_bytes=max(graph.graph_bytes, evaluation.graph_bytes),
        mapped_bytes=max(graph.frozen_bytes, evaluation.frozen_bytes),
        state_bytes=graph.state_bytes(made.optimizer),
        pictures_bytes=4 * size * channels * height * width,
        transient_bytes=max(graph.transient_bytes(size), evaluation.transient_bytes(size)),
    )


@pytest.fixture(scope="module")
def scored() -> ScoreTable:
    from edgeplast_exporters.outlining import traced

    found = traced(small_vit(**WIDE))
    scores = {c.name: MEDIANS[c.kind] for c in found.outline.components if c.role == "inner"}
    return ScoreTable(
        method="plasticity",
        components={n: ComponentScore(score=s, parameters=1, standard_error=0.5) for n, s in scores.items()},
        outline=found.outline,
        graph=found.graph,
        classes=CLASSES,
    )


@pytest.mark.parametrize(("megabytes", "bits"), [(113, 8), (116, 8), (125, 32), (160, 4), (None, 8)])
def test_a_bundle_exported_for_a_budget_trains_its_full_plan_in_it(
    scored: ScoreTable, tmp_path: Path, megabytes: int | None, bits: int
) -> None:
    from edgeplast import verbs

    budget = Budget(memory_bytes=megabytes and megabytes * 10**6)
    made = plan(scored, budget, weight_bits=bits)
    bundle = verbs.export(small_vit(**WIDE), made, into=tmp_path / "b", keep_head=True)
    peak = exported_peak(bundle.manifest, made)
    assert made.predicted_peak_bytes == pytest.approx(peak, rel=0.01)
    assert megabytes is None or peak <= made.predicted_peak_bytes <= megabytes * 10**6
    assert made.components["blocks.1.fc1"].standard_error == 0.5
    disk = sum(path.stat().st_size for path in bundle.path.iterdir())
    estimated = verbs_disk(scored, made, bits)
    assert disk <= estimated <= 1.5 * disk  # graphs of a model this small are most of it


def verbs_disk(scored: ScoreTable, made: Plan, bits: int) -> int:
    from edgeplast.graphs.recording import restored
    from edgeplast.planning.estimating import Workload

    outline = scored.outline
    w = Workload(outline, restored(scored.graph), dict.fromkeys(outline.names, bits))
    return w.measured(made.trainable, made.micro_batch_size, made.recompute).disk_bytes
