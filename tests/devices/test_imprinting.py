"""A new row of a head: by one picture or more, with pictures of other classes at hand or alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_models import small_bundle

from edgeplast.bundle import Bundle
from edgeplast.contract import LIKENESS, MEANS
from edgeplast_devices import imprinting
from edgeplast_devices.images import ImageSet, Unreadable
from edgeplast_devices.imprinting import landmarks, place

KNOWN, WIDTH = 4, 32


@pytest.fixture(scope="module")
def room() -> SimpleNamespace:
    """Features of five classes: a common part, a mean of their own, and noise; the head knows four of them."""
    rng = np.random.default_rng(0)
    common, means = rng.normal(size=WIDTH) * 3, rng.normal(size=(KNOWN + 1, WIDTH))

    def draw(label: int, count: int) -> np.ndarray:
        return (common + means[label] + rng.normal(size=(count, WIDTH)) * 0.8).astype(np.float32)

    centred = means[:KNOWN] - means[:KNOWN].mean(0)
    weight = (2 * centred + rng.normal(size=WIDTH) * 0.1).astype(np.float32)
    bias = (-weight @ (common + means[:KNOWN].mean(0)) - (weight * centred).sum(1) / 2).astype(np.float32)
    return SimpleNamespace(draw=draw, weight=weight, bias=bias)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import msgspec

    from edgeplast_devices.growing import with_more

    names = tuple(f"old {i}" for i in range(KNOWN))
    bundle: Bundle = small_bundle(tmp_path_factory.mktemp("four") / "bundle", classes=names)
    return msgspec.structs.replace(with_more(bundle.manifest, ["new"], waiting=True))


def placed(
    room: SimpleNamespace, manifest: Any, monkeypatch: pytest.MonkeyPatch, counts: list[int], known_from: dict
) -> tuple[dict[str, int], float, float]:
    """Place the new class by features of so many pictures of each class; accuracy on new and on old ones."""
    labels = np.concatenate([np.full(count, label) for label, count in enumerate(counts)]).astype(np.int32)
    features = np.concatenate([room.draw(label, count) for label, count in enumerate(counts)])

    def outputs(work, images, how, **more):
        order = more["order"]
        yield features[order], labels[order].astype(np.int64), order

    monkeypatch.setattr(imprinting, "outputs", outputs)
    images = ImageSet.of([np.zeros((8, 8, 3), np.uint8)] * len(labels), labels, manifest.classes)
    rows = {
        "head.weight": np.concatenate([room.weight, room.weight[:1]]),
        "head.bias": np.append(room.bias, np.float32(-99)),
    }
    over = {"micro_batch": 4, "unreadable": Unreadable(), "progress": lambda *_: None}
    found = place(manifest, lambda x: x, rows, images, ["new"], known_from, **over)

    def right(label: int) -> float:
        return float(((room.draw(label, 400) @ rows["head.weight"].T + rows["head.bias"]).argmax(1) == label).mean())

    np.testing.assert_array_equal(rows["head.weight"][:KNOWN], room.weight)
    return found, right(KNOWN), float(np.mean([right(label) for label in range(KNOWN)]))


def known_from(room: SimpleNamespace, manifest: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    labels = np.repeat(np.arange(KNOWN), 4).astype(np.int32)
    features = np.concatenate([room.draw(label, 4) for label in range(KNOWN)])

    def outputs(work, images, how, **more):
        yield features[more["order"]], labels[more["order"]].astype(np.int64), more["order"]

    monkeypatch.setattr(imprinting, "outputs", outputs)
    images = ImageSet.of([np.zeros((8, 8, 3), np.uint8)] * len(labels), labels, manifest.classes)
    return landmarks(manifest, lambda x: x, images)


@pytest.mark.parametrize(
    ("count", "alone", "least"), [(1, True, 0.6), (5, True, 0.7), (1, False, 0.7), (20, False, 0.9)]
)
def test_a_class_is_told_and_the_others_stay_what_they_were(
    room: SimpleNamespace, manifest: Any, monkeypatch: pytest.MonkeyPatch, count: int, alone: bool, least: float
) -> None:
    there = known_from(room, manifest, monkeypatch)
    assert there[MEANS].shape == (KNOWN, WIDTH) and 0 < there[LIKENESS][0] <= 1
    counts = [0 if alone else 8] * KNOWN + [count]
    by, new, old = placed(room, manifest, monkeypatch, counts, there if alone else {})
    assert by == {"new": count} and new > least and old > 0.85


def test_without_landmarks_a_class_that_comes_alone_is_told_all_the_same(
    room: SimpleNamespace, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new, old = placed(room, manifest, monkeypatch, [0] * KNOWN + [8], {})
    assert new > 0.4 and old > 0.5


def test_from_one_class_nothing_is_known_of_where_the_others_lie(manifest: Any) -> None:
    one = ImageSet.of([np.zeros((8, 8, 3), np.uint8)], [0], manifest.classes)
    assert landmarks(manifest, lambda x: x, one) == {}
