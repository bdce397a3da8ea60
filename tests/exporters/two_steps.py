"""Two optimizer steps of a bundle through the device's own verb, beside the same two steps in torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from exporter_models import CLASSES
from safetensors.numpy import load_file
from torch import nn

import edgeplast
from edgeplast.bundle import TRAINABLE
from edgeplast.copying import copied
from edgeplast.plans import plan_by_names
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images import ImageSet
from edgeplast_devices.options import TrainingOptions
from edgeplast_exporters.capture import Captured
from edgeplast_exporters.writer import write_bundle

PICTURES, LARGER, CLIP = 3, 2, 1.0
"""Of the one batch; micro-batches of 2 and 1 beside those of 1; the global norm that gradients are clipped to."""

STRIDE = 1e-3
"""Length of a step of SGD, as a share of that of all weights together: far above the last digit of a float32."""


class Steps(NamedTuple):
    """The losses before each step, and by parameter what both steps changed."""

    losses: list[float]
    changes: dict[str, np.ndarray]


def assert_two_steps_are_torchs(model: nn.Module, captured: Captured, folder: Path, *, share: float = 1.0) -> None:
    """Export a plan that trains the last share of the components, take two steps on the device, compare with torch's.

    SGD moves by the gradient itself, so its weights are compared; AdamW's first step divides each gradient by its own
    size, rounding noise included, so its losses are.
    """
    channels, height, width = captured.outline.input_shape
    assert channels == 3
    look = Preprocessing(image_size=(height, width), mean=(0.5,) * 3, std=(0.25,) * 3, crop_fraction=1.0)
    outline = captured.outline
    plan = plan_by_names(
        outline, ",".join(outline.names[int(len(outline.names) * (1 - share)) :]), weight_bits=32, classes=CLASSES
    )
    bundle = write_bundle(captured, plan, into=folder / "bundle", classes=CLASSES, preprocessing=look)
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, height, width, 3), dtype=np.uint8)
    pictures = ImageSet.of(pixels, [i % len(CLASSES) for i in range(PICTURES)], CLASSES)
    images = torch.from_numpy(((pixels / np.float32(255) - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2).copy())
    trained = [name for name, p in bundle.manifest.parameters.items() if p.trainable]
    start = load_file(bundle.path / TRAINABLE)
    rates = {
        "sgd": STRIDE * sum(float((w.astype(np.float64) ** 2).sum()) for w in start.values()) ** 0.5,
        "adamw": 1e-4,
    }
    expected = {how: by_torch(model, trained, images, pictures.labels, how, rates[how]) for how in rates}
    found = {
        (how, micro): by_device(bundle, start, pictures, folder / f"{how}{micro}", how, rates[how], micro)
        for how, micro in (("sgd", 1), ("sgd", LARGER), ("adamw", LARGER))
    }
    for (how, _), steps in found.items():
        assert np.isfinite(steps.losses).all()
        try:
            assert_steps_agree(steps, expected[how], start, with_changes=how == "sgd")
        except AssertionError:  # of a model whose random numbers are badly conditioned: as far from float64 as torch's
            exact = by_torch(model.double(), trained, images.double(), pictures.labels, how, rates[how])
            model.float()
            assert_steps_agree(steps, exact, start, with_changes=how == "sgd", beside=expected[how])


def assert_steps_agree(
    found: Steps, expected: Steps, start: dict[str, np.ndarray], *, with_changes: bool, beside: Steps | None = None
) -> None:
    """Compare losses within 1e-3, and each tensor's change within 1e-3 of its largest.

    Nothing counts as larger than a hundredth of the largest change of all. A weight holds its change to within its
    own last digit only, twice on each side. Ten times as far as another one is from what is expected is always near
    enough: both are one draw of rounding errors.
    """
    beside = beside or expected
    for loss, exact, other in zip(found.losses, expected.losses, beside.losses, strict=True):
        assert abs(loss - exact) <= max(1e-3 * abs(exact), 1e-4, 10 * abs(other - exact)), (found.losses, expected)
    overall = max(np.abs(change).max() for change in expected.changes.values())
    assert overall > 0
    assert found.changes.keys() == expected.changes.keys()
    for name, change in expected.changes.items() if with_changes else ():
        scale = max(np.abs(change).max(), 0.01 * overall)
        digits = 4 * np.spacing(np.abs(start[name]).max())
        allowed = max(1e-3 * scale, 10 * np.abs(beside.changes[name] - change).max()) + digits
        off = np.abs(found.changes[name].reshape(change.shape) - change).max()
        assert off <= allowed, f"{name}: off by {off / scale:.2g} of {scale:.2g}, allowed {allowed / scale:.2g}"


def by_device(
    bundle: edgeplast.Bundle,
    start: dict[str, np.ndarray],
    pictures: ImageSet,
    into: Path,
    how: str,
    rate: float,
    micro: int,
) -> Steps:
    options = TrainingOptions(
        epochs=2, batch=PICTURES, micro_batch=micro, optimizer=how, learning_rate=rate, head_learning_rate=rate,
        head="kept", schedule="constant", warmup=0.0, weight_decay=0.0, clip=CLIP, augment="none", threads=1,
        cache="none",  # 16 bits of latents are not 32
    )  # fmt: skip
    adapted = edgeplast.adapt(bundle, pictures, into=into, budget=edgeplast.Budget(), options=options)
    assert adapted.steps == 2
    after = load_file(into / TRAINABLE)
    return Steps([e.training_loss for e in adapted.history], {n: after[n] - array for n, array in start.items()})


def by_torch(
    model: nn.Module, names: list[str], images: torch.Tensor, labels: np.ndarray, how: str, rate: float
) -> Steps:
    there = copied(model)
    chosen = {name: p for name, p in there.named_parameters() if name in set(names)}
    before = {name: p.detach().numpy().copy() for name, p in chosen.items()}
    kinds = {"sgd": lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9),
             "adamw": lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=0.0)}  # fmt: skip
    optimizer = kinds[how](chosen.values())
    losses = []
    for _ in range(2):
        for module in there.modules():
            if hasattr(module, "attention_bias_cache"):  # of TinyViT and its like, with the graph of the step before
                module.attention_bias_cache = {}
        loss = nn.functional.cross_entropy(there(images), torch.from_numpy(labels).long())
        for p, gradient in zip(chosen.values(), torch.autograd.grad(loss, list(chosen.values())), strict=True):
            p.grad = gradient
        nn.utils.clip_grad_norm_(chosen.values(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return Steps(losses, {name: p.detach().numpy() - before[name] for name, p in chosen.items()})
