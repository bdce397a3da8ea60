"""What should a new head start from, and how fast should it learn? Accuracy and calibration on new pictures.

Each run adapts one bundle of ViT-Tiny (fc1 in all blocks, the last norm and the head train, 160 MB allowed) in a
process of its own, as a device does, from few pictures of a set in ``../shared/data``, and is tested on the set's own
test pictures. A run is one JSON line; one that the journal holds is skipped.

``python examples/benchmarks/heads.py --json heads.jsonl --device-python .venv/stock/bin/python`` (a run takes one to
two minutes on two quiet cores), then ``… --json heads.jsonl --table``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from equal_memory import DATA, MODEL, WEIGHTS, pictures, said
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model

PICTURES = {"aerial": 20, "cells": 30, "cifar": 12}
"""To train on, a class."""
TEST_PER_CLASS = 30
MEMORY, EPOCHS, BODY_RATE = "160MB", 3, "5e-4"

STARTS: dict[str, list[object]] = {
    "zero, at 3e-3": ["--head", "zero", "--head-learning-rate", "3e-3"],
    "zero, at the body's rate": ["--head", "zero", "--head-learning-rate", BODY_RATE],
    "fitted, no step": ["--head", "fitted", "--epochs", 0],
    "fitted, at the body's rate": ["--head", "fitted", "--head-learning-rate", BODY_RATE],
    "fitted, at 3e-3": ["--head", "fitted", "--head-learning-rate", "3e-3"],
}


def exported(folder: Path, into: Path) -> Path:
    """Write the bundle of a set, once."""
    if not into.exists():
        model = load_model(MODEL, checkpoint=DATA / WEIGHTS)
        scores = edgeplast.score(model, folder / "train", pairs=8)
        plan = edgeplast.plan(scores, Budget(memory_bytes=160_000_000), train="fc1,norm,head")
        edgeplast.export(model, plan, into=into)
    return into


def run_once(python: Path, bundle: Path, folder: Path, into: Path, seed: int, how: list[object]) -> dict[str, Any]:
    """Adapt, test, and return what counts."""
    epochs = [] if "--epochs" in how else ["--epochs", EPOCHS]
    given = ["--data", folder / "train", "--memory", MEMORY, "--seed", seed, "--no-probe", *epochs, *how]
    report = said(python, "adapt", bundle, *given, "-o", into, "--force")
    result = said(python, "evaluate", into, "--data", folder / "test")
    return {
        "accuracy": result["accuracy"],
        "calibration_error": result["without_temperature"]["expected_calibration_error"],
        "at_temperature": result["expected_calibration_error"],
        "temperature": result["temperature"],
        "peak_bytes": report["memory"]["measured_peak_bytes"],
        "seconds": report["seconds"]["total"],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a start; accuracy by set, and calibration error over all, as it is and at the temperature."""
    rows = [["start of the head", *PICTURES, "calibration error", "at the temperature", "seconds"]]
    rows.append(["---"] * len(rows[0]))
    for start in STARTS:
        own = [run for run in runs if run["start"] == start]
        cells = [[100 * run["accuracy"] for run in own if run["set"] == name] for name in PICTURES]
        shown = [f"{np.mean(cell):.1f} ({len(cell)})" if cell else "–" for cell in cells]
        means = (
            [np.mean([run[k] for run in own]) for k in ("calibration_error", "at_temperature", "seconds")]
            if own
            else []
        )
        rows.append([start, *shown, *(f"{mean:.2f}" for mean in means[:2]), *(f"{mean:.0f}" for mean in means[2:])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Do every run that the journal does not hold yet, or print its table."""
    parser = journaled(__doc__, "heads")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json)))
        return
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for name, count in PICTURES.items():
            folder = pictures(name, count, options.work, TEST_PER_CLASS)
            bundle = exported(folder, options.work / f"{name}-bundle")
            for start, how in STARTS.items():
                key = {"set": name, "start": start, "seed": seed}
                if holds(options.json, key):
                    continue
                with failures.noted(f"{start} on {name}, seed {seed}"):
                    into = options.work / "adapted"
                    note(options.json, key | run_once(options.device_python, bundle, folder, into, seed, how))
    failures.leave()


if __name__ == "__main__":
    main()
