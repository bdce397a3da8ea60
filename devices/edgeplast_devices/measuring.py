"""What a run measures: its own splits, what was held back, and other sets whose knowledge it must not lose."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from edgeplast.evaluation import Evaluation, Judgement
from edgeplast_devices.evaluating import measure, outputs
from edgeplast_devices.images import Augmentation
from edgeplast_devices.images.sampling import evenly_spread
from edgeplast_devices.judging import Verdict, judge, judged
from edgeplast_devices.retention import PREFIX

if TYPE_CHECKING:
    from edgeplast_devices.running import Run
    from edgeplast_devices.telemetry import TelemetryWriter

MANY = 512
"""Pictures that tell over how many classes predictions are spread: some tens of each of a dozen."""

VIEWS = 2
"""Of each picture that was held back: varied, the same in each epoch, to see whether they are called alike."""


def measured(run: Run, split: str, activity: str, *, offset: int = 0, temperature: float | None = None) -> Evaluation:
    """Measure one split, after ``offset`` images that are told of together with its own; names no picture."""
    return nameless(evaluated(run, split, activity, offset=offset, temperature=temperature))


def nameless(found: Evaluation) -> Evaluation:
    """Leave out which pictures were named wrong: it would stand in checkpoints, and no picture's name is to."""
    return msgspec.structs.replace(found, most_wrong=())


def evaluated(run: Run, split: str, activity: str, *, offset: int = 0, temperature: float | None = None) -> Evaluation:
    """Measure one split, arguments as above, and name the pictures that were named wrong."""
    how, classes = run.bundle.manifest.preprocessing, run.bundle.manifest.classes
    return measure(
        run.evaluation, run.splits[split], how, classes,
        activity=activity, temperature=temperature, **run.over(split, offset),
    )  # fmt: skip


def verdict_on(run: Run, activity: str, offset: int) -> Verdict:
    """Say how good the weights in force are on what was held back, by labels or without."""
    held, how = "val" if "val" in run.splits else "train", run.bundle.manifest.preprocessing
    if run.options.labels == "none":
        over = run.over(held, offset)
        views = [
            partial(run.kept.anew(), augmentation=Augmentation.named("default"), seed=run.options.seed, epoch=view)
            for view in range(VIEWS)
        ]
        before = run.state.judged_before
        return judged(run.evaluation.logits, run.splits[held], how, before, activity, views=views, **over)
    found = measured(run, held, activity, offset=offset) if held == "val" else None
    return Verdict(found.loss, found.accuracy) if found else Verdict()


def judgement_of_many(run: Run) -> Judgement:
    """Judge the weights in force on pictures that are learned from; of the few held back variety says little.

    A pass before the first step, whose length does not grow with the set: of :data:`MANY` pictures at most.
    """
    images, how = run.splits["train"], run.bundle.manifest.preprocessing
    over = run.over("train") | {"order": evenly_spread(len(images), MANY)}
    return judge(
        found for found, *_ in outputs(run.evaluation.logits, images, how, activity="looking at the pictures", **over)
    )


def measure_others(
    run: Run, found: dict[str, Evaluation], telemetry: TelemetryWriter | None = None, when: str = ""
) -> None:
    """Measure what is to be kept, but for sets that were measured already, and tell of it."""
    for split in (split for split in run.splits if split.startswith(PREFIX)):
        name = split.removeprefix(PREFIX)
        if name not in found:
            found[name] = measured(run, split, f"evaluating {name}{when and f', {when}'}")
            if telemetry is not None:
                accuracy, images = found[name].accuracy, found[name].images
                telemetry.also(step=run.state.steps, name=name, when=when, images=images, accuracy=accuracy)
