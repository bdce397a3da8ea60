"""What a week with few kinds of pictures does to the others, and what ``--distill`` and ``--replay`` keep of them.

A ViT-Tiny learns all seven kinds of aerial photos (RSSCN7); then it is shown new ones of three kinds alone. Accuracy on
test pictures of those three, and of the four that nobody showed it, before and after, by what it is held to.

``python examples/benchmarks/forgetting.py --json runs.jsonl``, then ``… --json runs.jsonl --table``. A run that the
journal holds is skipped.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from equal_memory import DATA, MODEL, WEIGHTS, pictures
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model, with_classes
from edgeplast.plans import plan_by_names
from edgeplast_devices.images import open_images
from edgeplast_devices.options import TrainingOptions
from edgeplast_exporters.outlining import outlined

SHOWN = 3
WAYS: dict[str, dict[str, object]] = {
    "labels alone": {},
    "--distill 0.5": {"distill": 0.5},
    "--distill 0.8": {"distill": 0.8},
    "--replay 5/class": {"replay": "5/class"},
    "--replay 5/class --distill 0.5": {"replay": "5/class", "distill": 0.5},
}


def halves(folder: Path, count: int, into: Path) -> tuple[Path, Path, Path, Path]:
    """Return folders: what is learned first, new pictures of some classes, test pictures of these and of the others."""
    places = into / "first", into / "week", into / "shown", into / "others"
    for number, place in enumerate(sorted((folder / "train").iterdir())):
        files = sorted(place.iterdir())
        for source, target in ((files[:count], places[0]), (files[count:] if number < SHOWN else [], places[1])):
            for file in source:
                (target / place.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / place.name)
        shutil.copytree(folder / "test" / place.name, places[2 if number < SHOWN else 3] / place.name)
    return places


def measured(given: argparse.Namespace, work: Path) -> None:
    """Run what the journal lacks, one after the other."""
    folder = pictures("aerial", 2 * given.pictures, work, given.test_pictures)
    first, week, shown, others = halves(folder, given.pictures, work)
    model, classes = load_model(MODEL, checkpoint=DATA / WEIGHTS), open_images(first).classes
    model = with_classes(model, len(classes))
    for plan in given.plans:
        name = plan.replace(":", "").replace(",", "-")
        chosen = plan_by_names(outlined(model, MODEL)[0], plan, classes=classes)
        bundle = edgeplast.export(model, chosen, into=work / f"bundle-{name}")
        how = TrainingOptions(epochs=6, augment="none", replay="5/class")
        edgeplast.adapt(bundle, first, into=work / f"first-{name}", budget=Budget(), options=how)
        for way, more in WAYS.items():
            key = {"plan": plan, "way": way, "pictures": given.pictures}
            if holds(given.json, key):
                continue
            options = {"epochs": given.epochs, "augment": "none", "replay": "none"} | more
            report = edgeplast.adapt(
                work / f"first-{name}", week, into=work / f"{name}-{len(way)}", also={"shown": shown, "others": others},
                budget=Budget(), options=TrainingOptions(**options),
            )  # fmt: skip
            found = {name: [each.accuracy.before, each.accuracy.after] for name, each in report.also.items()}
            print(note(given.json, {**key, **found, "seconds": report.seconds.total}), flush=True)
            shutil.rmtree(work / f"{name}-{len(way)}")


def main() -> None:
    """Measure, or print what was measured."""
    parser = journaled(__doc__)
    parser.add_argument("--pictures", type=int, default=20, help="of each class, first and in the week")
    parser.add_argument("--test-pictures", type=int, default=30, help="of each class")
    parser.add_argument("--epochs", type=int, default=4, help="of the week")
    parser.add_argument("--plans", nargs="+", default=["head", "attn:8-11,norm,head"], help="what trains")
    given = parser.parse_args()
    if given.table:
        print("| trained | held to | the three shown | the four others |\n|---|---|---|---|")
        for run in read(given.json):
            figures = [f"{100 * run[name][0]:.1f} → {100 * run[name][1]:.1f}" for name in ("shown", "others")]
            print(f"| {run['plan']} | {run['way']} | {' | '.join(figures)} |")
        return
    with tempfile.TemporaryDirectory() as work:
        measured(given, Path(work))


if __name__ == "__main__":
    main()
