"""Alternatives: which sets may train in place of a plan's, and which of them a table of scores favours."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.alternatives import alternatives, favoured, held_beside, in_focus, kinds_by_plasticity
from edgeplast.errors import UsageError
from edgeplast.outline import Component, Outline
from edgeplast.plans import Plan, plan_by_names
from edgeplast.scores import ComponentScore

KINDS = ("attn", "fc1", "fc2")
BLOCKS = 8


def outline_of(blocks: int = BLOCKS, kinds: tuple[str, ...] = KINDS) -> Outline:
    def part(name: str, kind: str, role: str, block: int | None = None) -> Component:
        return Component(name=name, kind=kind, role=role, block=block, parameters={f"{name}.weight": (4, 4)})  # type: ignore[arg-type]

    inner = [part(f"blocks.{b}.{kind}", kind, "inner", b) for b in range(blocks) for kind in kinds]
    ends = [part("norm", "norm", "norm"), part("head", "head", "head")]
    everything = (part("embed", "embed", "embedding"), *inner, *ends)
    return Outline(model="toy", input_shape=(3, 8, 8), classes=2, components=everything, segments=())


def scored(train: str = "fc1,norm", **of_kinds: float) -> Plan:
    plan = plan_by_names(outline_of(), train)
    found = {c.name: of_kinds[c.kind] * (1 + 0.01 * c.block) for c in plan.outline.components if c.kind in of_kinds}
    components = {n: msgspec.structs.replace(c, score=found.get(n)) for n, c in plan.components.items()}
    return msgspec.structs.replace(plan, components=components)


def table(error: float = 0.01, **of_kinds: float) -> dict[str, ComponentScore]:
    return {
        c.name: ComponentScore(score=of_kinds[c.kind], parameters=c.size, standard_error=error, samples=8)
        for c in outline_of().components
        if c.kind in of_kinds
    }


class TestSets:
    def test_kinds_late_high_and_low_each_with_norm_and_head(self) -> None:
        sets = alternatives(scored("fc1,norm", attn=0.4, fc1=3.0, fc2=0.2))
        assert list(sets) == ["all-attn", "all-fc2", "late", "high", "low"]  # all-fc1 is the plan's own
        assert all(names[-2:] == ("norm", "head") for names in sets.values())
        assert sets["all-attn"][:-2] == tuple(f"blocks.{b}.attn" for b in range(BLOCKS))
        assert sets["late"][:-2] == tuple(f"blocks.{b}.{kind}" for b in (6, 7) for kind in KINDS)
        assert sets["high"][:-2] == tuple(f"blocks.{b}.fc1" for b in range(2, BLOCKS))
        assert sets["low"][:-2] == tuple(f"blocks.{b}.fc2" for b in range(6))

    def test_what_is_no_other_set_is_left_out(self) -> None:
        assert "late" not in alternatives(scored("blocks:6-7,norm", attn=0.4, fc1=3.0, fc2=0.2))

    def test_at_most_five_kinds_the_most_plastic(self) -> None:
        kinds = tuple("abcdefg")
        plan = plan_by_names(outline_of(8, kinds), "head")
        components = {
            c.name: msgspec.structs.replace(plan.components[c.name], score=float(kinds.index(c.kind) + 1))
            if c.kind in kinds
            else plan.components[c.name]
            for c in plan.outline.components
        }
        sets = alternatives(msgspec.structs.replace(plan, components=components))
        assert [name for name in sets if name.startswith("all-")] == [f"all-{kind}" for kind in "gfedc"]

    def test_a_plan_without_scores_says_how_to_get_one(self) -> None:
        with pytest.raises(UsageError, match=r"chosen by scores, and this plan knows none\. Make it .*edgeplast plan"):
            alternatives(plan_by_names(outline_of(), "fc1"))

    def test_finer_parts_are_refused_by_name(self) -> None:
        outline = outline_of()
        extra = Component(
            name="blocks.0.fc1.lora", kind="lora", role="inner", block=0, parameters={"blocks.0.fc1.lora_B": (4, 1)}
        )
        components = (*outline.components[:-2], extra, *outline.components[-2:])
        plan = plan_by_names(msgspec.structs.replace(outline, components=components), "lora")
        with pytest.raises(UsageError, match=r"finer parts \(blocks\.0\.fc1\.lora\)\. Leave out --alternatives"):
            alternatives(plan)

    def test_weights_that_only_alternatives_train_are_held_in_32_bits(self) -> None:
        plan = scored("fc1,norm", attn=0.4, fc1=3.0, fc2=0.2)
        sets = alternatives(plan)
        assert held_beside(plan, sets) == 2 * BLOCKS * 16 * 3  # attn and fc2, 16 numbers each, of 1 byte before
        assert held_beside(plan, {}) == 0 == held_beside(plan, {"own": plan.trainable})


def sets_of(**trained: str) -> dict[str, tuple[str, ...]]:
    outline = outline_of()
    return {name.replace("_", "-"): tuple(outline.select(f"{what},norm,head")) for name, what in trained.items()}


class TestFavoured:
    SETS = sets_of(full="fc2", all_fc1="fc1", all_attn="attn", late="blocks:6-7", few="fc1:6-7", both="fc1,attn")

    def choose(self, scores: Mapping[str, ComponentScore], now: str, *sets: str, at_once: int = 8) -> str:
        some = {name: self.SETS[name] for name in sets or self.SETS}
        return favoured(outline_of(), scores, some, dict.fromkeys(some, at_once), now)

    def test_the_plastic_kind_in_all_blocks_and_with_room_more(self) -> None:
        scores = table(attn=0.4, fc1=3.0, fc2=0.2)
        assert self.choose(scores, "full", "full", "all-fc1", "all-attn", "late") == "all-fc1"
        assert self.choose(scores, "full") == "both"

    def test_other_scores_favour_another_kind(self) -> None:
        scores = table(attn=3.0, fc1=0.4, fc2=0.2)
        assert self.choose(scores, "all-fc1", "full", "all-fc1", "all-attn", "late") == "all-attn"

    def test_of_what_fits_the_one_with_most_of_it(self) -> None:
        scores = table(attn=0.4, fc1=3.0, fc2=0.2)
        assert self.choose(scores, "full", "full", "all-attn", "few") == "few"
        assert self.choose(scores, "full", "full", "all-attn", "late", "few") == "late"  # as much, and more beside it

    def test_slow_steps_are_for_the_plastic_kinds_alone(self) -> None:
        scores = table(attn=0.4, fc1=3.0, fc2=0.2)
        assert self.choose(scores, "full", "full", "all-fc1", "both", at_once=2) == "all-fc1"
        assert self.choose(scores, "full", "full", "all-fc1", "both", at_once=4) == "both"

    def test_what_trains_stays_where_chance_could_be_why_another_is_ahead(self) -> None:
        close = {"attn": 2.0, "fc1": 2.1, "fc2": 0.2}
        assert self.choose(table(0.1, **close), "all-attn", "all-attn", "all-fc1") == "all-attn"
        assert self.choose(table(0.01, **close), "all-attn", "all-attn", "all-fc1") == "all-fc1"

    def test_without_any_plasticity_it_stays(self) -> None:
        assert self.choose(table(attn=0.0, fc1=0.0, fc2=0.0), "late") == "late" == self.choose({}, "late")

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.floats(0.01, 10), min_size=3, max_size=3), st.sampled_from(sorted(SETS)), st.integers(1, 16))
    def test_a_choice_that_was_made_stands(self, found: list[float], now: str, at_once: int) -> None:
        scores = table(**dict(zip(KINDS, found, strict=True)))
        chosen = self.choose(scores, now, at_once=at_once)
        assert self.choose(scores, chosen, at_once=at_once) == chosen

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.floats(0.01, 10), min_size=3, max_size=3))
    def test_it_is_the_planners_own_objective(self, found: list[float]) -> None:
        """Where all kinds have a set and all of them fit, the kinds in focus decide in both places."""
        by_kind = dict(zip(KINDS, found, strict=True))
        ranked = kinds_by_plasticity(outline_of(), {n: s.score for n, s in table(**by_kind).items()})
        assert list(ranked) == sorted(KINDS, key=lambda kind: -by_kind[kind])
        sets = sets_of(all_attn="attn", all_fc1="fc1", all_fc2="fc2")
        first = sorted(sets, key=lambda name: by_kind[name.removeprefix("all-")])[0]
        chosen = favoured(outline_of(), table(0.0, **by_kind), sets, dict.fromkeys(sets, 8), first)
        assert by_kind[chosen.removeprefix("all-")] == max(found) and chosen.removeprefix("all-") in in_focus(ranked)
