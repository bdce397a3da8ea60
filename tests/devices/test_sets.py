"""Which sets of components a run may train under its budget, and what measuring scores in between takes."""

from __future__ import annotations

from edgeplast.bundle import Bundle
from edgeplast_devices.rescoring import LEAST_PAIRS, MOST_PAIRS, pairs_of
from edgeplast_devices.rungs import IN_TURNS, TOGETHER, ladder, region_bytes
from edgeplast_devices.sets import House, sets_that_fit


def test_sets_share_the_widest_region_or_give_way(alternatives_bundle: Bundle) -> None:
    manifest, free = alternatives_bundle.manifest, 10**9
    first = ladder(manifest, 8)[0]
    house = House(manifest, "adamw", 50 << 20, free, IN_TURNS)
    everything = sets_that_fit(house, first, first, 8, None, {})
    assert set(everything.rungs) == {"full", *(tier.name for tier in manifest.alternatives)} and everything.pairs
    assert everything.region_bytes >= max(region_bytes(manifest, rung) for rung in everything.rungs.values())
    least = house.peak(first)
    for spare in range(0, 4 << 20, 64 << 10):
        tight = House(manifest, "adamw", 50 << 20, least + spare, IN_TURNS)
        found = sets_that_fit(tight, first, first, 8, None, {})
        assert found.rungs["full"] == first and found.peak_bytes <= least + spare
        assert all(tight.fits(rung, found.region_bytes) for rung in found.rungs.values())
    known = {name: rung.key for name, rung in everything.rungs.items()}
    again = sets_that_fit(house, everything.rungs["late"], first, 8, None, known)
    assert again.rungs == everything.rungs and again.again and not everything.again


def test_where_scores_do_not_fit_the_plan_trains(alternatives_bundle: Bundle) -> None:
    manifest = alternatives_bundle.manifest
    first = [rung for rung in ladder(manifest, 8) if rung.tier.name == "head"][-1]
    house = House(manifest, "adamw", 50 << 20, 0, TOGETHER)
    found = sets_that_fit(house, first, first, 8, None, {})
    assert found.pairs == 0 and list(found.rungs) == ["head"]


def test_pairs_are_a_fiftieth_of_an_epochs_work() -> None:
    assert [pairs_of(n) for n in (4, 100, 450, 10_000)] == [LEAST_PAIRS, LEAST_PAIRS, 14, MOST_PAIRS]
