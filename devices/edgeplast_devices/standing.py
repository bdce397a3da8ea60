"""What stands while runs come and go: the ladder, the arena, the weights and the graphs over them.

Choosing a rung, reading weights and opening sessions takes seconds; a process that learns again and again does it once.
``adapt`` makes it for its one run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, Bundle, Manifest
from edgeplast.footprint import REGION_PER_TABLE_BYTE, Footprint
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast_devices.device_memory import DeviceMemory
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import ImageSet, Unreadable
from edgeplast_devices.latents import Source
from edgeplast_devices.memory import available_bytes, usable_threads
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.placing import place
from edgeplast_devices.preference import Preference
from edgeplast_devices.rescoring import read_in
from edgeplast_devices.run_state import RunState
from edgeplast_devices.rungs import Rung, predicted_peak, region_bytes, shares
from edgeplast_devices.runtime import release_arena, reserve_arena, runtime_name
from edgeplast_devices.sessions import ONNXRUNTIME, Evaluates, InTurns, MakesLatents, OverPictures, Sessions
from edgeplast_devices.speeds import KeptSpeeds, cache_folder
from edgeplast_devices.starting import rungs_from_here
from edgeplast_devices.training import Trainer
from edgeplast_devices.weights import read_trainable

if TYPE_CHECKING:
    from edgeplast_devices.sets import Sets

T = TypeVar("T")


class Standing:
    """What a run computes with, and the next one too.

    Args:
        bundle: that is adapted.
        guard: of what the process may hold.
        options: of the training; memory, threads, build and provider count here.
        batch: images an optimizer step is computed from, at most.
        optimizer: whose state is held.
        held: given the threads, returns what the process holds before the bundle is opened.
        pictures: that will be learned from, if that is known.
        stood: where a run stood that goes on here.
        sessions: over the bundle's graphs.
        turn: held while weights change or graphs are opened and closed.

    Attributes:
        placement: where graphs run.
        threads: of the runtime.
        resident_bytes: before the bundle is opened.
        rungs: the ladder from the one that was chosen.
        preference: which of them is taken, by what was measured here.
        manner: how the process keeps house.
        shares: of the budget.
        sets: sets of components that the run may train, where scores are to choose.
        parameters: what trains, by name; float32, changed in place.
        trainer: of the last run; None before the first.

    Raises:
        BudgetError: no rung fits.
    """

    parameters: dict[str, np.ndarray]

    def __init__(
        self,
        bundle: Bundle,
        guard: Guard,
        options: TrainingOptions,
        *,
        batch: int,
        optimizer: str,
        held: Callable[[int], int],
        pictures: float = math.inf,
        stood: RunState | None = None,
        sessions: Sessions = ONNXRUNTIME,
        turn: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        self.guard, self.sessions, self.turn = guard, sessions, turn or contextlib.nullcontext()
        # loads the runtime, so that it is counted as resident
        self.placement = place(options.runtime, options.provider, guard.allowed_bytes)
        self.device_memory = DeviceMemory(self.placement)
        self.threads = options.threads or usable_threads()
        if options.rescore != "none":
            read_in()  # what scores; where nobody asks, it is not loaded
        self.resident_bytes = held(self.threads)
        allowed = guard.allowed_bytes
        most = available_bytes() // 2 if allowed is None else allowed - self.resident_bytes
        is_fixed = options.micro_batch is not None
        manners = sessions.manners
        if options.rescore != "none" and allowed is not None:  # one graph beside another less, whichever set trains
            manners = tuple(manner for manner in manners if manner.in_turns)

        def begun(manifest: Manifest) -> list[Rung]:
            known = KeptSpeeds(manifest, runtime_name(), self.placement.used, self.threads, cache_folder())
            kept = None if is_fixed else known
            ways = manners[:1] if allowed is None else manners
            tries = stood is None and options.rescore == "none"  # the sets of a run share what is decided here
            self.preference = Preference(
                manifest, optimizer, most, kept, tries=tries, manners=ways, pinned=options.rung
            )
            how = (manifest, options, batch, optimizer, self.resident_bytes, allowed, stood)
            rungs = rungs_from_here(*how, self.preference.of_fitting, ways)
            self.manner = self.preference.manner(rungs)
            return rungs

        self._begun = begun
        self.rungs = begun(bundle.manifest)
        # The same sets again, unless this process holds so much more that it goes on with another rung.
        again = stood is not None and stood.allowed_bytes == allowed and stood.rung == self.rungs[0].key
        began, known = self.rungs, stood.sets if stood is not None and again else {}
        if known:  # on another set, maybe
            from edgeplast_devices.sets import rungs_of

            began = rungs_of(bundle.manifest, batch, options.micro_batch, *next(iter(known.items()))) or began
            self.manner = self.preference.manner(began)
        hungriest = self.preference.hungriest(began, pictures)
        self._of_tries = shares(bundle.manifest, hungriest, optimizer, self.resident_bytes, allowed, self.manner)
        self.sets: Sets | None = None
        if options.rescore != "none":
            from edgeplast_devices.sets import House, sets_that_fit

            house = House(bundle.manifest, optimizer, self.resident_bytes, allowed, self.manner)
            self.sets = sets_that_fit(house, began[0], hungriest, batch, options.micro_batch, known)
            self._of_tries = self.sets.shared(self._of_tries, allowed, self.manner)

        def predicted(rung: Rung) -> int:
            unused = max(self._of_tries.region_bytes - region_bytes(bundle.manifest, rung), 0)
            found = predicted_peak(bundle.manifest, rung, optimizer, self.resident_bytes, self.manner)
            return found + unused // REGION_PER_TABLE_BYTE

        self._predicted = predicted
        self.shares = replace(self._of_tries, predicted_bytes=predicted(self.rungs[0]))
        self.trainer: Trainer | None = None
        self._evaluation: Evaluates | None = None
        self._prefix: MakesLatents | None = None
        self._is_open = False

    def open(self, bundle: Bundle) -> None:
        """Hold the process to its budget, and read the weights; once."""
        if self._is_open:
            return
        self.guard.commit()
        reserve_arena(self._of_tries.region_bytes, self._of_tries.arena_bytes)
        self.parameters = read_trainable(bundle)
        self._is_open = True

    def regrown(self, change: Callable[[], Bundle]) -> None:
        """Let go of the graphs, let a bundle be changed, and hold its weights and graphs as they are then.

        Args:
            change: writes other graphs and weights, and returns the bundle that they are.
        """
        with self.turn:
            self.close()
            release_arena()
            bundle = change()
            self.rungs = self._begun(bundle.manifest)
            self.parameters = read_trainable(bundle)

    def trainer_for(
        self,
        state: RunState,
        bundle: Bundle,
        images: ImageSet,
        options: TrainingOptions,
        unreadable: Unreadable,
        between: Callable[[], None],
        source: Source,
    ) -> Trainer:
        """Return what moves a run: that of the run before, which keeps its graph and its rung, or the first."""
        if self.trainer is not None:
            self.trainer.begin(state, bundle, images, options, unreadable, between, source)
            return self.trainer
        self.trainer = Trainer(
            state,
            bundle,
            self.parameters,
            self.rungs,
            images,
            options,
            unreadable,
            self.guard,
            between,
            source,
            placement=self.placement,
            sessions=self.sessions,
            logits=lambda images: self.evaluation(bundle).logits(images),
            turn=self.turn,
        )
        self.trainer.prefer = self.preference.of_smaller
        self.trainer.make_room = self.make_room
        return self.trainer

    def took(self, rungs: Iterable[Rung]) -> None:
        """Count rungs that were tried into the peak that is predicted."""
        most = max([self.shares.predicted_bytes, *map(self._predicted, rungs)])
        self.shares = replace(self.shares, predicted_bytes=most)

    def evaluation(self, bundle: Bundle) -> Evaluates:
        """Return the session that computes logits with the weights in force, opened when it is first asked for.

        It goes on from latents where the bundle has a prefix.
        """
        if self._evaluation is None:
            graph = bundle.path / EVALUATION_GRAPH

            def opened() -> Evaluates:
                return self._opened(
                    bundle,
                    EVALUATION_GRAPH,
                    bundle.manifest.evaluation,
                    lambda: self.sessions.evaluation(graph, self.parameters, self.threads, self.placement),
                )

            def alone() -> Evaluates:
                if self.trainer is not None:
                    self.trainer.rest()
                return opened()

            self._evaluation = InTurns(alone) if self.manner.in_turns else opened()
        return self._evaluation

    def make_room(self) -> None:
        """Let go of the session that evaluates, where it is open in turns with the one that trains."""
        if isinstance(self._evaluation, InTurns):
            self._evaluation.rest()

    def prefix(self, bundle: Bundle) -> MakesLatents | None:
        """Return the session that makes latents, opened when it is first asked for; None where there is no prefix."""
        prefix = bundle.manifest.prefix
        if self._prefix is None and prefix is not None:
            graph = bundle.path / PREFIX_GRAPH
            self._prefix = self._opened(
                bundle,
                PREFIX_GRAPH,
                prefix.footprint,
                lambda: self.sessions.prefix(graph, prefix, self.threads, self.placement),
            )
        return self._prefix

    def over_pictures(self, bundle: Bundle) -> Evaluates:
        """Return what computes logits of pictures, in whatever parts."""
        prefix, rest = self.prefix(bundle), self.evaluation(bundle)
        return rest if prefix is None else OverPictures(prefix, rest)

    def _opened(self, bundle: Bundle, file: str, footprint: Footprint, session: Callable[[], T]) -> T:
        """Open a session over a graph of the bundle, within the budget, from files that are what was verified."""
        bundle.check_unchanged(file, FROZEN)
        with self.turn:
            release_arena()
            with self.guard.opening(footprint.frozen_bytes, self.threads):
                opened = session()
        bundle.check_unchanged(file, FROZEN)
        return opened

    def close(self) -> None:
        """Let go of the sessions."""
        self.trainer = self._evaluation = self._prefix = self.guard.stop_run = None
