"""Judging without labels: what a collapse looks like, and what recentring does to a linear head."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images import Batch, ImageSet, Unreadable, batches
from edgeplast_devices.judging import judge, judged
from edgeplast_devices.objectives import information
from edgeplast_devices.reheading import of_prototypes, recentred_bias


def test_variety_counts_the_classes_that_are_predicted() -> None:
    sure = 30 * np.eye(5, dtype=np.float32)
    assert judge(iter([sure])).variety == pytest.approx(5)
    assert judge(iter([sure[:2], sure[1:2], sure[:1]])).variety == pytest.approx(2)
    assert judge(iter([sure[:1]] * 4)).variety == pytest.approx(1)
    assert judge(iter([sure, sure])).images == 10


def test_the_same_answer_to_everything_is_a_collapse_however_sure() -> None:
    before = judge(iter([np.random.default_rng(0).normal(0, 2, (60, 4)).astype(np.float32)]))
    collapsed = judge(iter([np.tile(np.float32([9, 0, 0, 0]), (60, 1))]))
    surer = judge(iter([30 * np.eye(4, dtype=np.float32)[np.arange(60) % 4]]))
    assert collapsed.has_collapsed_since(before) and not surer.has_collapsed_since(before)
    assert surer.objective < before.objective < collapsed.objective + 2


def test_the_same_answer_to_nearly_everything_is_nothing_to_go_by() -> None:
    sure = 30 * np.eye(5, dtype=np.float32)
    rows = np.zeros(400, int)
    assert judge(iter([sure[rows]])).leaves_nothing_to_go_by
    rows[:70] = np.arange(70) % 4 + 1
    assert judge(iter([sure[rows]])).commonest == pytest.approx(330 / 400)
    assert judge(iter([sure[rows]])).leaves_nothing_to_go_by and judge(iter([sure[rows] / 100])).leaves_nothing_to_go_by
    rows[:90] = np.arange(90) % 4 + 1
    assert not judge(iter([sure[rows]])).leaves_nothing_to_go_by


def test_views_that_are_called_differently_count_against_it() -> None:
    images = ImageSet.of([np.full((8, 8, 3), 40 * (i % 6), np.uint8) for i in range(60)])
    how = Preprocessing(image_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_fraction=1.0)

    def logits(batch: np.ndarray) -> np.ndarray:
        return np.eye(7, dtype=np.float32)[np.rint(batch[:, 0, 0, 0] * 255 / 40).astype(int)]

    def source(shift: int) -> Any:
        def varied(*given: Any, **more: Any) -> Iterator[Batch]:
            for batch in batches(*given, **more):
                moved = batch.images + (np.float32(40 * shift) / 255) * (batch.indices % 2)[:, None, None, None]
                yield Batch(moved.astype(np.float32), batch.labels, batch.indices)

        return varied

    over = {"micro_batch": 4, "unreadable": Unreadable()}
    alike = judged(logits, images, how, None, "", views=[source(0), source(0)], **over)
    assert alike.judgement is not None and alike.judgement.agreement == 1 and not alike.fault
    half = judged(logits, images, how, alike.judgement, "", views=[source(0), source(1)], **over)
    assert half.judgement is not None and half.judgement.agreement == pytest.approx(0.75) and half.fault == "disagreed"
    assert not judged(logits, images, how, half.judgement, "", views=[source(0), source(1)], **over).fault
    assert judged(logits, images, how, None, "", **over).judgement == msgspec.structs.replace(
        alike.judgement, agreement=None
    )


def test_judging_many_pictures_takes_some_bytes_of_each() -> None:
    many, how = (
        100_000,
        Preprocessing(image_size=(1, 1), mean=(0,), std=(1,), interpolation="bilinear", crop_fraction=1.0),
    )

    def source(images: Any, _: Preprocessing, size: int, *, order: np.ndarray, **__: Any) -> Iterator[Batch]:
        for some in (order[start : start + size] for start in range(0, len(order), size)):
            yield Batch(np.eye(3, dtype=np.float32)[some % 3], some % 3, some)

    over: dict[str, Any] = {"micro_batch": 500, "unreadable": Unreadable(), "source": source, "views": [source, source]}
    tracemalloc.start()
    found = judged(lambda batch: batch, range(many), how, None, "", **over)  # type: ignore[arg-type]  # a set's length
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.judgement is not None and (found.judgement.agreement, found.judgement.images) == (1, many)
    assert peak < 24 * many


def test_it_does_not_matter_how_pictures_were_batched() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (50, 6)).astype(np.float32)
    whole, parts = judge(iter([logits])), judge(iter(np.array_split(logits, 7)))
    assert parts.objective == pytest.approx(whole.objective, rel=1e-12) and parts.images == 50
    assert parts.objective == pytest.approx(information(logits)[0], rel=1e-9)


def test_logits_that_are_not_finite_say_nothing() -> None:
    found = judge(iter([np.float32([[np.nan, 1], [0, np.inf], [5, -5]])]))
    assert np.isfinite(found.objective) and 1 <= found.variety <= 2


def test_prototypes_point_where_their_features_lie() -> None:
    weight = np.asarray([[3.0, 0.0], [0.0, 1.0]])
    rows = of_prototypes(weight, [[np.asarray([0.0, 1.0])] * 3, []])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 2)  # as long as rows were on average
    np.testing.assert_allclose(rows[0] / 2, np.asarray([1, 3]) / np.sqrt(10))
    np.testing.assert_allclose(rows[1], [0, 2])  # no picture was called so


@given(seed=st.integers(0, 99), pictures=st.integers(1, 20), width=st.integers(1, 8), classes=st.integers(2, 5))
def test_recentring_is_what_subtracting_the_mean_feature_does(
    seed: int, pictures: int, width: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    features, weight = random.normal(1, 2, (pictures, width)), random.normal(size=(classes, width))
    bias = random.normal(size=classes)
    logits = features @ weight.T + bias
    expected = (features - features.mean(0)) @ weight.T + bias
    np.testing.assert_allclose(logits - bias + recentred_bias(bias, logits.mean(0)), expected, atol=1e-9)
