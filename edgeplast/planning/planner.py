"""One table and one set of options, checked and put into the form that the arithmetic takes; makes plans of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from edgeplast.budget import Budget
from edgeplast.errors import BudgetError, UsageError
from edgeplast.graphs.recording import restored
from edgeplast.planning.choosing import Candidates, candidates
from edgeplast.planning.estimates import Estimate
from edgeplast.planning.estimating import FLOPS_PER_SECOND, Workload, micro_batches, resized
from edgeplast.planning.fitting import does_not_fit, fastest_measured, nothing_fits
from edgeplast.planning.focusing import focused
from edgeplast.planning.leaving_room import with_room
from edgeplast.planning.strategies import BEST, SEARCHES, check_strategy, is_strategy, names_of
from edgeplast.plans import Plan, PlannedComponent
from edgeplast.progress import Progress, silent
from edgeplast.scores import ScoreTable

HEAD, LAST_BLOCKS = "head", "last-k"
USUAL = (HEAD, "uniform", LAST_BLOCKS, *SEARCHES)
"""The usual ways to choose: head, everything, as many of the last blocks as fit, focus, the largest sum."""

_ROUNDS = 3
"""How often the search is repeated with what the whole graph of its last choice was measured to take."""


class Planner:
    """Makes plans from one table with one set of options.

    Attributes:
        workload: the model with its new head, and how it trains.
        scores: component to score by the chosen method.
        block_scores: those between embedding and final norms, which are what there is to choose from.
        classes: names of the new head's classes, empty where they are not known.
        micro_batches: sizes that may be used, the largest first.
    """

    def __init__(
        self,
        scores: ScoreTable,
        *,
        method: str | None = None,
        optimizer: str = "adamw",
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        weight_bits: int = 8,
        component_weight_bits: Mapping[str, int] | None = None,
        classes: int | Sequence[str] | None = None,
        flops_per_second: float = FLOPS_PER_SECOND,
        progress: Progress = silent,
    ) -> None:
        self.method = method or scores.method
        self._table = scores.by(self.method)
        outline = scores.outline
        foreign = sorted(self._table.keys() - set(outline.names))
        if foreign:
            raise UsageError(
                f"The scores name {foreign[0]}, which is no component, so they cannot be planned by. "
                "Score again with: edgeplast score … --granularity component"
            )
        self.scores = {name: entry.score for name, entry in self._table.items()}
        inner = [c.name for c in outline.components if c.role == "inner"]
        self.classes: tuple[str, ...] = scores.classes if classes is None else ()
        if classes is not None and not isinstance(classes, int):
            self.classes = tuple(classes)
        count = classes if isinstance(classes, int) else len(self.classes) or None
        bits = dict.fromkeys(outline.names, weight_bits) | dict(component_weight_bits or {})
        unknown = sorted(bits.keys() - set(outline.names))
        if unknown:
            raise UsageError(f"component_weight_bits names {unknown[0]!r}, which is no component of this model.")
        if micro_batch_size is not None and not 1 <= micro_batch_size <= batch_size:
            raise UsageError(f"micro_batch_size={micro_batch_size} must lie between 1 and the batch size {batch_size}.")
        outline, graph = resized(outline, restored(scores.graph), count)
        self.workload = Workload(outline, graph, bits, optimizer, batch_size, flops_per_second)
        closed = self.workload.closed
        self.block_scores = {name: self.scores[name] for name in inner if name in self.scores and name not in closed}
        self.micro_batches = [micro_batch_size] if micro_batch_size else micro_batches(batch_size)
        self._progress = progress
        self._candidates: dict[bool, Candidates] = {}

    def candidates(self, budget: Budget) -> Candidates:
        """Search all choices worth having; once for all amounts of memory."""
        limited = budget.step_seconds is not None or budget.disk_bytes is not None
        if limited not in self._candidates:
            self._candidates[limited] = candidates(
                self.workload, self.block_scores, self.micro_batches, limited=limited, progress=self._progress
            )
        return self._candidates[limited]

    def plan(
        self,
        budget: Budget,
        strategy: str,
        train: Sequence[str] | str | None,
        *,
        asked: Sequence[str] | str | None = None,
    ) -> Plan:
        """Choose and write down; ``asked`` is how the caller put ``train``, for messages."""
        check_strategy(strategy, train)
        strategy = "names" if train else BEST if strategy == "best" else strategy
        if strategy in SEARCHES:
            return self._searched(budget, strategy)
        made = self._by_names(budget, strategy, train)
        if made is None:
            said = asked or train or ()
            what = f"--train {said if isinstance(said, str) else ','.join(said)}" if train else f"Strategy {strategy!r}"
            names = names_of(strategy, train, self.block_scores, self.workload.outline)
            raise does_not_fit(self.workload, what, names, budget, self.micro_batches)
        return made

    def _by_names(self, budget: Budget, strategy: str, train: Sequence[str] | str | None = None) -> Plan | None:
        """Plan what a strategy names whatever it takes; None: it does not fit."""
        names = self._open(names_of(strategy, train, self.block_scores, self.workload.outline), asked=bool(train))
        way = fastest_measured(self.workload, names, self.micro_batches, budget)
        return None if way is None else self._written(names, way, budget, strategy)

    def _open(self, names: Sequence[str], *, asked: bool) -> list[str]:
        """Leave out what cannot train, or say so where it was asked for by name."""
        closed = self.workload.closed
        if asked and (first := next((name for name in names if name in closed), None)):
            free = [name for name in self.workload.outline.names if name not in closed]
            raise UsageError(
                f"{first} cannot train: an operator without a gradient lies behind it ({closed[first]}). "
                f"Freeze it; what can train is {', '.join(free[-6:])}: --train {','.join(free[-6:])}."
            )
        return [name for name in names if name not in closed]

    def usual(self, budget: Budget, *, alternatives: bool = False) -> dict[str, Plan]:
        """Return the plans of the usual ways to choose that fit, by name; see :data:`USUAL` and :meth:`rival`."""
        made = {}
        for name in USUAL:
            with contextlib.suppress(BudgetError):
                plan = self.rival(name, budget, alternatives=alternatives)
                made[plan.strategy if name == LAST_BLOCKS else name] = plan
        return made

    def rival(self, name: str, budget: Budget, *, alternatives: bool = False) -> Plan:
        """Return the plan of a way to choose: a strategy, ``head``, ``last-k`` (as many as fit), or ``fc1+norm2``.

        Args:
            name: of the way.
            budget: of the device.
            alternatives: leave room for their weights; see :func:`edgeplast.planning.leaving_room.with_room`.

        Raises:
            BudgetError: it does not fit.
            UsageError: the name means nothing, or there are no alternatives to such a plan.
        """
        made = partial(self._rival, name)
        return with_room(made(budget), made) if alternatives else made(budget)

    def _rival(self, name: str, budget: Budget) -> Plan:
        outline = self.workload.outline
        if name == LAST_BLOCKS:
            last = (self._by_names(budget, f"last-k:{count}") for count in range(outline.blocks, 0, -1))
            fits = next((plan for plan in last if plan is not None), None)
            return fits or self.plan(budget, "last-k:1", None)
        if name == HEAD:
            return self.plan(budget, "names", outline.in_order([*outline.head, *self.workload.always]))
        blocks_of_a_kind = ":" in name and any(c.kind == name.partition(":")[0] for c in outline.components)
        if is_strategy(name, outline) and not blocks_of_a_kind:
            return self.plan(budget, name, None)
        try:
            return self.plan(budget, "names", name.replace("+", ","))
        except UsageError as error:
            raise UsageError(f"{error} Ways to choose are {HEAD}, {LAST_BLOCKS} and the strategies of plan.") from error

    def _searched(self, budget: Budget, strategy: str) -> Plan:
        chosen = self._focused(budget) if strategy == "focus" else self._largest_sum(budget)
        if chosen is None:  # the norm costs a few kilobytes, but with average pooling it can be what is too much
            head = list(self.workload.outline.head)
            way = fastest_measured(self.workload, head, self.micro_batches, budget)
            if way is None:
                raise nothing_fits(self.workload, budget, self.micro_batches)
            return self._written(head, way, budget, strategy, self._notes(head))
        names, way, more = chosen
        return self._written(names, way, budget, strategy, [*self._notes(names), *more])

    def _focused(self, budget: Budget) -> tuple[list[str], Estimate, list[str]] | None:
        tried = 0

        def fastest(names: Sequence[str]) -> Estimate | None:
            nonlocal tried
            self._progress("measuring graphs of choices", tried, tried + 1)
            tried += 1
            return fastest_measured(self.workload, names, self.micro_batches, budget)

        chosen = focused(self.workload.outline, self.block_scores, self.workload.always, fastest)
        self._progress("measuring graphs of choices", tried, tried)
        return None if chosen is None else (*chosen, [])

    def _largest_sum(self, budget: Budget) -> tuple[list[str], Estimate, list[str]] | None:
        found = self.candidates(budget)
        chosen = self._settled(found, budget)
        if chosen is None:
            return None
        best, names, way = chosen
        slow = way.micro_batch_size < 4 <= self.workload.batch_size
        note = self._faster(found, best, budget) if slow else ""
        return names, way, [note] if note else []

    def _settled(self, found: Candidates, budget: Budget) -> tuple[int, list[str], Estimate] | None:
        """Return the best choice whose graphs, as they would be written, fit; None: none does.

        Estimates of the search allow for holes in the arena. What the whole graph of a choice takes more or less is
        taken into account when searching again.
        """
        kept: tuple[int, list[str], Estimate] | None = None
        spare, tried = 0, set()
        for turn in range(_ROUNDS):
            limit = None if budget.memory_bytes is None else budget.memory_bytes + spare
            best = found.best(msgspec.structs.replace(budget, memory_bytes=limit)) if limit != 0 else None
            if best is None or best in tried:
                break
            tried.add(best)
            self._progress("measuring the graphs of the choice", turn, _ROUNDS)
            names = found.trained(best)
            way = fastest_measured(self.workload, names, self.micro_batches, budget)
            if way is None:
                size, how = int(found.micro_batch_size[best]), found.recompute[best]
                real = self.workload.measured(names, size, str(how)).peak_bytes  # type: ignore[arg-type]
                spare = min(spare - 1, int(found.memory_bytes[best]) - real)
            else:
                if kept is None or found.score[best] > found.score[kept[0]]:
                    kept = best, names, way
                rough = self.workload.estimate(names, way.micro_batch_size, way.recompute)
                spare = rough.peak_bytes - way.peak_bytes
            if budget.memory_bytes is None:
                break
        self._progress("measuring the graphs of the choice", _ROUNDS, _ROUNDS)
        return kept

    def _notes(self, names: Sequence[str]) -> list[str]:
        always = [name for name in self.workload.always if name in names]
        if not any(score > 0 for score in self.block_scores.values()):
            return [f"No component of a block has a positive {self.method} score: only {' and '.join(always)} train."]
        if set(names) <= set(self.workload.always):
            return ["The budget leaves room for the head alone; --explain shows what more would buy."]
        return []

    def _faster(self, found: Candidates, best: int, budget: Budget) -> str:
        """Say what a micro-batch that costs no time would have to do without."""
        rest = found.only(found.micro_batch_size >= 4)
        other = rest.best(budget)
        if other is None:
            return ""
        saved = 1 - rest.step_seconds[other] / found.step_seconds[best]
        if saved < 0.01:
            return ""
        return (
            f"Micro-batches below 4 cost time; `edgeplast plan --micro-batch 4` would be {saved:.0%} faster "
            f"at a summed score of {rest.score[other]:.4g} instead of {found.score[best]:.4g}."
        )

    def _written(
        self, names: Sequence[str], way: Estimate, budget: Budget, strategy: str, notes: Sequence[str] = ()
    ) -> Plan:
        w = self.workload
        chosen = set(names)
        matrices = {w.owner[name] for name in w.matrices}
        entries = {name: entry for name, entry in self._table.items() if name in w.sizes}
        components = {
            c.name: PlannedComponent(
                trainable=c.name in chosen,
                parameters=c.size,
                weight_bits=w.weight_bits[c.name] if c.name not in chosen and c.name in matrices else 32,
                kept_fraction=w.outline.kept_fraction.get(c.name, 1.0),
                score=entries[c.name].score if c.name in entries else None,
                standard_error=entries[c.name].standard_error if c.name in entries else 0.0,
            )
            for c in w.outline.components
        }
        return Plan(
            outline=w.outline,
            components=components,
            strategy=strategy,
            budget=budget,
            optimizer=w.optimizer,
            batch_size=w.batch_size,
            micro_batch_size=way.micro_batch_size,
            recompute=way.recompute,
            predicted_peak_bytes=way.peak_bytes,
            classes=self.classes,
            notes=(f"Scores: {self.method}.", *notes, *_closing(w.closed)),
        )


def _closing(closed: Mapping[str, str]) -> list[str]:
    """Say what cannot train, and why, in one line for each operator."""
    return [
        f"No gradient goes through {where}: what lies before it stays frozen "
        f"({sum(w == where for w in closed.values())} components)."
        for where in dict.fromkeys(closed.values())
    ]
