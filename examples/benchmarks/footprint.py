"""Predicted against measured peak memory of a device process: every tier and graph of a bundle, by micro-batch.

    python examples/benchmarks/footprint.py [--models vit_tiny_patch16_224 vit_small_patch16_224] [--json]

Each figure comes from a process of its own that goes the way of `edgeplast adapt`: the bundle is opened, weights and
both graphs are loaded, one batch is evaluated, two optimizer steps of 16 pictures are taken (the second with all
optimizer state in place), and ``VmHWM`` is read. The prediction is the device's own, from what is resident before.
Pictures have 2.6 megapixels, about what the prediction allows for decoding one; with smaller ones (``--picture-size``)
up to 10 MiB of it stay unused. Weights are random; they change nothing here. ``--models seven`` is one of each kind of
model that is no plain vision transformer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failures import Failures
from workloads import SEVEN, wanted, write_pictures

from edgeplast.recomputation import IN_WORDS

if TYPE_CHECKING:
    from edgeplast_devices.running import Run

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
BATCH, CLASSES = 16, ("one", "two")
_ROOM_BYTES = 4 << 30
"""A budget that holds every way: without one, code that opening a graph needed stays resident."""


def main() -> None:
    """Export each model, measure every graph at every micro-batch, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_tiny_patch16_224", "vit_small_patch16_224"])
    parser.add_argument("--train", default="attn", help="what trains beside the head; last-quarter: of the blocks")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tiers", nargs="+", help="by name; default: all")
    parser.add_argument("--picture-size", type=int, default=1600, help="width and height of the pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--runtime",
        nargs="+",
        default=[sys.executable],
        help="Pythons of the device, one for each build of onnxruntime",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(_measure(json.loads(arguments.worker))))
        return
    rows: list[dict[str, Any]] = []
    failures = Failures()
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "pictures", CLASSES, arguments.picture_size)
        models = [name for given in arguments.models for name in (SEVEN if given == "seven" else (given,))]
        for model in models:
            with failures.noted(model):
                bundle = _export(model, arguments, Path(folder) / model)
            if model in failures.names:
                continue
            for tier in bundle.manifest.tiers:
                if arguments.tiers and tier.name not in arguments.tiers:
                    continue
                for graph in tier.graphs:
                    for runtime in arguments.runtime:
                        found = []
                        for n in arguments.micro_batches:
                            with failures.noted(f"{model}, {graph.file} at micro-batch {n}"):
                                found.append(_row(arguments, runtime, bundle.path, model, tier.name, graph, n))
                        rows += found
                        if found and not arguments.json:
                            _show(found)
    errors = [row["predicted_bytes"] / row["measured_bytes"] - 1 for row in rows]
    if arguments.json:
        print(
            json.dumps(
                {"rows": rows, "worst_over": max(errors, default=None), "worst_under": min(errors, default=None)},
                indent=2,
            )
        )
    elif rows:
        print(f"predicted over measured: {min(errors):+.1%} to {max(errors):+.1%}, {len(rows)} processes")
    failures.leave()


def _show(rows: list[dict[str, Any]]) -> None:
    cells = [
        f"{row['predicted_bytes'] / (1 << 20):.0f} → {row['measured_bytes'] / (1 << 20):.0f}"
        f" ({row['predicted_bytes'] / row['measured_bytes'] - 1:+.1%}, micro-batch {row['micro_batch']})"
        for row in rows
    ]
    print(f"| {rows[0]['model']} {rows[0]['graph']}, {rows[0]['runtime']} | {' | '.join(cells)} |", flush=True)


def _row(
    arguments: argparse.Namespace, runtime: str, bundle: Path, model: str, tier: str, graph: Any, micro_batch: int
) -> dict[str, Any]:
    work = {"bundle": str(bundle), "tier": tier, "file": graph.file, "micro_batch": micro_batch}
    work |= {"pictures": str(bundle.parent / "pictures"), "threads": arguments.threads}
    path = os.pathsep.join(str(ROOT / part) for part in (".", "devices"))
    command = [runtime, str(HERE), "--worker", json.dumps(work)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise RuntimeError(done.stderr)
    name = f"{tier}, {IN_WORDS[graph.recompute]}"
    return {"model": model, "graph": name, "micro_batch": micro_batch, **json.loads(done.stdout.splitlines()[-1])}


def _measure(work: dict[str, Any]) -> dict[str, Any]:
    """Take the steps of one rung in this process, latents kept where the bundle has a prefix."""
    import msgspec

    from edgeplast.bundle import Bundle
    from edgeplast.progress import silent
    from edgeplast_devices.guard import Guard
    from edgeplast_devices.images import open_splits
    from edgeplast_devices.interrupts import Interrupts
    from edgeplast_devices.memory import machine_bytes
    from edgeplast_devices.options import TrainingOptions
    from edgeplast_devices.running import Run

    bundle = Bundle.open(Path(work["bundle"]))
    tier = next(t for t in bundle.manifest.tiers if t.name == work["tier"])
    graph = next(g for g in tier.graphs if g.file == work["file"])
    only = msgspec.structs.replace(tier, graphs=(graph,))
    bundle = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, tiers=(only,)))
    options = TrainingOptions(
        batch=BATCH, micro_batch=work["micro_batch"], threads=work["threads"], head="kept", cache="1GiB", views=2
    )
    guard = Guard(_ROOM_BYTES, machine_bytes())
    with guard.standing(), tempfile.TemporaryDirectory() as kept:
        splits = open_splits(Path(work["pictures"]), seed=0)
        run = Run(bundle, splits, guard, options, silent, None, Interrupts(), folder=Path(kept))
        run.open()
        rung = run.trainer.rung
        assert (rung.graph, rung.micro_batch) == (graph, work["micro_batch"]), rung
        return _steps_of(run)


def _steps_of(run: Run) -> dict[str, Any]:
    """Evaluate one micro-batch, take two steps, and return what they took."""
    import numpy as np

    from edgeplast_devices.evaluating import outputs
    from edgeplast_devices.memory import peak_bytes
    from edgeplast_devices.runtime import runtime_name

    how = run.bundle.manifest.preprocessing
    next(outputs(run.evaluation.logits, run.splits["val"], how, **run.over("val")))
    for step in range(2):
        taken = run.trainer.step(np.arange(step * BATCH, (step + 1) * BATCH), 0, 1e-4)
        assert taken.applied
    return {
        "runtime": runtime_name(),
        "predicted_bytes": run.predicted,
        "measured_bytes": peak_bytes(),
        "resident_before_bytes": run.resident_bytes,
    }


def _export(model: str, arguments: argparse.Namespace, into: Path) -> Any:
    import torch

    from edgeplast import verbs
    from edgeplast.models import import_timm
    from edgeplast.plans import plan_by_names
    from edgeplast_exporters.outlining import outlined

    torch.manual_seed(0)
    network = import_timm().create_model(model, num_classes=len(CLASSES)).eval()
    outline = outlined(network, model)[0]
    plan = plan_by_names(outline, wanted(outline, arguments.train), weight_bits=arguments.weight_bits, classes=CLASSES)
    return verbs.export(network, plan, into=into, keep_head=True)


if __name__ == "__main__":
    main()
