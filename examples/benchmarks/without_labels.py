"""Pictures that nobody sorted: what each method of ``adapt --labels none`` makes of a model that meets other pictures.

A model learns a set's clean pictures with labels, once. Then its pictures are corrupted (the 15 kinds of ImageNet-C, by
the package ``imagecorruptions``, which only this script needs: ``pip install imagecorruptions``), the training part is
learned from without labels, and accuracy on the corrupted test part is measured before and after, each run in a process
of its own inside the budget. ``labels`` is what some labelled pictures of the new kind would have given instead.

``python examples/benchmarks/without_labels.py --json runs.jsonl --device-python .venv/stock/bin/python``, then
``… --json runs.jsonl --table``: accuracy before and after by method and by what trains, the mean and the worst change.
A run that the journal holds is skipped.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from equal_memory import DATA, MODEL, WEIGHTS, kept, pictures, said, scored, stamp
from failures import Failures
from journaled import journaled
from PIL import Image

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model
from edgeplast.units import parse_bytes

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip

_LEAST_SIDE = 32
"""Of a picture that the package takes; smaller ones are enlarged first."""

TRAINED = {"norms": "norms,norm,head", "lora": "lora:8,head", "plastic": "fc1,norm,head", "all": "all"}
LABELLED = "labels"


@functools.cache  # what is replaced in it must not be replaced again
def corruptions() -> Any:
    """Return the package's function, which was written for numpy 1 and an older scikit-image."""
    np.float_ = np.float64  # type: ignore[attr-defined]
    from imagecorruptions import corrupt  # type: ignore[import-not-found]
    from imagecorruptions import corruptions as kinds

    blur = kinds.gaussian

    def gaussian(image: Any, *given: Any, multichannel: bool = False, **how: Any) -> Any:
        return blur(image, *given, channel_axis=-1 if multichannel else None, **how)

    kinds.gaussian = gaussian
    return corrupt


def corrupted(clean: Path, kind: str, severity: int) -> Path:
    """Write the same pictures as a worse camera would take them; chance is drawn by the picture's place."""
    folder = clean.with_name(f"{clean.name}-{kind}-{severity}")
    if (folder / "done").exists():
        return folder
    corrupt = corruptions()
    for number, path in enumerate(sorted(clean.glob("*/*/*.png"))):
        np.random.seed(number)  # where the package draws from
        with Image.open(path) as picture:
            times = max(-(-_LEAST_SIDE // min(picture.size)), 1)
            large = picture.convert("RGB").resize((picture.width * times, picture.height * times))
            array = corrupt(np.asarray(large), corruption_name=kind, severity=severity)
        place = folder / path.relative_to(clean)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array, np.uint8)).save(place, compress_level=1)
    (folder / "done").touch()
    return folder


def dealt(options: argparse.Namespace) -> tuple[Path, Path]:
    """Return a set's clean pictures in two folders: half of the training part each, and the same test part.

    The model learns from one; the other is what it meets without labels: no picture is met twice.
    """
    every = pictures(options.set, 2 * options.pictures, options.work, options.test_pictures)
    halves = every.with_name(f"{every.name}-known"), every.with_name(f"{every.name}-met")
    for part, half in enumerate(halves):
        if (half / "done").exists():
            continue
        for place in sorted((every / "train").iterdir()):
            (half / "train" / place.name).mkdir(parents=True, exist_ok=True)
            for path in sorted(place.iterdir())[part::2]:
                shutil.copy(path, half / "train" / place.name)
        shutil.copytree(every / "test", half / "test", dirs_exist_ok=True)
        (half / "done").touch()
    return halves


def learned(options: argparse.Namespace, known: Path, trained: str) -> Path:
    """Return the model that has learned a set's clean pictures, trained in these parts."""
    of = {"on": known.name, "weights": stamp(DATA / WEIGHTS), "side": options.side}
    how = of | {"trained": TRAINED[trained], "budget": options.budget}
    bundle, adapted = kept(options.work, "bundle", **how), kept(options.work, "learned", **how, epochs=options.epochs)
    if not bundle.exists():
        model = load_model(MODEL, checkpoint=DATA / WEIGHTS, image_size=(options.side, options.side))
        budget = Budget(memory_bytes=parse_bytes(options.budget))
        plan = edgeplast.plan(scored(model, known, kept(options.work, "scores", **of)), budget, train=TRAINED[trained])
        edgeplast.export(model, plan, into=bundle)
    if not adapted.exists():
        words = ["adapt", bundle, "--data", known, "--memory", options.budget, "--epochs", options.epochs]
        said(options.device_python, *words, "-o", adapted)
    return adapted


def few(folder: Path, count: int, into: Path) -> Path:
    """Copy so many training pictures a class, and all test pictures."""
    shutil.copytree(folder / "test", into / "test")
    for place in sorted((folder / "train").iterdir()):
        (into / "train" / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[:count]:
            shutil.copy(path, into / "train" / place.name)
    return into


def run_once(options: argparse.Namespace, start: Path, folder: Path, method: str, seed: int) -> dict[str, Any]:
    """Adapt to the new pictures and return what counts."""
    with tempfile.TemporaryDirectory() as scratch:
        words = ["adapt", start, "--memory", options.budget, "-o", Path(scratch) / "adapted"]
        if method == LABELLED:
            data = few(folder, options.labelled, Path(scratch) / "few")
            report = said(options.device_python, *words, "--data", data, "--epochs", options.epochs)
        else:
            words += ["--labels", "none", "--method", method, "--epochs", options.epochs_without, "--seed", seed]
            report = said(options.device_python, *words, "--data", folder)
    judged = report["judged"]
    return {
        "before": report["accuracy"]["before"],
        "after": report["accuracy"]["after"],
        "stopped_because": report["stopped_because"],
        "best_epoch": report["best_epoch"],
        "variety": judged["before"]["variety"] if judged else None,
        "agreement": [judged[when]["agreement"] for when in ("before", "after")] if judged else None,
        "moved": judged["moved"] if judged else None,
        "peak_bytes": report["memory"]["measured_peak_bytes"],
        "seconds": report["seconds"]["total"],
    }


def measure(options: argparse.Namespace) -> None:
    """Do every run that the journal does not hold yet."""
    failures = Failures()
    options.work.mkdir(parents=True, exist_ok=True)
    known, met = dealt(options)
    for trained in options.trained:
        start = learned(options, known, trained)
        for severity in options.severities:
            for kind in options.corruptions:
                folder = corrupted(met, kind, severity)
                for method, seed in product(options.methods, options.seeds):
                    key = {
                        "set": options.set, "side": options.side, "trained": trained, "corruption": kind,
                        "severity": severity, "method": method, "epochs": options.epochs_without,
                        "pictures": options.pictures, "test_pictures": options.test_pictures,
                        "budget": options.budget, "learned_epochs": options.epochs,
                    } | ({"seed": seed} if seed else {})  # fmt: skip  # what ran before there were seeds had 0
                    if not holds(options.json, key):
                        with failures.noted(f"{method} of {trained} on {kind} {severity}"):
                            print(note(options.json, key | run_once(options, start, folder, method, seed)), flush=True)
    failures.leave()


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a method and what trains; means over corruptions, and the worst change."""
    rows = []
    for trained in dict.fromkeys(run["trained"] for run in runs):
        for method in dict.fromkeys(run["method"] for run in runs):
            found = [run for run in runs if (run["trained"], run["method"]) == (trained, method)]
            if not found:
                continue
            change = np.array([100 * (run["after"] - run["before"]) for run in found])
            before, after = (100 * float(np.mean([run[k] for run in found])) for k in ("before", "after"))
            rows.append([
                trained, method, str(len(found)), f"{before:.1f} → {after:.1f}", f"{change.mean():+.1f}",
                f"{change.min():+.1f}", f"{max(run['peak_bytes'] for run in found) / (1 << 20):.0f}",
                f"{np.median([run['seconds'] for run in found]):.0f}",
            ])  # fmt: skip
    head = ["trains", "method", "runs", "accuracy", "mean change", "worst", "peak, MiB", "seconds"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Run what is asked for, or print the table."""
    parser = journaled(__doc__, "without_labels")
    parser.add_argument("--set", default="aerial")
    parser.add_argument("--budget", default="256MiB")
    parser.add_argument("--side", type=int, default=112, help="of the picture that the model takes")
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=[*TRAINED])
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=[*CORRUPTIONS])
    parser.add_argument("--severities", nargs="+", type=int, default=[3, 5])
    parser.add_argument(
        "--methods", nargs="+", default=["information", "entropy", "pseudo", "recentre", LABELLED],
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of what is held back and of the order")
    parser.add_argument("--epochs", type=int, default=4, help="with labels")
    parser.add_argument("--epochs-without", type=int, default=4, help="without")
    parser.add_argument("--pictures", type=int, default=30, help="a class, at most: to learn, and as many to meet")
    parser.add_argument("--test-pictures", type=int, default=100, help="test pictures a class, at most")
    parser.add_argument("--labelled", type=int, default=10, help="pictures a class that `labels` is given")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json)))
    else:
        measure(options)


if __name__ == "__main__":
    main()
