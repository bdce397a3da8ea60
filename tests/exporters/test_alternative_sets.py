"""Bundles with alternatives: what is stored how, which graphs there are, what a plan leaves room for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from safetensors import safe_open
from small_models import CLASSES, hand_made_plan, scored_plan, small_bundle, small_vit
from typed_commands import Typed, on_a_terminal

import edgeplast
from edgeplast.alternatives import alternatives, held_beside
from edgeplast.budget import Budget
from edgeplast.bundle import FROZEN, TRAINABLE, Bundle, Manifest
from edgeplast.errors import BudgetError, InputError, UsageError
from edgeplast.footprint import ASSUMED_RESIDENT_BYTES
from edgeplast.pipeline import check_alternatives, make_bundle
from edgeplast.planning import contest, with_room
from edgeplast.plans import Plan
from edgeplast_devices.rungs import choose, ladder
from edgeplast_devices.weights import read_trainable

SCORES = {"attn": 0.4, "fc1": 3.0, "fc2": 0.2}


def test_what_any_set_trains_is_stored_once_in_32_bits(alternatives_bundle: Bundle) -> None:
    manifest = alternatives_bundle.manifest
    trained = {name for tier in manifest.tiers for name in tier.components}
    stored = {name: held.component for name, held in manifest.parameters.items() if held.trainable}
    assert {*stored.values()} == trained > {*manifest.plan.trainable}
    assert all(manifest.plan.components[name].weight_bits == 32 for name in trained)
    with (
        safe_open(alternatives_bundle.path / TRAINABLE, "np") as trainable,
        safe_open(alternatives_bundle.path / FROZEN, "np") as frozen,
    ):
        assert {*trainable.keys()} == {*stored}
        fixed: list[str] = frozen.keys()
        assert not {name.removesuffix(".int8") for name in fixed} & {*stored}
    names = [tier.name for tier in manifest.tiers]
    assert names == ["full", "half", "quarter", "head", "all-fc1", "all-attn", "late", "high", "low"]
    assert [tier.name for tier in manifest.alternatives] == names[4:] and manifest.tiers[0].name == "full"
    for tier in manifest.alternatives:
        held = {name for name, held in manifest.parameters.items() if held.component in tier.components}
        shapes = {name: array.size for name, array in read_trainable(alternatives_bundle).items() if name in held}
        assert {graph.footprint.trained_parameters for graph in tier.graphs} == {sum(shapes.values())}
        assert {graph.footprint.held_parameters for graph in tier.graphs} == {
            sum(array.size for array in read_trainable(alternatives_bundle).values())
        }


def test_the_prefix_ends_before_the_earliest_of_all_sets(tmp_path: Path) -> None:
    """The plan trains the last block; ``late`` of eight blocks the last two, and nothing else is given."""
    model = small_vit(depth=8)
    plan = scored_plan(hand_made_plan(model, "blocks:7,norm"), SCORES)
    sets = {"late": alternatives(plan)["late"]}
    from edgeplast.models import preprocessing_of
    from edgeplast_exporters import export

    look = preprocessing_of(model)
    found = export(model, plan, into=tmp_path / "b", classes=CLASSES, preprocessing=look, alternatives=sets).manifest
    alone = export(model, plan, into=tmp_path / "a", classes=CLASSES, preprocessing=look).manifest
    assert found.prefix is not None and alone.prefix is not None and found.prefix.flops < alone.prefix.flops
    assert [tier.name for tier in found.alternatives] == ["late"] and not alone.alternatives


def test_without_alternatives_a_bundle_is_as_it_was(tmp_path: Path) -> None:
    model = small_vit(depth=4)
    plan = scored_plan(hand_made_plan(model, "fc2,norm"), SCORES)
    made = edgeplast.export(model, plan, into=tmp_path / "b", keep_head=True)
    assert b"alternative" not in (made.path / "bundle.json").read_bytes()
    assert made.manifest == Manifest.read(made.path / "bundle.json")


class TestRoom:
    @pytest.fixture(scope="class")
    def table(self, tmp_path_factory: pytest.TempPathFactory, blobs: Path) -> edgeplast.ScoreTable:
        return edgeplast.score(small_vit(depth=4, embed_dim=128), blobs, pairs=4)

    def test_the_plan_leaves_room_for_weights_of_alternatives(
        self, table: edgeplast.ScoreTable, blobs: Path, tmp_path: Path
    ) -> None:
        limit = _between(table)
        first = edgeplast.plan(table, limit)
        assert first.predicted_peak_bytes + held_beside(first, alternatives(first)) > (limit.memory_bytes or 0)

        def made(budget: Budget) -> Plan:
            return edgeplast.plan(table, budget)

        found = with_room(first, made)
        assert found.budget == limit and found.predicted_peak_bytes <= (limit.memory_bytes or 0)
        bundle = make_bundle(
            small_vit(depth=4, embed_dim=128), blobs, limit, into=tmp_path / "b", pairs=4, alternatives=True
        )
        manifest = bundle.manifest
        assert manifest.plan.trainable == found.trainable and manifest.alternatives
        assert manifest.plan.predicted_peak_bytes <= (limit.memory_bytes or 0)
        rung = choose(manifest, ladder(manifest, 16), "adamw", ASSUMED_RESIDENT_BYTES, limit.memory_bytes)
        assert rung.tier.name == "full"

    def test_every_candidate_of_a_contest_leaves_it(self, table: edgeplast.ScoreTable) -> None:
        limit = _between(table)
        alone, found = contest(table, limit), contest(table, limit, alternatives=True)
        assert {"focus"} < {name for name, (plan, _) in alone.items() if _beside(plan) > (limit.memory_bytes or 0)}
        assert len(found) > 1 and all(_beside(plan) <= (limit.memory_bytes or 0) for plan, _ in found.values())
        assert all(plan.budget == limit for plan, _ in found.values())
        with pytest.raises(BudgetError, match="Leave out --alternatives"):
            contest(table, _hardly(table), ("head",), alternatives=True)
        assert contest(table, _hardly(table), ("head",))

    def test_no_room_is_said_before_a_contest_and_not_after_its_minutes(
        self, table: edgeplast.ScoreTable, blobs: Path, tmp_path: Path
    ) -> None:
        told: list[str] = []
        with pytest.raises(BudgetError, match="Leave out --alternatives"):
            make_bundle(
                small_vit(depth=4, embed_dim=128), blobs, _hardly(table), into=tmp_path / "b",
                pairs=4, choose="measured", minutes=5, alternatives=True, notice=told.append,
            )  # fmt: skip
        assert not any("first try" in line for line in told)

    def test_the_peak_that_a_bundle_tells_counts_them_with_tokens_merged_too(
        self, table: edgeplast.ScoreTable, tmp_path: Path
    ) -> None:
        model, plan = small_vit(depth=4, embed_dim=128), edgeplast.plan(table, train="blocks:3,norm,head")
        for tokens in (0, 3):
            alone, beside = (
                edgeplast.export(model, plan, into=tmp_path / f"{more}{tokens}", alternatives=more, merge_tokens=tokens)
                for more in (False, True)
            )
            sets = {tier.name: tier.components for tier in beside.manifest.alternatives}
            more = held_beside(plan, sets)
            assert sets and more > 0
            assert beside.manifest.plan.predicted_peak_bytes == alone.manifest.plan.predicted_peak_bytes + more

    def test_no_room_says_how_much_it_takes(self, table: edgeplast.ScoreTable) -> None:
        least = edgeplast.plan(table, train="head").predicted_peak_bytes
        given = edgeplast.plan(table, Budget(memory_bytes=least + 1000))
        with pytest.raises(BudgetError, match=r"weights of theirs, .* Leave out --alternatives, allow --memory \d+MiB"):
            with_room(given)


def _between(table: edgeplast.ScoreTable) -> Budget:
    """Return a budget with room for the planner's choice under it, but not for half of what lies beside that."""
    least, most = (edgeplast.plan(table, train=train).predicted_peak_bytes for train in ("head", "all"))
    some = edgeplast.plan(table, Budget(memory_bytes=(least + most) // 2))
    return Budget(memory_bytes=some.predicted_peak_bytes + held_beside(some, alternatives(some)) // 2)


def _hardly(table: edgeplast.ScoreTable) -> Budget:
    """Return a budget with room for the head, and for nothing beside it."""
    return Budget(memory_bytes=edgeplast.plan(table, train="head,norm").predicted_peak_bytes + 1000)


def _beside(plan: Plan) -> int:
    return plan.predicted_peak_bytes + held_beside(plan, alternatives(plan))


class TestRefused:
    def test_what_does_not_go_together(self) -> None:
        check_alternatives(True, automatic=False, train="attn:8-11,norm")
        with pytest.raises(UsageError, match=r"--weight-bits auto has little to choose from"):
            check_alternatives(True, automatic=True)
        with pytest.raises(UsageError, match=r"finer part \(lora:8\)\. Leave out one"):
            check_alternatives(True, automatic=False, train="attn,lora:8")
        with pytest.raises(UsageError, match=r"--format ort-training takes one plan"):
            check_alternatives(True, automatic=False, form="ort-training")

    def test_a_plan_made_by_hand(self, tmp_path: Path) -> None:
        model = small_vit()
        with pytest.raises(UsageError, match="this plan knows none"):
            edgeplast.export(
                model, hand_made_plan(model, "attn"), into=tmp_path / "b", keep_head=True, alternatives=True
            )

    def test_onnx_runtimes_own_api_takes_one_plan(self, alternatives_bundle: Bundle, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"has alternatives beside its plan, .* takes one plan"):
            edgeplast.export_ort_training(alternatives_bundle, into=tmp_path / "o")

    def test_a_manifest_whose_first_tier_is_no_plan(self, alternatives_bundle: Bundle) -> None:
        text = (alternatives_bundle.path / "bundle.json").read_bytes()
        manifest = Manifest.from_json(text, where="it")
        with pytest.raises(InputError, match="first tier of a bundle is its whole plan"):
            msgspec.structs.replace(manifest, tiers=manifest.tiers[::-1])


class TestTyped:
    @pytest.fixture
    def typed(self, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Typed:
        return on_a_terminal(80, capsys, monkeypatch)

    def test_inspect_names_them(self, typed: Typed, alternatives_bundle: Bundle) -> None:
        code, out, _ = typed("inspect", alternatives_bundle.path)
        assert code == 0 and "alternatives, of which adapt --rescore chooses: all-fc1, all-attn, late" in out

    def test_lora_is_refused_before_anything_is_scored(self, typed: Typed, blobs: Path, tmp_path: Path) -> None:
        code, _, err = typed(
            "export", "vit_tiny_patch16_224", "--pretrained", "--data", blobs, "--train", "lora:8", "--alternatives",
            "-o", tmp_path / "b",
        )  # fmt: skip
        assert code == 2 and "whole components" in err and "lora:8" in err


def test_equal_sets_are_written_once(tmp_path: Path) -> None:
    """Of one block, ``late`` is all of it."""
    made = small_bundle(tmp_path / "b", "blocks:0,norm", depth=1, scores=tuple(SCORES.items()))
    sets = [tier.components for tier in made.manifest.tiers]
    assert len({*sets}) == len(sets)
