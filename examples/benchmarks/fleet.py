"""A fleet against all pictures in one place and against each device alone: accuracy, bytes, seconds.

Pictures of a set are dealt out to simulated devices (Dirichlet), which learn one model over Flower, as ``flwr run``
does it; the server tests each round's bundle. ``pooled`` adapts the same bundle on all training pictures in one place,
``alone`` each device on its own ones, over as many passes as the fleet takes. Flower is in an environment of its own:

``python -m venv flower && flower/bin/pip install -e '.[simulation,stock]'``, then
``python examples/benchmarks/fleet.py --json fleet.jsonl --flower flower/bin`` and ``… --json fleet.jsonl --table``.
A run that the journal holds is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from equal_memory import DATA, MODEL, WEIGHTS, kept, pictures, said, scored, stamp
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.fleet.dealing import dealt
from edgeplast.fleet.device import shapes_of
from edgeplast.fleet.flower import QUIET
from edgeplast.fleet.founding import write_app
from edgeplast.fleet.outcome import REPORT
from edgeplast.fleet.report import FleetReport
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model
from edgeplast_devices.images import open_images

TRAINED = {
    "plastic": "fc1:0-10,norm,head",
    "late": "fc1:6-11,norm,head",
    "factors": "lora:16@fc1,norm,head",
    "head": "head",
    "everything": "all",
}
"""What trains and travels: the kind that the planner takes, without its least plastic component (0.3 of the bytes of
everything); its later half; low-rank factors beside that kind; the least and the most."""

WAYS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"strategy": "fedprox"},
    "fedadam": {"strategy": "fedadam"},
    "float16": {"travel": "float16"},
    "int8": {"travel": "int8"},
    "secure": {"secure": True},
    "central": {"privacy": "central", "noise": 0.1},
    "central-on-device": {"privacy": "central-on-device", "noise": 0.1},
    "local": {"privacy": "local", "epsilon": 1000.0},
}
"""Ways to lead a fleet, and the settings that make them."""

POOLED, ALONE = "pooled", "alone"

KNOBS = ("devices", "rounds", "local_steps", "batch", "spread", "pictures", "side", "learning_rate")
"""Options that make a run another one."""


def exported(options: argparse.Namespace, name: str, trained: str) -> Path:
    """Return the bundle of a set in which these parts train."""
    folder = pictures(name, options.pictures, options.work)
    of = {"on": folder.name, "weights": stamp(DATA / WEIGHTS), "side": options.side}
    into = kept(options.work, "bundle", **of, trained=TRAINED[trained], memory=options.export_for)
    if not into.exists():
        model = load_model(MODEL, checkpoint=DATA / WEIGHTS, image_size=(options.side, options.side))
        scores = scored(model, folder, kept(options.work, "scores", **of))
        plan = edgeplast.plan(scores, Budget(memory_bytes=options.export_for), train=TRAINED[trained])
        edgeplast.export(model, plan, into=into)
    return into


@contextlib.contextmanager
def superlink(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Run a SuperLink for simulations on a free port, and give the environment in which ``flwr run`` finds it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    home = (options.work / "flower").absolute()
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    flower = options.flower.absolute()
    environment = os.environ | QUIET | {
        "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": f"{flower}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    words = ["--insecure", "--simulation", "--port", str(port), "--disable-runtime-dependency-installation"]
    with (options.work / "superlink.log").open("ab") as log:
        process = subprocess.Popen([str(flower / "flower-superlink"), *words], env=environment, stdout=log, stderr=log)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise RuntimeError(f"The SuperLink did not start; see {options.work / 'superlink.log'}.")
            time.sleep(0.2)
        yield environment
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        psutil.wait_procs(family, timeout=30)


def in_a_fleet(
    options: argparse.Namespace, bundle: Path, folder: Path, seed: int, way: str, environment: dict[str, str]
) -> dict[str, Any]:
    """Let a fleet learn, and return what counts."""
    app, rounds = options.work / "app", options.work / "rounds"
    shutil.rmtree(rounds, ignore_errors=True)
    write_app(
        bundle, app, force=True, devices=options.devices, output=str(rounds), data=str(folder / "train"),
        test=str(folder / "test"), least_devices=options.devices, rounds=options.rounds, batch=options.batch,
        local_steps=options.local_steps, spread=options.spread, seed=seed, learning_rate=options.learning_rate,
        **WAYS[way],
    )  # fmt: skip
    project = app / "pyproject.toml"  # or `flwr run` would move its connection
    project.write_text(project.read_text().partition("# `flwr run` moves")[0])
    federation = f"num-supernodes={options.devices} client-resources-num-cpus={options.cores_each}"
    began = time.monotonic()
    command = ["flwr", "run", str(app), "here", "--stream", "--federation-config", federation]
    log = options.work / "run.log"
    with log.open("wb") as file:
        subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    report = FleetReport.read(rounds / REPORT) if (rounds / REPORT).exists() else None
    if report is None or len(report.rounds) < options.rounds:
        raise RuntimeError(log.read_text()[-1500:])
    last = report.rounds[-1]
    return {
        "accuracy": last.test_accuracy,
        "by_round": [each.test_accuracy for each in report.rounds],
        "on_devices": last.accuracy,
        "bytes_up": sum(each.sent_bytes for each in report.rounds),
        "bytes_down": sum(each.received_bytes for each in report.rounds),
        "seconds": round(time.monotonic() - began, 1),
        "round_seconds": float(np.median([each.seconds for each in report.rounds])),
        "left_out": sum(bool(device.reason) for each in report.rounds for device in each.devices),
        "server_bytes": [each.server_bytes for each in report.rounds],
        "server_peak_bytes": report.server_peak_bytes,
        "device_peak_bytes": max(device.peak_bytes or 0 for device in last.devices),
    }


def by_itself(options: argparse.Namespace, bundle: Path, train: Path, test: Path, seed: int) -> dict[str, Any]:
    """Adapt on one place's pictures, over the passes of the fleet."""
    count = len(open_images(train, None))
    steps = options.rounds * options.local_steps * options.batch
    passes = steps * (options.devices if train.name == "train" else 1) / count
    into = options.work / "adapted"
    words = ["adapt", bundle, "--data", train, "--memory", "none", "--seed", seed]
    words += ["--batch", options.batch, "--epochs", max(round(passes), 1), "-o", into, "--force"]
    report = said(options.device_python, *words)
    found = said(options.device_python, "evaluate", into, "--data", test)
    return {"accuracy": found["accuracy"], "learned_from": count, "seconds": report["seconds"]["total"]}


def one_device(options: argparse.Namespace, folder: Path, seed: int, number: int) -> Path:
    """Write the pictures that a simulated device is dealt."""
    images = open_images(folder / "train", None)
    hand = dealt(images.labels, options.devices, options.spread, seed)[number]
    into = options.work / f"{folder.name}-device-{number}-{seed}"
    if not (into / "done").exists():
        for index in hand.tolist():
            place = into / images.classes[images.labels[index]]
            place.mkdir(parents=True, exist_ok=True)
            picture: Any = images.open(index)
            picture.save(place / f"{index:06d}.png")
        (into / "done").touch()
    return into


def alone(options: argparse.Namespace, bundle: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Adapt each device on its own pictures; one that sees a single class can only ever name that one."""
    found = []
    for number in range(options.devices):
        mine = one_device(options, folder, seed, number)
        classes = [place for place in mine.iterdir() if place.is_dir()]
        if len(classes) == 1:
            found.append(1 / len(Bundle.open(bundle).manifest.classes))
        else:
            found.append(by_itself(options, bundle, mine, folder / "test", seed)["accuracy"])
    return {"accuracy": float(np.mean(found)), "worst": min(found), "best": max(found)}


def measure(options: argparse.Namespace) -> None:
    """Do every run that the journal does not hold yet."""
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    with superlink(options) as environment:
        for name in options.sets:
            folder = pictures(name, options.pictures, options.work)
            for trained in options.trained:
                bundle = exported(options, name, trained)
                moved = sum(int(np.prod(shape)) for shape in shapes_of(Bundle.open(bundle).manifest).values())
                for seed in range(options.seeds):
                    for way in options.ways:
                        key = {"set": name, "trained": trained, "parts": TRAINED[trained], "way": way, "seed": seed}
                        key |= {each: getattr(options, each) for each in KNOBS}
                        if holds(options.json, key):
                            continue
                        with failures.noted(f"{way} of {trained} on {name}"):
                            if way == POOLED:
                                found = by_itself(options, bundle, folder / "train", folder / "test", seed)
                            elif way == ALONE:
                                found = alone(options, bundle, folder, seed)
                            else:
                                found = in_a_fleet(options, bundle, folder, seed, way, environment)
                            print(note(options.json, key | {"numbers_that_travel": moved} | found), flush=True)
    failures.leave()


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a set, what trains and a way; accuracy, bytes of all devices together, seconds of a round."""
    rows = []
    kinds = dict.fromkeys(_kind(run) for run in runs)
    for kind in kinds:
        own = [run for run in runs if _kind(run) == kind]
        accuracy = np.array([100 * run["accuracy"] for run in own])
        sent = [run["bytes_up"] + run["bytes_down"] for run in own if "bytes_up" in run]
        seconds = [run["round_seconds"] for run in own if "round_seconds" in run]
        rows.append([
            *kind, f"{own[0]['numbers_that_travel']:,}", f"{accuracy.mean():.1f} ({len(own)})",
            f"{np.mean(sent) / (1 << 20):.1f}" if sent else "–",
            f"{np.median(seconds):.0f}" if seconds else "–",
        ])  # fmt: skip
    head = ["pictures", "trains", "way", "devices", "rounds × steps", "rate"]
    head += ["numbers", "accuracy (seeds)", "MiB, all rounds", "seconds a round"]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows])


def _kind(run: dict[str, Any]) -> tuple[str, ...]:
    """Return what a row of the table is about."""
    steps, rate = f"{run['rounds']} × {run['local_steps']}", run["learning_rate"]
    return run["set"], run["trained"], run["way"], str(run["devices"]), steps, f"{rate:g}" if rate else "own"


def main() -> None:
    """Run what is asked for, or print the table."""
    parser = journaled(__doc__, "fleet", device="what adapts alone")
    parser.add_argument("--flower", type=Path, default=Path(sys.executable).parent, help="folder of Flower's programs")
    parser.add_argument("--sets", nargs="+", default=["aerial", "cells"])
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=[*TRAINED])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, POOLED, ALONE], default=["fedavg", POOLED, ALONE])
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--spread", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--local-steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--learning-rate", type=float, default=0.0, help="of the fleet's first round; 0: by what trains"
    )
    parser.add_argument("--pictures", type=int, default=60, help="training pictures a class, at most")
    parser.add_argument("--side", type=int, default=224, help="of the model's input")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cores-each", type=int, default=1, help="of a simulated device")
    parser.add_argument("--export-for", type=int, default=1 << 30, help="budget of the plan in bytes")
    options = parser.parse_args()
    options.work = options.work.absolute()
    if options.table:
        print(table(read(options.json)))
    else:
        measure(options)


if __name__ == "__main__":
    main()
