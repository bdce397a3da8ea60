"""Which of the rungs that fit a run takes: the fastest that was measured here, or what the constants prefer."""

from __future__ import annotations

from edgeplast.bundle import Manifest
from edgeplast_devices.rungs import Rung, as_predicted, predicted_peak
from edgeplast_devices.speeds import KeptSpeeds, Speeds
from edgeplast_devices.trying import Found, candidates, least_pictures


class Preference:
    """What is known of a bundle's rungs on this machine, and what follows from it.

    Args:
        manifest: of the bundle.
        optimizer: whose state is held.
        most_bytes: that a rung may take beside what the process holds before the bundle is opened.
        kept: what earlier runs found; None where the choice is fixed, and nothing is tried.
        tries: whether rungs of which nothing is known are tried before the first step, and not only after a change.

    Attributes:
        speeds: what is known.
    """

    def __init__(
        self, manifest: Manifest, optimizer: str, most_bytes: int, kept: KeptSpeeds | None, *, tries: bool
    ) -> None:
        self._manifest, self._optimizer, self._most_bytes = manifest, optimizer, most_bytes
        self._kept, self._tries = kept, tries
        self.speeds = kept.read() if kept else Speeds()

    def of_fitting(self, rungs: list[Rung]) -> list[Rung]:
        """Return rungs, best first by the constants, with the one in front that a run is to begin on."""
        return self._preferred(rungs, max(self._most_bytes, self._need(as_predicted(self._manifest, rungs)[0])))

    def of_smaller(self, rungs: list[Rung]) -> list[Rung]:
        """Return rungs to go down to, likewise: there is room for what the constants prefer of them, and no more."""
        return self._preferred(rungs, self._need(as_predicted(self._manifest, rungs)[0]))

    def candidates(self, rungs: list[Rung], *, is_down: bool = False) -> list[Rung]:
        """Return what is to be tried of a run's rungs: what the constants prefer, and what else there is room for.

        Args:
            rungs: of the run, the one in force first.
            is_down: whether memory was short, so that there is no room for more than they need.
        """
        ordered = as_predicted(self._manifest, rungs)
        least = self._need(ordered[0])
        most = least if is_down else max(self._most_bytes, least)
        return candidates(self._manifest, ordered, self._optimizer, most)

    def hungriest(self, rungs: list[Rung], pictures: float) -> Rung:
        """Return the rung that takes most memory of those that a run like this one tries before its first step.

        Whether they are known by now changes nothing: what is left for a picture decides how a large one is read, and
        a second run, or one that goes on, is to read it as the first did.

        Args:
            rungs: of the run.
            pictures: that it will learn from.
        """
        known = self.candidates(rungs)
        if self._kept is None or pictures < least_pictures(known[0]):
            return rungs[0]
        return max([rungs[0], *known], key=self._need)

    def is_open(self, rungs: list[Rung], *, at_start: bool) -> bool:
        """Say whether candidates are to be tried."""
        return self._kept is not None and self.speeds.is_open(rungs) and (self._tries or not at_start)

    def learn(self, found: Found) -> None:
        """Take up what was found, and keep it for the next run."""
        self.speeds = self.speeds.with_found(found.seconds, found.passed_over, found.allowed_seconds)
        if self._kept is not None:
            self._kept.write(self.speeds)

    def _preferred(self, rungs: list[Rung], most_bytes: int) -> list[Rung]:
        if not self.speeds.seconds:
            return rungs
        fits = [rung for rung in as_predicted(self._manifest, rungs) if self._need(rung) <= most_bytes]
        chosen = self.speeds.fastest_first(fits)[0]
        return [chosen, *(rung for rung in rungs if rung != chosen)]

    def _need(self, rung: Rung) -> int:
        return predicted_peak(self._manifest, rung, self._optimizer, 0)
