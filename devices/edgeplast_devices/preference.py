"""Which of the rungs that fit a run takes: the fastest that was measured here, or what the constants prefer."""

from __future__ import annotations

from edgeplast.bundle import Manifest
from edgeplast_devices.rungs import MANNERS, Manner, Rung, as_predicted, manner_of, predicted_peak
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
        manners: in which the process may keep house, best first.
        pinned: the rung to begin on where it fits, by its key; None takes what is known to be the fastest.

    Attributes:
        speeds: what is known.
    """

    def __init__(
        self,
        manifest: Manifest,
        optimizer: str,
        most_bytes: int,
        kept: KeptSpeeds | None,
        *,
        tries: bool,
        manners: tuple[Manner, ...] = MANNERS,
        pinned: str | None = None,
    ) -> None:
        self._manifest, self._optimizer, self._most_bytes, self._manners = manifest, optimizer, most_bytes, manners
        self._kept, self._tries, self._pinned = kept, tries and pinned is None, pinned
        self.speeds = kept.read() if kept else Speeds()

    def of_fitting(self, rungs: list[Rung]) -> list[Rung]:
        """Return rungs, best first by the constants, with the one in front that a run is to begin on."""
        most = max(self._most_bytes, self._need(rungs, as_predicted(self._manifest, rungs)[0]))
        if self._pinned is not None:
            fits = [rung for rung in rungs if rung.key == self._pinned and self._need(rungs, rung) <= most]
            return [*fits, *(rung for rung in rungs if rung not in fits)]
        return self._preferred(rungs, most)

    def of_smaller(self, rungs: list[Rung]) -> list[Rung]:
        """Return rungs to go down to, likewise: there is room for what the constants prefer of them, and no more."""
        return self._preferred(rungs, self._need(rungs, as_predicted(self._manifest, rungs)[0]))

    def candidates(self, rungs: list[Rung], *, is_down: bool = False) -> list[Rung]:
        """Return what is to be tried of a run's rungs: what the constants prefer, and what else there is room for.

        Args:
            rungs: of the run, the one in force first.
            is_down: whether memory was short, so that there is no room for more than they need.
        """
        ordered = as_predicted(self._manifest, rungs)
        least = self._need(rungs, ordered[0])
        most = least if is_down else max(self._most_bytes, least)
        return candidates(self._manifest, ordered, self._optimizer, most, self.manner(rungs))

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
        return max([rungs[0], *known], key=lambda rung: self._need(rungs, rung))

    def manner(self, rungs: list[Rung]) -> Manner:
        """Return how the process keeps house on rungs: as it can on what the constants prefer of them."""
        first = as_predicted(self._manifest, rungs)[0]
        return manner_of(self._manifest, first, self._optimizer, 0, self._most_bytes, self._manners)

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
        fits = [rung for rung in as_predicted(self._manifest, rungs) if self._need(rungs, rung) <= most_bytes]
        chosen = self.speeds.fastest_first(fits)[0]
        return [chosen, *(rung for rung in rungs if rung != chosen)]

    def _need(self, rungs: list[Rung], rung: Rung) -> int:
        return predicted_peak(self._manifest, rung, self._optimizer, 0, self.manner(rungs))
