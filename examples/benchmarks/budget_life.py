"""Does a device process keep to its budget where people start it? The part ``life`` of ``budget_sweep.py``.

Each run is the command ``edgeplast adapt`` in a process of its own, drawn at random: which build of onnxruntime, in a
terminal (80 or 120 columns) or a pipe, what trains, which pictures (from 28×28 to 50 megapixels, one kind or all in one
folder) and which budget, from the smallest that the program names to 572 MiB. Counted are overshoots (a peak above the
budget), wrong failures (any exit code but 0) and changes of rung.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("a", "b")
MIB = 1 << 20
MOST_MIB = 572
TRAINED = ("all", "attn", "attn:8-11", "head")
"""What plans train; ``head`` always does."""

SIZES: dict[str, tuple[tuple[int, int, str], ...]] = {
    "icons": ((28, 28, "png"), (64, 48, "jpg")),
    "photos": ((640, 480, "jpg"), (800, 600, "png"), (1600, 1200, "jpg")),
    "camera": ((2592, 1944, "jpg"), (2592, 1944, "png"), (3000, 2000, "webp")),
    "posters": ((8660, 5774, "jpg"), (8660, 5774, "png")),
}
"""Kinds of pictures: width, height, format."""

FOLDERS = ("icons", "photos", "camera", "everything")
"""``everything`` has all kinds; posters stand there alone, since a folder of nothing else cannot be learned from."""


def make_folders(root: Path) -> dict[str, Path]:
    """Write pictures of noise: 8 a class to train, 2 to validate and to test."""
    rng = np.random.default_rng(0)
    kinds = {name: [size for group in SIZES.values() for size in group] if name == "everything" else [*SIZES[name]]
             for name in FOLDERS}  # fmt: skip
    made: dict[tuple[int, int, str], bytes] = {}
    for name, sizes in kinds.items():
        drawn = 0
        for split, count in (("train", 16), ("val", 4), ("test", 4)):
            for i in range(count):
                width, height, form = sizes[drawn % len(sizes)]
                drawn += 1
                into = root / name / split / CLASSES[i % 2] / f"{i:02d}.{form}"
                into.parent.mkdir(parents=True, exist_ok=True)
                if (width, height, form) not in made:
                    noise = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(noise).resize((width, height)).save(into)
                    made[width, height, form] = into.read_bytes()
                else:
                    into.write_bytes(made[width, height, form])
    return {name: root / name for name in kinds}


def live(
    pythons: list[str], bundles: dict[str, Path], folders: dict[str, Path], runs: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Draw runs at random and carry them out; a row each.

    Args:
        pythons: interpreters of device environments, one for each build of onnxruntime.
        bundles: by what they train.
        folders: of pictures, by their kind.
        runs: how many.
        seed: of the draws.
    """
    chance, least, rows = random.Random(seed), {}, []
    for number in range(runs):
        python, trained = chance.choice(pythons), chance.choice(list(bundles))
        kind, columns = chance.choice(list(folders)), chance.choice((None, 80, 120))
        if (python, trained) not in least:
            said = _run([python, "-m", "edgeplast", "adapt", str(bundles[trained]), "--data", str(folders["photos"]),
                         "-o", "never", "--memory", "1MiB"], None)[1]  # fmt: skip
            found = re.search(r"--memory\s+(\d+)MiB", said)
            assert found, said
            least[python, trained] = int(found[1]) << 20
        smallest = least[python, trained] / MIB
        budget = chance.choice((smallest, chance.uniform(smallest, 248), chance.uniform(smallest, MOST_MIB)))
        row: dict[str, Any] = {"number": number, "python": python, "trained": trained, "pictures": kind}
        row |= {"columns": columns, "budget_bytes": round(budget * MIB)}
        row |= _adapt(python, bundles[trained], folders[kind], row["budget_bytes"], columns, number)
        rows.append(row)
        print(shown(row), flush=True)
    return rows


def _adapt(python: str, bundle: Path, data: Path, budget_bytes: int, columns: int | None, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "adapted"
        code, said = _run([python, "-m", "edgeplast", "adapt", str(bundle), "--data", str(data), "-o", str(into),
                           "--memory", str(budget_bytes), "--epochs", "1", "--batch", "8", "--seed", str(seed)],
                          columns)  # fmt: skip
        row: dict[str, Any] = {"exit_code": code}
        try:
            report = json.loads((into / "report.json").read_text())
        except (OSError, ValueError):
            return row | {"said": said.strip()[-600:]}
    memory = report["memory"]
    return row | {
        "peak_bytes": memory["measured_peak_bytes"],
        "predicted_bytes": memory["predicted_peak_bytes"],
        "runtime": report["runtime"],
        "tier": report["tier"],
        "micro_batch": report["micro_batch_size"],
        "unreadable": report["unreadable"],
        "rung_changes": [change["reason"] for change in report["rung_changes"]],
    }


def _run(command: list[str], columns: int | None) -> tuple[int, str]:
    """Run a command in a pipe, or in a terminal of so many columns; return its exit code and what it wrote."""
    if columns is None:
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    outer, inner = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment, close_fds=True)
    os.close(inner)
    parts = []
    while True:
        try:
            part = os.read(outer, 1 << 16)
        except OSError:  # Linux: nobody holds the other end any more
            break
        if not part:
            break
        parts.append(part)
    os.close(outer)
    return process.wait(), b"".join(parts).decode(errors="replace")


def is_over(row: dict[str, Any]) -> bool:
    """Say whether a run went over its budget."""
    return row.get("peak_bytes", 0) > row["budget_bytes"]


def shown(row: dict[str, Any]) -> str:
    """Put a run into a line."""
    where = "pipe" if row["columns"] is None else f"pty {row['columns']}"
    head = f"{row['number']:3} {row['trained']:9} {row['pictures']:10} {where:7} {row['budget_bytes'] / MIB:5.1f} MiB  "
    if "peak_bytes" not in row:
        return f"{head}exit {row['exit_code']}: {row['said']}"
    peak = row["peak_bytes"]
    over = "  ABOVE" if is_over(row) else ""
    predicted = row["predicted_bytes"] / peak - 1
    return (
        f"{head}{row['runtime']:20} peak {peak / MIB:5.1f} ({predicted:+.1%})  "
        f"tier {row['tier']} {row['micro_batch']}, "
        f"{row['unreadable']} left out, {len(row['rung_changes'])} changes{over}"
        + "".join(f"\n      {reason}" for reason in row["rung_changes"])
    )


def summary(rows: list[dict[str, Any]]) -> str:
    """Count what must not happen."""
    peaks = [row["predicted_bytes"] / row["peak_bytes"] - 1 for row in rows if "peak_bytes" in row]
    over, failed = sum(map(is_over, rows)), sum(row["exit_code"] != 0 for row in rows)
    changed = sum(bool(row.get("rung_changes")) for row in rows)
    return (
        f"{len(rows)} runs: {over} overshoots, {failed} wrong failures, {changed} with a change of rung; predicted "
        f"over measured {min(peaks, default=0):+.1%} to {max(peaks, default=0):+.1%}"
    )
