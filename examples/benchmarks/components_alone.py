"""What does each component gain when it learns alone, and which score told? ViT-Tiny's 36 matrices, head fitted.

Each run trains one of ``attn``, ``fc1``, ``fc2`` of one block from a fitted head, through the device's own loop in a
process of its own, on the pictures that ``equal_memory.py`` draws, and is tested once; ``head`` trains the fitted head
alone. The gain is in the loss on the test pictures, which is finer than accuracy: that of ``head`` less that of the
component. A run is one JSON line; one that the journal holds is skipped.

``python examples/benchmarks/components_alone.py --json alone.jsonl --device-python .venv/stock/bin/python``, then
``… --json alone.jsonl --table``: scores every method on the same pictures, and prints Kendall's tau with the gain.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from equal_memory import CLASSES, DATA, MODEL, SETS, WEIGHTS, kept, pictures, pretrained, run_once, scored, stamp
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.reporting.agreement import kendall_tau
from edgeplast.units import parse_bytes

HEAD = "head"
COMPONENTS = [HEAD] + [f"{kind}:{block}" for block in range(12) for kind in ("attn", "fc1", "fc2")]
METHODS = (
    "plasticity-branch", "plasticity", "plasticity-embedding", "jacobian", "rgn", "snr", "fisher", "sensitivity",
    "activation-fisher", "fps", "weight-norm", "random", "last-k",
)  # fmt: skip


PRODUCTS = (("plasticity-branch", "fisher"), ("plasticity-branch", "rgn"))
"""Scores whose products are looked at too."""


def place_of(options: argparse.Namespace, name: str) -> tuple[Any, dict[str, Any]]:
    """Return the folder of a set's pictures, and what tells this work from another."""
    count = CLASSES[name]
    folder = pictures(name, -(-options.pictures // count), options.work, -(-options.test_pictures // count))
    of = {"weights": stamp(DATA / WEIGHTS), "size": options.image_size, "on": folder.name}
    return folder, of


def contest(options: argparse.Namespace) -> None:
    """Do every run that the journal does not hold yet."""
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    model = pretrained(MODEL, DATA / WEIGHTS, options.image_size)
    for seed in range(options.seeds):
        for name in options.sets:
            folder, of = place_of(options, name)
            scores = scored(model, folder, kept(options.work, "scores", **of, others=()), ())
            for trained in COMPONENTS:
                key = {
                    "set": name, "pictures": options.pictures, "image_size": options.image_size,
                    "epochs": options.epochs, "seed": seed, "trained": trained,
                }  # fmt: skip
                if holds(options.json, key):
                    continue
                with failures.noted(f"{trained} on {name}, seed {seed}"):
                    bundle = kept(options.work, "alone", **of, train=trained)
                    if not bundle.exists():
                        budget = Budget(memory_bytes=parse_bytes(options.memory))
                        edgeplast.export(model, edgeplast.plan(scores, budget, train=trained), into=bundle)
                    given = ("--memory", options.memory, "--seed", seed, "--epochs", options.epochs, "--threads", 1)
                    found = run_once(options.device_python, bundle, folder, *given, "--head", "fitted")
                    print(note(options.json, key | found), flush=True)
    failures.leave()


def gains(runs: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Return how much less loss a component has than the head alone, mean over seeds that both have, on one set."""
    of = {(run["trained"], run["seed"]): run["loss"] for run in runs if run["set"] == name}
    found: dict[str, list[float]] = {}
    for (trained, seed), loss in of.items():
        if trained != HEAD and (HEAD, seed) in of:
            found.setdefault(trained, []).append(of[HEAD, seed] - loss)
    return {trained: float(np.mean(values)) for trained, values in found.items()}


def table(options: argparse.Namespace) -> str:
    """Markdown: a row a method, Kendall's tau of its scores with the gain and within each kind, a column a set."""
    runs = read(options.json)
    sets = [name for name in options.sets if gains(runs, name)]
    model = pretrained(MODEL, DATA / WEIGHTS, options.image_size)
    rows: dict[str, list[str]] = {}
    columns: list[str] = []
    for name in sets:
        folder, of = place_of(options, name)
        into = kept(options.work, "all-scores", **of, methods=METHODS)
        scores, gain = scored(model, folder, into, METHODS[1:]), gains(runs, name)
        columns += [f"{name}, all {len(gain)}", f"{name}, within kinds"]
        found = {m: {named(n): entry.score for n, entry in scores.by(m).items()} for m in METHODS}
        for one, other in PRODUCTS:
            found[f"{one} × {other}"] = {n: value * found[other][n] for n, value in found[one].items()}
        for method, values in found.items():
            common = [trained for trained in gain if trained in values]
            tau = kendall_tau(*(np.array([each[t] for t in common]) for each in (values, gain)))
            within = [
                kendall_tau(*(np.array([each[t] for t in kind]) for each in (values, gain))).tau
                for word in ("attn", "fc1", "fc2")
                if len(kind := [t for t in common if t.startswith(word)]) > 2
            ]
            cells = [f"{tau.tau:+.2f} ({tau.low:+.2f} … {tau.high:+.2f})", f"{np.mean(within):+.2f}"]
            rows.setdefault(method, [method]).extend(cells)
    head = ["score", *columns]
    return "\n".join(
        f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows.values(), *kinds(runs, sets)]
    )


def kinds(runs: list[dict[str, Any]], sets: list[str]) -> list[list[str]]:
    """Return rows of the mean gain of a kind, by thirds of the depth."""
    rows = []
    for kind in ("attn", "fc1", "fc2"):
        cells = []
        for name in sets:
            gain = gains(runs, name)
            thirds = [
                [gain[f"{kind}:{b}"] for b in range(first, first + 4) if f"{kind}:{b}" in gain] for first in (0, 4, 8)
            ]
            cells += [" / ".join(f"{np.mean(third):+.3f}" if third else "–" for third in thirds), ""]
        rows.append([f"gain of {kind}, blocks 0-3 / 4-7 / 8-11", *cells])
    return rows


def named(component: str) -> str:
    """Return a component's name as a run spells it: ``blocks.3.attn`` is ``attn:3``."""
    _, block, kind = component.split(".")[:3]
    return f"{kind}:{block}"


def main() -> None:
    """Run, or print the table."""
    parser = journaled(__doc__, "components_alone")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["aerial", "cifar"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--memory", default="256MB")
    parser.add_argument("--pictures", type=int, default=112, help="training pictures of a set, over its classes")
    parser.add_argument("--test-pictures", type=int, default=210, help="to test on, likewise")
    options = parser.parse_args()
    if options.table:
        print(table(options))
    else:
        contest(options)


if __name__ == "__main__":
    main()
