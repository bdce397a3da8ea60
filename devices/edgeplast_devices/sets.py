"""Which sets of components a run may train under its budget, how, and what measuring scores in between takes.

The plan's own set and the alternatives beside it share one arena, so their largest region counts for each of them. Pure
arithmetic over the bundle's footprints, as ``rungs.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeplast.bundle import Manifest, Tier
from edgeplast.footprint import FIRST_REGION_BYTES
from edgeplast_devices.rungs import UNSPENT_BYTES, Manner, Rung, Shares, ladder, predicted_peak, region_bytes
from edgeplast_devices.scoring import predicted_peak as scoring_peak


@dataclass(frozen=True)
class Sets:
    """Sets that fit, and how.

    Attributes:
        rungs: the way to take a step on each, by its tier.
        pairs: of pictures that are in the score graph at once; 0 where there is no room to measure.
        region_bytes: of the arena, in which each of their graphs finds room.
        peak_bytes: that the process can be held to at most, whatever set trains.
        scoring_bytes: peak while scores are measured; 0 where they are not.
        again: whether they are those of a run that goes on.
    """

    rungs: dict[str, Rung]
    pairs: int
    region_bytes: int
    peak_bytes: int
    scoring_bytes: int
    again: bool

    def shared(self, shares: Shares, allowed_bytes: int | None, manner: Manner) -> Shares:
        """Return how a budget is divided where these may follow on what a run begins with."""
        region = max(self.region_bytes, shares.region_bytes)
        if allowed_bytes is None:
            return replace(shares, region_bytes=region)
        left = max(allowed_bytes - max(self.peak_bytes, shares.predicted_bytes) - UNSPENT_BYTES, 0)
        return replace(
            shares,
            region_bytes=region,
            arena_bytes=region + FIRST_REGION_BYTES,
            picture_bytes=manner.picture_bytes + left,
        )


@dataclass(frozen=True)
class House:
    """What a process holds, and how it keeps house.

    Attributes:
        manifest: of the bundle.
        optimizer: whose state is held.
        resident_bytes: before the bundle is opened.
        allowed_bytes: the budget; None for no limit.
        manner: of keeping house.
    """

    manifest: Manifest
    optimizer: str
    resident_bytes: int
    allowed_bytes: int | None
    manner: Manner

    def fits(self, rung: Rung, region: int = 0) -> bool:
        """Say whether there is room for a rung, in an arena of so large a region."""
        return self.allowed_bytes is None or self.peak(rung, region) <= self.allowed_bytes

    def peak(self, rung: Rung, region: int = 0) -> int:
        """Return the peak on a rung, in an arena of so large a region at least."""
        found = predicted_peak(self.manifest, rung, self.optimizer, self.resident_bytes, self.manner)
        return found + max(region - region_bytes(self.manifest, rung), 0)

    def scoring(self, rung: Rung, pairs: int) -> int:
        """Return the peak of measuring with so many pairs at once while a rung's state is held."""
        manifest = self.manifest
        beside = [] if self.manner.in_turns else [manifest.evaluation]
        beside += [manifest.prefix.footprint] if manifest.prefix else []
        return scoring_peak(
            manifest,
            pairs,
            self.resident_bytes,
            state_bytes=rung.graph.footprint.state_bytes(self.optimizer),
            beside=beside,
            picture_bytes=self.manner.picture_bytes,
        )


def rungs_of(manifest: Manifest, batch: int, micro_batch: int | None, tier: str, key: str) -> list[Rung]:
    """Return a way to take a step on a set, and where lack of memory leads from it; nothing if there is no such way.

    Args:
        manifest: of the bundle.
        batch: images an optimizer step is computed from.
        micro_batch: the largest that is allowed; None leaves it open.
        tier: of the set.
        key: of the rung.
    """
    rungs = ladder(manifest, batch, micro_batch=micro_batch, tier=tier)
    first = [rung for rung in rungs if rung.key == key]
    return [*first, *(rung for rung in rungs if rung.key != key)] if first else []


def sets_that_fit(
    house: House, first: Rung, hungriest: Rung, batch: int, micro_batch: int | None, known: Mapping[str, str]
) -> Sets:
    """Return which sets may train: the one that a run begins on, the whole plan's, and alternatives.

    Args:
        house: what the process holds.
        first: the rung that the run begins on, or began on.
        hungriest: of the rungs that it may prefer to it.
        batch: images an optimizer step is computed from.
        micro_batch: the largest that is allowed; None leaves it open.
        known: of a run that goes on: the way of each set; the same again, then.
    """
    manifest = house.manifest

    def ways(tier: Tier) -> list[Rung]:
        rungs = ladder(manifest, batch, micro_batch=micro_batch, tier=tier.name)
        return [r for r in rungs if r.tier == tier and (r.key == known[tier.name] if known else house.fits(r))]

    tiers = [manifest.tiers[0], *manifest.alternatives]
    found = {
        tier.name: ways(tier) for tier in tiers if tier.name != first.tier.name and (not known or tier.name in known)
    }
    least = max(region_bytes(manifest, first), region_bytes(manifest, hungriest))
    if not known:
        found = _together(house, first, least, found)
    rungs = {first.tier.name: first} | {name: left[0] for name, left in found.items() if left}
    region = max(least, *(region_bytes(manifest, rung) for rung in rungs.values()))
    pairs, region = _pairs_at_once(house, rungs, region)
    scoring = max(house.scoring(rung, pairs) for rung in rungs.values()) if pairs else 0
    most = max(scoring, *(house.peak(rung, region) for rung in rungs.values()))
    return Sets(rungs, pairs, region, most, scoring, again=bool(known))


def _together(house: House, first: Rung, least: int, found: dict[str, list[Rung]]) -> dict[str, list[Rung]]:
    """Return the ways of sets that are left when the largest region of all counts for each: the widest give way."""
    manifest = house.manifest
    left = {name: rungs for name, rungs in found.items() if rungs}
    while left:
        regions = {name: region_bytes(manifest, rungs[0]) for name, rungs in left.items()}
        region = max(least, *regions.values())
        over = [name for name, rungs in left.items() if not house.fits(rungs[0], region)]
        if not over and house.fits(first, region):
            break
        widest = max(regions, key=regions.__getitem__)
        if regions[widest] > least:
            left[widest] = [rung for rung in left[widest] if region_bytes(manifest, rung) < region]
            over = [] if left[widest] else [widest]
        elif not over:
            break
        for name in over:
            del left[name]
    return left


def _pairs_at_once(house: House, rungs: Mapping[str, Rung], region: int) -> tuple[int, int]:
    """Return how many pairs are in the score graph at once, 0 where none fits, and the region with it."""
    scoring = house.manifest.scoring
    assert scoring is not None
    limit = house.allowed_bytes
    for pairs in (4, 2, 1):
        wider = max(region, scoring.transient_bytes(pairs))
        fits = limit is None or all(
            house.scoring(rung, pairs) + wider - scoring.transient_bytes(pairs) <= limit and house.fits(rung, wider)
            for rung in rungs.values()
        )
        if fits and (pairs == 1 or wider == region or limit is None):
            return pairs, wider
    return 0, region
