"""Do the scores agree with one another, and with what training each component type alone reaches?

Two parts, both on the ViT-Tiny weights and RSSCN7 photos of ``../shared/data``:

* ``train``: fine-tune one component type in all blocks (and the new head) at a time. The learning rate is
  picked on a validation split cut from the training photos (seed 0), then three seeds train on
  all 490 photos and are tested once, on the 210 test photos. Each run is one JSON line; a run that is
  already in the file is skipped, so the script can be stopped and started again.
* ``scores``: measure every method on the training photos; medians per type, Kendall tau between methods.

``python examples/benchmarks/score_study.py train --json study.jsonl`` (two to three minutes a run on
one core, 39 runs), then
``python examples/benchmarks/score_study.py scores --json study.jsonl -o scores.json`` (minutes).
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from failures import Failures
from PIL import Image

from edgeplast.components import COMPONENT_TYPES, component_of, type_of
from edgeplast.journal import holds, note, read
from edgeplast.medians import medians
from edgeplast.models import load_model, with_classes
from edgeplast.reporting.agreement import agreement, kendall_tau
from edgeplast.scores import ScoreTable
from edgeplast.scoring import METHODS, score
from edgeplast_exporters.outlining import traced

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MODEL = "vit_tiny_patch16_224"
WEIGHTS = "vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors"
PHOTOS = "rsscn7_224_100pc.tar"

# Learning rates a factor 3 apart; norms have 400 times fewer parameters and want larger steps.
RATES = {
    "head": (1e-3, 3e-3, 1e-2),
    "attn": (1e-4, 3e-4, 1e-3, 3e-3),
    "fc1": (1e-4, 3e-4, 1e-3),
    "fc2": (3e-4, 1e-3, 3e-3),
    "norm1": (1e-3, 3e-3, 1e-2, 3e-2),
    "norm2": (1e-3, 3e-3, 1e-2, 3e-2),
}
SEEDS, EPOCHS, BATCH, VALIDATION_PER_CLASS = (0, 1, 2), 4, 16, 14


class Photos:
    """One split of the tar in memory, as uint8; satisfies ``edgeplast.scoring.Examples``.

    Resized so that the short side is 248 and cut to 224 (timm's evaluation transform, crop 0.9), mean and
    standard deviation 0.5.
    """

    def __init__(self, tar: Path, split: str) -> None:
        pixels, labels = [], []
        with tarfile.open(tar) as archive:
            names = sorted(n for n in archive.getnames() if n.startswith(f"{split}/") and n.count("/") == 2)
            self.classes = tuple(sorted({name.split("/")[1] for name in names}))
            for name in names:
                file = archive.extractfile(name)
                assert file is not None
                with Image.open(io.BytesIO(file.read())) as image:
                    pixels.append(_crop(image.convert("RGB")))
                labels.append(self.classes.index(name.split("/")[1]))
        self.pixels = np.stack(pixels)
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def tensor(self, index: int) -> np.ndarray:
        """Return one preprocessed photo, float32 (3, 224, 224)."""
        return (self.pixels[index].transpose(2, 0, 1) / np.float32(127.5) - 1).astype(np.float32)

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return photos (B, 3, 224, 224) float32 and labels (B,) int64."""
        images = torch.from_numpy(np.stack([self.tensor(int(i)) for i in indices]))
        return images, torch.from_numpy(self.labels[indices])


def _crop(image: Image.Image) -> np.ndarray:
    scale = 248 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def split_off(labels: np.ndarray, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``per_class`` photos of each class off for validation; returns (train, validation) indices."""
    rng = np.random.default_rng(seed)
    held = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(labels.max() + 1)])
    return np.setdiff1d(np.arange(len(labels)), held), held


def fine_tune(kind: str, rate: float, seed: int, photos: Photos, indices: np.ndarray) -> torch.nn.Module:
    """Train one component type in all blocks, and the head: AdamW, one cycle, clip 1, no augmentation.

    Matrix products run in bfloat16 (autocast), weights, gradients and optimizer in float32: twice as fast on
    a processor that has the instructions, and far below the noise of 210 test photos.
    """
    model = with_classes(load_model(MODEL, checkpoint=DATA / WEIGHTS), len(photos.classes))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(type_of(component_of(name)) in (kind, "head"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    steps = EPOCHS * -(-len(indices) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    if kind == "head":  # the body stays as it is, so its features need computing only once
        features, all_labels = pooled(model, photos), torch.from_numpy(photos.labels)
    forward: Any = model.head if kind == "head" else model
    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(indices)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            images, labels = (features[chosen], all_labels[chosen]) if kind == "head" else photos.batch(chosen)
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
    return model


@torch.no_grad()
def pooled(model: Any, photos: Photos) -> torch.Tensor:
    """Return what the head reads of every photo, (n, D) float32."""
    batches = [photos.batch(np.arange(i, min(i + 32, len(photos))))[0] for i in range(0, len(photos), 32)]
    return torch.cat([model.forward_head(model.forward_features(x), pre_logits=True) for x in batches])


@torch.inference_mode()
def test(model: torch.nn.Module, photos: Photos, indices: np.ndarray) -> tuple[float, float]:
    """Return (top-1 accuracy in 0..1, mean cross-entropy in nats)."""
    right, loss = 0, 0.0
    for start in range(0, len(indices), 32):
        images, labels = photos.batch(indices[start : start + 32])
        logits = model(images)
        right += int((logits.argmax(1) == labels).sum())
        loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return right / len(indices), loss / len(indices)


def train(journal: Path) -> None:
    """Do every run that the journal does not hold yet; a type that fails leaves the others theirs."""
    failures = Failures()
    photos, tests = Photos(DATA / PHOTOS, "train"), Photos(DATA / PHOTOS, "test")
    fitting, held = split_off(photos.labels, VALIDATION_PER_CLASS, seed=0)
    everything, indices = np.arange(len(photos)), np.arange(len(tests))
    for kind in RATES:
        with failures.noted(kind):
            for rate in RATES[kind]:
                run_once(journal, photos, fitting, photos, held, kind=kind, rate=rate, seed=0, on="validation")
            chosen = picked(read(journal), kind)
            for seed in SEEDS:
                run_once(journal, photos, everything, tests, indices, kind=kind, rate=chosen, seed=seed, on="test")
    failures.leave()


def run_once(journal: Path, photos: Photos, fit: np.ndarray, judge: Photos, indices: np.ndarray, **key: Any) -> None:
    """Train and measure once, and append the result; nothing happens if the journal has it."""
    if holds(journal, key):
        return
    start = time.perf_counter()
    model = fine_tune(key["kind"], key["rate"], key["seed"], photos, fit)
    accuracy, loss = test(model, judge, indices)
    line = note(journal, {**key, "accuracy": accuracy, "loss": loss, "seconds": time.perf_counter() - start})
    print(line, flush=True)


def picked(runs: list[dict[str, Any]], kind: str) -> float:
    """Return the learning rate with the best validation accuracy; the lower loss breaks ties."""
    tried = [run for run in runs if run["kind"] == kind and run["on"] == "validation"]
    return float(max(tried, key=lambda run: (run["accuracy"], -run["loss"]))["rate"])


def measure(journal: Path, into: Path) -> None:
    """Measure every method unless ``into`` holds the table already, and print what the scoring README shows."""
    if not into.exists():
        model, photos = load_model(MODEL, checkpoint=DATA / WEIGHTS), Photos(DATA / PHOTOS, "train")
        first, *others = METHODS
        score(model, photos, traced(model), method=first, others=others, pairs=64, seed=0).write(into)
    table = ScoreTable.read(into)
    reached = reached_accuracy(read(journal))
    print(accuracy_table(reached, read(journal)), medians_table(table, reached), tau_table(table), sep="\n\n")


def reached_accuracy(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the test accuracies of each type at its picked learning rate, one for each seed done."""
    reached: dict[str, list[float]] = {}
    for run in runs:
        if run["on"] == "test" and run["rate"] == picked(runs, run["kind"]):
            reached.setdefault(run["kind"], []).append(run["accuracy"])
    return reached


def accuracy_table(reached: dict[str, list[float]], runs: list[dict[str, Any]]) -> str:
    """Markdown: test accuracy of training each type alone, best mean first."""
    rows = [
        f"| {kind} | {picked(runs, kind):g} | {' '.join(f'{a:.3f}' for a in seeds)} | {np.mean(seeds):.3f} |"
        for kind, seeds in sorted(reached.items(), key=lambda item: -float(np.mean(item[1])))
    ]
    return "\n".join(["| trained (and the head) | rate | test accuracy, 3 seeds | mean |", "|---|---|---|---|", *rows])


def medians_table(table: ScoreTable, reached: dict[str, list[float]]) -> str:
    """Markdown: medians over blocks of each type by each method, and tau of the types' order with accuracy."""
    rows = []
    for method in table.methods:
        typical = medians({name: entry.score for name, entry in table.by(method).items()}, type_of)
        kinds = [kind for kind in COMPONENT_TYPES if kind in typical and kind in reached]
        tau = kendall_tau(np.array([typical[k] for k in kinds]), np.array([np.mean(reached[k]) for k in kinds])).tau
        cells = " | ".join(f"{typical[k]:.3g}" if k in typical else "–" for k in COMPONENT_TYPES)
        agrees = "–" if np.isnan(tau) else f"{tau:+.2f}"
        rows.append(f"| {method} | {cells} | {agrees} | {table.seconds[method]:.1f} |")
    head = f"| method | {' | '.join(COMPONENT_TYPES)} | τ of medians with accuracy | seconds |"
    return "\n".join([head, "|---" * 8 + "|", *rows])


def tau_table(table: ScoreTable) -> str:
    """Markdown: Kendall tau of every method with the four that measure slopes, over single components."""
    slopes = [m for m in ("plasticity", "plasticity-embedding", "plasticity-branch", "jacobian") if m in table.methods]
    rows = []
    for method in table.methods:
        found = [agreement(table.by(method), table.by(slope)) for slope in slopes]
        cells = " | ".join(
            "–" if slope == method or np.isnan(a.tau) else f"{a.tau:+.2f} ({a.low:+.2f} … {a.high:+.2f})"
            for slope, a in zip(slopes, found, strict=True)
        )
        rows.append(f"| {method} | {cells} |")
    return "\n".join([f"| τ (95 % interval) | {' | '.join(slopes)} |", "|---" * (len(slopes) + 1) + "|", *rows])


def main() -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=["train", "scores"])
    parser.add_argument("--json", type=Path, required=True, help="the journal: one JSON line a training run")
    parser.add_argument("-o", type=Path, default=Path("scores.json"), help="where scores are written")
    options = parser.parse_args()
    if options.part == "train":
        train(options.json)
    else:
        measure(options.json, options.o)


if __name__ == "__main__":
    main()
