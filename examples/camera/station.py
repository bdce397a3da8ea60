"""The station between camera, Learner and page: the newest frames, what the model says of them, what is asked of it."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
from frames import Frames
from PIL import Image

import edgeplast
from edgeplast.errors import EdgeplastError, InputError, UsageError
from edgeplast_devices.memory import resident_bytes

KEPT_FRAMES = 8
"""Somebody looks at a frame for a while before they say what it shows."""


class Station:
    """Predicts frame after frame in one thread; takes examples and learns when others ask.

    Args:
        learner: open.
        frames: of the camera.
        fps: how many a second, at most.
        seconds: that one time of learning takes.
    """

    def __init__(self, learner: edgeplast.Learner, frames: Frames, *, fps: float, seconds: float) -> None:
        self.learner, self._frames = learner, frames
        self._pause, self._seconds = 1 / fps, seconds
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held: tuple[int, np.ndarray | None] = (0, None)
        self._shown: dict[str, Any] = {"number": 0}
        self._learning: threading.Thread | None = None
        self._said = "Nothing learned yet." if learner.report is None else "What was learned before is here again."

    def watch(self) -> None:
        """Predict each frame as it comes, until stopped."""
        number = 0
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                frame = next(self._frames)
                said = self.learner.predict(frame)
            except StopIteration:
                return
            except EdgeplastError as error:
                self._say(str(error))
            else:
                number += 1
                probabilities = [[name, round(p, 4)] for name, p in said.probabilities.items()]
                shown: dict[str, Any] = {"number": number, "picture": _encoded(frame)}
                shown |= {"probabilities": probabilities[:8], "known": said.known}
                with self._lock:
                    self._kept[number], self._shown = frame, shown
                    if len(self._kept) > KEPT_FRAMES:
                        self._kept.popitem(last=False)
            self._stopped.wait(max(self._pause - (time.monotonic() - began), 0.01))

    def state(self) -> dict[str, Any]:
        """Return what the page shows."""
        now = resident_bytes()  # before the peak is asked for, which it may be
        memory, learning = self.learner.memory, self._learning
        with self._lock:
            state = {**self._shown, "said": self._said}
        return state | {
            "classes": list(self.learner.classes),
            "examples": self.learner.examples,
            "learning": learning is not None and learning.is_alive(),
            "memory": {
                "budget": memory.budget_bytes,
                "peak": max(memory.measured_peak_bytes, now),
                "now": now,
            },
        }

    def hold(self, number: int) -> dict[str, Any]:
        """Keep a frame until another is held, however long somebody looks at it.

        Raises:
            InputError: the frame is gone.
        """
        self._held = number, self._frame(number)
        return {"held": number}

    def add(self, number: int, label: str) -> dict[str, Any]:
        """Take a frame as an example of a class.

        Raises:
            InputError: the frame is gone, or there is no such class.
        """
        self.learner.add(self._frame(number), label)
        return {"examples": self.learner.examples}

    def add_class(self, name: str) -> dict[str, Any]:
        """Let the model know of a class more; frames of it can be given from then on.

        Raises:
            UsageError: the name is known already or empty, or it is learning.
        """
        self.learner.add_class(name.strip())
        return {"classes": list(self.learner.classes), "examples": self.learner.examples}

    def learn(self) -> dict[str, Any]:
        """Begin to learn, in a thread of its own.

        Raises:
            UsageError: it is learning already.
        """
        with self._lock:
            if self._learning is not None and self._learning.is_alive():
                raise UsageError("It is learning already.")
            self._learning = threading.Thread(target=self._learn, name="learning", daemon=True)
            self._learning.start()
        return {"learning": True}

    def stop(self) -> None:
        """Stop watching; what is being learned goes on until the Learner is closed, and is kept."""
        self._stopped.set()

    def _frame(self, number: int) -> np.ndarray:
        with self._lock:
            frame = self._held[1] if number == self._held[0] else self._kept.get(number)
        if frame is None:
            raise InputError(f"Frame {number} is gone. Hold one first, or take one of the last {KEPT_FRAMES}.")
        return frame

    def _learn(self) -> None:
        try:
            report = self.learner.learn(seconds=self._seconds)
        except EdgeplastError as error:
            self._say(str(error))
        else:
            self._say(_told(report))

    def _say(self, text: str) -> None:
        with self._lock:
            self._said = text


def _told(report: edgeplast.Adaptation) -> str:
    placed = "".join(f"{name} was placed by {n} pictures; " for name, n in report.new_classes.items())
    if not report.steps:
        return f"{placed}give other classes too to learn more."
    return (
        f"{placed}Learned {report.steps} steps in {report.seconds.total:.1f} s from {report.images['train']} pictures; "
        f"loss {report.losses[0]:.3f} → {report.losses[-1]:.3f}."
    )


def _encoded(frame: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
