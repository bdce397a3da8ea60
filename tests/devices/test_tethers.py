"""How far weights may move without labels: as far with a plan by itself as with alternatives beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from small_models import small_bundle
from wrapped_sessions import Wrapped, adapt_over

import edgeplast
from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.tensors import read_arrays


@pytest.fixture(autouse=True)
def _there_is_something_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeplast.evaluation.NOTHING_TO_MEND", 9.0)


@pytest.fixture(scope="module")
def alone_and_beside(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """A plan that has learned, by itself and with alternatives beside it."""
    root, how = tmp_path_factory.mktemp("tethered"), TrainingOptions(epochs=4, learning_rate=3e-3, threads=1)
    scores = (("attn", 0.4), ("fc1", 3.0), ("fc2", 0.2))
    for name, also in (("alone", {}), ("beside", {"scores": scores})):
        fresh = small_bundle(root / f"{name}-fresh", "fc2,norm", depth=4, **also)
        edgeplast.adapt(fresh, blobs, into=root / name, options=how)
    return [Bundle.open(root / "alone"), Bundle.open(root / "beside")]


def options(**more: object) -> TrainingOptions:
    return TrainingOptions(labels="none", epochs=3, threads=1, **more)  # type: ignore[arg-type]


def furthest(start: Bundle, data: Path, into: Path, **more: object) -> float:
    """How far weights come, in L2, under steps that would go far."""
    how = options(learning_rate=0.3, clip=0.0, schedule="constant", warmup=0.0, **more)
    before, seen, wrapped = read_arrays(start.path / TRAINABLE), [0.0], Wrapped(into)
    wrapped.before = lambda session, images: seen.append(length_of(before, session.parameters))
    adapt_over(wrapped, start, data, into, how)
    return max(seen)


def length_of(before: dict[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(after[name] - before[name], dtype=np.float64).sum() for name in before)))


def test_alternatives_beside_a_plan_leave_its_tether_as_long_as_it_is(
    alone_and_beside: list[Bundle], blobs: Path, tmp_path: Path
) -> None:
    """The same plan moves as far and tells the same of it, whatever else the bundle holds."""
    alone, beside = alone_and_beside
    far = [furthest(start, blobs, tmp_path / name) for start, name in ((alone, "a"), (beside, "b"))]
    own = read_arrays(alone.path / TRAINABLE)
    nothing = {name: np.zeros_like(array) for name, array in own.items()}
    assert far[0] == pytest.approx(0.03 * length_of(nothing, own), rel=1e-3)
    assert far[1] == pytest.approx(far[0], rel=1e-2)
    told = [
        edgeplast.adapt(start, blobs, into=tmp_path / name, options=options()).judged
        for start, name in ((alone, "c"), (beside, "d"))
    ]
    assert told[0] is not None and told[1] is not None and told[0].moved > 0
    assert told[1].moved == pytest.approx(told[0].moved, rel=1e-2)


def test_where_scores_choose_the_tether_is_of_all_sets_that_may_train(
    alone_and_beside: list[Bundle], blobs: Path, tmp_path: Path
) -> None:
    beside = alone_and_beside[1]
    whole = read_arrays(beside.path / TRAINABLE)
    nothing = {name: np.zeros_like(array) for name, array in whole.items()}
    far = furthest(beside, blobs, tmp_path / "a", rescore="once")
    assert far == pytest.approx(0.03 * length_of(nothing, whole), rel=1e-3)
