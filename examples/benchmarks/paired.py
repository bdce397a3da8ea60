"""Runs of ``equal_memory.py`` as a table and as a picture, with paired differences to the first contestant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def table(runs: list[dict[str, Any]], contestants: list[str]) -> str:
    """Markdown: a row a contestant, a column a set and budget, and the mean difference to the first over pairs.

    A star says that the device stepped down in a run: it trained less than the contestant's plan.
    """
    cases = list(dict.fromkeys((run["set"], run["budget"]) for run in runs))
    rows = []
    for contestant in contestants:
        own = [run for run in runs if run["contestant"] == contestant]
        cells = []
        for case in cases:
            here = [run for run in own if (run["set"], run["budget"]) == case]
            less = "*" if any(run.get("tier", "full") != "full" for run in here) else ""
            found = [run["accuracy"] for run in here]
            cells.append(f"{100 * np.mean(found):.1f} ({len(found)}){less}" if found else "–")
        if own:
            error = f"{np.mean([run['calibration_error'] for run in own]):.3f}"
            asked = [run["kept_answers"] for run in own if "kept_answers" in run]
            left = f"{100 * np.mean(asked):.0f} %" if asked else "–"
            peak = f"{max(run['peak_bytes'] for run in own) / (1 << 20):.0f}"
            rows.append([contestant, *cells, _difference(runs, contestant, contestants[0]), error, left, peak])
    last = (f"over {contestants[0]}", "calibration error", "answers kept", "peak, MiB")
    head = ["trained", *(f"{s}, {b}" for s, b in cases), *last]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def draw(runs: list[dict[str, Any]], contestants: list[str], into: Path) -> None:
    """Draw each contestant's accuracy over the first's, and the interval of that, against its measured peak."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for number, contestant in enumerate(contestants):
        own = [run["peak_bytes"] / (1 << 20) for run in runs if run["contestant"] == contestant]
        pairs = _pairs(runs, contestant, contestants[0])
        if len(pairs) > 1:  # one pair alone says nothing
            place = max(own), pairs.mean()
            axes.errorbar(*place, yerr=_half(pairs), fmt="o", capsize=2, color="0.3", ecolor="0.75", elinewidth=0.7)
            up = 3 if number % 4 < 2 else -10
            beside = {"xytext": (-6, up), "ha": "right"} if number % 2 else {"xytext": (6, up)}
            axes.annotate(contestant, place, textcoords="offset points", fontsize=8, **beside)
    axes.axhline(0, color="0.8", zorder=0)
    axes.margins(x=0.15)
    axes.set(xlabel="measured peak, MiB (highest)", ylabel=f"accuracy over {contestants[0]!r}, points, 95 %")
    figure.savefig(into, dpi=110)


def _difference(runs: list[dict[str, Any]], contestant: str, rival: str) -> str:
    """Mean and 95 % interval of the paired difference in accuracy, in points."""
    pairs = _pairs(runs, contestant, rival)
    if contestant == rival or len(pairs) < 2:
        return "–"
    return f"{pairs.mean():+.1f} ± {_half(pairs):.1f} ({len(pairs)})"


def _pairs(runs: list[dict[str, Any]], contestant: str, rival: str) -> np.ndarray:
    """Return differences in accuracy, in points, of runs on the same set, budget and seed."""

    def by_case(name: str) -> dict[Any, float]:
        return {(r["set"], r["budget"], r["seed"]): r["accuracy"] for r in runs if r["contestant"] == name}

    mine, theirs = by_case(contestant), by_case(rival)
    return 100 * np.array([mine[case] - theirs[case] for case in mine.keys() & theirs.keys()])


def _half(pairs: np.ndarray) -> float:
    """Return half of the 95 % interval of a mean (Student's t)."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / np.sqrt(len(pairs)))
