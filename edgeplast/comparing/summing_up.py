"""What a contest has come to, in words and figures: the Comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from edgeplast.adaptation import BeforeAfter
from edgeplast.budget import Budget
from edgeplast.comparing.halving import Halving, Outcome
from edgeplast.comparing.pool import Pool
from edgeplast.comparing.records import Ran
from edgeplast.comparison import Candidate, Comparison
from edgeplast.plans import Plan


def comparison_of(
    outcome: Outcome,
    halving: Halving,
    plans: Mapping[str, tuple[Plan, tuple[str, ...]]],
    *,
    data: str,
    budget: Budget,
    pool: Pool,
    minutes: float,
    seconds: float,
    confidence: float,
    seed: int,
) -> Comparison:
    """Put together what was found.

    Args:
        outcome: of the contest.
        halving: how it was held, with its records.
        plans: candidate to its plan, and its other names.
        data: the pictures, as they were given.
        budget: of every run.
        pool: the pictures.
        minutes: that were allowed.
        seconds: that were taken.
        confidence: of the intervals.
        seed: of the pool.
    """
    plan = plans[outcome.chosen][0]
    candidates = [_candidate(name, outcome, halving, *plans[name]) for name in plans]
    fails_last = float("inf")
    candidates.sort(key=lambda c: fails_last if c.epoch_seconds is None else c.epoch_seconds)
    final = outcome.rounds[-1]
    last = next(iter(halving.records.runs(outcome.chosen)[::-1]))
    return Comparison(
        model=plan.outline.model,
        data=data,
        classes=plan.classes,
        budget=budget,
        learning=len(pool.learning),
        held_out=len(pool.held_out),
        held_out_from=pool.held_out_from,
        candidates=tuple(candidates),
        rounds=tuple(outcome.rounds),
        plan=plan,
        chosen=outcome.chosen,
        best=outcome.best,
        verdict=verdict(candidates, outcome.chosen, outcome.best, final.seeds),
        confidence=confidence,
        minutes=minutes,
        seconds=seconds,
        stopped_because=outcome.stopped_because,
        runtime=last.runtime,
        seed=seed,
    )


def verdict(candidates: Sequence[Candidate], chosen: str, best: str, seeds: int) -> str:
    """Say what was found, and how far it can be trusted."""
    measured = [c for c in candidates if c.outcome not in ("failed", "not run")]
    missed = [c.name for c in candidates if c.outcome == "not run"]
    equals = [c.name for c in measured if c.outcome in ("chosen", "not worse")]
    if len(measured) == 1:
        failed = len(candidates) - 1
        text = f"{chosen} is the only candidate" + (
            f" that runs; {failed} failed." if failed else ": nothing else fits."
        )
    elif len(equals) == 1:
        text = f"{chosen} stands out: every other candidate is shown to be less accurate."
        dropped = [c.name for c in measured if c.outcome == "dropped"]
        if dropped:
            text = (
                f"{chosen} stands out in the last round; {_listed(dropped)} went out earlier by rank, without being "
                "shown worse."
            )
    else:
        text = (
            f"No difference that these pictures could show between {_listed(equals)}: {chosen} is the cheapest of them."
        )
        if best != chosen:
            gap = next(c.difference for c in candidates if c.name == chosen)
            if gap is not None and gap.mean < 0:
                text += f" {best} had {-100 * gap.mean:.1f} points more: chance or not, more minutes or pictures tell."
    if missed:
        text += f" The minutes were used before {_listed(missed)} had run."
    if seeds == 1 and len(measured) > 1:
        text += " Each ran once: what another seed would do is not in the intervals."
    return text


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _candidate(name: str, outcome: Outcome, halving: Halving, plan: Plan, also: tuple[str, ...]) -> Candidate:
    records, number = halving.records, outcome.last[name]
    every, runs = records.runs(name), records.runs(name, number) if number else []
    failure = records.failure(name)
    return Candidate(
        name=name,
        also=also,
        trained=plan.trainable,
        parameters=plan.trainable_parameters,
        predicted_peak_bytes=plan.predicted_peak_bytes,
        measured_peak_bytes=max((run.peak_bytes for run in every), default=None),
        epoch_seconds=halving.epoch_seconds(name) if every else None,
        round=number,
        accuracy=fmean(run.accuracy for run in runs) if runs else None,
        calibration_error=fmean(run.calibration_error for run in runs) if runs else None,
        seeds=len(runs),
        difference=outcome.differences.get(name),
        outcome=outcome.outcomes[name],
        note="" if failure is None else failure.reason,
        others={name: _kept(name, runs) for name in (runs[0].also if runs else ())},
    )


def _kept(name: str, runs: Sequence[Ran]) -> BeforeAfter:
    """Return the mean accuracies on another set, before and after."""
    pairs = [run.also[name] for run in runs if name in run.also]
    before, after = ([pair[i] for pair in pairs] for i in (0, 1))
    return BeforeAfter(before=_mean(before), after=_mean(after))


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is missing."""
    found = [value for value in values if value is not None]
    return fmean(found) if found and len(found) == len(values) else None
