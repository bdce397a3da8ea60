"""How long until the model is good? Seconds of the whole process until an accuracy is reached, beside PyTorch.

Everyone starts from the same weights and learns the same parts of ViT-Tiny from the same photos of a set in
``../shared/data``, read, prepared and varied by the same code, with AdamW at the same constant rates; after each epoch
the set's test photos are looked at. The clock starts with the process and stops when the epoch ends after which enough
of them are named right: imports, opening and looking at test photos count. *linear probe* trains a head on features of
one pass, in PyTorch. Contestants take turns, seed after seed. A run is one JSON line; one that the journal holds is
skipped.

``python examples/benchmarks/time_to_accuracy.py --json times.jsonl --device-python .venv/stock/bin/python``, then
``… --json times.jsonl --table``: median seconds over those of PyTorch on the same parts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cache import PLANS, exported
from equal_memory import DATA, MODEL, WEIGHTS, pictures, said
from failures import Failures
from journaled import journaled

from edgeplast.bundle import Bundle
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model, with_classes

RATE, HEAD_RATE, BATCH = 2.5e-4, 2.5e-3, 16
PROBE, PYTORCH = "linear probe", "pytorch"
EDGEPLAST: dict[str, list[str]] = {"edgeplast": [], "edgeplast, nothing cached": ["--cache", "none"]}
CONTESTANTS = [PYTORCH, *EDGEPLAST, PROBE]


def run_edgeplast(options: argparse.Namespace, bundle: Path, folder: Path, seed: int, how: list[str]) -> dict[str, Any]:
    """Adapt in a process of its own; its telemetry says when each epoch ended."""
    into = options.work / "adapted"
    given = [
        "--data", folder, "-o", into, "--force", "--no-probe",
        "--memory", options.memory, "--seed", seed, "--epochs", options.epochs, "--batch", BATCH,
        "--learning-rate", RATE, "--head-learning-rate", HEAD_RATE, "--weight-decay", 0,
        "--schedule", "constant", "--warmup", 0,
    ]  # fmt: skip
    began = time.time()
    report = said(options.device_python, "adapt", bundle, *given, *how)
    told = map(json.loads, (into / "telemetry.jsonl").read_text().splitlines())
    seen = [(line["time"] - began, line["validation_accuracy"]) for line in told if line["kind"] == "epoch"]
    return {"peak_bytes": report["memory"]["measured_peak_bytes"], "seen": seen}


def run_pytorch(options: argparse.Namespace, bundle: Path, folder: Path, seed: int, contestant: str) -> dict[str, Any]:
    """Train in a process of its own, which prints what :func:`work` returns."""
    given = [contestant, bundle, folder, seed, options.epochs, options.accuracy, time.time()]
    command = [sys.executable, __file__, "--json", options.json, "--worker", json.dumps(list(map(str, given)))]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr[-1500:])
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def work(contestant: str, bundle: Path, folder: Path, seed: int, epochs: int, enough: float, began: float) -> Any:
    """PyTorch, over the parts that the bundle trains; it stops when it is good enough."""
    import torch

    from edgeplast_devices.images import Augmentation, Unreadable, batches, epoch_order, open_images
    from edgeplast_devices.memory import peak_bytes

    torch.set_num_threads(2)
    torch.manual_seed(seed)
    manifest, unreadable = Bundle.open(bundle).manifest, Unreadable()
    model: Any = with_classes(load_model(MODEL, checkpoint=DATA / WEIGHTS), len(manifest.classes))
    names = {name for name, stored in manifest.parameters.items() if stored.trainable}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    torch.nn.init.zeros_(model.head.weight)
    sets, how, seen = {split: open_images(folder, split) for split in ("train", "val")}, manifest.preprocessing, []

    def through(split: str, **more: Any) -> Any:
        return batches(sets[split], how, BATCH, unreadable=unreadable, **more)

    def right(logits: Any) -> float:
        with torch.no_grad():
            hits = [(logits(b.images).argmax(1).numpy() == b.labels).sum() for b in through("val")]
        return float(sum(hits) / len(sets["val"]))

    def features(images: Any) -> Any:
        return model.forward_head(model.forward_features(torch.from_numpy(images)), pre_logits=True)

    if contestant == PROBE:
        with torch.no_grad():
            found = [(features(b.images), torch.from_numpy(b.labels)) for b in through("train")]
        x, y = (torch.cat(part) for part in zip(*found, strict=True))
        probe = torch.optim.LBFGS(model.head.parameters(), max_iter=100)

        def closure() -> Any:
            probe.zero_grad()
            loss = torch.nn.functional.cross_entropy(model.head(x), y) + 1e-4 * model.head.weight.square().sum()
            loss.backward()
            return loss

        probe.step(closure)
        seen.append((0.0, right(lambda images: model.head(features(images)))))
        seen[-1] = (time.time() - began, seen[-1][1])
        return {"peak_bytes": peak_bytes(), "seen": seen}
    rates = [(p, HEAD_RATE if n.startswith("head.") else RATE) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": [p], "lr": rate} for p, rate in rates], weight_decay=0)
    for epoch in range(epochs):
        order = epoch_order(len(sets["train"]), seed, epoch)
        varied = Augmentation.named("default")
        for batch in through("train", order=order, augmentation=varied, seed=seed, epoch=epoch):
            logits = model(torch.from_numpy(batch.images))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels)).backward()
            optimizer.step()
            optimizer.zero_grad()
        accuracy = right(lambda images: model(torch.from_numpy(images)))
        seen.append((time.time() - began, accuracy))
        if accuracy >= enough:
            break
    return {"peak_bytes": peak_bytes(), "seen": seen}


def reached(run: dict[str, Any], enough: float) -> float | None:
    """Return after how many seconds the accuracy was there."""
    return next((seconds for seconds, accuracy in run["seen"] if accuracy >= enough), None)


def table(runs: list[dict[str, Any]], enough: float) -> str:
    """Markdown: a row a plan and contestant."""
    rows = [["trained", "", f"seconds to {enough:.0%}, median (least)", "over PyTorch", "reached", "best", "peak, MiB"]]
    rows.append(["---"] * len(rows[0]))
    for plan in PLANS:
        for contestant in CONTESTANTS:
            own = [run for run in runs if (run["plan"], run["contestant"]) == (plan, contestant)]
            rivals = {run["seed"]: run for run in runs if (run["plan"], run["contestant"]) == (plan, PYTORCH)}
            times = [seconds for run in own if (seconds := reached(run, enough)) is not None]
            pairs = [
                (reached(run, enough), reached(rivals[run["seed"]], enough)) for run in own if run["seed"] in rivals
            ]
            ratios = [a / b for a, b in pairs if a and b]
            if own:
                rows.append([
                    plan, contestant,
                    f"{np.median(times):.0f} ({min(times):.0f})" if times else "–",
                    f"{np.median(ratios):.2f}" if ratios else "–",
                    f"{len(times)} of {len(own)}",
                    f"{100 * np.mean([max(accuracy for _, accuracy in run['seen']) for run in own]):.1f}",
                    f"{max(run['peak_bytes'] for run in own) / (1 << 20):.0f}",
                ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Do every run that the journal does not hold yet, or print its table."""
    parser = journaled(__doc__, "times")
    parser.add_argument("--set", default="aerial", help="of equal_memory.SETS")
    parser.add_argument("--pictures", type=int, default=60, help="to train on, a class")
    parser.add_argument("--test-pictures", type=int, default=30, help="to test on after each epoch, a class")
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--accuracy", type=float, default=0.86)
    parser.add_argument("--epochs", type=int, default=8, help="at most; edgeplast goes on to the last")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--memory", default="256MB")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        who, bundle, folder, seed, epochs, enough, began = json.loads(options.worker)
        found = work(who, Path(bundle), Path(folder), int(seed), int(epochs), float(enough), float(began))
        print(json.dumps(found))
        return
    if options.table:
        print(table(read(options.json), options.accuracy))
        return
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    folder = pictures(options.set, options.pictures, options.work, options.test_pictures)
    if (folder / "test").exists():  # looked at after each epoch, as adapt does with what is held back
        shutil.move(folder / "test", folder / "val")
    for seed in range(options.seeds):
        for plan in options.plans:
            bundle = exported(PLANS[plan], folder, options.work, options.memory)
            for contestant in options.contestants:
                key = {
                    "plan": plan, "contestant": contestant, "set": options.set, "pictures": options.pictures,
                    "test_pictures": options.test_pictures, "epochs": options.epochs, "seed": seed,
                    "stops_at": options.accuracy,
                }  # fmt: skip
                if holds(options.json, key):
                    continue
                with failures.noted(f"{contestant}, {plan}, seed {seed}"):
                    if contestant in EDGEPLAST:
                        result = run_edgeplast(options, bundle, folder, seed, EDGEPLAST[contestant])
                    else:
                        result = run_pytorch(options, bundle, folder, seed, contestant)
                    print(note(options.json, key | result), flush=True)
    failures.leave()


if __name__ == "__main__":
    main()
