"""The ladder: its order, and the choice of a rung under a budget."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.bundle import Bundle, Manifest
from edgeplast.errors import BudgetError
from edgeplast.units import parse_bytes
from edgeplast_devices.rungs import IN_TURNS, MANNERS, TOGETHER, Rung, below, choose, ladder, manner_of, predicted_peak

RESIDENT = 50 << 20


@pytest.fixture(scope="module")
def manifest(bundle: Bundle) -> Manifest:
    return bundle.manifest


@pytest.mark.parametrize(
    ("batch", "micro_batch", "sizes"),
    [
        (16, None, {1, 2, 4, 8, 16}),
        (12, None, {1, 2, 4, 8, 12}),
        (1, None, {1}),
        (16, 3, {1, 2, 3}),
        (4, 64, {1, 2, 4}),
    ],
)
def test_rungs_cover_all_graphs_and_sizes(
    manifest: Manifest, batch: int, micro_batch: int | None, sizes: set[int]
) -> None:
    rungs = ladder(manifest, batch, micro_batch=micro_batch)
    graphs = [graph for tier in manifest.tiers for graph in tier.graphs]
    assert {r.micro_batch for r in rungs} == sizes and len(rungs) == len(graphs) * len(sizes)


def test_larger_tiers_come_first_and_faster_ways_within_a_tier(manifest: Manifest) -> None:
    rungs = ladder(manifest, 16)
    tiers = [rung.tier.name for rung in rungs]
    assert list(dict.fromkeys(tiers)) == [tier.name for tier in manifest.tiers]
    assert tiers == sorted(tiers, key=[tier.name for tier in manifest.tiers].index)
    for tier in manifest.tiers:
        flops = [rung.image_flops for rung in rungs if rung.tier == tier]
        assert flops == sorted(flops)
    assert rungs[0].micro_batch == 4 and rungs[0].graph.recompute == "none"
    assert choose(manifest, rungs, "adamw", RESIDENT, None) == rungs[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1 << 20, 200 << 20), st.sampled_from(["adamw", "sgd"]), st.integers(1, 64))
def test_the_choice_is_the_best_that_fits_or_says_which_budget_would_do(
    manifest: Manifest, allowed: int, optimizer: str, batch: int
) -> None:
    rungs = ladder(manifest, batch)
    try:
        chosen = choose(manifest, rungs, optimizer, RESIDENT, allowed)
    except BudgetError as error:
        found = re.search(r"Allow --memory (\d+MiB)", str(error))
        assert found
        enough = parse_bytes(found.group(1))
        assert enough > allowed and choose(manifest, rungs, optimizer, RESIDENT, enough) in rungs
        # The next start may hold more: other kinds of pictures have other decoders.
        assert choose(manifest, rungs, optimizer, RESIDENT + (2 << 20), enough) in rungs
        with pytest.raises(BudgetError):
            choose(manifest, rungs, optimizer, RESIDENT, enough - (5 << 20))
        return
    manner = manner_of(manifest, chosen, optimizer, RESIDENT, allowed)
    assert predicted_peak(manifest, chosen, optimizer, RESIDENT, manner) <= allowed
    for better in rungs[: rungs.index(chosen)]:
        assert predicted_peak(manifest, better, optimizer, RESIDENT) > allowed
        if better.tier != chosen.tier:  # nobody gives up what trains for a session more, nor to read photos larger
            same = TOGETHER if manner == TOGETHER else IN_TURNS
            assert predicted_peak(manifest, better, optimizer, RESIDENT, same) > allowed
    if manner not in (TOGETHER, IN_TURNS):  # only where else nothing would do
        assert all(predicted_peak(manifest, rung, optimizer, RESIDENT, IN_TURNS) > allowed for rung in rungs)


def test_each_manner_needs_less_and_what_is_open_in_turns_is_counted_once(manifest: Manifest) -> None:
    for rung in ladder(manifest, 16):
        together, in_turns, thrifty = (predicted_peak(manifest, rung, "adamw", RESIDENT, manner) for manner in MANNERS)
        assert together - in_turns >= min(manifest.evaluation.frozen_bytes, rung.graph.footprint.frozen_bytes)
        assert thrifty < in_turns
        assert manner_of(manifest, rung, "adamw", RESIDENT, together) == TOGETHER
        assert manner_of(manifest, rung, "adamw", RESIDENT, together - 1) == IN_TURNS
        assert manner_of(manifest, rung, "adamw", RESIDENT, in_turns - 1) == manner_of(
            manifest, rung, "adamw", RESIDENT, 0
        )
        assert manner_of(manifest, rung, "adamw", RESIDENT, None) == TOGETHER


@given(st.integers(1, 512), st.integers(1, 512))
def test_the_prediction_grows_with_the_micro_batch(manifest: Manifest, one: int, other: int) -> None:
    low, high = sorted((one, other))
    for tier in manifest.tiers:
        for graph in tier.graphs:
            peaks = [predicted_peak(manifest, Rung(tier, graph, n), "adamw", RESIDENT) for n in (low, high)]
            assert peaks[0] <= peaks[1] and (low == high or peaks[0] < peaks[1])


def test_the_prediction_counts_what_is_resident_and_the_optimizers_state(manifest: Manifest) -> None:
    rung = ladder(manifest, 8)[0]
    adamw, sgd = (predicted_peak(manifest, rung, name, RESIDENT) for name in ("adamw", "sgd"))
    assert adamw - sgd == 4 * rung.graph.footprint.trained_parameters
    assert predicted_peak(manifest, rung, "adamw", 2 * RESIDENT) - adamw == RESIDENT


def test_going_down_always_needs_less_and_ends(manifest: Manifest) -> None:
    rungs, needs = ladder(manifest, 16), []
    while rungs:
        needs.append(predicted_peak(manifest, rungs[0], "adamw", 0))
        rungs = below(manifest, rungs, "adamw")
    assert needs == sorted(needs, reverse=True) and len(set(needs)) == len(needs) > 3
    everything = ladder(manifest, 16)
    assert needs[-1] == min(predicted_peak(manifest, rung, "adamw", 0) for rung in everything)
