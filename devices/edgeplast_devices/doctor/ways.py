"""The ways to take a step that fit a budget: what each needs, and what it takes by the constants and was timed to."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from edgeplast.bundle import Manifest
from edgeplast_devices.memory import available_bytes, usable_threads
from edgeplast_devices.preference import Preference
from edgeplast_devices.rungs import MANNERS, Rung, as_predicted, predicted_peak
from edgeplast_devices.speeds import KeptSpeeds, cache_folder
from edgeplast_devices.trying import tried

_MOST_SECONDS = 20.0
"""That timing ways may take where it is asked for."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to take a step.

    Attributes:
        rung: in words.
        key: what ``adapt --rung`` takes.
        threads: of the runtime.
        peak_bytes: predicted, of the process.
        image_flops: operations of an image; those of small micro-batches count as the more that they take time.
        image_seconds: forward and backward, as it was timed on this machine; 0 where it was not.
        is_taken: whether ``adapt`` begins on it.
    """

    rung: str
    key: str
    threads: int
    peak_bytes: int
    image_flops: float
    image_seconds: float = 0.0
    is_taken: bool = False


class Ways:
    """What a budget leaves to choose from, and what is known of it.

    Args:
        manifest: of the bundle.
        rungs: from the best that fits, by the constants.
        resident_bytes: before the bundle is opened.
        memory_bytes: the budget; None for no limit.
        runtime: build and version.
        provider: that computes.
        threads: of the runtime.
    """

    def __init__(
        self,
        manifest: Manifest,
        rungs: list[Rung],
        resident_bytes: int,
        memory_bytes: int | None,
        runtime: str,
        provider: str,
        threads: int,
    ) -> None:
        self._manifest, self._threads, self._resident_bytes = manifest, threads, resident_bytes
        most = available_bytes() // 2 if memory_bytes is None else memory_bytes - resident_bytes
        kept = KeptSpeeds(manifest, runtime, provider, threads, cache_folder())
        manners = MANNERS[:1] if memory_bytes is None else MANNERS
        self._preference = Preference(manifest, manifest.plan.optimizer, most, kept, tries=True, manners=manners)
        self._rungs = self._preference.of_fitting(rungs)
        self.manner = self._preference.manner(rungs)
        self.candidates = self._preference.candidates(rungs)
        self._with_threads: dict[int, float] = {}

    @property
    def taken(self) -> Rung:
        """The rung that ``adapt`` begins on."""
        return self._rungs[0]

    def peak(self, rung: Rung) -> int:
        """Return the predicted peak of the process on a rung."""
        return predicted_peak(self._manifest, rung, self._manifest.plan.optimizer, self._resident_bytes, self.manner)

    def time(self, run_once: Callable[[Rung, int], None]) -> None:
        """Time all of them, and keep what was found for the next run; then the fastest with other numbers of threads.

        Args:
            run_once: passes one micro-batch through a rung's graph, with so many threads.
        """
        clock = time.perf_counter
        found = tried(self.candidates, lambda rung: run_once(rung, self._threads), lambda _: _MOST_SECONDS, clock)
        self._preference.learn(found)
        self._rungs = self._preference.of_fitting(as_predicted(self._manifest, self._rungs))
        for threads in numbers_of_threads(usable_threads()):
            if threads != self._threads:

                def once(rung: Rung, count: int = threads) -> None:
                    run_once(rung, count)

                of_one = tried([self.taken], once, lambda _: 0.0, clock).seconds
                if self.taken in of_one:
                    self._with_threads[threads] = of_one[self.taken]

    def table(self) -> list[Way]:
        """Return them, the one that is taken first, then as they would be tried."""
        seconds = self._preference.speeds.seconds
        others = [rung for rung in self.candidates if rung != self.taken]
        found = [self._way(rung, self._threads, seconds.get(str(rung), 0.0)) for rung in (self.taken, *others)]
        return found + [self._way(self.taken, threads, took) for threads, took in self._with_threads.items()]

    def _way(self, rung: Rung, threads: int, seconds: float) -> Way:
        return Way(
            rung=str(rung),
            key=rung.key,
            threads=threads,
            peak_bytes=self.peak(rung),
            image_flops=rung.image_flops,
            image_seconds=seconds,
            is_taken=rung == self.taken and threads == self._threads,
        )


def numbers_of_threads(cores: int) -> list[int]:
    """Return the numbers of threads that are worth a try: one, half and all of the cores."""
    return sorted({1, max(cores // 2, 1), cores})
