"""The Comparison: what each way to train was worth on the user's own pictures, and the plan that follows."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from edgeplast.adaptation import BeforeAfter
from edgeplast.budget import Budget
from edgeplast.documents import Count, Document
from edgeplast.errors import InputError
from edgeplast.outputs import OWN_COMPARISON
from edgeplast.plans import Plan
from edgeplast.showing import Plot, plotted, table
from edgeplast.units import format_bytes, format_seconds

COMPARISON, PLAN, PAGE, JOURNAL = OWN_COMPARISON, "plan.json", "comparison.html", "runs.jsonl"
"""Files in the folder of a comparison."""

OUTCOMES = {
    "chosen": "chosen",
    "not worse": "no worse",
    "worse": "worse",
    "dropped": "dropped",
    "not run": "not run",
    "failed": "failed",
}
"""Outcome of a candidate to the word that tables show."""


class Difference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A paired difference in accuracy, in fractions.

    Attributes:
        mean: over all pictures and seeds; below 0: less than the best.
        low: lower end of the confidence interval.
        high: upper end.
        pictures: pictures that both named, right or wrong.
        seeds: pairs of runs.
    """

    mean: float
    low: float
    high: float
    pictures: Count
    seeds: Count

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to train, and what was measured of it.

    Attributes:
        name: the strategy, or the components as they were named.
        also: other names under which planning would make the same plan.
        trained: names of the components that train.
        parameters: how many numbers train.
        predicted_peak_bytes: by the plan.
        measured_peak_bytes: the highest resident set of its processes; None where none ended.
        epoch_seconds: time of one pass over all pictures to learn from, by the median step of its fastest run; None
            where nothing was measured.
        round: the last one that it took part in; 0 is the trial of whether it runs.
        accuracy: mean over its runs of that round; None where it has none.
        calibration_error: likewise.
        seeds: runs of that round.
        difference: to the best, in pairs of runs of that round; None for the best itself.
        outcome: ``chosen``, ``not worse`` (by the interval), ``worse``, ``dropped`` (by rank in an early round, without
            being shown worse), ``not run`` (the time was over) or ``failed``.
        note: why it failed, or what a reader should know.
        others: sets of what must not be forgotten, to accuracy before and after, mean over the runs of that round.
    """

    name: str
    also: tuple[str, ...]
    trained: tuple[str, ...]
    parameters: Count
    predicted_peak_bytes: Count
    measured_peak_bytes: Count | None
    epoch_seconds: float | None
    round: Count
    accuracy: float | None
    calibration_error: float | None
    seeds: Count
    difference: Difference | None
    outcome: str
    note: str = ""
    others: dict[str, BeforeAfter] = {}

    @property
    def lost_points(self) -> float | None:
        """Points of accuracy lost on the other set that lost most, below 0: won; None where none was measured."""
        pairs = [(kept.before, kept.after) for kept in self.others.values()]
        lost = [100 * (before - after) for before, after in pairs if before is not None and after is not None]
        return max(lost, default=None)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise InputError(f"Candidate {self.name} has the outcome {self.outcome!r}; known: {', '.join(OUTCOMES)}.")


def points(lost: float | None) -> str:
    """Return points lost as a table shows them: won ones have a minus sign."""
    return "–" if lost is None else f"{lost:.1f}"


class Round(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A round of successive halving: who ran, on how many pictures, for how many epochs, with how many seeds."""

    candidates: tuple[str, ...]
    pictures: Count
    epochs: Count
    seeds: Count


class Comparison(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a contest of plans has shown.

    Attributes:
        model: name of the model.
        data: the pictures, as they were given.
        classes: class names of the new head.
        budget: of the device, and of every run.
        learning: pictures that there were to learn from.
        held_out: others that plans were compared on, and never learned from.
        held_out_from: the split these are of.
        candidates: the cheapest first.
        rounds: in order, without the trial of whether each runs.
        plan: the winner's.
        chosen: its name: the cheapest of those that are not worse than the best.
        best: name of the candidate with the highest mean accuracy.
        verdict: what was found, in a sentence or two.
        confidence: of the intervals of a round taken together (Bonferroni).
        minutes: that were allowed.
        seconds: that were taken.
        stopped_because: why no more was run.
        runtime: which onnxruntime build ran the candidates, with its version.
        seed: of the choice of pictures; runs have seeds 0, 1, …
    """

    KIND: ClassVar[str] = "comparison"

    model: str
    data: str
    classes: tuple[str, ...]
    budget: Budget
    learning: Count
    held_out: Count
    held_out_from: str
    candidates: tuple[Candidate, ...]
    rounds: tuple[Round, ...]
    plan: Plan
    chosen: str
    best: str
    verdict: str
    confidence: float
    minutes: float
    seconds: float
    stopped_because: str
    runtime: str = ""
    seed: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of :meth:`rows`; what was forgotten has one where it was measured."""
        forgot = ("forgot, points",) if self.measures_forgetting else ()
        return ("trained", "accuracy", "to the best, points", *forgot, "peak", "an epoch", "")

    @property
    def measures_forgetting(self) -> bool:
        """Whether another set was given, of what must not be forgotten."""
        return any(candidate.others for candidate in self.candidates)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table's cells under :attr:`columns`, a row a candidate."""
        return [
            (
                candidate.name,
                "–" if candidate.accuracy is None else f"{candidate.accuracy:.1%}",
                "–" if candidate.difference is None else str(candidate.difference),
                *((points(candidate.lost_points),) if self.measures_forgetting else ()),
                "–" if candidate.measured_peak_bytes is None else format_bytes(candidate.measured_peak_bytes),
                "–" if candidate.epoch_seconds is None else format_seconds(candidate.epoch_seconds),
                OUTCOMES[candidate.outcome]
                + (
                    f" in round {candidate.round}"
                    if candidate.outcome != "chosen" and self._is_early(candidate)
                    else ""
                ),
            )
            for candidate in self.candidates
        ]

    def _is_early(self, candidate: Candidate) -> bool:
        return 0 < candidate.round < len(self.rounds)

    def candidate(self, name: str) -> Candidate:
        """Return a candidate by its name."""
        return next(each for each in self.candidates if each.name == name)

    def __str__(self) -> str:
        table = [self.columns, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, "", self.verdict])

    def plot(self) -> Plot:
        """Return accuracy against peak memory, a point a candidate, as a matplotlib figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plotted("comparison", self)

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return table(self.columns, self.rows(), self.verdict)
