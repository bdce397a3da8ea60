"""One table and one set of options, checked and put into the form that the arithmetic takes; makes plans of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from edgeplast.budget import Budget
from edgeplast.components import HEAD, NORM, all_components, block_components
from edgeplast.errors import UsageError
from edgeplast.planning.choosing import Candidates, candidates
from edgeplast.planning.estimating import Estimate, Workload, micro_batches
from edgeplast.planning.fitting import does_not_fit, fastest, nothing_fits, rungs
from edgeplast.planning.flops import FLOPS_PER_SECOND
from edgeplast.planning.sizes import with_classes
from edgeplast.planning.strategies import names_of
from edgeplast.planning.weights import matrix_shapes
from edgeplast.plans import Optimizer, Plan, PlannedComponent
from edgeplast.scores import ScoreTable


class Planner:
    """Makes plans from one table with one set of options.

    Attributes:
        workload: the model with its new head, and how it trains.
        scores: component to score by the chosen method.
        block_scores: those inside blocks, which are what there is to choose from.
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
    ) -> None:
        self.method = method or scores.method
        table = {name: entry.score for name, entry in scores.by(self.method).items()}
        depth = scores.architecture.depth
        foreign = sorted(table.keys() - set(all_components(depth)))
        if foreign:
            raise UsageError(
                f"The scores name {foreign[0]}, which is no component, so they cannot be planned by. "
                "Score again with: edgeplast score … --granularity component"
            )
        self.scores = table
        self.block_scores = {name: table[name] for name in block_components(depth) if name in table}
        self.classes: tuple[str, ...] = scores.classes if classes is None else ()
        if classes is not None and not isinstance(classes, int):
            self.classes = tuple(classes)
        count = classes if isinstance(classes, int) else len(self.classes) or None
        bits = dict.fromkeys(all_components(depth), weight_bits) | dict(component_weight_bits or {})
        unknown = sorted(bits.keys() - set(all_components(depth)))
        if unknown:
            raise UsageError(f"component_weight_bits names {unknown[0]!r}, which is no component of this model.")
        if micro_batch_size is not None and not 1 <= micro_batch_size <= batch_size:
            raise UsageError(f"micro_batch_size={micro_batch_size} must lie between 1 and the batch size {batch_size}.")
        architecture = with_classes(scores.architecture, count)
        self.workload = Workload(architecture, bits, optimizer, batch_size, flops_per_second)
        self.micro_batches = [micro_batch_size] if micro_batch_size else micro_batches(batch_size)

    def candidates(self, budget: Budget) -> Candidates:
        """Search all choices worth having."""
        limited = budget.step_seconds is not None or budget.disk_bytes is not None
        return candidates(self.workload, self.block_scores, self.micro_batches, limited=limited)

    def plan(self, budget: Budget, strategy: str, train: Sequence[str] | str | None) -> Plan:
        """Choose and write down."""
        if train and strategy not in ("best", "names"):
            raise UsageError(f"Both strategy {strategy!r} and train={train!r} say what trains. Give one of them.")
        strategy = "names" if train else strategy
        if strategy == "best":
            return self._best(budget)
        names = names_of(strategy, train, self.block_scores, self.workload.architecture.depth)
        way = fastest(rungs(self.workload, names, self.micro_batches), budget)
        if way is None:
            what = (
                f"--train {train if isinstance(train, str) else ','.join(train)}" if train else f"Strategy {strategy!r}"
            )
            raise does_not_fit(self.workload, what, names, budget, self.micro_batches)
        return self._written(names, way, budget, strategy)

    def _best(self, budget: Budget) -> Plan:
        found = self.candidates(budget)
        best = found.best(budget)
        if best is not None:
            names = found.trained(best)
        else:  # the norm costs a few kilobytes, but with average pooling it can be what is too much
            names = [HEAD]
        way = fastest(rungs(self.workload, names, self.micro_batches), budget)
        if way is None:
            raise nothing_fits(self.workload, budget, self.micro_batches)
        notes = []
        if not any(score > 0 for score in self.block_scores.values()):
            notes.append(f"No component of a block has a positive {self.method} score: only {NORM} and {HEAD} train.")
        elif set(names) <= {NORM, HEAD}:
            notes.append("The budget leaves room for the head alone; --explain shows what more would buy.")
        if best is not None and way.micro_batch_size < 4 <= self.workload.batch_size:
            notes.append(self._faster(found, best, budget))
        return self._written(names, way, budget, "best", [note for note in notes if note])

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
            f"Micro-batches below 4 cost time; --micro-batch 4 would be {saved:.0%} faster "
            f"at a summed score of {rest.score[other]:.4g} instead of {found.score[best]:.4g}."
        )

    def _written(
        self, names: Sequence[str], way: Estimate, budget: Budget, strategy: str, notes: Sequence[str] = ()
    ) -> Plan:
        w = self.workload
        chosen = set(names)
        components = {
            name: PlannedComponent(
                trainable=name in chosen,
                parameters=w.architecture.parameters[name],
                weight_bits=w.weight_bits[name] if name not in chosen and matrix_shapes(w.architecture, name) else 32,
                kept_fraction=w.architecture.kept_fraction.get(name, 1.0),
                score=self.scores.get(name),
            )
            for name in all_components(w.architecture.depth)
        }
        return Plan(
            architecture=w.architecture,
            components=components,
            strategy=strategy,
            budget=budget,
            optimizer=cast(Optimizer, w.optimizer),
            batch_size=w.batch_size,
            micro_batch_size=way.micro_batch_size,
            recompute=way.recompute,
            predicted_peak_bytes=way.peak_bytes,
            classes=self.classes,
            notes=(f"Scores: {self.method}.", *notes),
        )
