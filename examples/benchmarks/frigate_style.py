"""A rival that ships: what a home video recorder does with its users' pictures, and edgeplast on the same ones.

Frigate 0.17 trains a classifier on its users' boxes: MobileNetV2 (α 0.35) frozen, a head of 128 units, 50 epochs of 16
pictures, the backbone run again in each epoch, the head from scratch each time; a fifth of the pictures is held back.
Here that recipe is written in PyTorch over timm's backbone, beside edgeplast's head and small plans over a ViT-Tiny.

No weights of MobileNetV2 0.35 are at hand: over random ones its seconds and its peak are those that they would be, its
accuracy means nothing and is left out. For an accuracy the same recipe is run over the ViT-Tiny that edgeplast gets.
Each contestant is a process of its own; seconds are the whole process's, imports included, and peaks its resident set.

``python examples/benchmarks/frigate_style.py --json runs.jsonl --device-python .venv/stock/bin/python``, then
``… --json runs.jsonl --table``. A run that the journal holds is skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from equal_memory import DATA, MODEL, WEIGHTS, pictures, said
from failures import Failures
from journaled import journaled

import edgeplast
from edgeplast.journal import holds, note, read
from edgeplast.models import import_timm, load_model, preprocessing_of, with_classes
from edgeplast.plans import plan_by_names
from edgeplast_devices.memory import peak_bytes

RIVALS = {"MobileNetV2 0.35, Frigate's recipe": "mobilenetv2_035", "ViT-Tiny, Frigate's recipe": MODEL}
OURS: dict[str, tuple[str, tuple[str, ...]]] = {
    "edgeplast, fitted head": ("head", ("--head", "fitted", "--epochs", "0")),
    "edgeplast, head": ("head", ("--epochs", "10")),
    "edgeplast, norms of the last four blocks": ("norm1:8-11,norm2:8-11,norm,head", ("--epochs", "6")),
    "edgeplast, attention of the last four blocks": ("attn:8-11,norm,head", ("--epochs", "6")),
}
_HIDDEN, _DROPOUT, _EPOCHS, _BATCH, _RATE, _HELD_BACK = 128, 0.3, 50, 16, 1e-3, 0.2


def rival(name: str, folder: Path, threads: int, began: float) -> dict[str, Any]:
    """Train a head as Frigate does and return test accuracy, seconds since it began and peak of this process."""
    timm = import_timm()
    import torch

    from edgeplast_devices.images import Unreadable, batches, open_images

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = load_model(name, checkpoint=DATA / WEIGHTS) if name == MODEL else timm.create_model(name)
    how = preprocessing_of(model)
    backbone: Any = model.eval().requires_grad_(requires_grad=False)
    backbone.reset_classifier(0)
    train, test = open_images(folder / "train"), open_images(folder / "test")
    width = backbone.num_features if name == MODEL else backbone.head_hidden_size
    head = torch.nn.Sequential(
        torch.nn.Linear(width, _HIDDEN), torch.nn.ReLU(), torch.nn.Dropout(_DROPOUT),
        torch.nn.Linear(_HIDDEN, len(train.classes)),
    )  # fmt: skip
    optimizer, rng = torch.optim.Adam(head.parameters(), _RATE), np.random.default_rng(0)
    mixed = rng.permutation(len(train))
    learned = mixed[int(_HELD_BACK * len(train)) :]  # the rest is held back, and never looked at

    def passed(images: Any, order: np.ndarray | None) -> Any:
        for batch in batches(images, how, _BATCH, order=order, unreadable=Unreadable()):
            with torch.no_grad():
                features = backbone(torch.from_numpy(batch.images))
            yield head(features), torch.from_numpy(batch.labels)

    def right(images: Any) -> float:
        head.eval()
        with torch.no_grad():
            found = [(logits.argmax(1) == labels).float() for logits, labels in passed(images, None)]
        return float(torch.cat(found).mean())

    for _ in range(_EPOCHS):
        for logits, labels in passed(train, rng.permutation(learned)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
    seconds = time.time() - began
    return {"accuracy": right(test), "seconds": seconds, "peak_bytes": peak_bytes()}


def ours(options: argparse.Namespace, plan: str, words: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Adapt in a process of its own inside the budget; seconds are its own too."""
    work = options.work / f"bundle-{plan.replace(':', '').replace(',', '-')}"
    if not work.exists():
        classes = tuple(sorted(place.name for place in (folder / "train").iterdir()))
        model = with_classes(load_model(MODEL, checkpoint=DATA / WEIGHTS), len(classes))
        from edgeplast_exporters.outlining import outlined

        edgeplast.export(model, plan_by_names(outlined(model, MODEL)[0], plan, classes=classes), into=work)
    with tempfile.TemporaryDirectory() as scratch:
        into, began = Path(scratch) / "adapted", time.perf_counter()
        more = ["--memory", options.budget, "--threads", options.threads, "--no-probe"]
        report = said(options.device_python, "adapt", work, "--data", folder / "train", "-o", into, *more, *words)
        seconds = time.perf_counter() - began
        accuracy = said(options.device_python, "evaluate", into, "--data", folder / "test")["accuracy"]
    return {"accuracy": accuracy, "seconds": seconds, "peak_bytes": report["memory"]["measured_peak_bytes"]}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a contestant, seconds and peak over the first one's too."""
    first = runs[0]
    rows = [["", "accuracy", "seconds", "over the first", "peak, MiB", "over the first"], ["---"] * 6]
    for run in runs:
        known = RIVALS.get(run["contestant"]) in (None, MODEL)
        rows.append([
            run["contestant"], f"{run['accuracy']:.1%}" if known else "random weights", f"{run['seconds']:.0f}",
            f"{run['seconds'] / first['seconds']:.2f}", f"{run['peak_bytes'] / (1 << 20):.0f}",
            f"{run['peak_bytes'] / first['peak_bytes']:.2f}",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run each contestant once, or print the table."""
    parser = journaled(__doc__, "frigate_style", device="what runs edgeplast")
    parser.add_argument("--pictures", type=int, default=20, help="training pictures a class")
    parser.add_argument("--test-pictures", type=int, default=30, help="test pictures a class")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", default="256MiB")
    parser.add_argument(
        "--rival", nargs=3, metavar=("NAME", "FOLDER", "BEGAN"), help="run this backbone here, and print"
    )
    options = parser.parse_args()
    if options.rival:
        name, place, began = options.rival
        print(json.dumps(rival(name, Path(place), options.threads, float(began))))
        return
    if options.table:
        print(table(read(options.json)))
        return
    folder, failures = pictures("aerial", options.pictures, options.work, options.test_pictures), Failures()
    for contestant in (*RIVALS, *OURS):
        key = {"contestant": contestant, "pictures": options.pictures, "test_pictures": options.test_pictures}
        if holds(options.json, key):
            continue
        with failures.noted(contestant):
            if contestant in RIVALS:
                command = [
                    sys.executable,
                    __file__,
                    "--json",
                    str(options.json),
                    "--threads",
                    str(options.threads),
                    "--rival",
                ]
                done = subprocess.run(
                    [*command, RIVALS[contestant], str(folder), str(time.time())],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                result = json.loads(done.stdout.splitlines()[-1])
            else:
                result = ours(options, *OURS[contestant], folder)
            print(note(options.json, key | result), flush=True)
    failures.leave()


if __name__ == "__main__":
    main()
