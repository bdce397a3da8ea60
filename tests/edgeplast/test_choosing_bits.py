"""``edgeplast.choose_bits``: from paths and pictures to a plan that keeps to its own budget."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from small_models import hand_made_plan, small_vit

import edgeplast
from edgeplast.budget import Budget
from edgeplast.errors import InputError, UsageError
from edgeplast.plans import Plan


@functools.cache
def model() -> object:
    return small_vit(embed_dim=96)


def chosen(plan: Plan, images: Path, **how: object) -> Plan:
    return edgeplast.choose_bits(model(), plan, images, calibration_images=8, **how)


def bits(plan: Plan) -> set[int]:
    kinds = ("attn", "fc1", "fc2")
    return {c.weight_bits for name, c in plan.components.items() if name.endswith(kinds) and not c.trainable}


def test_where_float32_would_break_the_memory_nothing_has_more_than_8_bits(blobs: Path) -> None:
    plan = hand_made_plan(model(), "attn:1,head")
    free = chosen(plan, blobs, size_bytes=10**8)
    assert bits(free) == {32}
    tight = msgspec.structs.replace(plan, budget=Budget(memory_bytes=free.predicted_peak_bytes - 1))
    kept = chosen(tight, blobs, size_bytes=10**8)
    assert bits(kept) == {8} and kept.predicted_peak_bytes < free.predicted_peak_bytes
    exact = msgspec.structs.replace(plan, budget=Budget(memory_bytes=free.predicted_peak_bytes))
    assert bits(chosen(exact, blobs, size_bytes=10**8)) == {32}


def test_the_disk_budget_counts_as_a_size(blobs: Path, tmp_path: Path) -> None:
    plan = msgspec.structs.replace(hand_made_plan(model(), "head"), budget=Budget(disk_bytes=400_000))
    made = chosen(plan, blobs, size_bytes=10**8)
    assert 8 in bits(made) and "391 KiB allowed" in made.notes[-1]
    assert edgeplast.export(model(), made, into=tmp_path / "b", images=blobs).bytes <= 400_000


def test_the_head_that_is_kept_is_judged_itself(blobs: Path) -> None:
    made = chosen(hand_made_plan(model(), "head"), blobs, max_accuracy_drop=99, keep_head=True)
    assert bits(made) == {4} and "the model's own head" in made.notes[-1]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({}, UsageError, "for a size or for an accuracy"),
        ({"max_accuracy_drop": -1}, UsageError, r"--max-accuracy-drop -1 must be points"),
        ({"max_accuracy_drop": 1, "classes": ("a", "b"), "keep_head": True}, InputError, "3 classes and .*2 outputs"),
    ],
)
def test_what_means_nothing_is_refused(blobs: Path, how: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        chosen(hand_made_plan(model(), "head"), blobs, **how)


def test_the_same_seed_gives_the_same_bits(blobs: Path) -> None:
    plans = [chosen(hand_made_plan(model(), "head"), blobs, size_bytes=300_000, seed=3) for _ in range(2)]
    assert plans[0] == plans[1]
