"""What one optimizer step costs: peak memory and time of PyTorch, of onnxruntime as it comes, and of edgeplast.

    python examples/benchmarks/step_cost.py [--checkpoint weights.safetensors] [--train attn] [--json]
    python examples/benchmarks/step_cost.py --model seven --train head last-quarter planned --only pytorch edgeplast

Every contestant trains the same parameters of the same model with AdamW on the same batch, each run in a process
of its own, the contestants taking turns, so that a slow minute of the machine hits them all. Peak memory is
``VmHWM`` of the whole process; time is the median step after two to warm up: of all runs the median, and the fastest,
which is what is left of the machine's own ups and downs. The share of slow steps (more than 1.5 times the fastest of
their run) says how much of those there was.

Several models and several ``--train`` make a table of each pair. ``planned`` is what the planner chooses for
``--memory-share`` (0.3) of the peak of PyTorch training the whole model, by random scores. ``--micro-batch auto``
lets ``edgeplast`` do as a device would: take the fastest graph and micro-batch that fit that share of PyTorch's peak
(the smallest where none fits). Batch norms keep their statistics in every contestant.

``edgeplast`` computes again what is cheap (norms, attention weights); two more contestants compute again whole blocks,
or nothing. All three pass the batch through their graph in micro-batches (``--micro-batch``) whose gradients add up to
those of the whole batch.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from failures import Failures
from workloads import SEVEN, timed, wanted, write_pictures

from edgeplast.recomputation import IN_WORDS

EDGEPLAST = {"edgeplast": "selective", "edgeplast-full-recompute": "full", "edgeplast-no-recompute": "none"}
"""Contestant to what it computes again: by default what is cheap, all of every block, or nothing."""

CONTESTANTS = ("pytorch", "pytorch-checkpoint", "ort-artifacts", *EDGEPLAST)
IR_VERSION = 10
"""The newest that the training build of onnxruntime (1.19.2) reads."""
HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]


def main() -> None:
    """Prepare once, let the contestants take turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["vit_tiny_patch16_224"], help="timm's names; or: seven")
    parser.add_argument("--checkpoint", type=Path, help="weights; without, random ones (the cost is the same)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", default="4", help="of the edgeplast contestants: a number or auto")
    parser.add_argument("--memory-share", type=float, default=0.3, help="of PyTorch's peak, for planned and auto")
    parser.add_argument(
        "--train", nargs="+", default=["attn"],
        help="attn, attn:8-11, fc1, head, all, last-quarter, planned …; the head always trains",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weight-bits", type=int, default=8, help="of frozen weights in edgeplast's bundle")
    parser.add_argument(
        "--frozen-compute", default="fp32", choices=("fp32", "int8"), help="of frozen weights before what trains"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round")
    parser.add_argument(
        "--runtime",
        nargs="+",
        default=[sys.executable],
        help="Pythons that run edgeplast's steps, to compare builds of onnxruntime (one environment holds one)",
    )
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        contestant, folder = arguments.worker.split("=", 1)
        print(json.dumps(_WORKERS[contestant](arguments, Path(folder))))
        return
    failures = Failures()
    models = [name for given in arguments.model for name in (SEVEN if given == "seven" else (given,))]
    found = []
    for model in models:
        for train in arguments.train:
            runs = _contest(arguments, model, train, failures)
            result = {
                name: {key: statistics.median(run[key] for run in each) for key in ("peak_bytes", "step_seconds")}
                | {"fastest_step_seconds": min(run["fastest_step_seconds"] for run in each)}
                | {"slow_share": statistics.mean(run["slow_share"] for run in each)}
                | {key: each[0][key] for key in ("trained_parameters", "way", "runtime") if key in each[0]}
                for name, each in runs.items()
            }
            workload = {
                "model": model, "batch": arguments.batch, "micro_batch": arguments.micro_batch,
                "train": train, "threads": arguments.threads, "rounds": arguments.rounds,
                "weight_bits": arguments.weight_bits, "frozen_compute": arguments.frozen_compute,
                "load_average": os.getloadavg()[0],
            }  # fmt: skip
            found.append({"workload": workload, "contestants": result})
            if result and not arguments.json:
                _show(workload, result)
    if arguments.json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2))
    failures.leave()


def _contest(
    arguments: argparse.Namespace, model: str, train: str, failures: Failures
) -> dict[str, list[dict[str, Any]]]:
    """Let the contestants take turns on one model and what trains of it."""
    runs: dict[str, list[dict[str, Any]]] = {}
    single = len(arguments.model) == len(arguments.train) == 1 and arguments.model[0] != "seven"
    where = "" if single else f"{model}, {train}: "
    which = ["--model", model, "--train", train]
    with tempfile.TemporaryDirectory() as folder:
        try:
            if train == "planned":
                _spawn("prepare-whole", folder, sys.executable, which)
            _spawn("prepare-edgeplast", folder, sys.executable, which)
            if arguments.micro_batch == "auto" and train != "planned":
                whole = _spawn("pytorch", folder, sys.executable, which)
                (Path(folder) / "pytorch.json").write_text(json.dumps(whole))
        except Exception as error:
            if single:
                raise
            with failures.noted(where + "preparation"):
                raise error
            return runs
        contestants = list(arguments.only)
        if "ort-artifacts" in contestants:
            with failures.noted(where + "ort-artifacts"):
                _spawn("prepare-artifacts", folder, sys.executable, which)
        for _ in range(arguments.rounds):
            for name in contestants:
                for python in arguments.runtime if name.startswith("edgeplast") else [sys.executable]:
                    if where + name in failures.names:  # it would fail again
                        continue
                    with failures.noted(where + name):
                        run = _spawn(name, folder, python, which)
                        shown = f"{name}, {run['runtime']}" if len(arguments.runtime) > 1 and "runtime" in run else name
                        runs.setdefault(shown, []).append(run)
    return runs


def _show(workload: dict[str, Any], result: dict[str, dict[str, Any]]) -> None:
    print(", ".join(f"{key} {value}" for key, value in workload.items()))
    print(*(f"{name}: {each['way']}" for name, each in result.items() if "way" in each), sep="\n")
    first = next(iter(result.values()))
    width = max(24, *(len(name) + 2 for name in result))
    print(f"{'':{width}}{'peak':>10}{'step':>10}{'fastest':>10}{'peak ×':>9}{'step ×':>9}{'fastest ×':>11}{'slow':>7}")
    for name, each in result.items():
        print(
            f"{name:{width}}{each['peak_bytes'] / (1 << 20):7.0f} MiB{each['step_seconds']:8.2f} s"
            f"{each['fastest_step_seconds']:8.2f} s{each['peak_bytes'] / first['peak_bytes']:9.2f}"
            f"{each['step_seconds'] / first['step_seconds']:9.2f}"
            f"{each['fastest_step_seconds'] / first['fastest_step_seconds']:11.2f}{each['slow_share']:7.0%}",
            flush=True,
        )


def _spawn(name: str, folder: str, python: str, which: list[str]) -> dict[str, Any]:
    command = [python, str(HERE), *sys.argv[1:], *which, "--worker", f"{name}={folder}"]
    path = ":".join(str(ROOT / part) for part in (".", "exporters", "devices"))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _model(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Return the model with a head for seven classes."""
    from edgeplast.models import import_timm, load_model, with_classes

    if arguments.checkpoint:
        return with_classes(load_model(arguments.model[0], checkpoint=arguments.checkpoint), 7)
    return import_timm().create_model(arguments.model[0], num_classes=7).eval()


def _trained(folder: Path) -> set[str]:
    """Return the names of the parameters that train."""
    from edgeplast.plans import Plan

    plan = Plan.read(folder / "plan.json")
    return {name for c in plan.outline.components if c.name in plan.trainable for name in c.parameters}


def _prepare_whole(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure PyTorch training the whole model, for the budget of a plan."""
    measured = _pytorch(arguments, checkpointing=False, whole=True)
    (folder / "pytorch.json").write_text(json.dumps(measured))
    return measured


def _allowed_bytes(arguments: argparse.Namespace, folder: Path) -> int:
    return int(arguments.memory_share * json.loads((folder / "pytorch.json").read_text())["peak_bytes"])


def _prepare_edgeplast(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import numpy as np

    from edgeplast import verbs
    from edgeplast.budget import Budget
    from edgeplast.models import preprocessing_of
    from edgeplast.plans import plan_by_names
    from edgeplast_exporters import export
    from edgeplast_exporters.outlining import outlined

    model = _model(arguments)
    classes = tuple(str(i) for i in range(7))
    if arguments.train[0] == "planned":
        write_pictures(folder / "pictures", classes)
        scores = verbs.score(model, folder / "pictures" / "train", method="random", pairs=2)
        budget = Budget(memory_bytes=_allowed_bytes(arguments, folder))
        plan = verbs.plan(scores, budget, batch_size=arguments.batch, weight_bits=arguments.weight_bits)
    else:
        outline = outlined(model, arguments.model[0])[0]
        plan = plan_by_names(outline, wanted(outline, arguments.train[0]), weight_bits=arguments.weight_bits)
    plan.write(folder / "plan.json")
    preprocessing = preprocessing_of(model)
    noise = np.random.default_rng(0).standard_normal((8, 3, *preprocessing.image_size), dtype=np.float32)
    export(
        model, plan, into=folder / "bundle", classes=classes, preprocessing=preprocessing,
        frozen_compute=arguments.frozen_compute, images=list(noise),
    )  # fmt: skip
    return {}


def _prepare_artifacts(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Export with torch and let onnxruntime build its training graph, with the two mends it cannot do without."""
    import onnx
    import torch

    from edgeplast.quiet_runtime import import_quietly

    artifacts = import_quietly("training.artifacts")
    model, names = _model(arguments), _trained(folder)
    for block in model.blocks:
        block.attn.fused_attn = False
    path = folder / "forward.onnx"
    with torch.no_grad():  # equal initializers would be merged, and a merged trainable has no gradient
        for i, parameter in enumerate(model.parameters()):
            parameter.view(-1)[0] += 1e-6 * (i + 1)
    images = torch.zeros(2, 3, *_image_size(folder))
    torch.onnx.export(
        model, (images,), str(path), opset_version=17, do_constant_folding=False, dynamo=False,
        input_names=["images"], output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )  # fmt: skip
    proto = onnx.load(str(path))
    for node in proto.graph.node:
        if node.op_type == "LayerNormalization" and len(node.output) == 1:  # has no gradient with one output
            node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_inverse"])
    others = [i.name for i in proto.graph.initializer if i.name not in names]
    artifacts.generate_artifacts(
        proto, requires_grad=sorted(names), frozen_params=others, loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW, artifact_directory=str(folder),
    )  # fmt: skip
    for name in ("training", "eval", "optimizer"):  # onnx 1.18 and later stamps what onnxruntime 1.19 does not read
        file = folder / f"{name}_model.onnx"
        built = onnx.load(str(file))
        built.ir_version = min(built.ir_version, IR_VERSION)
        onnx.save(built, str(file))
    return {}


def _image_size(folder: Path) -> list[int]:
    return list(json.loads((folder / "bundle" / "bundle.json").read_text())["preprocessing"]["image_size"])


def _pytorch(
    arguments: argparse.Namespace, folder: Path | None = None, *, checkpointing: bool, whole: bool = False
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    model = _model(arguments)
    if whole or folder is None:
        from edgeplast.models import preprocessing_of

        size = list(preprocessing_of(model).image_size)
    else:
        size, names = _image_size(folder), _trained(folder)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
    if checkpointing:
        model.set_grad_checkpointing()
    model.train()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    images = torch.randn(arguments.batch, 3, *size)
    labels = torch.randint(0, 7, (arguments.batch,))

    def step() -> None:
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, arguments.steps) | {"trained_parameters": sum(p.numel() for p in trained)}


def _artifacts(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """onnxruntime's own training API as it comes, imported without torch as a device would have to."""
    import types

    import numpy as np

    from edgeplast.quiet_runtime import import_quietly

    onnxruntime = import_quietly()
    package = types.ModuleType("onnxruntime.training")
    package.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
    sys.modules["onnxruntime.training"] = package
    api = import_quietly("training.api")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = api.Module(str(folder / "training_model.onnx"), state, session_options=options)
    optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), module)
    module.train()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, 3, *_image_size(folder)), dtype=np.float32)
    labels = rng.integers(0, 7, arguments.batch)

    def step() -> None:
        module(images, labels)
        optimizer.step()
        module.lazy_reset_grad()

    return timed(step, arguments.steps)


def _edgeplast(arguments: argparse.Namespace, folder: Path, contestant: str) -> dict[str, Any]:
    import numpy as np

    from edgeplast.bundle import Bundle
    from edgeplast.footprint import ASSUMED_RESIDENT_BYTES
    from edgeplast.optimizers import DEFAULT_OPTIMIZER
    from edgeplast_devices.losses import CrossEntropy
    from edgeplast_devices.optimizers import AdamW, gradient_norm
    from edgeplast_devices.rungs import Rung, ladder, predicted_peak, region_bytes
    from edgeplast_devices.runtime import reserve_arena, runtime_name
    from edgeplast_devices.sessions import trains_on_pictures
    from edgeplast_devices.weights import read_trainable

    bundle = Bundle.open(folder / "bundle")
    tier = bundle.manifest.tiers[0]
    if arguments.micro_batch == "auto":
        rungs = [rung for rung in ladder(bundle.manifest, arguments.batch) if rung.tier == tier]
        peaks = {str(r): predicted_peak(bundle.manifest, r, DEFAULT_OPTIMIZER, ASSUMED_RESIDENT_BYTES) for r in rungs}
        allowed = _allowed_bytes(arguments, folder)
        fitting = [rung for rung in rungs if peaks[str(rung)] <= allowed]
        rung = fitting[0] if fitting else min(rungs, key=lambda r: peaks[str(r)])
        graph, micro = rung.graph, rung.micro_batch
    else:
        graphs = {g.recompute: g for g in tier.graphs}  # with a block or two crossed, recomputing saves nothing
        graph = graphs.get(EDGEPLAST[contestant], tier.graphs[0])  # type: ignore[call-overload]
        micro = min(int(arguments.micro_batch), arguments.batch)
    reserve_arena(region_bytes(bundle.manifest, Rung(tier, graph, micro)))
    parameters = read_trainable(bundle)
    gradients = {name: np.zeros_like(array) for name, array in parameters.items()}
    session = trains_on_pictures(bundle, graph.file, parameters, gradients, arguments.threads)
    optimizer = AdamW(parameters)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, 3, *bundle.manifest.preprocessing.image_size), dtype=np.float32)
    labels = rng.integers(0, 7, arguments.batch)
    loss = CrossEntropy(np.ones(7, np.float32))

    def step() -> None:
        for gradient in gradients.values():
            gradient.fill(0)
        for start in range(0, arguments.batch, micro):
            part = slice(start, start + micro)
            session.accumulate(images[part], loss.targets(labels[part], arguments.batch))
        gradient_norm(gradients)
        optimizer.update(gradients, 1e-4)

    return timed(step, arguments.steps) | {
        "runtime": runtime_name(), "way": f"micro-batch {micro}, {IN_WORDS[graph.recompute]}"
    }  # fmt: skip


_WORKERS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "prepare-whole": _prepare_whole,
    "prepare-edgeplast": _prepare_edgeplast,
    "prepare-artifacts": _prepare_artifacts,
    "pytorch": lambda arguments, folder: _pytorch(arguments, folder, checkpointing=False),
    "pytorch-checkpoint": lambda arguments, folder: _pytorch(arguments, folder, checkpointing=True),
    "ort-artifacts": _artifacts,
    **{name: functools.partial(_edgeplast, contestant=name) for name in EDGEPLAST},
}

if __name__ == "__main__":
    main()
