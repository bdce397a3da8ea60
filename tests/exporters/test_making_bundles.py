"""Score, plan and export in one call: the bundle is the one that the three verbs make one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exporter_models import small

import edgeplast
from edgeplast.errors import UsageError
from edgeplast.pipeline import check_way
from edgeplast.plans import PlannedComponent


def test_one_call_is_the_three_verbs(blobs: Path, tmp_path: Path) -> None:
    model, budget = small(), edgeplast.Budget(memory_bytes=512 << 20)
    made = edgeplast.make_bundle(
        model, blobs, budget, into=tmp_path / "one", train="fc1", optimizer="sgd", batch_size=8, pairs=2, weight_bits=32
    )
    scores = edgeplast.score(model, blobs, pairs=2)
    plan = edgeplast.plan(scores, budget, train="fc1", optimizer="sgd", batch_size=8, weight_bits=32)
    by_hand = edgeplast.export(model, plan, into=tmp_path / "three")
    planned = edgeplast.make_bundle(model, None, into=tmp_path / "two", plan=plan)
    assert planned.manifest.files == by_hand.manifest.files
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
    with pytest.raises(UsageError, match=r"--distill-steps goes with --prune"):
        edgeplast.make_bundle(small(), blobs, into=tmp_path / "b", distill_steps=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"planned": False, "pictured": False}, "Give --data with images to score on, or --plan"),
        ({"planned": True, "pictured": True, "keep": 0.7}, "--prune makes another model, whose plan is made after it"),
        ({"planned": True, "pictured": False, "distill_steps": 5}, "--distill-steps goes with --prune"),
    ],
)
def test_ways_that_do_not_go_together_are_refused_before_a_model_is_made(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_way(**{"keep": None, "distill_steps": 0} | given)
