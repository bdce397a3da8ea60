"""Does a device process keep to its memory budget, does it use it, and what does watching cost?

Everything trains (``--train all``), ViT-Tiny/16 at 224², unless asked otherwise. Each run is a process of its own, the
command ``edgeplast adapt`` as users type it, over pictures of noise that the script makes. Parts:

* ``sweep``: budgets × seeds: peak (``VmHWM``) against budget and prediction, the rung that was chosen;
* ``smallest``: the smallest budget at which anything trains, for ViT-Tiny, -Small and -Base, tried out;
* ``losses``: the losses of 20 steps at batch 16 in micro-batches of 16, 4 and 1;
* ``outlook``: seconds that the line before the first step says are to come, against those that came, on each build;
* ``life``: 200 runs drawn at random, see ``budget_life.py``;
* ``overhead``: what guard, watcher, moving the wall and telemetry take of a step.

``python examples/benchmarks/budget_sweep.py [--parts sweep,overhead] [--json results.json]``; weights are random unless
``--checkpoint`` is given, since memory and time do not depend on them. ``--python`` names the interpreter of a device
environment, without torch; by default this one runs the devices' part as well (torch is not imported there).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import budget_life
import numpy as np
from failures import Failures
from PIL import Image

import edgeplast
from edgeplast.bundle import Bundle
from edgeplast.models import load_model, with_classes
from edgeplast.recomputation import IN_WORDS

BUDGETS_MIB = (105, 124, 153, 191, 248, 334, 477)
SMALLEST = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")
CLASSES = ("a", "b")
OUTLOOK_MIB = (91, 127, 200, 256)
OUTLOOK_TRAINS = "attn"
MIB = 1 << 20


def make_bundle(model: str, train: str, into: Path, checkpoint: Path | None) -> Bundle:
    """Export a model with a plan that is made by name, so that no images are needed."""
    from edgeplast.plans import plan_by_names
    from edgeplast_exporters.outlining import outlined

    network = with_classes(load_model(model, checkpoint=checkpoint), len(CLASSES))
    outline = outlined(network, model)[0]
    plan = plan_by_names(outline, train, micro_batch_size=4, classes=CLASSES)
    return edgeplast.export(network, plan, into=into, keep_head=True)


def make_pictures(root: Path, train: int, test: int) -> Path:
    """JPEGs of noise, 256 × 256, half of them of either class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", test), ("test", test)):
        for i in range(count):
            folder = root / split / CLASSES[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((256, 256)).save(folder / f"{i:03d}.jpg")
    return root


def adapt(python: str, bundle: Path, data: Path, memory: str | None, **how: Any) -> dict[str, Any]:
    """Run ``edgeplast adapt`` and return its report, or what it said instead."""
    with tempfile.TemporaryDirectory() as into:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in how.items()]
        limit = ["--memory", memory] if memory else []
        command = [python, "-m", "edgeplast", "adapt", str(bundle), "--data", str(data), "-o", f"{into}/a", "--json"]
        done = subprocess.run([*command, *limit, *options], capture_output=True, text=True)
        try:
            return {**json.loads(done.stdout), "exit_code": done.returncode}
        except ValueError:  # nothing, or not JSON: the words of whatever ended the process
            said = (done.stderr + done.stdout).strip()[-300:]
            return {"error": said or "said nothing", "exit_code": done.returncode}


def sweep(python: str, bundle: Bundle, data: Path, seeds: int) -> list[dict[str, Any]]:
    """Go through budgets and seeds in turns, so that a disturbance of the machine hits all budgets alike."""
    rows = []
    for seed in range(seeds):
        for budget in BUDGETS_MIB:
            report = adapt(python, bundle.path, data, f"{budget}MiB", epochs=1, batch=16, seed=seed)
            row: dict[str, Any] = {"budget_bytes": budget * MIB, "seed": seed, "exit_code": report["exit_code"]}
            if "error" in report:
                row["error"] = report["error"]
            else:
                memory = report["memory"]
                row |= {
                    "peak_bytes": memory["measured_peak_bytes"],
                    "predicted_bytes": memory["predicted_peak_bytes"],
                    "enforced_by": memory["enforced_by"],
                    "tier": report["tier"],
                    "micro_batch": report["micro_batch_size"],
                    "recompute": report["recompute"],
                    "step_seconds": report["seconds"]["step_median"],
                    "rung_changes": len(report["rung_changes"]),
                }
            rows.append(row)
            print(_row(row), flush=True)
    return rows


def _row(row: dict[str, Any]) -> str:
    head = f"{row['budget_bytes'] / MIB:4.0f} MiB  seed {row['seed']}"
    if "error" in row:
        return f"{head}  exit {row['exit_code']}: {row['error']}"
    peak, predicted = row["peak_bytes"], row["predicted_bytes"]
    inside = "inside" if peak <= row["budget_bytes"] else "ABOVE "
    return (
        f"{head}  peak {peak / MIB:6.1f} MiB ({inside}, {peak / row['budget_bytes']:.2f} of it)  "
        f"predicted {predicted / MIB:6.1f} ({predicted / peak - 1:+.1%})  tier {row['tier']:8} "
        f"micro-batch {row['micro_batch']:2} {IN_WORDS[row['recompute']]:17} "
        f"{row['step_seconds']:.2f} s a step, {row['rung_changes']} changes"
    )


def smallest(python: str, folder: Path, data: Path) -> list[dict[str, Any]]:
    """Ask for the impossible, read which budget would do, and try it."""
    rows = []
    for model in SMALLEST:
        bundle = make_bundle(model, "attn", folder / model, None)
        said = adapt(python, bundle.path, data, "1MiB", epochs=1)
        found = re.search(r"--memory (\d+)MiB", said["error"])
        assert found, said
        report = adapt(python, bundle.path, data, f"{found[1]}MiB", epochs=1, batch=16)
        row = {"model": model, "smallest_bytes": int(found[1]) << 20, "exit_code": report["exit_code"]}
        if "error" in report:
            row["error"] = report["error"]
        else:
            row |= {"peak_bytes": report["memory"]["measured_peak_bytes"], "tier": report["tier"]}
        rows.append(row)
        tried = report.get("error") or f"peak {row['peak_bytes'] / MIB:.0f} MiB, tier {row['tier']}"
        print(f"{model}: {int(found[1])} MiB; tried: {tried}", flush=True)
    return rows


def outlooks(pythons: list[str], bundle: Path, data: Path) -> list[dict[str, Any]]:
    """Go through budgets and builds in turns: what ``adapt`` says is to come, and what came until the process ended."""
    rows = []
    for budget in OUTLOOK_MIB:
        for python in pythons:
            row: dict[str, Any] = {"budget_bytes": budget * MIB, "python": python}
            row |= outlook(python, bundle, data, f"{budget}MiB")
            rows.append(row)
            if "error" in row:
                print(f"{budget:4} MiB  {python}  {row['error']}", flush=True)
                continue
            away = row["told_seconds"] / row["seconds"] - 1
            print(
                f"{budget:4} MiB  {python}  tier {row['tier']:8} micro-batch {row['micro_batch']:2}  "
                f"about {row['told_seconds']:.0f} s, it took {row['seconds']:.0f} s: {away:+.0%}",
                flush=True,
            )
    return rows


def outlook(python: str, bundle: Path, data: Path, memory: str) -> dict[str, Any]:
    """Run ``edgeplast adapt`` and return what it said before its first step, and the seconds from there to its end."""
    with tempfile.TemporaryDirectory() as into:
        command = [python, "-m", "edgeplast", "adapt", str(bundle), "--data", str(data), "-o", f"{into}/a"]
        command += ["--memory", memory, "--epochs", "3", "--batch", "16", "--no-probe"]
        said, told, began = [], None, 0.0
        with subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            for line in run.stdout:
                said.append(line)
                if found := re.match(r"Tier (\S+), micro-batch (\d+), .* about (.+)\.$", line):
                    told, began = found, time.perf_counter()
        ended = time.perf_counter()
    if told is None or run.returncode:
        return {"exit_code": run.returncode, "error": "".join(said).strip()[-300:]}
    return {
        "exit_code": run.returncode,
        "tier": told[1],
        "micro_batch": int(told[2]),
        "told_seconds": in_seconds(told[3]),
        "seconds": ended - began,
    }


def in_seconds(told: str) -> float:
    """Read what :func:`edgeplast.units.format_seconds` wrote."""
    units = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (ms|s|min|h)\b", told))


def losses(python: str, bundle: Bundle, data: Path) -> dict[str, float]:
    """Return the largest difference of a loss from that of micro-batch 16, over 20 steps."""
    found = {
        size: adapt(python, bundle.path, data, None, epochs=20, batch=16, micro_batch=size, threads=2)["losses"]
        for size in (16, 4, 1)
    }
    assert all(len(values) == len(found[16]) for values in found.values())
    gaps = {str(size): float(np.abs(np.subtract(found[size], found[16])).max()) for size in (4, 1)}
    print(f"largest difference of a loss from micro-batch 16 over {len(found[16])} steps: {gaps}")
    return gaps


def overhead(step_seconds: float) -> dict[str, float]:
    """Return what each piece of watching takes, in seconds, and all of it as a share of a step."""
    from edgeplast_devices.guard import Guard
    from edgeplast_devices.memory import machine_bytes, read, resident_bytes
    from edgeplast_devices.telemetry import TelemetryWriter
    from edgeplast_devices.wall import Wall

    guard = Guard(resident_bytes() + (1 << 30), machine_bytes())
    figures = {"epoch": 1, "seconds": 0.5, "loss": 1.0, "gradient_norm": 1.0, "learning_rate": 1e-3,
               "resident_bytes": 1 << 27, "micro_batch": 4, "tier": "full", "recompute": "full"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Wall(resident_bytes() + (1 << 30)) as wall:
        writer = TelemetryWriter(Path(folder))
        costs = {
            "pressure": _seconds(guard.pressure),
            "reading": _seconds(read),
            "move_wall": _seconds(wall.follow),
            "telemetry": _seconds(lambda: writer.step(step=1, **figures)),
            "thermals": _seconds(writer._read_thermals, 20),
        }
        writer.close()
    # Four micro-batches a step; the watcher reads twenty times a second, thermals are read every five seconds.
    each_step = 4 * costs["pressure"] + costs["move_wall"] + costs["telemetry"]
    share = each_step / step_seconds + 20 * costs["reading"] + costs["thermals"] / 5
    print(
        ", ".join(f"{name} {seconds * 1e6:.0f} µs" for name, seconds in costs.items())
        + f": {share:.2%} of a step of {step_seconds:.2f} s"
    )
    return {**costs, "share_of_step": share}


def _seconds(work: Any, times: int = 500) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--train", default="all", help="what the plan trains, by name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="of the device environment")
    parser.add_argument("--pythons", nargs="+", help="of several device environments, for the parts outlook and life")
    parser.add_argument("--runs", type=int, default=200, help="of the part life")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of the part life")
    parser.add_argument("--parts", default="sweep,smallest,losses,overhead")
    parser.add_argument("--json", type=Path, help="where the results are written as JSON")
    options = parser.parse_args()
    parts = options.parts.split(",")
    results: dict[str, Any] = {}
    failures = Failures()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bundle = make_bundle(options.model, options.train, root / "bundle", options.checkpoint)
        data = make_pictures(root / "data", 64, 8)
        if "sweep" in parts:
            results["sweep"] = sweep(options.python, bundle, data, options.seeds)
        if "smallest" in parts:
            with failures.noted("smallest"):
                results["smallest"] = smallest(options.python, root, data)
        if "losses" in parts:
            with failures.noted("losses"):
                results["losses"] = losses(options.python, bundle, make_pictures(root / "few", 16, 2))
        if "outlook" in parts:
            plan = make_bundle(options.model, OUTLOOK_TRAINS, root / "outlook", options.checkpoint)
            pythons = options.pythons or [options.python]
            results["outlook"] = outlooks(pythons, plan.path, make_pictures(root / "many", 96, 24))
        if "life" in parts:
            bundles = {
                train: make_bundle(options.model, train, root / f"life-{i}", options.checkpoint).path
                for i, train in enumerate(budget_life.TRAINED)
            }
            folders = budget_life.make_folders(root / "life")
            with failures.noted("life"):
                results["life"] = budget_life.live(
                    options.pythons or [options.python], bundles, folders, options.runs, options.seed
                )
                print(budget_life.summary(results["life"]))
        if "overhead" in parts:
            rows = [row for row in results.get("sweep", []) if "step_seconds" in row]
            step = float(np.median([row["step_seconds"] for row in rows])) if rows else 1.0
            with failures.noted("overhead"):
                results["overhead"] = overhead(step)
    if options.json:
        options.json.write_text(json.dumps({"model": options.model, "train": options.train, **results}, indent=1))
    failures.leave()


if __name__ == "__main__":
    main()
