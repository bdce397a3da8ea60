"""What stands while runs come and go: the ladder, the arena, the weights and the graphs over them.

Choosing a rung, reading weights and opening sessions takes seconds; a process that learns again and again does it once.
``adapt`` makes it for its one run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, Bundle
from edgeplast_devices.device_memory import DeviceMemory
from edgeplast_devices.guard import Guard
from edgeplast_devices.images import ImageSet, Unreadable
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.placing import place
from edgeplast_devices.run_state import RunState
from edgeplast_devices.rungs import shares
from edgeplast_devices.runtime import release_arena, reserve_arena
from edgeplast_devices.sessions import ONNXRUNTIME, Evaluates, Sessions
from edgeplast_devices.starting import rungs_from_here
from edgeplast_devices.training import Trainer
from edgeplast_devices.weights import read_trainable


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
    ) -> Trainer:
        """Return what moves a run: that of the run before, which keeps its graph and its rung, or the first."""
        if self.trainer is not None:
            self.trainer.begin(state, bundle, images, options, unreadable, between)
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
            placement=self.placement,
            sessions=self.sessions,
            logits=lambda images: self.evaluation(bundle).logits(images),
            turn=self.turn,
        )
        return self.trainer

    def evaluation(self, bundle: Bundle) -> Evaluates:
        """Return the session that computes logits with the weights in force, opened when it is first asked for."""
        if self._evaluation is None:
            graph = bundle.path / EVALUATION_GRAPH
            bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
            with self.turn:
                release_arena()
                with self.guard.opening(bundle.manifest.evaluation.frozen_bytes, self.threads):
                    self._evaluation = self.sessions.evaluation(graph, self.parameters, self.threads, self.placement)
            bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
        return self._evaluation

    def close(self) -> None:
        """Let go of the sessions."""
        self.trainer = self._evaluation = self.guard.stop_run = None
