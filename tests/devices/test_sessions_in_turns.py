"""Where a budget has no room for two graphs, the one that trains and the one that evaluates are open in turns."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from small_models import small_bundle
from wrapped_sessions import Evaluation, Training, Wrapped, adapt_over

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle
from edgeplast.errors import InterruptedRunError
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import IN_TURNS, TOGETHER, Manner
from edgeplast_devices.sessions import Sessions

OPTIONS = TrainingOptions(epochs=2, batch=16, learning_rate=1e-3, threads=1, seed=1)


class Open(Wrapped):
    """Counts sessions that are open at once."""

    def __init__(self, into: Path, manner: Manner) -> None:
        super().__init__(into)
        self.most: int = 0
        self.opened: list[str] = []
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self.sessions = Sessions(
            lambda *given: self._counted(Training(self, *given)),
            lambda *given: self._counted(Evaluation(self, *given)),
            manners=(manner,),
        )

    def _counted(self, session: Any) -> Any:
        self._open.add(session)
        self.opened.append(type(session).__name__)
        self.most = max(self.most, len(self._open))
        return session


def adapted(bundle: Bundle, data: Path, into: Path, manner: Manner, **how: Any) -> tuple[Adaptation, Open]:
    gc.disable()  # sessions must go when they are let go of, not when somebody looks for them
    try:
        found = Open(into, manner)
        return adapt_over(found, bundle, data, into, TrainingOptions(**{**_given(OPTIONS), **how})), found
    finally:
        gc.enable()


def _given(options: TrainingOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__struct_fields__}


def test_one_is_open_at_a_time_and_the_result_is_the_same(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    both, together = adapted(bundle, blobs, tmp_path / "together", TOGETHER)
    each, alone = adapted(bundle, blobs, tmp_path / "alone", IN_TURNS)
    assert together.most == 2 and together.opened == ["Training", "Evaluation"]
    assert alone.most == 1 and alone.opened.count("Training") > 1
    assert each.losses == both.losses and each.accuracy == both.accuracy and each.history == both.history


def test_learning_without_labels_asks_both_in_each_step(bundle: Bundle, blobs: Path, tmp_path: Path) -> None:
    start, _ = adapted(bundle, blobs, tmp_path / "start", TOGETHER)
    assert start.steps
    learned = Bundle.open(tmp_path / "start")
    how: dict[str, Any] = {"labels": "none", "epochs": 1, "batch": 32}
    both, _ = adapted(learned, blobs, tmp_path / "together", TOGETHER, **how)
    each, alone = adapted(learned, blobs, tmp_path / "alone", IN_TURNS, **how)
    assert alone.most == 1 and each.losses == both.losses


def test_the_same_bits_behind_a_prefix_and_when_a_run_goes_on_in_another_manner(blobs: Path, tmp_path: Path) -> None:
    late = small_bundle(tmp_path / "late", "blocks:1")
    assert late.manifest.prefix is not None
    options = TrainingOptions(**{**_given(OPTIONS), "checkpoint_every": "1steps"})
    both, _ = adapted(late, blobs, tmp_path / "together", TOGETHER)
    alone, into = Open(tmp_path / "cut", IN_TURNS), tmp_path / "cut"

    def stopped() -> None:
        raise InterruptedRunError("stopped")

    alone.at_step(4, stopped)
    with pytest.raises(InterruptedRunError):
        adapt_over(alone, late, blobs, into, options)
    assert alone.opened.count("Training") > 1
    resumed = adapt_over(Open(into, TOGETHER), late, blobs, into, options, resume=True)
    assert resumed.resumed_at == (4,) and resumed.losses == both.losses and resumed.history == both.history
