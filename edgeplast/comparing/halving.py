"""Successive halving with paired seeds: who runs next, on how much, and what follows; runs and the clock are handed in.

Every candidate is tried for three steps first: whether it runs inside the budget, and what a step takes. Then rounds
of growing length (Jamieson and Talwalkar, arXiv 1502.07943): in each all candidates learn from the same pictures with
the same seed, and the better half goes on. The cheapest that was not shown to be worse always goes on too: of equals it
is the one to take, so it must not be lost to a throw of dice. In the last round the seeds 0, 1, … are run by all, until
the minutes are used or the rest is shown to be worse than the best (a race).

Intervals are of comparisons with the best, as many as there are rivals, 95 % taken together (Bonferroni). The race
looks again after each seed, so there the 5 % are shared out among the looks as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from edgeplast.comparing.intervals import paired_difference
from edgeplast.comparing.pace import Pace, Scale
from edgeplast.comparing.records import Begun, Failed, Ran, Records
from edgeplast.comparison import Difference, Round
from edgeplast.errors import BudgetError, InputError
from edgeplast.progress import unheard

CONFIDENCE = 0.95
MOST_SEEDS = 5
FINAL = 2
"""So many go into the last round, and the cheapest."""

EARLY_EPOCHS = 2
MARGIN = 1.15
"""Runs are given so much more time than those before them took: machines have slow phases."""

SAME_TIME = 1.1
"""Times that differ by this factor count as equal: so much a machine's clock wanders between two runs."""

TrialRun = Callable[[str, int, int, int, int], "Ran | Failed | None"]
"""Candidate, round, pictures, epochs, seed → what became of it; None: the time was over before its end."""


@dataclass
class Outcome:
    """What a contest came to.

    Attributes:
        best: name of the candidate with the highest mean accuracy.
        chosen: the cheapest of those not shown to be worse than it.
        outcomes: candidate to a key of ``edgeplast.comparison.OUTCOMES``.
        differences: candidate to its difference to the best in the last round that it ran.
        last: candidate to that round; 0 is the trial.
        rounds: that were run, in order.
        stopped_because: why no more was run.
    """

    best: str
    chosen: str
    outcomes: dict[str, str]
    differences: dict[str, Difference]
    last: dict[str, int]
    rounds: list[Round]
    stopped_because: str


@dataclass
class Halving:
    """A contest.

    Args:
        names: of the candidates.
        peaks: candidate to its predicted peak, which decides between equally fast ones.
        scale: how large it can be.
        records: what was done before, and is added to.
        run: makes a run.
        left: returns the seconds that are left.
        elapsed: returns the seconds that were used.
        notice: told what a user should know.
    """

    names: Sequence[str]
    peaks: Mapping[str, int]
    scale: Scale
    records: Records
    run: TrialRun
    left: Callable[[], float]
    elapsed: Callable[[], float]
    notice: Callable[[str], None] = unheard
    stopped_because: str = ""
    _lineups: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _racing: list[str] = field(default_factory=list)

    def hold(self) -> Outcome:
        """Run until it is decided or the time is used.

        Raises:
            BudgetError: no candidate runs inside the budget, or the minutes do not suffice for one round.
        """
        alive = self._tried()
        number, early = 1, 0 if len(alive) <= FINAL else 1 if len(alive) <= 2 * FINAL else 2
        while early and len(alive) > FINAL and not self._settled_by_one_round(number, alive):
            level = self._level(number, alive, self.left() / (early + 2), min(EARLY_EPOCHS, self.scale.epochs))
            if level is None:
                break
            self._round(number, alive, *level)
            alive = self._standing(alive)
            if not self._complete(number, alive):
                return self._outcome()
            left, alive = alive, self._survivors(number, alive)
            gone = [name for name in left if name not in alive]
            if gone:
                self.notice(f"round {number}: {', '.join(gone)} out; {', '.join(alive)} go on")
            number, early = number + 1, early - 1
        self._race(number, alive)
        return self._outcome()

    def _tried(self) -> list[str]:
        """Let each candidate run for a few steps; return those that do."""
        for name in self.names:
            if self._ended(0, name, 0) is None and not self._start(name, 0, self.scale.trial, 1, 0):
                raise self._too_short("The minutes were used before each candidate had been tried for a few steps.")
        standing = self._standing(self.names) or self._none_runs()
        return sorted(standing, key=self.epoch_seconds)  # where the time is over early, the cheap ones have run

    def _none_runs(self) -> NoReturn:
        reason = next(f for name in self.names if (f := self.records.failure(name)))
        error = BudgetError if reason.exit_code == BudgetError.exit_code else InputError
        raise error(f"Not one of the candidates runs to its end. {reason.candidate}: {reason.reason}")

    def _settled_by_one_round(self, number: int, alive: Sequence[str]) -> bool:
        """Whether there is time for two seeds of all at full length: then there is no need to drop any by rank."""
        if self.records.begun(number) is not None:
            return self.records.begun(number + 1) is None and self._is_full(number)
        return 2 * self._seconds(alive, self.scale.learning, self.scale.epochs) <= self.left()

    def _is_full(self, number: int) -> bool:
        begun = self.records.begun(number)
        return begun is not None and (begun.pictures, begun.epochs) == (self.scale.learning, self.scale.epochs)

    def _race(self, number: int, alive: list[str]) -> None:
        """Run seed after seed until the best stands out or the time is used."""
        level = self._last_level(number, alive)
        if level is None:
            self.stopped_because = "the minutes left did not suffice for another round"
            if not self._lineups:
                raise self._too_short("The minutes do not suffice for one run of each candidate.", alive)
            return
        racing = self._racing = list(alive)
        for seed in range(MOST_SEEDS):
            to_do = [name for name in racing if self._ended(number, name, seed) is None]
            if seed and to_do and self._seconds(to_do, *level) > self.left():
                self.stopped_because = "the minutes were used"
                return
            ended = self._round(number, racing, *level, seed=seed)
            racing = self._racing = self._standing(racing)
            if len(ended) < len(racing):
                self.stopped_because = "the minutes were used"
                return
            if seed and racing:
                racing = self._racing = self._not_worse(number, racing, looks=MOST_SEEDS)
            if len(racing) < 2:
                self.stopped_because = "there is one candidate" if len(alive) == 1 else "one stands out"
                return
        self.stopped_because = f"{MOST_SEEDS} seeds were run"

    def _last_level(self, number: int, alive: Sequence[str]) -> tuple[int, int] | None:
        """Return pictures and epochs for two seeds; where the time is too short, for one, and for fewer epochs."""
        most = self.scale.epochs
        for seconds, epochs in ((self.left() / 2, most), (self.left(), most), (self.left(), min(EARLY_EPOCHS, most))):
            level = self._level(number, alive, seconds, epochs)
            if level is not None:
                return level
        return None

    def _round(self, number: int, alive: Sequence[str], pictures: int, epochs: int, seed: int = 0) -> list[str]:
        """Run one seed of a round by all; return those that ended, fewer where the time was over."""
        if self.records.begun(number) is None:
            begun = Begun(
                round=number, candidates=tuple(alive), pictures=pictures, epochs=epochs, elapsed=self.elapsed()
            )
            self.records.note(begun)
        self._lineups.setdefault(number, tuple(alive))
        ended = []
        for name in alive:
            if self._ended(number, name, seed) is None and not self._start(name, number, pictures, epochs, seed):
                break
            if self.records.failure(name) is None:
                ended.append(name)
        return ended

    def _start(self, name: str, number: int, pictures: int, epochs: int, seed: int) -> bool:
        """Make a run and write down what became of it; False: the time was over."""
        found = self.run(name, number, pictures, epochs, seed)
        if found is None:
            return False
        self.records.note(found)
        return True

    def _ended(self, number: int, name: str, seed: int) -> Ran | Failed | None:
        return self.records.of(number, name, seed)

    def pace(self, name: str) -> Pace:
        """Return what a candidate takes, by its last run."""
        run = self.records.runs(name)[-1]
        begun = self.records.begun(run.round)
        pictures, epochs = (self.scale.trial, 1) if begun is None else (begun.pictures, begun.epochs)
        return Pace.of(run, self.scale, pictures, epochs, trial=begun is None)

    def epoch_seconds(self, name: str) -> float:
        """Return the time of one pass over all pictures to learn from, by its fastest run: others met slow phases."""
        step = min(run.step_seconds for run in self.records.runs(name))
        return step * math.ceil(self.scale.learning / self.scale.batch)

    def _seconds(self, names: Sequence[str], pictures: int, epochs: int) -> float:
        return MARGIN * sum(self.pace(name).seconds(self.scale, pictures, epochs) for name in names)

    def _level(self, number: int, names: Sequence[str], seconds: float, epochs: int) -> tuple[int, int] | None:
        """Return pictures and epochs, so many at least, of a round that takes so long; None: not even the fewest do."""
        begun = self.records.begun(number)
        if begun is not None:
            return begun.pictures, begun.epochs
        if self._seconds(names, self.scale.least, epochs) > seconds:
            return None
        low, high = self.scale.least, self.scale.learning
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._seconds(names, middle, epochs) <= seconds else (low, middle - 1)
        if low == self.scale.learning:
            while epochs < self.scale.epochs and self._seconds(names, low, epochs + 1) <= seconds:
                epochs += 1
        return low, epochs

    def _survivors(self, number: int, alive: Sequence[str]) -> list[str]:
        """Return the better half, and the cheapest that was not shown to be worse."""
        ranked = self._ranked(number, alive)
        kept = ranked[: max(FINAL, math.ceil(len(ranked) / 2))]
        cheapest = self.cheapest(self._not_worse(number, alive))
        return [name for name in alive if name in kept or name == cheapest]

    def cheapest(self, names: Sequence[str]) -> str:
        """Return the one with the least time an epoch; of those as fast within what clocks wander, the lowest peak."""
        least = min(self.epoch_seconds(name) for name in names)
        return min((n for n in names if self.epoch_seconds(n) <= SAME_TIME * least), key=lambda n: self.peaks[n])

    def _ranked(self, number: int, names: Sequence[str]) -> list[str]:
        """Return those that ran in a round, the highest mean accuracy over their common seeds first."""
        seeds = self._seeds(number, names)
        mean = {name: float(np.nanmean(self._right(number, name, seeds))) for name in names}
        return sorted(names, key=lambda name: (-mean[name], self.epoch_seconds(name)))

    def _seeds(self, number: int, names: Sequence[str]) -> list[int]:
        """Return the seeds that all of some ran in a round."""
        sets = [{run.seed for run in self.records.runs(name, number)} for name in names]
        return sorted(set.intersection(*sets)) if sets else []

    def _right(self, number: int, name: str, seeds: Sequence[int]) -> np.ndarray:
        runs = {run.seed: run for run in self.records.runs(name, number)}
        return np.stack([runs[seed].right for seed in seeds])

    def difference(self, number: int, name: str, best: str, *, looks: int = 1) -> Difference:
        """Return by how much a candidate is better than the best in a round; the interval is one of several."""
        rivals = max(len(self._lineups[number]) - 1, 1)
        seeds = self._seeds(number, (name, best))
        mine, theirs = (self._right(number, each, seeds) for each in (name, best))
        return paired_difference(mine, theirs, 1 - (1 - CONFIDENCE) / (rivals * looks))

    def _not_worse(self, number: int, names: Sequence[str], looks: int = 1) -> list[str]:
        best = self._ranked(number, names)[0]
        return [n for n in names if n == best or self.difference(number, n, best, looks=looks).high >= 0]

    def _complete(self, number: int, names: Sequence[str]) -> bool:
        return bool(names) and bool(self._seeds(number, names))

    def _outcome(self) -> Outcome:
        self.stopped_because = self.stopped_because or "the minutes were used"
        if not self._standing(self.names):
            self._none_runs()
        complete = [n for n, lineup in self._lineups.items() if self._complete(n, self._standing(lineup))]
        missed: list[str] = []
        if not complete:
            first = min(self._lineups)
            ran = [name for name in self._standing(self._lineups[first]) if self._seeds(first, (name,))]
            if len(ran) < 2:
                raise self._too_short("The minutes were used before two candidates had run once.")
            missed = [name for name in self._standing(self.names) if name not in ran]
            self._lineups, complete = {first: tuple(ran)}, [first]
        final = max(complete)
        standing = self._standing(self._lineups[final])
        racing = [name for name in self._racing if name in standing]
        best = self._ranked(final, racing if self._complete(final, racing) else standing)[0]
        last, outcomes, differences = {}, {}, {}
        for name in self.names:
            if self.records.failure(name) is not None:
                outcomes[name], last[name] = "failed", max([0, *(r.round for r in self.records.runs(name))])
                continue
            rounds = [n for n in complete if name in self._lineups[n] and self._seeds(n, (name, best))]
            last[name] = max(rounds, default=0)
            outcomes[name] = "not run" if name in missed else "not worse"
            if name != best and rounds:
                found = differences[name] = self.difference(last[name], name, best)
                outcomes[name] = "worse" if found.high < 0 else "not worse" if last[name] == final else "dropped"
        finalists = [name for name in standing if outcomes[name] == "not worse"]
        chosen = self.cheapest(finalists)
        outcomes[chosen] = "chosen"
        return Outcome(best, chosen, outcomes, differences, last, self._held(complete), self.stopped_because)

    def _standing(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.records.failure(name) is None]

    def _held(self, complete: Sequence[int]) -> list[Round]:
        rounds = []
        for number in sorted(complete):
            begun = self.records.begun(number)
            assert begun is not None
            seeds = max(len(self.records.runs(name, number)) for name in begun.candidates)
            rounds.append(Round(candidates=begun.candidates, pictures=begun.pictures, epochs=begun.epochs, seeds=seeds))
        return rounds

    def _too_short(self, what: str, alive: Sequence[str] = ()) -> BudgetError:
        used = self.elapsed()
        fewest = self.scale.least, min(EARLY_EPOCHS, self.scale.epochs)
        need = used + MARGIN * self._seconds(alive, *fewest) if alive else 2 * used
        return BudgetError(
            f"{what} Give more of them: started again with --minutes {max(1, math.ceil(need / 60))} it goes on from "
            "here, and nothing that was done is done again. Fewer --candidates take less."
        )
