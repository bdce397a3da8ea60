"""What does merging tokens before what trains save, and what does it cost? Accuracy, seconds of a step, peak memory.

Each bundle is exported with another number of tokens merged in each block before what trains, and adapted in a process
of its own, as a device does, each step in the same way (``--rung``) and from new pictures: *fitted* is a fitted head on
the features as they come, before any training; *trained* is what training reaches. Contestants take turns, seed after
seed, so that they see the same machine. A run is one JSON line; one that the journal holds is skipped.

``--steps 20`` runs the graphs of a step instead, prefix and training graph of all bundles in turns in this process, on
one thread, and prints processor time over that without merging, which other processes disturb less than the clock.

``python examples/benchmarks/merging.py --json merging.jsonl --device-python .venv/stock/bin/python``, then
``… --json merging.jsonl --table``: accuracy over seeds, seconds and peak over those of the same seed without merging.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from equal_memory import DATA, MODEL, WEIGHTS, kept, pictures, said, scored, stamp
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model
from edgeplast.quiet_runtime import import_quietly

TRAIN = "attn:8-11,norm,head"


def exported(tokens: int, options: argparse.Namespace, folder: Path) -> Path:
    """Write the bundle in which so many tokens are merged in each block, once."""
    made_of = {"on": folder.name, "weights": stamp(DATA / WEIGHTS), "train": options.train, "tokens": tokens}
    into = kept(options.work, "bundle", **made_of)
    if not into.exists():
        model = load_model(MODEL, checkpoint=DATA / WEIGHTS)
        scores = scored(model, folder, options.work / f"scores-{folder.name}.json", others=())
        plan = edgeplast.plan(scores, train=options.train)
        edgeplast.export(model, plan, into=into, merge_tokens=tokens)
    return into


def run_once(options: argparse.Namespace, bundle: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Adapt twice, with a fitted head alone and with steps, and return what counts."""
    given = ["--data", folder, "--memory", "none", "--seed", seed, "--no-probe", "--force"]
    into = options.work / "adapted"
    fitted = said(options.device_python, "adapt", bundle, *given, "--head", "fitted", "--epochs", 0, "-o", into)
    steps = ["--epochs", options.epochs, "--cache", "none", "--rung", options.rung]
    report = said(options.device_python, "adapt", bundle, *given, *steps, "-o", into)
    return {
        "fitted": fitted["accuracy"]["after"],
        "trained": report["accuracy"]["after"],
        "step_seconds": report["seconds"]["step_median"],
        "seconds": report["seconds"]["total"],
        "peak_bytes": report["memory"]["measured_peak_bytes"],
        "runtime": report["runtime"],
        "bundle_bytes": sum(path.stat().st_size for path in bundle.iterdir()),
    }


def graph_seconds(bundles: dict[int, Path], rung: str, rounds: int) -> dict[int, float]:
    """Return the median processor time of one micro-batch through prefix and training graph, in turns."""
    onnxruntime = import_quietly()
    tier, images, _ = rung.split(":")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    runs: dict[int, list[tuple[Any, dict[str, Any]]]] = {}
    for tokens, bundle in bundles.items():
        for file in ("prefix.onnx", f"train-{tier}.onnx"):
            session = onnxruntime.InferenceSession(str(bundle / file), options, providers=["CPUExecutionProvider"])
            fed = {each.name: _random(each.shape, int(images)) for each in session.get_inputs()}
            runs.setdefault(tokens, []).append((session, fed))
    seconds: dict[int, list[float]] = {tokens: [] for tokens in bundles}
    for _ in range(rounds + 1):
        for tokens, parts in runs.items():
            start = time.process_time()
            for session, fed in parts:
                session.run(None, fed)
            seconds[tokens].append(time.process_time() - start)
    return {tokens: float(np.median(each[1:])) for tokens, each in seconds.items()}


def _random(shape: list[Any], images: int) -> np.ndarray:
    rows = [str(n).partition("*")[0] for n in shape]  # "197*batch", "batch", or a number
    sizes = [
        int(n) if isinstance(size, int) else images * (int(n) if n.isdigit() else 1)
        for n, size in zip(rows, shape, strict=True)
    ]
    return (0.02 * np.random.default_rng(0).standard_normal(sizes)).astype(np.float32)


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a number of tokens."""
    rows = [["merged a block", "fitted head", "trained", "a step", "×", "peak", "×", "bundle"]]
    rows.append(["---"] * len(rows[0]))
    for tokens in sorted({run["tokens"] for run in runs}):
        own = [run for run in runs if run["tokens"] == tokens]
        pairs = [(run, rival) for run in own for rival in runs if _is_rival(run, rival)]
        times, peaks = ([a[key] / b[key] for a, b in pairs] for key in ("step_seconds", "peak_bytes"))
        rows.append([
            str(tokens),
            *(_accuracy([run[key] for run in own]) for key in ("fitted", "trained")),
            f"{np.median([run['step_seconds'] for run in own]):.2f} s",
            f"{np.median(times):.2f}" if pairs else "–",
            f"{np.median([run['peak_bytes'] for run in own]) / (1 << 20):.0f} MiB",
            f"{np.median(peaks):.2f}" if pairs else "–",
            f"{own[0]['bundle_bytes'] / (1 << 20):.2f} MiB",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _accuracy(each: list[float]) -> str:
    return f"{100 * np.mean(each):.1f} % ({' '.join(f'{100 * one:.1f}' for one in each)})"


def _is_rival(run: dict[str, Any], rival: dict[str, Any]) -> bool:
    return rival["tokens"] == 0 and all(run[key] == rival[key] for key in ("train", "pictures", "epochs", "seed"))


def main() -> None:
    """Do every run that the journal does not hold yet, or print its table."""
    parser = journaled(__doc__, "merging")
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 4, 8, 12], help="merged in each block")
    parser.add_argument("--set", default="aerial", help="of equal_memory.SETS")
    parser.add_argument("--pictures", type=int, default=70, help="to train on, a class")
    parser.add_argument("--test-pictures", type=int, default=30, help="to test on, a class")
    parser.add_argument("--train", default=TRAIN)
    parser.add_argument("--rung", default="full:8:none", help="way to take a step, the same for all")
    parser.add_argument("--steps", type=int, default=0, help="time the graphs alone, so many times")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json)))
        return
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = pictures(options.set, options.pictures, options.work, options.test_pictures)
    if options.steps:
        bundles = {tokens: exported(tokens, options, folder) for tokens in options.tokens}
        found = graph_seconds(bundles, options.rung, options.steps)
        for tokens, seconds in found.items():
            print(f"{tokens} tokens: {seconds:.3f} s of processor time, {seconds / found[options.tokens[0]]:.2f} ×")
        return
    for seed in range(options.seeds):
        for tokens in options.tokens:
            key = {
                "tokens": tokens, "train": options.train, "set": options.set, "pictures": options.pictures,
                "epochs": options.epochs, "rung": options.rung, "seed": seed,
            }  # fmt: skip
            if holds(options.json, key):
                continue
            with failures.noted(f"{tokens} tokens, seed {seed}"):
                bundle = exported(tokens, options, folder)
                print(note(options.json, key | run_once(options, bundle, folder, seed)), flush=True)
    failures.leave()


if __name__ == "__main__":
    main()
