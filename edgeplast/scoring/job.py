"""What every score method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch

from edgeplast.moments import Moments, notes_on
from edgeplast.progress import Progress, silent
from edgeplast.scoring.bodies import Blocks, Body, Wired
from edgeplast.scoring.examples import Examples, Picture, to_batch
from edgeplast.wiring import Traced


class Estimate(NamedTuple):
    """A score, its standard error, and the number of samples it is a mean of."""

    score: float
    standard_error: float = 0.0
    samples: int = 0


@dataclass(frozen=True)
class Job:
    """One model, the pictures to score it on, and how much work to spend.

    Attributes:
        model: in evaluation mode on the device to use; methods leave it as it is.
        images: pictures of the data to adapt to.
        traced: the model's outline and operators.
        plain: whether the model is a plain vision transformer, whose blocks can be taken apart.
        reference: pictures of the source domain, if pairs shall cross the two.
        pairs: the most pairs, pictures or directions to use.
        seed: of everything random.
        granularity: ``component``, ``head``, or ``branch`` (plasticity-branch only).
        progress: told how far a method is.
        notes: what a reader of the table should know; methods append to it.
    """

    model: torch.nn.Module
    images: Examples
    traced: Traced
    plain: bool
    reference: Examples | None = None
    pairs: int = 64
    seed: int = 0
    granularity: str = "component"
    progress: Progress = silent
    notes: list[str] = field(default_factory=list)

    @property
    def chunk(self) -> int:
        """Pairs that pass the model together: few on a processor, where more only cost memory."""
        return 32 if next(self.model.parameters()).is_cuda else 4

    def body(self, *, branch: bool = False, model: torch.nn.Module | None = None) -> Body:
        """Return what is scored, of ``model`` (a copy with another head) or the model itself; see :mod:`.bodies`."""
        if self.plain:
            return Blocks(model or self.model, self.granularity, branch=branch)
        return Wired(self.traced, branch=branch)

    def batch(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Stack pictures for the model, (B, C, H, W); see :func:`edgeplast.scoring.examples.to_batch`."""
        outline = self.traced.outline
        return to_batch(self.model, pictures, outline.input_shape, outline.components[0].name)

    @cached_property
    def labelled(self) -> torch.nn.Module:
        """The model with a head for the pictures' classes (see :mod:`edgeplast.scoring.heads`)."""
        from edgeplast.scoring.heads import with_useful_head

        return with_useful_head(self)

    def estimates(self, method: str, names: list[str], moments: Moments, what: str) -> dict[str, Estimate]:
        """Turn moments (C,) into estimates, and note early stopping and components without evidence.

        Args:
            method: name of the score, for the notes.
            names: C unit names.
            moments: of the samples of each.
            what: what a sample is, in the plural, with the maximum: ``"64 pairs"``.
        """
        limit, _, samples = what.partition(" ")
        self.notes.extend(notes_on(method, names, moments, int(limit), samples))
        return {
            name: Estimate(float(moments.mean[i]), float(moments.standard_error[i]), int(moments.count[i]))
            for i, name in enumerate(names)
        }


def in_chunks(things: list, size: int) -> list[list]:
    """Cut a list into consecutive pieces of ``size``."""
    return [things[i : i + size] for i in range(0, len(things), size)]
