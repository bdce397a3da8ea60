"""A class more: what a model that knows six kinds of aerial photos makes of a seventh, by 1, 5 and 20 pictures of it.

A ViT-Tiny learns six of RSSCN7's classes and keeps 20 pictures of each; then it is shown the one that was left out,
alone: without those pictures (the class is placed, nothing trains) and with them (it trains). Accuracy on test pictures
of the new class and of the old ones.

``python examples/benchmarks/new_class.py --json runs.jsonl``, then ``… --json runs.jsonl --table``. A run that the
journal holds is skipped.
"""

from __future__ import annotations

import random
import shutil
import tarfile
import tempfile
from pathlib import Path

from equal_memory import DATA, MODEL, WEIGHTS
from journaled import journaled

import edgeplast
from edgeplast.budget import Budget
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model, with_classes
from edgeplast.plans import plan_by_names
from edgeplast_devices.images import open_images
from edgeplast_devices.options import TrainingOptions
from edgeplast_exporters.outlining import outlined

COUNTS, WAYS = (1, 5, 20), (("none", "none"), ("20/class", "none"), ("20/class", "balanced"))
"""Pictures of the new class; what is kept of the old ones, and how classes are weighted beside it."""


def laid_out(left_out: str, train: int, test: int, into: Path) -> tuple[Path, Path, Path]:
    """Return folders of the old classes, of the new one's training pictures, and of its test pictures."""
    with tarfile.open(DATA / "rsscn7_224_100pc.tar") as archive:
        archive.extractall(into / "all", filter="data")
    known = into / "known"
    for split, count in (("train", train), ("test", test)):
        for folder in sorted((into / "all" / split).iterdir()):
            place = (into / f"new-{split}" if folder.name == left_out else known / split) / folder.name
            place.mkdir(parents=True)
            pictures = sorted(folder.iterdir())
            random.Random(0).shuffle(pictures)
            for picture in pictures[:count]:
                shutil.copy(picture, place)
    return known, into / "new-train", into / "new-test"


def measured(
    left_out: str, train: int, test: int, plan: str, ways: list[tuple[str, str]], work: Path, journal: Path
) -> None:
    """Run what the journal lacks, one after the other."""
    known, new_train, new_test = laid_out(left_out, train, test, work)
    model = load_model(MODEL, checkpoint=DATA / WEIGHTS)
    classes = open_images(known).classes
    model = with_classes(model, len(classes))
    chosen = plan_by_names(outlined(model, MODEL)[0], plan, classes=classes)
    bundle = edgeplast.export(model, chosen, into=work / "bundle", keep_head=True)
    options = TrainingOptions(epochs=8, replay="20/class", augment="none")
    edgeplast.adapt(bundle, known, into=work / "six", budget=Budget(), options=options)
    sightings = open_images(new_train)
    for count in COUNTS:
        for replay, weights in ways:
            key = {"left_out": left_out, "plan": plan, "pictures": count, "replay": replay, "weights": weights}
            if holds(journal, key):
                continue
            output = work / f"{count}-{replay[:2]}-{weights}"
            how = TrainingOptions(epochs=4, new_classes="add", replay=replay, class_weights=weights, augment="none")
            report = edgeplast.adapt(
                work / "six", sightings.subset(range(count)), into=output, also={"old": known}, budget=Budget(),
                options=how,
            )  # fmt: skip
            new = edgeplast.evaluate(output, new_test).accuracy
            old = report.also["old"].accuracy
            note(journal, {**key, "new": new, "old": old.after, "before": old.before, "steps": report.steps})


def main() -> None:
    """Measure, or print what was measured."""
    options = journaled(__doc__)
    options.add_argument("--left-out", default="dRiverLake")
    options.add_argument("--train", type=int, default=40, help="pictures of each class to learn from")
    options.add_argument("--test", type=int, default=30, help="to measure on")
    options.add_argument("--plan", default="head", help="what trains")
    options.add_argument("--ways", nargs="+", type=int, choices=range(len(WAYS)), default=[*range(len(WAYS))])
    given = options.parse_args()
    if given.table:
        for run in read(given.json):
            way = f"{run['replay']}, weights {run['weights']}"
            old = f"{run['before']:.1%} → {run['old']:.1%}"
            print(f"| {run['left_out']}, {run['plan']} | {run['pictures']} | {way} | {run['new']:.1%} | {old} |")
        return
    with tempfile.TemporaryDirectory() as work:
        ways = [WAYS[way] for way in given.ways]
        measured(given.left_out, given.train, given.test, given.plan, ways, Path(work), given.json)


if __name__ == "__main__":
    main()
