"""Turns are taken in the order in which they were asked for, and a Learner takes no longer ones than a graph runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import CLASSES, blob

from edgeplast.bundle import Bundle
from edgeplast_devices.images import ImageSet
from edgeplast_devices.learner import Learner
from edgeplast_devices.optimizers import AdamW
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.runtime import EvaluationSession, TrainingSession
from edgeplast_devices.turns import Turns


def test_whoever_waits_comes_before_whoever_has_just_had_it() -> None:
    turns, order = Turns(), []
    asked = threading.Event()

    def camera() -> None:
        asked.set()
        with turns:
            order.append("camera")

    thread = threading.Thread(target=camera)
    with turns:
        thread.start()
        assert asked.wait(10)
        while not turns._waiting:
            time.sleep(0.001)
        order.append("loop")
    with turns:  # at once: a plain lock would be given to this thread again
        order.append("loop")
    thread.join()
    assert order == ["loop", "camera", "loop"]


def test_one_at_a_time_whatever_fails_in_between() -> None:
    turns, inside, most = Turns(), [0], []

    def work(number: int) -> None:
        for i in range(200):
            try:
                with turns:
                    inside[0] += 1
                    most.append(inside[0])
                    inside[0] -= 1
                    if (i + number) % 7 == 0:
                        raise ValueError
            except ValueError:
                pass

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 1200 and max(most) == 1


def test_a_turn_is_one_graph_run_and_nothing_is_read_or_written_in_it(
    bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody waits longer than one micro-batch, whatever else a learning thread has to do."""
    turns: list[tuple[str, list[str]]] = []
    mine = threading.local()

    class Recorded(Turns):
        def __enter__(self) -> None:
            super().__enter__()
            mine.done = []

        def __exit__(self, *_: object) -> None:
            turns.append((threading.current_thread().name, mine.done))
            mine.done = None
            super().__exit__(*_)

    def noted(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*given: Any, **more: Any) -> Any:
            if getattr(mine, "done", None) is not None:
                mine.done.append(what)
            return work(*given, **more)

        return done

    monkeypatch.setattr("edgeplast_devices.learning.Turns", Recorded)
    for owner, name, what in (
        (TrainingSession, "accumulate", "micro-batch"), (TrainingSession, "__init__", "opened"),
        (EvaluationSession, "logits", "logits"), (EvaluationSession, "__init__", "opened"),
        (AdamW, "update", "update"), (ImageSet, "open", "picture"), (os, "replace", "written"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, noted(what, getattr(owner, name)))
    options = TrainingOptions(learning_rate=3e-3, threads=1, augment="none", checkpoint_every="1steps")
    with Learner(bundle, into=tmp_path / "adapted", memory="none", options=options) as learner:
        for label in CLASSES:
            learner.add([blob(label, i) for i in range(8)], label)
        learner.calibrate(blobs)
        turns.clear()
        learned = threading.Thread(
            target=lambda: learner.learn(epochs=2, also={"old": blobs}, keep_within=100.0), name="learning"
        )
        learned.start()
        while learned.is_alive():
            learner.predict(np.asarray(blob("red", 5)))
        learned.join()
    assert {"micro-batch", "logits", "update", "opened"} <= {what for _, done in turns for what in done}
    assert all(len(done) <= 1 for _, done in turns)
    assert not [done for _, done in turns if {"picture", "written"} & {*done}]
    assert all(done == ["logits"] for thread, done in turns if done and thread != "learning")
