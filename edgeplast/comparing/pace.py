"""What a run takes: a candidate's pace, measured in the runs before, and the scale of the contest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeplast.comparing.records import Ran

TRIAL_STEPS, TRIAL_LOOKS = 3, 16
"""Of the trial: optimizer steps, and held-out pictures looked at."""

MEASURED = 2
"""Pictures that a run measures its accuracy on before and after."""


@dataclass(frozen=True)
class Scale:
    """How large a contest can be: pictures to learn from and held out, images a step, classes, epochs at most."""

    learning: int
    held_out: int
    batch: int
    classes: int
    epochs: int
    validation: float

    @property
    def least(self) -> int:
        """The fewest pictures that a round is worth its time with."""
        return min(self.learning, max(4 * self.batch, 2 * self.classes))

    @property
    def trial(self) -> int:
        """Pictures of the trial."""
        return min(self.learning, TRIAL_STEPS * self.batch)


@dataclass(frozen=True)
class Pace:
    """What a candidate takes: to start and to end, an optimizer step, a picture's forward pass; seconds."""

    fixed: float
    step: float
    look: float

    @classmethod
    def of(cls, run: Ran, scale: Scale, pictures: int, epochs: int, *, trial: bool) -> Pace:
        """Return the pace that a run had."""
        rest = cls(0.0, run.step_seconds, run.picture_seconds).seconds(scale, pictures, epochs, trial=trial)
        return cls(max(run.seconds - rest, 0.0), run.step_seconds, run.picture_seconds)

    def seconds(self, scale: Scale, pictures: int, epochs: int, *, trial: bool = False) -> float:
        """Return what a run takes."""
        if trial:
            steps, looks = math.ceil(pictures / scale.batch), min(TRIAL_LOOKS, scale.held_out)
        else:
            held_back = round(scale.validation * pictures)
            steps = epochs * math.ceil((pictures - held_back) / scale.batch)
            looks = scale.held_out + epochs * held_back
        return self.fixed + steps * self.step + (looks + 2 * MEASURED) * self.look
