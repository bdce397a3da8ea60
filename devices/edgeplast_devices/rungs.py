"""The ladder: ways to run one optimizer step, from the whole plan down to the head alone one image at a time.

A bundle and what the process may hold go in, the best rung that fits comes out. Pure arithmetic over the
bundle's footprints; what is resident and what is allowed are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeplast.bundle import Manifest, Tier, TrainingGraph
from edgeplast.errors import BudgetError
from edgeplast.footprint import FIRST_REGION_BYTES, LEAST_PICTURE_BYTES, PICTURE_BYTES, Footprint, peak_bytes
from edgeplast.micro_batches import slowdown
from edgeplast.recomputation import IN_WORDS
from edgeplast.units import format_bytes


def key_of(tier: str, micro_batch: int, recompute: str) -> str:
    """Return the name of a rung: its tier, its micro-batch and what is computed again."""
    return f"{tier}:{micro_batch}:{recompute}"


def tier_in(key: str) -> str:
    """Return the tier that a rung's name begins with; empty for an empty one."""
    return key.partition(":")[0]


@dataclass(frozen=True)
class Rung:
    """One way to run an optimizer step."""

    tier: Tier
    graph: TrainingGraph
    micro_batch: int

    def __str__(self) -> str:
        again = "" if self.graph.recompute == "none" else f", {IN_WORDS[self.graph.recompute]}"
        return f"tier {self.tier.name}, micro-batch {self.micro_batch}{again}"

    @property
    def key(self) -> str:
        """What ``--rung`` takes; see :func:`key_of`."""
        return key_of(self.tier.name, self.micro_batch, self.graph.recompute)

    @property
    def image_flops(self) -> float:
        """Floating-point operations of an image, made comparable over micro-batch sizes."""
        return self.graph.step_flops * slowdown(self.micro_batch)


@dataclass(frozen=True)
class Manner:
    """How a process keeps house on a rung; what it computes stays the same.

    Attributes:
        in_turns: whether the graph that trains is closed while the one that evaluates is open, and the other way round:
            both map the frozen weights, and opening one takes some tenths of a second.
        picture_bytes: for decoding a picture.
    """

    in_turns: bool = False
    picture_bytes: int = PICTURE_BYTES


TOGETHER, IN_TURNS = Manner(), Manner(in_turns=True)
MANNERS = (TOGETHER, IN_TURNS, Manner(in_turns=True, picture_bytes=LEAST_PICTURE_BYTES))
"""Best first: each needs less memory than the one before."""

MANNERS_TOGETHER = (TOGETHER, Manner(picture_bytes=LEAST_PICTURE_BYTES))
"""Of a process that predicts while it trains."""


def predicted_peak(
    manifest: Manifest, rung: Rung, optimizer: str, resident_bytes: int, manner: Manner = TOGETHER
) -> int:
    """Return the peak resident set of the process on a rung.

    Args:
        manifest: of the bundle.
        rung: tier, graph and micro-batch.
        optimizer: whose state is held.
        resident_bytes: of the process before the bundle's graphs and weights are opened.
        manner: how it keeps house.
    """
    both, prefix = (rung.graph.footprint, manifest.evaluation), manifest.prefix
    counted = max if manner.in_turns else sum
    always = [prefix.footprint] if prefix else []
    height, width = manifest.preprocessing.image_size
    picture = manifest.preprocessing.channels * height * width * 4
    return peak_bytes(
        resident_bytes=resident_bytes,
        graph_bytes=counted(graph.graph_bytes for graph in both) + sum(graph.graph_bytes for graph in always),
        mapped_bytes=counted(graph.frozen_bytes for graph in both) + sum(graph.frozen_bytes for graph in always),
        state_bytes=rung.graph.footprint.state_bytes(optimizer),
        pictures_bytes=rung.micro_batch * (picture + (prefix.latent_bytes if prefix else 0)),
        transient_bytes=region_bytes(manifest, rung),
        forward_sessions=len(always) + (not manner.in_turns),
        picture_bytes=manner.picture_bytes,
    )


def region_bytes(manifest: Manifest, rung: Rung) -> int:
    """Return the arena's region in which each of the graphs that a run opens finds room."""
    graphs: list[Footprint] = [rung.graph.footprint, manifest.evaluation]
    graphs += [manifest.prefix.footprint] if manifest.prefix else []
    return max(graph.transient_bytes(rung.micro_batch) for graph in graphs)


UNSPENT_BYTES = 3 << 20
"""Of what a budget leaves over, this much is given to nobody: Python's own objects, a thread's local data (for which
glibc ends the process where there is no memory)."""

STARTS_DIFFER_BYTES = 3 << 20
"""A budget that is named once does for the next start too: what is resident then differed by 0.4 MiB from run to run,
and by 1 MiB with the kinds of pictures, whose decoders are loaded as they are met."""


@dataclass(frozen=True)
class Shares:
    """How a budget is divided: no byte is promised twice.

    Attributes:
        predicted_bytes: peak of the process.
        region_bytes: the arena's large region.
        arena_bytes: the most that the arena may hold, so that a tensor too many is refused by the arena itself, which
            the ladder can answer, and not by the kernel; None without a budget.
        picture_bytes: the most that decoding one picture may take; None without a budget.
    """

    predicted_bytes: int
    region_bytes: int
    arena_bytes: int | None
    picture_bytes: int | None


def shares(
    manifest: Manifest,
    rung: Rung,
    optimizer: str,
    resident_bytes: int,
    allowed_bytes: int | None,
    manner: Manner = TOGETHER,
) -> Shares:
    """Divide a budget for the rung that a run begins on; arguments as of :func:`predicted_peak`.

    Args:
        manifest: of the bundle.
        rung: its largest.
        optimizer: whose state is held.
        resident_bytes: before the bundle is opened.
        allowed_bytes: the budget; None for no limit.
        manner: how the process keeps house.
    """
    predicted = predicted_peak(manifest, rung, optimizer, resident_bytes, manner)
    region = region_bytes(manifest, rung)
    if allowed_bytes is None:
        return Shares(predicted, region, None, None)  # a larger one is touched further than was predicted
    left = max(allowed_bytes - predicted - UNSPENT_BYTES, 0)
    return Shares(predicted, region, region + FIRST_REGION_BYTES, manner.picture_bytes + left)


def ladder(manifest: Manifest, batch: int, *, micro_batch: int | None = None, tier: str = "") -> list[Rung]:
    """Return all rungs, best first: the larger tier before the smaller, within a tier the faster before the slower.

    Alternatives are no part of it, since no lack of memory leads to them; from one the way down leads into the plan's.

    Equal speed is decided for the micro-batch that was asked for, or for 4: as fast as any, in less memory.

    Args:
        manifest: of the bundle.
        batch: images an optimizer step is computed from.
        micro_batch: the largest micro-batch allowed; None leaves it open.
        tier: of the plan, where the whole ladder is returned, or an alternative, whose rungs come before it.
    """
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < batch] + [batch]
    if micro_batch is not None:
        most = min(micro_batch, batch)
        sizes = [size for size in sizes if size < most] + [most]
    tiers = [*(beside for beside in manifest.alternatives if beside.name == tier), *manifest.ladder]
    choices = [Rung(each, graph, size) for each in tiers for graph in each.graphs for size in sizes]
    return as_predicted(manifest, choices, micro_batch)


def as_predicted(manifest: Manifest, rungs: list[Rung], micro_batch: int | None = None) -> list[Rung]:
    """Return rungs in the order of :func:`ladder`, which knows no machine."""
    tiers = [tier.name for tier in (*manifest.alternatives, *manifest.ladder)]
    near = micro_batch or 4
    return sorted(rungs, key=lambda r: (tiers.index(r.tier.name), r.image_flops, abs(r.micro_batch - near)))


@dataclass
class Climbing:
    """When to try the rung above again after a step down: patiently, and twice as patiently after each failure.

    Attributes:
        patience: steps of headroom before the next try.
        since: the step from which they are counted.
        tried_at: the step of the last try, None before the first.
    """

    patience: int = 20
    since: int = 0
    tried_at: int | None = None

    def is_due(self, step: int) -> bool:
        """Say whether enough steps have passed."""
        return step - self.since >= self.patience

    def fell(self, step: int) -> None:
        """Take note of a step down; soon after a try it says that the try was too early."""
        if self.tried_at is not None and step - self.tried_at < self.patience:
            self.patience = min(2 * self.patience, 1280)
        self.since = step

    def rose(self, step: int) -> None:
        """Take note of a try."""
        self.since = self.tried_at = step

    def wait(self, step: int) -> None:
        """Count anew: there is no room yet."""
        self.since = step


def below(manifest: Manifest, rungs: list[Rung], optimizer: str) -> list[Rung]:
    """Return the rungs after the first one that need less memory than it; none if it is the smallest."""
    need = predicted_peak(manifest, rungs[0], optimizer, 0)
    return [rung for rung in rungs[1:] if predicted_peak(manifest, rung, optimizer, 0) < need]


def choose(
    manifest: Manifest,
    rungs: list[Rung],
    optimizer: str,
    resident_bytes: int,
    allowed_bytes: int | None,
    manners: tuple[Manner, ...] = MANNERS,
) -> Rung:
    """Return the best rung whose predicted peak fits: of the largest tier for which there is a manner that does.

    Within a tier one that fits with both graphs open goes before; smaller pictures come when nothing else is left.

    Raises:
        BudgetError: none fits; the message names the smallest budget that would do.
    """
    if allowed_bytes is None:
        return rungs[0]
    tiers = list(dict.fromkeys(rung.tier.name for rung in rungs))
    ways = [(rung, manner) for manner in manners for rung in rungs]
    ways.sort(key=lambda way: (-way[1].picture_bytes, tiers.index(way[0].tier.name)))
    peaks = [(predicted_peak(manifest, rung, optimizer, resident_bytes, manner), rung) for rung, manner in ways]
    for peak, rung in peaks:
        if peak <= allowed_bytes:
            return rung
    least, rung = min(peaks, key=lambda entry: entry[0])
    enough = -(-(least + STARTS_DIFFER_BYTES) // (1 << 20))
    raise BudgetError(
        f"{format_bytes(allowed_bytes)} of memory are not enough to train {manifest.model}: the smallest step "
        f"({rung}) needs about {format_bytes(least)}, of which {format_bytes(resident_bytes)} are Python and the "
        f"runtime. Allow --memory {enough}MiB, or export a smaller model."
    )


def manner_of(
    manifest: Manifest,
    rung: Rung,
    optimizer: str,
    resident_bytes: int,
    allowed_bytes: int | None,
    manners: tuple[Manner, ...] = MANNERS,
) -> Manner:
    """Return the best manner in which a rung fits, the thriftiest where none does; arguments as of :func:`choose`."""
    if allowed_bytes is None:
        return manners[0]
    peaks = ((predicted_peak(manifest, rung, optimizer, resident_bytes, manner), manner) for manner in manners)
    return next((manner for peak, manner in peaks if peak <= allowed_bytes), manners[-1])
