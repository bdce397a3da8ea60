"""Score, plan and export in one call: the bundle is the one that the three verbs make one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from exporter_models import small

import edgeplast
from edgeplast.errors import UsageError
from edgeplast.plans import PlannedComponent


def test_one_call_is_the_three_verbs(blobs: Path, tmp_path: Path) -> None:
    model, budget = small(), edgeplast.Budget(memory_bytes=512 << 20)
    made = edgeplast.make_bundle(
        model, blobs, budget, into=tmp_path / "one", train="fc1", optimizer="sgd", batch_size=8, pairs=2, weight_bits=32
    )
    scores = edgeplast.score(model, blobs, pairs=2)
    plan = edgeplast.plan(scores, budget, train="fc1", optimizer="sgd", batch_size=8, weight_bits=32)
    by_hand = edgeplast.export(model, plan, into=tmp_path / "three")
    assert made.manifest.files == by_hand.manifest.files and made.manifest.plan == by_hand.manifest.plan
    assert (made.manifest.plan.optimizer, made.manifest.plan.batch_size) == ("sgd", 8)
    assert made.manifest.classes == ("blue", "green", "red")


def test_bits_may_depend_on_the_components(blobs: Path, tmp_path: Path) -> None:
    made = edgeplast.make_bundle(
        small(),
        blobs,
        into=tmp_path / "b",
        train="head",
        pairs=2,
        weight_bits=lambda outline: (8, dict.fromkeys(outline.select("fc1"), 32)),
    )
    planned: dict[str, PlannedComponent] = made.manifest.plan.components
    assert {c.weight_bits for name, c in planned.items() if name.endswith("fc1")} == {32}
    assert {c.weight_bits for name, c in planned.items() if name.endswith("fc2")} == {8}


def test_recovery_without_pruning_is_refused(blobs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"distill_steps goes with keep"):
        edgeplast.make_bundle(small(), blobs, into=tmp_path / "b", distill_steps=3)
