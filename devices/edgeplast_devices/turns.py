"""Turns: one graph at a time in a process of many threads, and nobody waits for more than the turn in progress.

``threading.Lock`` lets whoever asks first have it, which is mostly the thread that has just given it back: a loop that
trains would starve a camera that asks for predictions. Here turns are taken in the order in which they were asked for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeplast.placement import Placement
from edgeplast.prefixes import Prefix
from edgeplast_devices.rungs import MANNERS_TOGETHER
from edgeplast_devices.sessions import Evaluates, MakesLatents, Sessions, Trains


class Turns:
    """A lock that is given to those who wait in the order in which they came; used as ``with turns:``."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()  # until the one before hands it over
        except BaseException:  # Ctrl-C while waiting
            with self._guard:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    raise
            self.__exit__()  # it was handed over in that moment
            raise

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


def taking_turns(sessions: Sessions, turns: Turns) -> Sessions:
    """Return sessions like these, each of whose runs waits for its turn; both graphs stay open, for who predicts."""

    def training(
        graph: Path,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        threads: int,
        placement: Placement,
    ) -> Trains:
        return _Training(sessions.training(graph, parameters, gradients, threads, placement), turns)

    def evaluation(graph: Path, parameters: Mapping[str, np.ndarray], threads: int, placement: Placement) -> Evaluates:
        return _Evaluation(sessions.evaluation(graph, parameters, threads, placement), turns)

    def prefix(graph: Path, prefix: Prefix, threads: int, placement: Placement) -> MakesLatents:
        return _Prefix(sessions.prefix(graph, prefix, threads, placement), turns)

    return Sessions(training, evaluation, prefix, MANNERS_TOGETHER)


class _Training:
    def __init__(self, session: Trains, turns: Turns) -> None:
        self._session, self._turns = session, turns

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        with self._turns:
            return self._session.accumulate(images, targets)

    def stop(self, reason: str) -> None:
        self._session.stop(reason)


class _Evaluation:
    def __init__(self, session: Evaluates, turns: Turns) -> None:
        self._session, self._turns = session, turns

    def logits(self, images: np.ndarray) -> np.ndarray:
        with self._turns:
            return self._session.logits(images)

    @property
    def feature_width(self) -> int:
        return self._session.feature_width

    def features(self, images: np.ndarray) -> np.ndarray:
        with self._turns:
            return self._session.features(images)


class _Prefix:
    def __init__(self, session: MakesLatents, turns: Turns) -> None:
        self._session, self._turns = session, turns

    def latents(self, images: np.ndarray) -> np.ndarray:
        with self._turns:
            return self._session.latents(images)
