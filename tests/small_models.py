"""Small vision transformers, bundles of them, and pictures that can be learned in seconds."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from torch import nn

    from edgeplast.bundle import Bundle
    from edgeplast.plans import Plan

KEPT_BUNDLES = "EDGEPLAST_TEST_BUNDLES"
"""Environment variable: the folder that keeps exported bundles for another environment."""

CLASSES = ("blue", "green", "red")
_COLOURS = {"blue": (60, 80, 200), "green": (70, 180, 90), "red": (200, 70, 60)}


def blob(label: str, seed: int, size: int = 36) -> Image.Image:
    """A disc of the class's colour somewhere on a noisy ground."""
    rng = np.random.default_rng([seed, CLASSES.index(label)])
    picture = Image.fromarray(rng.integers(60, 190, (6, 6, 3), dtype=np.uint8)).resize((size, size), 2)
    x, y, r = rng.integers(6, size - 6), rng.integers(6, size - 6), rng.integers(size // 4, size // 3)
    colour = tuple(int(v) for v in np.clip(np.add(_COLOURS[label], rng.integers(-25, 25, 3)), 0, 255))
    ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return picture


def blob_folder(root: Path, train: int = 16, test: int = 12, classes: tuple[str, ...] = CLASSES) -> Path:
    """``train/CLASS/n.png`` and ``test/CLASS/n.png``; without test pictures ``CLASS/n.png``."""
    for split, count, first in (("train", train, 0), ("test", test, 10_000)):
        for label in classes if count else ():
            folder = root / split / label if test else root / label
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                blob(label, first + i).save(folder / f"{i:03d}.png")
    return root


def blob_tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
    return path


def blob_npz(path: Path, train: int = 16, test: int = 12) -> Path:
    """The same pictures in the MedMNIST layout; classes are called 0, 1, 2."""
    arrays = {}
    for split, count, first in (("train", train, 0), ("test", test, 10_000)):
        pairs = [(np.asarray(blob(label, first + i)), c) for c, label in enumerate(CLASSES) for i in range(count)]
        arrays[f"{split}_images"] = np.stack([image for image, _ in pairs])
        arrays[f"{split}_labels"] = np.array([[c] for _, c in pairs], np.uint8)
    np.savez(path, **arrays)
    return path


def truncated_png() -> bytes:
    file = io.BytesIO()
    blob("red", 1).save(file, "PNG")
    return file.getvalue()[:100]


def small_vit(seed: int = 0, **options: object) -> nn.Module:
    """A timm VisionTransformer of two blocks, 32² pixels, width 32; random weights, one seed."""
    from edgeplast.models import import_timm

    import_timm()
    import torch
    from timm.models.vision_transformer import VisionTransformer

    settings: dict = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisionTransformer(**(settings | options)).eval()


def hand_made_plan(model: nn.Module, train: str = "all", weight_bits: int = 32, **options: object) -> Plan:
    """A plan that trains what a pattern names (and the head); nothing is scored."""
    from edgeplast.plans import plan_by_names
    from edgeplast_exporters.outlining import outlined

    settings: dict = {"batch_size": 8, "micro_batch_size": 4, "classes": CLASSES}
    outline = outlined(model, "small_vit")[0]
    return plan_by_names(outline, train, weight_bits=weight_bits, **(settings | options))


def scored_plan(plan: Plan, scores: Mapping[str, float]) -> Plan:
    """The same plan, made by scores: each component of a kind has the kind's, the later blocks a little more."""
    import msgspec

    found = {c.name: scores[c.kind] * (1 + 0.01 * (c.block or 0)) for c in plan.outline.components if c.kind in scores}
    components = {n: msgspec.structs.replace(c, score=found.get(n)) for n, c in plan.components.items()}
    return msgspec.structs.replace(plan, components=components)


def small_bundle(into: Path, train: str = "all", weight_bits: int = 32, **options: object) -> Bundle:
    """A bundle of a small model with a fresh head for the blobs' classes.

    With ``scores``, of kinds of components, it has alternatives beside its plan.

    Exporting needs torch. ``tests/run.py`` names a folder in which a run with torch keeps what it exports, so that one
    without torch (and with another runtime) finds it; where it is not there, the test is skipped.
    """
    import edgeplast
    from edgeplast.bundle import Bundle

    recipe = repr((train, weight_bits, sorted(options.items())))
    folder = os.environ.get(KEPT_BUNDLES)
    kept = Path(folder) / hashlib.sha256(recipe.encode()).hexdigest()[:16] if folder else None
    if kept is not None and kept.exists():
        shutil.copytree(kept, into)
        return Bundle.open(into)
    if find_spec("torch") is None:
        pytest.skip(f"no bundle {recipe} in ${KEPT_BUNDLES}, and no torch to export it")
    from edgeplast.models import with_classes

    classes, scores = options.pop("classes", CLASSES), options.pop("scores", None)
    model = with_classes(small_vit(**options), len(classes))
    plan = hand_made_plan(model, train, weight_bits, classes=classes)
    if scores:
        plan = scored_plan(plan, dict(scores))
    bundle = edgeplast.export(model, plan, into=into, keep_head=True, alternatives=bool(scores))
    if kept is not None:
        shutil.copytree(into, kept)
    return bundle
