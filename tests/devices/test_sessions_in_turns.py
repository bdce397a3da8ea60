"""Where a budget has no room for two graphs, the one that trains and the one that evaluates are open in turns."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from wrapped_sessions import Evaluation, Training, Wrapped, adapt_over

from edgeplast.adaptation import Adaptation
from edgeplast.bundle import Bundle
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import IN_TURNS, TOGETHER, Manner
from edgeplast_devices.sessions import Sessions
from edgeplast_devices.standing import Standing

OPTIONS = TrainingOptions(epochs=2, batch=16, learning_rate=1e-3, threads=1, seed=1)


class Open(Wrapped):
    """Counts sessions that are open at once."""

    def __init__(self, into: Path) -> None:
        super().__init__(into)
        self.most: int = 0
        self.opened: list[str] = []
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        self.sessions = Sessions(
            lambda *given: self._counted(Training(self, *given)),
            lambda *given: self._counted(Evaluation(self, *given)),
        )

    def _counted(self, session: Any) -> Any:
        self._open.add(session)
        self.opened.append(type(session).__name__)
        self.most = max(self.most, len(self._open))
        return session


def adapted(
    bundle: Bundle, data: Path, into: Path, manner: Manner, monkeypatch: pytest.MonkeyPatch, **how: Any
) -> tuple[Adaptation, Open]:
    monkeypatch.setitem(Standing.__init__.__kwdefaults__, "manners", (manner,))
    gc.disable()  # sessions must go when they are let go of, not when somebody looks for them
    try:
        found = Open(into)
        return adapt_over(found, bundle, data, into, TrainingOptions(**{**_given(OPTIONS), **how})), found
    finally:
        gc.enable()


def _given(options: TrainingOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__struct_fields__}


def test_one_is_open_at_a_time_and_the_result_is_the_same(
    bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, together = adapted(bundle, blobs, tmp_path / "together", TOGETHER, monkeypatch)
    each, alone = adapted(bundle, blobs, tmp_path / "alone", IN_TURNS, monkeypatch)
    assert together.most == 2 and together.opened == ["Training", "Evaluation"]
    assert alone.most == 1 and alone.opened.count("Training") > 1
    assert each.losses == both.losses and each.accuracy == both.accuracy and each.history == both.history


def test_learning_without_labels_asks_both_in_each_step(
    bundle: Bundle, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, _ = adapted(bundle, blobs, tmp_path / "start", TOGETHER, monkeypatch)
    assert start.steps
    learned = Bundle.open(tmp_path / "start")
    how: dict[str, Any] = {"labels": "none", "epochs": 1, "batch": 32}
    both, _ = adapted(learned, blobs, tmp_path / "together", TOGETHER, monkeypatch, **how)
    each, alone = adapted(learned, blobs, tmp_path / "alone", IN_TURNS, monkeypatch, **how)
    assert alone.most == 1 and each.losses == both.losses
