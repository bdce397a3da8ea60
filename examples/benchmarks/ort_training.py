"""Peak and time of ONNX Runtime's own training API: our artifacts, and those of ``generate_artifacts`` as it comes.

    python examples/benchmarks/ort_training.py --checkpoint vit_tiny.safetensors

ViT-Tiny, attention of all blocks and the head trained, AdamW, batch 16 in one call. Each contestant runs in a process
of its own, which imports neither torch nor edgeplast (the API's package imports torch; an empty one in its place does
not). Needs the training build of onnxruntime and torch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL, CLASSES, TRAIN, BATCH = "vit_tiny_patch16_224", 7, "attn,head", 16

WORKER = """
import json, sys, time, types
import numpy as np
sys.modules["onnxruntime.training"] = None  # counts as absent: it imports torch
import onnxruntime as ort
package = sys.modules["onnxruntime.training"] = types.ModuleType("onnxruntime.training")
package.__path__ = [ort.__path__[0] + "/training"]
from onnxruntime.training.api import CheckpointState, Module, Optimizer
folder, settings, steps, batch, classes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 2, 4
if settings == "ours":
    options.enable_mem_reuse = options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
state = CheckpointState.load_checkpoint(folder + "/checkpoint")
module = Module(folder + "/training_model.onnx", state, session_options=options)
optimizer = Optimizer(folder + "/optimizer_model.onnx", module)
optimizer.set_learning_rate(3e-4)
rng = np.random.default_rng(0)
labels, losses, seconds = np.arange(batch, dtype=np.int64) % classes, [], []
images = rng.standard_normal((batch, 3, 224, 224), dtype=np.float32)
for _ in range(steps):
    start = time.perf_counter()
    losses.append(float(module(images, labels)))
    optimizer.step()
    module.lazy_reset_grad()
    seconds.append(time.perf_counter() - start)
status = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(json.dumps({"peak_bytes": int(status) * 1024, "seconds": min(seconds), "losses": losses}))
"""


def main() -> None:
    """Make what runs, run it, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="weights of ViT-Tiny; random ones without")
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder, given.checkpoint)
        print(f"{MODEL}, {TRAIN} trained, batch {BATCH}, fastest of {given.steps} steps")
        for made, settings in (
            ("generate_artifacts", "as it comes"),
            ("edgeplast-none", "as it comes"),
            ("edgeplast-none", "ours"),
            ("edgeplast-full", "as it comes"),
            ("edgeplast-full", "ours"),
        ):
            words = [str(folder / made), settings, str(given.steps), str(BATCH), str(CLASSES)]
            done = subprocess.run([sys.executable, "-c", WORKER, *words], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            peak, seconds, losses = found["peak_bytes"] / 2**20, found["seconds"], found["losses"]
            shown = " ".join(f"{loss:.4f}" for loss in losses)
            print(f"{made:20} {settings:12} {peak:6.0f} MiB {seconds:6.2f} s   losses {shown}", flush=True)


def _prepare(folder: Path, checkpoint: str | None) -> None:
    import edgeplast
    from edgeplast.models import load_model, with_classes
    from edgeplast.plans import plan_by_names
    from edgeplast_exporters.outlining import outlined

    classes = tuple(f"class {i}" for i in range(CLASSES))
    model = with_classes(load_model(MODEL, checkpoint=checkpoint), CLASSES)
    outline = outlined(model, MODEL)[0]
    plan = plan_by_names(outline, TRAIN, weight_bits=8, classes=classes, batch_size=BATCH)
    bundle = edgeplast.export(model, plan, into=folder / "bundle", keep_head=True)
    for how in ("none", "full"):
        edgeplast.export_ort_training(bundle, into=folder / f"edgeplast-{how}", recompute=how)
    trained = [name for name, stored in bundle.manifest.parameters.items() if stored.trainable]
    _generate(model, trained, folder / "generate_artifacts")


def _generate(model, trained: list[str], into: Path) -> None:  # type: ignore[no-untyped-def]
    """What ONNX Runtime's documentation shows, with the same parameters trained."""
    import onnx
    import torch

    from edgeplast.quiet_runtime import import_quietly

    artifacts = import_quietly("training.artifacts")
    into.mkdir()
    pictures = torch.zeros(1, 3, 224, 224)
    dynamic = {"images": {0: "batch"}, "logits": {0: "batch"}}
    path = into / "forward.onnx"
    torch.onnx.export(
        model, (pictures,), str(path), dynamic_axes=dynamic, do_constant_folding=False, opset_version=17,
        training=torch.onnx.TrainingMode.EVAL, dynamo=False, input_names=["images"], output_names=["logits"],
    )  # fmt: skip
    forward = onnx.load(path)
    for node in forward.graph.node:
        if node.op_type == "LayerNormalization":  # without them it has no gradient
            node.output.extend([f"{node.output[0]}/mean", f"{node.output[0]}/inverse"])
    parameters = {name for name, _ in model.named_parameters()}
    frozen = [t.name for t in forward.graph.initializer if t.name in parameters and t.name not in set(trained)]
    artifacts.generate_artifacts(
        forward, requires_grad=trained, frozen_params=frozen, loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW, artifact_directory=into,
    )  # fmt: skip


if __name__ == "__main__":
    main()
