"""What does the cache save, and what does it cost? Seconds, peak memory and accuracy with and without it.

Each run adapts one bundle in a process of its own, as a device does, from pictures of a set in ``../shared/data``, and
is tested on the set's own test pictures (which ``adapt`` measures before and after as well). Contestants take turns,
seed after seed, so that they see the same machine; *fresh* varies each picture anew in each epoch and keeps nothing. A
run is one JSON line; one that the journal holds is skipped.

``python examples/benchmarks/cache.py --json cache.jsonl --device-python .venv/stock/bin/python``, then
``… --json cache.jsonl --table``: accuracy over seeds, and seconds and peak over those of *fresh*.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from equal_memory import DATA, MODEL, WEIGHTS, kept, pictures, said, stamp
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.models import import_timm, load_model
from edgeplast.units import parse_bytes

PLANS = {"head": "norm,head", "attention of the last four blocks": "attn:8-11,norm,head"}

CONTESTANTS: dict[str, list[object]] = {
    "fresh": ["--cache", "none"],
    "4 views": ["--views", 4],
    "2 views": ["--views", 2],
    "1 view": ["--views", 1],
    "2 views, 32 bits": ["--views", 2, "--cache-bits", 32],
    "2 views, 8 bits": ["--views", 2, "--cache-bits", 8],
}


def exported(train: str, folder: Path, work: Path, memory: str, name: str = MODEL) -> Path:
    """Write the bundle of a plan, once; a model without weights in the data has random ones, which take as long."""
    weights = DATA / WEIGHTS if name == MODEL else None
    made_of = {"weights": stamp(weights)} if weights else {"model": name}
    into = kept(work, "bundle", on=folder.name, **made_of, train=train, memory=memory)
    if not into.exists():
        model = load_model(name, checkpoint=weights) if weights else import_timm().create_model(name).eval()
        scores = edgeplast.score(model, folder / "train", pairs=8)
        edgeplast.export(
            model, edgeplast.plan(scores, Budget(memory_bytes=parse_bytes(memory)), train=train), into=into
        )
    return into


def run_once(options: argparse.Namespace, bundle: Path, folder: Path, seed: int, how: list[object]) -> dict[str, Any]:
    """Adapt, which measures on the test pictures, and return what counts."""
    given = ["--data", folder, "--memory", options.memory, "--seed", seed, "--epochs", options.epochs, *how]
    given.append("--no-probe")  # its seconds are no part of what is compared
    report = said(options.device_python, "adapt", bundle, *given, "-o", options.work / "adapted", "--force")
    return {
        "accuracy": report["accuracy"]["after"],
        "peak_bytes": report["memory"]["measured_peak_bytes"],
        "seconds": report["seconds"]["total"],
        "micro_batch": report["micro_batch_size"],
        "disk_bytes": report["cache"]["most_bytes"] if report["cache"] else 0,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a model, plan and contestant."""
    rows = [["model", "trained", "pictures", "accuracy", "seconds", "over fresh", "peak over fresh", "on disk, MiB"]]
    rows.append(["---"] * len(rows[0]))
    for model, plan in dict.fromkeys((run["model"], run["plan"]) for run in runs):
        for contestant in CONTESTANTS:
            case = (model, plan, contestant)
            own = [run for run in runs if (run["model"], run["plan"], run["contestant"]) == case]
            pairs = [(run, rival) for run in own for rival in runs if _is_rival(run, rival)]
            if not own:
                continue
            ratios = {k: [a[k] / b[k] for a, b in pairs] for k in ("seconds", "peak_bytes")}
            rows.append([
                model,
                plan,
                contestant,
                f"{100 * np.mean([run['accuracy'] for run in own]):.1f} ({len(own)})",
                f"{min(run['seconds'] for run in own):.0f}",
                *(f"{np.median(ratios[k]):.2f}" if pairs else "–" for k in ("seconds", "peak_bytes")),
                f"{own[0]['disk_bytes'] / (1 << 20):.0f}",
            ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _is_rival(run: dict[str, Any], rival: dict[str, Any]) -> bool:
    same = ("model", "plan", "set", "pictures", "epochs", "seed")
    return rival["contestant"] == "fresh" and all(run[key] == rival[key] for key in same)


def main() -> None:
    """Do every run that the journal does not hold yet, or print its table."""
    parser = journaled(__doc__, "cache")
    parser.add_argument("--model", default=MODEL, help="timm's name; another than the default has random weights")
    parser.add_argument("--set", default="aerial", help="of equal_memory.SETS")
    parser.add_argument("--pictures", type=int, default=40, help="to train on, a class")
    parser.add_argument("--test-pictures", type=int, default=100, help="to test on, a class")
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--memory", default="256MB")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json)))
        return
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = pictures(options.set, options.pictures, options.work, options.test_pictures)
    for seed in range(options.seeds):
        for plan in options.plans:
            for contestant in options.contestants:
                key = {
                    "model": options.model, "plan": plan, "contestant": contestant, "set": options.set,
                    "pictures": options.pictures, "epochs": options.epochs, "seed": seed,
                }  # fmt: skip
                if holds(options.json, key):
                    continue
                with failures.noted(f"{contestant}, {plan}, seed {seed}"):
                    bundle = exported(PLANS[plan], folder, options.work, options.memory, options.model)
                    found = run_once(options, bundle, folder, seed, CONTESTANTS[contestant])
                    print(note(options.json, key | found), flush=True)
    failures.leave()


if __name__ == "__main__":
    main()
