"""What stands while runs come and go: the ladder, the arena, the weights and the graphs over them.

Choosing a rung, reading weights and opening sessions takes seconds; a process that learns again and again does it once.
``adapt`` makes it for its one run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, Bundle
from edgeplast.footprint import Footprint
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast_devices.device_memory import DeviceMemory
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import ImageSet, Unreadable
from edgeplast_devices.latents import Source
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.placing import place
from edgeplast_devices.run_state import RunState
from edgeplast_devices.rungs import shares
from edgeplast_devices.runtime import release_arena, reserve_arena
from edgeplast_devices.sessions import ONNXRUNTIME, Evaluates, MakesLatents, OverPictures, Sessions
from edgeplast_devices.starting import rungs_from_here
from edgeplast_devices.training import Trainer
from edgeplast_devices.weights import read_trainable

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
        stood: where a run stood that goes on here.
        sessions: over the bundle's graphs.
        turn: held while weights change or graphs are opened and closed.

    Attributes:
        placement: where graphs run.
        threads: of the runtime.
        resident_bytes: before the bundle is opened.
        rungs: the ladder from the one that was chosen.
        shares: of the budget.
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
        stood: RunState | None = None,
        sessions: Sessions = ONNXRUNTIME,
        turn: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        self.guard, self.sessions, self.turn = guard, sessions, turn or contextlib.nullcontext()
        # loads the runtime, so that it is counted as resident
        self.placement = place(options.runtime, options.provider, guard.allowed_bytes)
        self.device_memory = DeviceMemory(self.placement)
        self.threads = options.threads or usable_threads()
        self.resident_bytes = held(self.threads)
        allowed = guard.allowed_bytes
        self._rungs = lambda manifest: rungs_from_here(
            manifest, options, batch, optimizer, self.resident_bytes, allowed, stood
        )
        self.rungs = self._rungs(bundle.manifest)
        self.shares = shares(bundle.manifest, self.rungs[0], optimizer, self.resident_bytes, allowed)
        self.trainer: Trainer | None = None
        self._evaluation: Evaluates | None = None
        self._prefix: MakesLatents | None = None
        self._is_open = False

    def open(self, bundle: Bundle) -> None:
        """Hold the process to its budget, and read the weights; once."""
        if self._is_open:
            return
        self.guard.commit()
        reserve_arena(self.shares.region_bytes, self.shares.arena_bytes)
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
            self.rungs = self._rungs(bundle.manifest)
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
        return self.trainer

    def evaluation(self, bundle: Bundle) -> Evaluates:
        """Return the session that computes logits with the weights in force, opened when it is first asked for.

        It goes on from latents where the bundle has a prefix.
        """
        if self._evaluation is None:
            graph = bundle.path / EVALUATION_GRAPH
            self._evaluation = self._opened(
                bundle,
                EVALUATION_GRAPH,
                bundle.manifest.evaluation,
                lambda: self.sessions.evaluation(graph, self.parameters, self.threads, self.placement),
            )
        return self._evaluation

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
