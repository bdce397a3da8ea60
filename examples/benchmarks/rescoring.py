"""Does a device that scores its own pictures again, and trains the set they favour, learn more than a static plan?

One bundle of each start has graphs of all sets: a start is what the workstation planned, by scores (``best``) or not
(``last-k:3``, the last quarter of the blocks). Contestants adapt it in a process of its own, as a device does, from the
same pictures in the same order: static, on the plan's own set or on an alternative (pinned by ``--rung``), and with
``--rescore``, once or before every epoch; *alone* is the plan in a bundle without alternatives. The ViT-Tiny weights
and the sets are those of ``../shared/data``. A run is one JSON line; one that the journal holds is skipped.

``python examples/benchmarks/rescoring.py --json rescoring.jsonl --device-python .venv/stock/bin/python`` (about a
quarter of a minute a run at 112 px), then ``… --json rescoring.jsonl --table``: means over seeds, and differences to
the start's own static set over pairs of the same set of pictures and seed, with 95 % intervals (Student's t).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from equal_memory import (
    CLASSES,
    DATA,
    MODEL,
    SETS,
    WEIGHTS,
    kept,
    pictures,
    pretrained,
    said,
    scored,
    stamp,
    trained_by,
)
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.planning import with_room
from edgeplast.plans import Plan
from edgeplast.units import parse_bytes

STARTS = {"best": "best", "last blocks": "last-k:3"}
"""Name of a start to the strategy that plans it."""

CONTESTANTS: dict[tuple[str, str], list[object]] = {
    ("best", "alone"): [],
    ("best", "static"): [],
    ("best", "all-attn"): ["--rung", "all-attn:4:none"],
    ("best", "all-fc2"): ["--rung", "all-fc2:4:none"],
    ("best", "late"): ["--rung", "late:4:none"],
    ("best", "high"): ["--rung", "high:4:none"],
    ("best", "low"): ["--rung", "low:4:none"],
    ("best", "once"): ["--rescore", "once"],
    ("best", "every epoch"): ["--rescore", "every-epoch"],
    ("last blocks", "alone"): [],
    ("last blocks", "static"): [],
    ("last blocks", "once"): ["--rescore", "once"],
    ("last blocks", "every epoch"): ["--rescore", "every-epoch"],
}
"""Start and way to what ``edgeplast adapt`` is told."""


class Contest:
    """Does every run that the journal does not hold yet; a contestant that fails leaves the others theirs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.failures = options, Failures()
        options.work.mkdir(parents=True, exist_ok=True)
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The pretrained model, read when something must be scored or exported."""
        if self._model is None:
            self._model = pretrained(MODEL, DATA / WEIGHTS, self.options.image_size)
        return self._model

    def all(self) -> None:
        """Run seed after seed, and in a seed set after set."""
        for seed in range(self.options.seeds):
            for name in self.options.sets:
                for start, way in CONTESTANTS:
                    if start in self.options.starts and way in self.options.ways:
                        self.run(name, start, way, seed)
        self.failures.leave()

    def run(self, name: str, start: str, way: str, seed: int) -> None:
        """Do a run and note it, unless that has been done."""
        options = self.options
        key = {
            "set": name, "pictures": options.pictures, "image_size": options.image_size, "epochs": options.epochs,
            "budget": options.memory, "start": start, "way": way, "seed": seed,
        }  # fmt: skip
        if holds(options.json, key):
            return
        with self.failures.noted(f"{way} from {start} on {name}, seed {seed}"):
            folder = pictures(
                name, -(-options.pictures // CLASSES[name]), options.work, -(-options.test_pictures // CLASSES[name])
            )
            bundle, plan = self.exported(folder, start, alternatives=way != "alone")
            given = ("--memory", options.memory, "--seed", seed, "--epochs", options.epochs, "--no-probe")
            into = options.work / "adapted"
            report = said(
                options.device_python, "adapt", bundle, "--data", folder / "train", *given, *CONTESTANTS[start, way],
                "-o", into, "--force",
            )  # fmt: skip
            test = said(options.device_python, "evaluate", into, "--data", folder / "test")
            found = {
                "accuracy": test["accuracy"],
                "loss": test["loss"],
                "planned": trained_by(plan),
                "tiers": [change["tier"] for change in report["scored"]] or [report["tier"]],
                "tier": report["tier"],
                "kinds": [change["kinds"] for change in report["scored"]],
                "scoring_seconds": sum(change["seconds"] for change in report["scored"]),
                "seconds": report["seconds"]["total"],
                "peak_bytes": report["memory"]["measured_peak_bytes"],
                "micro_batch": report["micro_batch_size"],
            }
            print(note(options.json, key | found), flush=True)

    def exported(self, folder: Path, start: str, *, alternatives: bool) -> tuple[Path, Plan]:
        """Write the bundle of a start, once, and return it with its plan."""
        options = self.options
        of = {"weights": stamp(DATA / WEIGHTS), "size": options.image_size, "on": folder.name}
        table = scored(self.model, folder, kept(options.work, "scores", **of), ("random",))

        def made(budget: Budget) -> Plan:
            return edgeplast.plan(table, budget, strategy=STARTS[start])

        plan = made(Budget(memory_bytes=parse_bytes(options.memory)))
        if alternatives:
            plan = with_room(plan, made)
        into = kept(options.work, "bundle", **of, start=start, trained=trained_by(plan), alternatives=alternatives)
        if not into.exists():
            edgeplast.export(self.model, plan, into=into, alternatives=alternatives)
        return into, plan


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a start and way, a column a set, the difference to the start's static set, and what it cost."""
    sets = list(dict.fromkeys(run["set"] for run in runs))
    head = ["start", "way", "trains", *sets, "over static", "scoring, % of the time", "peak, MiB"]
    rows = [head, ["---"] * len(head)]
    for start, way in CONTESTANTS:
        own = [run for run in runs if (run["start"], run["way"]) == (start, way)]
        if not own:
            continue
        cells = []
        for name in sets:
            found = [run["accuracy"] for run in own if run["set"] == name]
            cells.append(f"{100 * np.mean(found):.1f} ({len(found)})" if found else "–")
        share = 100 * np.mean([run["scoring_seconds"] / run["seconds"] for run in own])
        rows.append([
            start,
            way,
            ", ".join(dict.fromkeys(run["planned"] if at == "full" else at for run in own for at in run["tiers"])),
            *cells,
            _difference(runs, start, way),
            f"{share:.1f}" if share else "–",
            f"{max(run['peak_bytes'] for run in own) / (1 << 20):.0f}",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _difference(runs: list[dict[str, Any]], start: str, way: str) -> str:
    """Mean and 95 % interval of the paired difference in accuracy to the start's own static set, in points."""
    from scipy.stats import t

    def by_case(of: str) -> dict[Any, float]:
        return {(r["set"], r["seed"]): r["accuracy"] for r in runs if (r["start"], r["way"]) == (start, of)}

    mine, theirs = by_case(way), by_case("static")
    pairs = 100 * np.array([mine[case] - theirs[case] for case in mine.keys() & theirs.keys()])
    if way == "static" or len(pairs) < 2:
        return "–"
    half = float(t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    return f"{pairs.mean():+.1f} ± {half:.1f} ({len(pairs)})"


def main() -> None:
    """Run the contest, or print its table."""
    parser = journaled(__doc__, "rescoring")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["aerial", "cifar"])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=[*STARTS])
    ways = list(dict.fromkeys(way for _, way in CONTESTANTS))
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
    parser.add_argument("--memory", default="200MB")
    parser.add_argument("--image-size", type=int, default=112, help="side in pixels; weights are resampled to it")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=112, help="training pictures of a set, over its classes")
    parser.add_argument("--test-pictures", type=int, default=210, help="to test on, likewise")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json)))
        return
    Contest(options).all()


if __name__ == "__main__":
    main()
