"""One round of pruning: measure what units are worth, choose which go, fold their means, take them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from edgeplast.components import all_components, block_of, type_of
from edgeplast.compression.allocation import Choice, allocate, gone_by_ratio, least_worthy, most_saved
from edgeplast.compression.constants import fold, mean_inputs
from edgeplast.compression.costs import Costs, costs_of
from edgeplast.compression.pictures import Pictures
from edgeplast.compression.structure import Part, Structure, parts_of
from edgeplast.compression.worth import importances, plasticities, worths
from edgeplast.copying import copied
from edgeplast.errors import BudgetError, UsageError
from edgeplast.progress import Progress, silent
from edgeplast.pruning_target import Target, check_ratio
from edgeplast.scores import ScoreTable

HIDDEN_STEP = 8
"""Hidden units go in groups of so many where the MLP is wide, since vector units work on 8 or 16 numbers at once."""

LEAST_HIDDEN = 1 / 8
"""Share of an MLP's hidden units that stays unless a ratio says otherwise."""


@dataclass(frozen=True)
class Saving:
    """What shall be saved, over all rounds.

    Attributes:
        total: in multiply–accumulates or bytes, beyond what the given ratios save.
        target: whose units those are.
    """

    total: float
    target: Target


@dataclass(frozen=True)
class Work:
    """A model in the middle of pruning.

    Attributes:
        model: what is left of the source.
        left: component to the units that are left, by their index in the source.
    """

    model: torch.nn.Module
    left: dict[str, np.ndarray]


class Pruner:
    """What stays the same over the rounds: the source model's sizes, plasticities and given ratios.

    Attributes:
        method: the score that guides; empty if none does.
        notes: what a reader should know.
    """

    def __init__(
        self,
        source: torch.nn.Module,
        images: Pictures,
        scores: ScoreTable | None,
        ratios: Mapping[str, float],
        importance: str,
        seed: int,
        progress: Progress = silent,
    ) -> None:
        """Check what was given against the source model."""
        self._progress = progress
        self.method = scores.method if scores else ""
        self.notes: list[str] = []
        self.parts = parts_of(source)
        self.costs: Costs = costs_of(source, self.parts)
        self._images, self._importance, self._seed = images, importance, seed
        self._first: tuple[dict[str, np.ndarray], dict[str, torch.Tensor]] | None = None
        self._ratios = named_ratios(ratios, self.parts)
        self._plasticity = plasticities(scores, self.parts, self.note)
        for name, ratio in self._ratios.items():
            units = self._before[name]
            if round(ratio * units) >= units:
                self.note(f"The ratio {ratio:g} would take all {units} units of {name}; one stays.")

    def note(self, text: str) -> None:
        """Take note of something a reader should know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def budget(self, target: Target) -> Saving:
        """Turn a target into what must be saved.

        Raises:
            BudgetError: it cannot be reached; the message names the smallest model that can.
            UsageError: the model is that small already.
        """
        units, whole, wanted = target.units(self.costs), target.whole(self.costs), target.wanted(self.costs)
        by_ratios = self._saved_by_ratios(units)
        total = whole - wanted - by_ratios
        nothing = {part.component: np.zeros(part.units) for part in self.parts}
        possible = most_saved(self._choices(nothing, self.parts, units))
        if total > possible * (1 + 1e-9):
            least = whole - by_ratios - possible
            raise BudgetError(
                f"Pruning to {target} is not possible: with one head and an eighth of the hidden units in every block"
                f"{' and the given ratios' if self._ratios else ''}, {least / whole:.1%} of {target.shown(self.costs)} "
                f"are left. Ask for more than that, or start from a smaller model."
            )
        if total <= 0:
            self.note("The given ratios alone reach the target; nothing else was taken out.")
        return Saving(max(total, 0.0), target)

    def least_kept(self) -> float:
        """Return the smallest fraction of the multiply–accumulates that a target may keep."""
        nothing = {part.component: np.zeros(part.units) for part in self.parts}
        possible = most_saved(self._choices(nothing, self.parts, self.costs.unit_macs))
        return 1 - (possible + self._saved_by_ratios(self.costs.unit_macs)) / self.costs.macs

    def start(self, source: torch.nn.Module) -> Work:
        """Return a copy of the source to take units out of."""
        return Work(copied(source), {part.component: np.arange(part.units) for part in self.parts})

    def step(self, work: Work, saving: Saving, share: float) -> None:
        """Do one round.

        Args:
            work: the source, or what earlier rounds left of it; changed.
            saving: of all rounds together.
            share: of it that shall be reached after this round.
        """
        structure = Structure(work.model)
        if all(len(work.left[name]) == units for name, units in self._before.items()):
            # A first round, of which a search for a latency makes several: what is measured is the same each time.
            self._first = self._first or self._measured(structure, work)
            importance, means = self._first
        else:
            importance, means = self._measured(structure, work)
        gone = self._choose(structure, importance, work, saving, share)
        for part in structure.parts:
            units = gone[part.component]
            fold(work.model, part, units, means[part.component])
            structure.remove(part, units.tolist())
            work.left[part.component] = np.delete(work.left[part.component], units)

    def _measured(self, structure: Structure, work: Work) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
        """Return component to importances, and to the mean input of its last layer."""
        tell = self._progress
        found = importances(structure, work.model, self._images, kind=self._importance, seed=self._seed, progress=tell)
        return found, mean_inputs(work.model, structure.parts, self._images, self._seed, tell)

    def _choose(
        self, structure: Structure, found: Mapping[str, np.ndarray], work: Work, saving: Saving, share: float
    ) -> dict[str, np.ndarray]:
        """Return component to the units that go next, by their index in the model as it is."""
        units, before = saving.target.units(self.costs), self._before
        plasticity = {name: values[work.left[name]] for name, values in self._plasticity.items()}
        worth = worths(found, plasticity, units, self.note)
        gone: dict[str, np.ndarray] = {}
        saved = 0
        for part in structure.parts:
            name, ratio = part.component, self._ratios.get(part.component)
            if ratio is None:
                saved += (before[name] - part.units) * units[name]
            else:
                stay = before[name] - gone_by_ratio(before[name], ratio * share)
                gone[name] = least_worthy(worth[name], part.units - stay)
        choices = self._choices(worth, structure.parts, units)
        return {**allocate(choices, share * saving.total - saved), **gone}

    @property
    def _before(self) -> dict[str, int]:
        """Component to its units in the source model."""
        return {part.component: part.units for part in self.parts}

    def _saved_by_ratios(self, units: Mapping[str, int]) -> int:
        return sum(gone_by_ratio(self._before[name], ratio) * units[name] for name, ratio in self._ratios.items())

    def _choices(self, worth: Mapping[str, np.ndarray], parts: list[Part], units: Mapping[str, int]) -> list[Choice]:
        before = self._before
        return [
            Choice(
                part.component,
                worth[part.component],
                units[part.component],
                least=1 if part.heads else max(1, round(LEAST_HIDDEN * before[part.component])),
                step=1 if part.heads or before[part.component] < 8 * HIDDEN_STEP else HIDDEN_STEP,
            )
            for part in parts
            if part.component not in self._ratios
        ]


def named_ratios(ratios: Mapping[str, float], parts: list[Part]) -> dict[str, float]:
    """Check given ratios; fc2 has the hidden units of fc1 and becomes it.

    Raises:
        UsageError: a name is no component with units, a ratio is out of range, or two contradict each other.
    """
    depth = 1 + max(part.block for part in parts)
    result: dict[str, float] = {}
    for name, ratio in ratios.items():
        if name not in all_components(depth) or type_of(name) not in ("attn", "fc1", "fc2"):
            raise UsageError(
                f"--ratio {name}={ratio:g}: {name!r} has nothing to take out. Heads are in blocks.0.attn to "
                f"blocks.{depth - 1}.attn, hidden units in blocks.0.fc1 to blocks.{depth - 1}.fc1."
            )
        check_ratio(name, ratio)
        unit = f"blocks.{block_of(name)}.fc1" if type_of(name) == "fc2" else name
        if result.get(unit, ratio) != ratio:
            raise UsageError(
                f"--ratio gives {result[unit]:g} and {ratio:g} for the hidden units of {unit}, which fc1 and fc2 "
                "share. Give one of them."
            )
        result[unit] = ratio
    return result
