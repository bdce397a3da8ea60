"""The verb ``compare``: a model, pictures, a budget and minutes in; a Comparison out, with the plan that learns best.

It calls the other verbs (score, plan, export; adapt and evaluate in processes of their own) and keeps a journal beside
the output, so that it can be killed at any moment and goes on when it is started again.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeplast import verbs
from edgeplast.arguments import BUDGET, check_kind, path_of
from edgeplast.budget import Budget
from edgeplast.comparing.candidates import Plans, plans_of
from edgeplast.comparing.halving import CONFIDENCE, Halving
from edgeplast.comparing.pace import TRIAL_LOOKS, Scale
from edgeplast.comparing.pool import VALIDATION, Pool, open_pool
from edgeplast.comparing.processes import RunFailedError, carried_out
from edgeplast.comparing.records import Failed, Ran, Records
from edgeplast.comparing.summing_up import comparison_of
from edgeplast.comparing.trial import Order
from edgeplast.comparing.workplace import SETTINGS, Settings, check_also, digest_of, unfinished, workplace, write_result
from edgeplast.comparison import JOURNAL, Comparison
from edgeplast.errors import InterruptedRunError, UsageError
from edgeplast.files import possible
from edgeplast.given import other_sets
from edgeplast.plans import Plan
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Beside, Progress, silent, unheard
from edgeplast.scores import DEFAULT_METHOD, ScoreTable
from edgeplast.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import torch

    from edgeplast_exporters.storing import FrozenCompute

_SCORES, _BUNDLES = "scores.json", "bundles"
PICTURES = (
    "the path of a folder CLASS/name.jpg, of a tar archive of one, or of an .npz in the MedMNIST layout; not an opened "
    "set, since each run is a process of its own that opens them itself"
)
_TO_WRITE_SECONDS = 10.0
"""Kept back for the page and the folder."""


def compare(
    model: torch.nn.Module,
    images: str | Path,
    budget: Budget | None = None,
    *,
    minutes: float = 20.0,
    into: str | Path | None = None,
    also: Sequence[str | Path] = (),
    candidates: Sequence[str] = (),
    epochs: int = 4,
    classes: Sequence[str] | None = None,
    keep_head: bool = False,
    preprocessing: Preprocessing | None = None,
    method: str = DEFAULT_METHOD,
    pairs: int = 64,
    optimizer: str = "adamw",
    batch_size: int = 16,
    weight_bits: int = 8,
    frozen_compute: FrozenCompute = "fp32",
    alternatives: bool = False,
    merge_tokens: int = 0,
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
    notice: Callable[[str], None] = unheard,
) -> Comparison:
    """Find out which plan learns best from some pictures inside a budget, by trying, in the minutes that there are.

    Args:
        model: not changed; as for :func:`edgeplast.score`.
        images: path of a folder, archive or npz of labelled images. A part of ``train`` is held out to compare on,
            or ``val`` is, where there is one; ``test`` is never looked at.
        budget: of the device, enforced in every run; by default no limit.
        minutes: for everything: scores, exports, runs.
        into: a folder for table, page, plan and journal; beside it, ``<into>.partial`` keeps what is not finished, and
            the same call goes on from there. None: nothing is kept.
        also: with ``keep_head``, paths of labelled images of what must not be forgotten: measured before and after
            every run, of their ``test``, else ``val``, else ``train``.
        candidates: strategies of :func:`edgeplast.plan`, ``head``, ``last-k`` (as many as fit), or components and finer
            parts joined by ``+`` (``"fc1+norm2"``, ``"lora:8"``); by default the usual ones that fit.
        epochs: that the device will train for, and the most that a run here does.
        classes: names of the new head; by default those of the images.
        keep_head: start from the model's own head.
        preprocessing: by default timm's data configuration of the model.
        method: score to plan by.
        pairs: most pairs of images to score on.
        optimizer: ``adamw`` or ``sgd``.
        batch_size: images an optimizer step is computed from.
        weight_bits: of frozen matrices: 32, 8 or 4.
        frozen_compute: ``"int8"``: frozen matrices before everything that trains multiply in integers.
        alternatives: a plan leaves room for the weights of alternatives, with which it will be exported.
        merge_tokens: a plan leaves blocks in which so many tokens each will be merged; no run merges any.
        seed: of the pictures that are held out, and of scoring.
        force: replace what is there, an unfinished contest with other arguments included.
        progress: told of each step of each run, and of the minutes that are left.
        notice: told what each run and round has shown.

    Raises:
        UsageError: an argument means nothing, ``into`` exists, or holds an unfinished contest of something else.
        InputError: the images cannot be used, or all runs fail.
        BudgetError: no candidate fits, or the minutes do not suffice for one run of each; the message says how many do.
        InterruptedRunError: someone asked to stop; what was done is kept.
    """
    from edgeplast.models import preprocessing_of
    from edgeplast.unwrapping import unwrapped

    check_kind(budget, Budget, "budget", BUDGET)
    check_minutes(minutes)
    check_also(also, keep_head=keep_head)
    clock = _Clock(60 * minutes)
    data = path_of(images, "images", PICTURES)
    model = unwrapped(model)
    prepared = preprocessing or preprocessing_of(model)
    settings = Settings(
        model=digest_of(model),
        preprocessing=msgspec.json.encode(prepared).decode(),
        data=str(data),
        budget=budget or Budget(),
        candidates=tuple(candidates),
        epochs=epochs,
        classes=None if classes is None else tuple(classes),
        keep_head=keep_head,
        method=method,
        pairs=pairs,
        optimizer=optimizer,
        batch_size=batch_size,
        weight_bits=weight_bits,
        frozen_compute=frozen_compute,
        alternatives=alternatives,
        merge_tokens=merge_tokens,
        seed=seed,
        also=tuple(str(path_of(each, "also", PICTURES)) for each in also),
    )
    with workplace(into, settings, force=force) as work:
        contest = _Contest(model, settings, prepared, work, clock, progress, notice)
        try:
            found = contest.held()
        except KeyboardInterrupt as error:
            raise _interrupted(contest, into) from error
        if into is not None:
            write_result(found, work, possible(into), force=force)
    return found


def check_minutes(minutes: float) -> None:
    """Raise unless there is time for anything.

    Raises:
        UsageError: it is no positive number.
    """
    if not (0 < minutes < math.inf):
        raise UsageError(f"--minutes {minutes:g} must be a positive number of minutes, such as 20.")


class _Clock:
    """The time of a contest, over all processes that worked on it.

    Attributes:
        seconds: that it may take.
        before: that were used by processes before this one.
    """

    def __init__(self, seconds: float) -> None:
        self._start, self.before, self.seconds = time.monotonic(), 0.0, seconds

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self._start

    def left(self) -> float:
        return self.seconds - self.elapsed() - _TO_WRITE_SECONDS

    def said(self) -> str:
        left = max(self.left(), 0.0)
        return f"{math.ceil(left / 60)} min left" if left > 90 else f"{left:.0f} s left"


@dataclass
class _Contest:
    """Everything between the arguments and the result."""

    model: torch.nn.Module
    settings: Settings
    preprocessing: Preprocessing
    work: Path
    clock: _Clock
    progress: Progress
    notice: Callable[[str], None]
    records: Records | None = None

    def held(self) -> Comparison:
        """Hold it."""
        records = self.records = Records(self.work / JOURNAL)
        self.clock.before = records.elapsed
        if len(records):
            used = format_seconds(self.clock.before)
            self.notice(f"Going on: {_counted(len(records))} done, {used} were used, {self.clock.said()}.")
        pool = open_pool(Path(self.settings.data), self.settings.seed, self.progress)
        for line in pool.taken_for:
            self.notice(line)
        self._same_pictures(pool)
        scores = self._scores(pool)
        plans = plans_of(scores, self.settings, self.model, self.notice, self.progress)
        self._announce(plans, pool)
        scale = Scale(
            learning=len(pool.learning),
            held_out=len(pool.held_out),
            batch=self.settings.batch_size,
            classes=len(pool.learning.classes),
            epochs=self.settings.epochs,
            validation=VALIDATION,
        )
        halving = Halving(
            names=tuple(plans),
            peaks={name: plan.predicted_peak_bytes for name, (plan, _) in plans.items()},
            scale=scale,
            records=records,
            run=lambda *order: self._run(pool, plans, *order),
            left=self.clock.left,
            elapsed=self.clock.elapsed,
            notice=self.notice,
        )
        outcome = halving.hold()
        return comparison_of(
            outcome,
            halving,
            plans,
            data=self.settings.data,
            budget=self.settings.budget,
            pool=pool,
            minutes=self.clock.seconds / 60,
            seconds=self.clock.elapsed(),
            confidence=CONFIDENCE,
            seed=self.settings.seed,
        )

    def _same_pictures(self, pool: Pool) -> None:
        """Write down which pictures the contest is about, or raise if they were others when it began."""
        path = self.work / SETTINGS
        known = Settings.read(path).pictures
        others = (each.fingerprint() for each in other_sets(self.settings.also, self.progress).values())
        found = " ".join((pool.fingerprint, *others))
        if known and known != found:
            shown = ", ".join((self.settings.data, *self.settings.also))
            raise UsageError(
                f"The pictures of {shown} are others than when the contest of {self.work} began. "
                "Remove that folder to begin anew."
            )
        msgspec.structs.replace(self.settings, pictures=found).write(path)

    def _scores(self, pool: Pool) -> ScoreTable:
        """Score on the pictures to learn from, once."""
        path = self.work / _SCORES
        if path.exists():
            return ScoreTable.read(path)
        scores = verbs.score(
            self.model,
            pool.learning,
            preprocessing=self.preprocessing,
            method=self.settings.method,
            pairs=self.settings.pairs,
            seed=self.settings.seed,
            progress=self.progress,
        )
        scores.write(path)
        return scores

    def _announce(self, plans: Plans, pool: Pool) -> None:
        same = [f"{name} (also {', '.join(also)})" if also else name for name, (_, also) in plans.items()]
        self.notice(f"candidates: {', '.join(same)}")
        self.notice(
            f"pictures: {len(pool.learning)} to learn from, {len(pool.held_out)} of {pool.held_out_from} held out to "
            f"compare on; {self.clock.said()}"
        )

    def _bundle(self, pool: Pool, name: str, plan: Plan) -> Path:
        """Export a candidate, once."""
        place = self.work / _BUNDLES / name.replace(":", "-").replace("+", "-")
        if not place.exists():
            verbs.export(
                self.model,
                plan,
                into=place,
                classes=self.settings.classes,
                keep_head=self.settings.keep_head,
                preprocessing=self.preprocessing,
                frozen_compute=self.settings.frozen_compute,  # type: ignore[arg-type]
                images=pool.learning,
                seed=self.settings.seed,
                progress=self.progress,
            )
        return place

    def _run(
        self,
        pool: Pool,
        plans: Plans,
        name: str,
        number: int,
        pictures: int,
        epochs: int,
        seed: int,
    ) -> Ran | Failed | None:
        """Make one run, in a process of its own; None: the time was over."""
        if self.clock.left() <= 0:
            return None
        bundle = self._bundle(pool, name, plans[name][0])
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.work) as scratch:
            order = Order(
                data=str(Path(self.settings.data).absolute()),
                pool_seed=self.settings.seed,
                fingerprint=pool.fingerprint,
                bundle=str(bundle.absolute()),
                into=str(Path(scratch).absolute() / "adapted"),
                memory_bytes=self.settings.budget.memory_bytes,
                pictures=pictures,
                held_out=len(pool.held_out) if number else min(TRIAL_LOOKS, len(pool.held_out)),
                epochs=epochs,
                seed=seed,
                validate=number > 0,
                also=tuple(str(Path(each).absolute()) for each in self.settings.also) if number else (),
            )
            what = f"round {number}, seed {seed}: {name}" if number else f"a first try of {name}"
            try:
                done = carried_out(order, Path(scratch), self.clock.left, self._progress(what))
            except RunFailedError as error:
                self.notice(f"{what} failed: {error}")
                return Failed(
                    round=number, candidate=name, seed=seed, reason=str(error), exit_code=error.exit_code,
                    elapsed=self.clock.elapsed(),
                )  # fmt: skip
        if done is None:
            self.notice(f"{what}: stopped, the minutes are used")
            return None
        result, seconds = done
        ran = Ran(
            round=number, candidate=name, seed=seed, seconds=seconds, elapsed=self.clock.elapsed(), **result
        )  # fmt: skip
        told = f"{ran.accuracy:.1%}, " if number else f"{format_seconds(ran.step_seconds)} a step, "
        self.notice(f"{what}: {told}peak {format_bytes(ran.peak_bytes)}, {seconds:.0f} s; {self.clock.said()}")
        return ran

    def _progress(self, what: str) -> Progress:
        """Return what shows the work of a run under its name, beside it the time that is left."""

        def told(activity: str, done: int, total: int) -> None:
            doing = f", {activity}" if what.startswith("round") or not activity.startswith("epoch") else ""
            self.progress(Beside(f"{what}{doing}", self.clock.said()), done, total)

        return told


def _interrupted(contest: _Contest, into: str | Path | None) -> InterruptedRunError:
    done = 0 if contest.records is None else len(contest.records)
    if into is None:
        return InterruptedRunError("Interrupted; nothing was kept, since no folder was given to keep it in.")
    runs = _counted(done, " of the contest")
    return InterruptedRunError(
        f"Interrupted; {runs} kept in {unfinished(Path(into))}. The same command goes on from there."
    )


def _counted(runs: int, what: str = "") -> str:
    return f"{runs} run{what} is" if runs == 1 else f"{runs} runs{what} are"
