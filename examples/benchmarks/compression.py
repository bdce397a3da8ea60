"""Does plasticity earn its place in pruning, what does pruning cost after adaptation, and how small are int8 bundles?

On the ViT-Tiny weights and RSSCN7 photos of ``../shared/data``. Every result is one line of a JSON journal; what
the journal holds is not done again, so the script can be stopped and started at will:

``python examples/benchmarks/compression.py run --json compression.jsonl --work build/`` does everything (about an
hour on two cores; ``--minutes 3`` begins no piece after that), ``… tables --json compression.jsonl --plot curve.png``
prints the tables of ``edgeplast/compression/README.md``.

All ways keep 70 % of the multiply–accumulates, are pruned and distilled on the training photos without their labels,
and then adapted with ``attn:8-11,norm,head``:

* ``guided``: ``edgeplast prune``, plasticity and importance joined;
* ``unguided``: the same without plasticity (every component weighs the same);
* ``uniform``: torch-pruning, the same ratio everywhere;
* ``global``: torch-pruning, all heads ranked together and all hidden units ranked together.

The last two are torch-pruning's ``BasePruner`` as it is, with the same Taylor importance on the same photos.
"""

from __future__ import annotations

import argparse
import copy
import functools
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from failures import Failures
from score_study import DATA, MODEL, PHOTOS, WEIGHTS, Photos

from edgeplast import compressing, verbs
from edgeplast.compression import Target, prune
from edgeplast.compression.costs import costs_of
from edgeplast.compression.distilling import Distillation
from edgeplast.compression.pictures import batch_of, sample
from edgeplast.compression.structure import Structure, parts_of
from edgeplast.journal import holds, note, read
from edgeplast.models import load_model
from edgeplast.reshaping import set_heads
from edgeplast.scores import ScoreTable
from edgeplast.scoring import score
from edgeplast.scoring.heads import logistic_probe
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_exporters.latency import inference_seconds
from edgeplast_exporters.outlining import traced

KEEP, STEPS, SEEDS = 0.7, 200, (0, 1, 2)
WAYS = ("unpruned", "guided", "unguided", "uniform", "global")
KINDS = {"attn": "heads", "fc1": "hidden"}
TRAIN = "attn:8-11,norm,head"
TENTH = "blocks.9.attn,blocks.10.attn,blocks.11.attn,blocks.11.fc2,head"
"""Trains 10.6 % of ViT-Tiny's weights."""


def run(journal: Path, work: Path, minutes: float) -> None:
    """Do what the journal does not hold yet; begin no piece after so many minutes, and go on where one fails."""
    began, failures = time.perf_counter(), Failures()
    for piece, key in pieces(journal):
        if holds(journal, key):
            continue
        start = time.perf_counter()
        if start - began > 60 * minutes:
            break
        with failures.noted(", ".join(str(value) for value in key.values())):
            line = note(journal, {**key, **piece(work, **key), "seconds": round(time.perf_counter() - start, 1)})
            print(line, flush=True)
    failures.leave()


def pieces(journal: Path) -> list[tuple[Any, dict[str, Any]]]:
    """Return every piece of work, the most telling first."""
    short: list[tuple[Any, dict[str, Any]]] = [
        (pruned, {"what": "pruned", "way": way, "distilled": 0}) for way in WAYS[1:]
    ]
    long = [(pruned, {"what": "pruned", "way": way, "distilled": STEPS if way != "unpruned" else 0}) for way in WAYS]
    fits = [(adapted, {"what": "adapted", "way": way, "seed": seed}) for seed in SEEDS for way in WAYS]
    sizes = [(bundle_bytes, {"what": "bytes", "weight_bits": bits}) for bits in (32, 8)]
    return [
        *long[:2],
        *(f for f in fits if f[1]["way"] in WAYS[:2]),
        *sizes,
        *short,
        (functools.partial(latency, journal), {"what": "latency"}),
        *long[2:],
        *fits,
    ]


def pruned(work: Path, *, way: str, distilled: int, what: str) -> dict[str, Any]:
    """Prune in one way and distill, measure, and write the bundle that will be adapted."""
    del what
    source = load_model(MODEL, checkpoint=DATA / WEIGHTS)
    photos, tests = Photos(DATA / PHOTOS, "train"), Photos(DATA / PHOTOS, "test")
    model = smaller(source, way, photos, scores_of(source, photos, work))
    losses: list[float] = []
    if distilled:
        distillation = Distillation(source, photos, distilled)
        distillation.run(model, until=distilled)
        losses = distillation.losses
    if distilled or way == "unpruned":
        table = score(model, photos, traced(model), pairs=2)
        plan = verbs.plan(table, train=TRAIN)
        verbs.export(model, plan, into=work / way, force=True)
    before, after = inference_seconds([source, model])
    there, here = features(source, tests), features(model, tests)
    weight, bias = logistic_probe(features(model, photos), torch.from_numpy(photos.labels), len(photos.classes))
    right = (here @ weight.T + bias).argmax(1).numpy() == tests.labels
    costs = [costs_of(m, parts_of(m)) for m in (source, model)]
    units = {part.component: part.units for part in parts_of(model)}
    return {
        "macs": costs[1].macs / costs[0].macs,
        "parameters": costs[1].parameters / costs[0].parameters,
        "latency": after / before,
        "latency_ms": [1000 * before, 1000 * after],
        "feature_error": float((here - there).square().sum() / (there - there.mean(0)).square().sum()),
        "probe_accuracy": float(right.mean()),
        "loss": [float(np.mean(losses[:20])), float(np.mean(losses[-20:]))] if losses else [],
        "heads": [count for name, count in units.items() if name.endswith(".attn")],
        "hidden": [count for name, count in units.items() if name.endswith(".fc1")],
    }


def latency(journal: Path, work: Path, *, what: str) -> dict[str, Any]:
    """Time all ways in turns, so that what else the machine does falls on all of them; sizes decide, not weights."""
    del what, work
    source = load_model(MODEL, checkpoint=DATA / WEIGHTS)
    models = {"unpruned": source}
    for way in WAYS[1:]:
        found = of(read(journal), what="pruned", way=way)[0]
        units = {f"blocks.{i}.{kind}": n for kind, key in KINDS.items() for i, n in enumerate(found[key])}
        models[way] = copy.deepcopy(source)
        structure = Structure(models[way])
        for part in structure.parts:
            structure.remove(part, range(part.units - units[part.component]))
    rounds = [inference_seconds(list(models.values()), threads=2) for _ in range(3)]
    return {way: [round(1000 * times[i], 2) for times in rounds] for i, way in enumerate(models)}


def smaller(source: torch.nn.Module, way: str, photos: Photos, scores: ScoreTable) -> torch.nn.Module:
    """Return a pruned copy."""
    if way == "unpruned":
        return copy.deepcopy(source)
    if way in ("guided", "unguided"):
        return prune(source, photos, Target(keep=KEEP), scores=scores if way == "guided" else None).model
    gradients, low, high = feature_gradients(source, photos), 0.0, 0.9
    for _ in range(9):
        ratio = (low + high) / 2
        model = by_torch_pruning(source, ratio, way == "global", gradients)
        if costs_of(model, parts_of(model)).macs > KEEP * costs_of(source, parts_of(source)).macs:
            low = ratio
        else:
            high, best = ratio, model
    return best


class SameTaylor:
    """torch-pruning's group Taylor importance, averaged over several gradients of the same parameters."""

    def __init__(self, model: torch.nn.Module, gradients: list[list[torch.Tensor]]) -> None:
        import torch_pruning

        self._estimate, self._parameters = torch_pruning.importance.GroupTaylorImportance(), list(model.parameters())
        self._gradients = gradients

    def __call__(self, group: Any) -> Any:
        """Return one number for each channel of a group."""
        found = []
        for gradients in self._gradients:
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
            found.append(self._estimate(group))
        return torch.stack(found).mean(0)


def feature_gradients(source: torch.nn.Module, photos: Photos, probes: int = 16) -> list[list[torch.Tensor]]:
    """Return the gradients of random projections of the features, as ``edgeplast prune`` takes them."""
    model: Any = copy.deepcopy(source)
    generator, chosen = torch.Generator().manual_seed(0), sample(photos, 4 * probes, 0)
    gradients = []
    for probe in range(probes):
        model.zero_grad()
        images = batch_of(model, photos, chosen[4 * probe : 4 * probe + 4])
        out = model.forward_head(model.forward_features(images), pre_logits=True)
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
    return gradients


def by_torch_pruning(
    source: torch.nn.Module, ratio: float, ranked_together: bool, gradients: list[list[torch.Tensor]]
) -> torch.nn.Module:
    """Prune with torch-pruning alone: one ratio for heads and hidden units, residual stream left as it is."""
    import torch_pruning

    model: Any = copy.deepcopy(source)
    for block in model.blocks:
        block.attn.fused_attn = False
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.zeros(1, 3, 224, 224),
        importance=SameTaylor(model, gradients),
        global_pruning=ranked_together,
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        num_heads={block.attn.qkv: block.attn.num_heads for block in model.blocks},
        prune_num_heads=True,
        prune_head_dims=False,
        ignored_layers=[model.patch_embed.proj, model.head],
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    for block in model.blocks:
        set_heads(block.attn, pruner.num_heads[block.attn.qkv])
        block.attn.fused_attn = True
    return model


def adapted(work: Path, *, way: str, seed: int, what: str) -> dict[str, Any]:
    """Adapt one bundle and test it, in float32 and deployed in 8 bits."""
    del what
    from edgeplast import TrainingOptions

    into = work / f"{way}-{seed}"
    report = verbs.adapt(work / way, DATA / PHOTOS, into=into, options=TrainingOptions(epochs=4, seed=seed), force=True)
    plain, integer = work / "float.onnx", work / "integer.onnx"
    verbs.deploy(into, plain, force=True)
    deployment = compressing.deploy_quantized(into, integer, DATA / PHOTOS, force=True)
    shutil.rmtree(into)
    return {
        "integer_accuracy": deployment.accuracy.after,
        "integer_bytes": deployment.bytes,
        "float_bytes": plain.stat().st_size,
        "kept_float": deployment.kept_float,
        "predict_ms": predict_ms(plain, integer),
        "accuracy": report.accuracy.after,
        "step_seconds": report.seconds.step_median,
        "peak_bytes": report.memory.measured_peak_bytes,
    }


def predict_ms(*models: Path, rounds: int = 30) -> list[float]:
    """Return the median milliseconds of one image, as ``predict`` runs each model, image by image in turns."""
    sessions = [EvaluationSession(model, {}, 2, optimized=True) for model in models]
    times: list[list[float]] = [[] for _ in models]
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    for _ in range(rounds):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.logits(image)
            taken.append(1000 * (time.perf_counter() - start))
    return [float(np.median(taken[3:])) for taken in times]


def bundle_bytes(work: Path, *, weight_bits: int, what: str) -> dict[str, Any]:
    """Export a plan that trains a tenth of the weights."""
    del what
    source = load_model(MODEL, checkpoint=DATA / WEIGHTS)
    photos = Photos(DATA / PHOTOS, "train")
    plan = verbs.plan(score(source, photos, traced(source), pairs=2), train=TENTH, weight_bits=weight_bits)
    bundle = verbs.export(source, plan, into=work / f"tenth-{weight_bits}", force=True)
    total = sum(c.parameters for c in plan.components.values())
    weights = sum(f.bytes for name, f in bundle.manifest.files.items() if name.endswith(".safetensors"))
    return {"bytes": bundle.bytes, "weights": weights, "trained": plan.trainable_parameters / total}


def scores_of(source: torch.nn.Module, photos: Photos, work: Path) -> ScoreTable:
    """Return plasticity of layers and heads, measured once."""
    path = work / "scores.json"
    if not path.exists():
        score(source, photos, traced(source), granularity="head", pairs=64).write(path)
    return ScoreTable.read(path)


@torch.no_grad()
def features(model: Any, photos: Photos) -> torch.Tensor:
    """Return what the head reads of every photo, (n, D)."""
    batches = [range(i, min(i + 16, len(photos))) for i in range(0, len(photos), 16)]
    return torch.cat(
        [model.forward_head(model.forward_features(batch_of(model, photos, b)), pre_logits=True) for b in batches]
    )


def tables(journal: Path, plot: Path | None) -> None:
    """Print the README's tables and draw its plot."""
    lines = read(journal)
    print(
        "| way | MACs | parameters | latency | feature error, distilled | linear probe, distilled | adapted |", end=""
    )
    print(" deployed in 8 bits |\n" + "|---" * 8 + "|")
    times = {}
    for line in of(lines, what="latency"):
        whole = np.array(line["unpruned"])
        times = {way: float(np.median(np.array(line[way]) / whole)) for way in WAYS if way in line}
    for way in WAYS:
        first, last = (next(iter(of(lines, what="pruned", way=way, distilled=d)), None) for d in (0, STEPS))
        sizes = last or first
        if sizes is None:
            continue
        cells = [f"{sizes[key]:.1%}" for key in ("macs", "parameters")] + [f"{times.get(way, sizes['latency']):.2f}×"]
        for key, form in (("feature_error", ".2f"), ("probe_accuracy", ".1%")):
            cells.append(" → ".join(format(line[key], form) for line in (first, last) if line))
        for key in ("accuracy", "integer_accuracy"):
            fits = [line[key] for line in of(lines, what="adapted", way=way)]
            cells.append(f"{np.mean(fits):.1%} ({', '.join(f'{a:.1%}' for a in fits)})" if fits else "–")
        print(f"| {way} | {' | '.join(cells)} |")
    stored = {line["weight_bits"]: line for line in of(lines, what="bytes")}
    if len(stored) == 2:
        print(f"\nA plan that trains {stored[8]['trained']:.1%} of the weights, frozen matrices in 32 → 8 bits:")
        for key, name in (("weights", "weights alone"), ("bytes", "bundle")):
            print(f"{name}: {stored[32][key]:,} → {stored[8][key]:,} bytes, {stored[8][key] / stored[32][key]:.3f}")
    for line in of(lines, what="adapted", seed=0):
        mebibytes = [line[key] / 2**20 for key in ("float_bytes", "integer_bytes")]
        change = " → ".join(f"{t:.1f}" for t in line["predict_ms"])
        print(f"{line['way']}, float32 → 8 bits: {mebibytes[0]:.1f} → {mebibytes[1]:.1f} MiB, {change} ms an image")
    if plot:
        draw(lines, plot)


def of(lines: list[dict[str, Any]], **key: Any) -> list[dict[str, Any]]:
    """Return the results with given entries."""
    return [line for line in lines if all(line.get(k) == v for k, v in key.items())]


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw what each way keeps of every block."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.2))
    for way in WAYS[1:]:
        found = of(lines, what="pruned", way=way)
        if not found:
            continue
        for axis, key in zip(axes, ("heads", "hidden"), strict=True):
            axis.plot(range(len(found[0][key])), found[0][key], marker="o", label=way)
            axis.set_xlabel("block")
            axis.set_ylim(bottom=0)
    axes[0].set_title("attention heads kept (of 3)")
    axes[1].set_title("hidden units kept (of 768)")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark, or print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=["run", "tables"])
    parser.add_argument("--json", type=Path, required=True, help="the journal: one JSON line a piece")
    parser.add_argument("--work", type=Path, default=Path("build"), help="where bundles are written")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no piece after so many (default: go on)")
    parser.add_argument("--plot", type=Path, default=None, help="draw what is kept of each block")
    options = parser.parse_args()
    if options.part == "run":
        options.work.mkdir(parents=True, exist_ok=True)
        run(options.json, options.work, options.minutes)
    else:
        tables(options.json, options.plot)


if __name__ == "__main__":
    main()
