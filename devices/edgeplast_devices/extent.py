"""How long a run goes on: passes over its images, optimizer steps, or seconds."""

from __future__ import annotations

from dataclasses import dataclass

from edgeplast.errors import UsageError

MOST_EPOCHS = 100_000
_UNKNOWN_STEPS = 10
"""Steps to come, for the schedule, where nobody knows yet what one takes."""


@dataclass(frozen=True)
class Extent:
    """Where a run ends, if not with its last epoch.

    Attributes:
        steps: optimizer steps; None for no limit.
        seconds: since the run began; None for no limit.
        step_seconds: that a step took the last time, 0 where that is not known.
    """

    steps: int | None = None
    seconds: float | None = None
    step_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.steps is not None and not 1 <= self.steps <= 1_000_000_000:
            raise UsageError(f"steps is {self.steps}; a run takes 1 step or more.")
        if self.seconds is not None and not 0 < self.seconds <= 1e9:
            raise UsageError(f"seconds is {self.seconds:g}; a run takes more than 0 seconds.")

    def epochs(self, wanted: int, batches: int) -> int:
        """Return the epochs that a run may begin, given those wanted and the batches of one."""
        if self.steps is not None:
            return min(-(-self.steps // max(batches, 1)), MOST_EPOCHS)
        return wanted if self.seconds is None else MOST_EPOCHS

    def total_steps(self, planned: int, done: int, passed: float, last: float) -> int:
        """Return the steps of the whole run, as far as they are known: the schedule falls to 0 after them.

        Args:
            planned: of all epochs.
            done: so far.
            passed: seconds so far.
            last: seconds of the last step; 0 before the first.
        """
        if self.steps is not None:
            return min(self.steps, planned)
        if self.seconds is None:
            return planned
        each = last or self.step_seconds
        to_come = max(round((self.seconds - passed) / each), 1) if each else _UNKNOWN_STEPS
        return min(done + to_come, planned)

    def may_reach_more(self, asking: float, passed: float) -> bool:
        """Say whether a run that begins may come to steps whose pictures it was not asked about yet, in their order.

        A step takes no less time than asking about its pictures did: it passes them through the model, too.

        Args:
            asking: seconds that it took to ask about pictures.
            passed: seconds so far, those among them.
        """
        return self.seconds is None or asking < self.seconds - passed

    def is_over(self, done: int, passed: float, last: float) -> bool:
        """Say whether to take no further step; one is always taken, and the last one may end half of it too late."""
        if not done:
            return False
        if self.steps is not None and done >= self.steps:
            return True
        return self.seconds is not None and passed + (last or self.step_seconds) / 2 >= self.seconds
