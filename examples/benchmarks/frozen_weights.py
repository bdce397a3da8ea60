"""What storing and computing frozen weights in fewer bits costs and saves: accuracy before and after, bytes, time.

    python examples/benchmarks/frozen_weights.py --checkpoint weights.safetensors --data rsscn7.tar [--json]

Each choice is exported once, adapted with every seed and evaluated on the test split, by the command line, as a user
would. *Before* is how far the features have moved from float32 when nothing has been trained yet, with the bits of that
bundle: the root mean square difference of the logits of the checkpoint's own head over their deviation, and how often
both name the same class.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from failures import Failures

ROOT = Path(__file__).resolve().parents[2]
CHOICES = {
    "fp32": ("--weight-bits", "32"),
    "int8": ("--weight-bits", "8"),
    "int4": ("--weight-bits", "4"),
    "auto, int4 + 15 %": ("--weight-bits", "auto", "--size", "1.15 × int4"),
    "int8, computed in int8": ("--weight-bits", "8", "--frozen-compute", "int8"),
}
"""What is compared, and the options of ``edgeplast export`` that make it. A size may be a multiple of another's."""
_TEST_IMAGES = 210


def main() -> None:
    """Export, adapt and evaluate every choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="images with train and test splits")
    parser.add_argument("--train", default="attn:8-11,norm,head")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choices", nargs="+", choices=tuple(CHOICES), default=tuple(CHOICES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results, failures = {}, Failures()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.choices:
            bundle = Path(folder) / "".join(c if c.isalnum() else "-" for c in name)
            with failures.noted(name):
                results[name] = _measure(arguments, _sized(arguments, CHOICES[name], bundle), bundle)
                if not arguments.json:
                    print(_row(name, results[name]), flush=True)
    if arguments.json:
        settings = {"model": arguments.model, "train": arguments.train, "epochs": arguments.epochs}
        print(json.dumps({"workload": settings | {"seeds": arguments.seeds}, "choices": results}, indent=2))
    failures.leave()


def _sized(arguments: argparse.Namespace, choice: tuple[str, ...], bundle: Path) -> tuple[str, ...]:
    """Put bytes in the place of a multiple of what another choice takes."""
    if "×" not in choice[-1]:
        return choice
    factor, other = choice[-1].split(" × ")
    size = _export(arguments, CHOICES[other], bundle.with_name(f"{bundle.name}-{other}"))["bytes"]
    return (*choice[:-1], str(int(float(factor) * size)))


def _export(arguments: argparse.Namespace, choice: tuple[str, ...], bundle: Path) -> Any:
    source = ["--checkpoint", str(arguments.checkpoint), "--data", str(arguments.data), "--train", arguments.train]
    return _edgeplast("export", arguments.model, *source, *choice, "-o", str(bundle))


def _measure(arguments: argparse.Namespace, choice: tuple[str, ...], bundle: Path) -> dict[str, Any]:
    exported = _export(arguments, choice, bundle)
    accuracies, steps, peaks = [], [], []
    for seed in arguments.seeds:
        adapted = bundle.with_name(f"{bundle.name}-{seed}")
        rest = ("--epochs", str(arguments.epochs), "--seed", str(seed), "--memory", "256MiB", "-o", str(adapted))
        report = _edgeplast("adapt", str(bundle), "--data", str(arguments.data), *rest)
        accuracies.append(report["accuracy"]["after"])
        steps.append(report["seconds"]["step_median"])
        peaks.append(report["memory"]["measured_peak_bytes"])
    return {
        "before": _before(arguments, choice, bundle),
        "accuracy_after": accuracies,
        "bundle_bytes": exported["bytes"],
        "step_seconds": statistics.median(steps),
        "peak_bytes": statistics.median(peaks),
    }


def _before(arguments: argparse.Namespace, choice: tuple[str, ...], exported: Path) -> dict[str, float]:
    """Compare a bundle with those bits, the checkpoint's head kept and the rest frozen, with float32 on test images."""
    import msgspec
    import numpy as np

    from edgeplast import verbs
    from edgeplast.bundle import Bundle
    from edgeplast.models import load_model, preprocessing_of
    from edgeplast.placement import ON_CPU
    from edgeplast.plans import plan_by_names
    from edgeplast.prepared_images import PreparedImages
    from edgeplast_devices.images import open_images
    from edgeplast_devices.predicting import session_over
    from edgeplast_exporters.outlining import outlined

    model = load_model(arguments.model, checkpoint=arguments.checkpoint)
    outline = outlined(model, arguments.model)[0]
    stored = Bundle.open(exported).manifest.plan.components
    computed = dict(zip(choice[::2], choice[1::2], strict=True)).get("--frozen-compute", "fp32")
    how = preprocessing_of(model)
    tests = PreparedImages(open_images(arguments.data, "test"), how)
    images = [tests.tensor(i) for i in range(min(len(tests), _TEST_IMAGES))]
    found = []
    for rounding, compute in ((False, "fp32"), (True, computed)):
        plan = plan_by_names(outline, "", weight_bits=32)
        if rounding:
            frozen = {
                n: msgspec.structs.replace(c, weight_bits=stored[n].weight_bits) for n, c in plan.components.items()
            }
            head = {name: plan.components[name] for name in outline.head}
            plan = msgspec.structs.replace(plan, components=frozen | head)
        with tempfile.TemporaryDirectory() as folder:
            bundle = verbs.export(
                model, plan, into=Path(folder) / "b", classes=[str(i) for i in range(outline.classes)],
                keep_head=True, frozen_compute=compute, images=arguments.data,  # type: ignore[arg-type]
            )  # fmt: skip
            session = session_over(bundle, os.cpu_count() or 1, ON_CPU)
            found.append(np.concatenate([session.logits(image[None]) for image in images]))
    exact, rounded = found
    return {
        "logits_error": float(np.sqrt(np.square(rounded - exact).mean() / (exact - exact.mean(axis=0)).var())),
        "same_class": float((rounded.argmax(axis=1) == exact.argmax(axis=1)).mean()),
    }


def _edgeplast(*words: str) -> Any:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters", "devices"))
    command = [sys.executable, "-m", "edgeplast", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        raise RuntimeError(f"edgeplast {' '.join(words)}: {done.stderr}")
    return json.loads(done.stdout)


def _row(name: str, result: dict[str, Any]) -> str:
    before, after = result["before"], result["accuracy_after"]
    return (
        f"{name:24} before: logits off by {before['logits_error']:.1%}, same class {before['same_class']:.1%}; after: "
        f"{' '.join(f'{a:.1%}' for a in after)}, mean {statistics.mean(after):.1%}; "
        f"bundle {result['bundle_bytes'] / (1 << 20):.1f} MiB, step {result['step_seconds']:.2f} s, "
        f"peak {result['peak_bytes'] / (1 << 20):.0f} MiB"
    )


if __name__ == "__main__":
    main()
