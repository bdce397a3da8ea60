"""The loss equals torch's, micro-batch by micro-batch; the figures equal a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.errors import InputError, UsageError
from edgeplast.evaluation import wilson_interval
from edgeplast_devices.losses import CrossEntropy, class_weights
from edgeplast_devices.metrics import Metrics

torch = pytest.importorskip("torch", reason="the losses are compared with torch's")


def _loss(logits: np.ndarray, targets: np.ndarray) -> float:
    log_p = torch.log_softmax(torch.from_numpy(logits), dim=1).numpy()
    return float(-(targets * log_p).sum())


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 12),
    classes=st.integers(2, 6),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weighted=st.booleans(),
    micro_batch=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_micro_batches_add_up_to_torchs_cross_entropy(
    images: int, classes: int, smoothing: float, weighted: bool, micro_batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes)).astype(np.float32)
    labels = rng.integers(0, classes, images)
    weights = rng.uniform(0.2, 3, classes).astype(np.float32) if weighted else np.ones(classes, np.float32)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        weight=torch.from_numpy(weights),
        label_smoothing=smoothing,
    )
    loss = CrossEntropy(weights, smoothing)
    found = sum(
        _loss(
            logits[start : start + micro_batch],
            loss.targets(labels[start : start + micro_batch], loss.mass(labels)),
        )
        for start in range(0, images, micro_batch)
    )
    assert found == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_targets_are_what_the_runtime_takes() -> None:
    targets = CrossEntropy(np.ones(3, np.float32), 0.3).targets(np.array([1, 0]), 2.0)
    assert targets.dtype == np.float32 and targets.flags.c_contiguous
    np.testing.assert_allclose(targets, [[0.05, 0.4, 0.05], [0.4, 0.05, 0.05]], rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_the_bundle_does_not_know_never_reaches_the_runtime(label: int) -> None:
    with pytest.raises(InputError, match="this bundle knows 0 to 2"):
        CrossEntropy(np.ones(3, np.float32)).targets(np.array([label]), 1.0)


def test_balanced_weights_let_each_class_that_is_there_count_the_same() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3] * 1)
    weights = class_weights("balanced", labels, 4)
    counts = np.bincount(labels, minlength=4)
    np.testing.assert_allclose((weights * counts)[[0, 1, 3]], 10 / 3, rtol=1e-6)
    assert weights[2] == 1 and weights.dtype == np.float32
    np.testing.assert_array_equal(class_weights("none", labels, 4), np.ones(4))
    with pytest.raises(UsageError, match="balanced"):
        class_weights("balance", labels, 4)


def _by_hand(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    p = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    right, sure = p.argmax(axis=1) == labels, p.max(axis=1)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (sure >= low) & ((sure < low + 1 / 15) | (low > 0.9))
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    return right.mean(), -np.log(p[np.arange(len(labels)), labels]).mean(), error


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_figures_equal_a_count_by_hand_however_they_are_batched(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = (3 * rng.normal(size=(40, 4))).astype(np.float32), rng.integers(0, 3, 40)
    metrics = Metrics(("a", "b", "c", "d"))
    for start in range(0, 40, size):
        metrics.add(logits[start : start + size], labels[start : start + size])
    result = metrics.result()
    accuracy, loss, error = _by_hand(logits, labels)
    assert result.images == 40 and result.accuracy == pytest.approx(accuracy)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.expected_calibration_error == pytest.approx(error, abs=1e-6)
    for i, name in enumerate("abc"):
        members = labels == i
        assert result.per_class[name].images == members.sum()
        assert result.per_class[name].accuracy == pytest.approx((logits[members].argmax(axis=1) == i).mean())
    assert result.per_class["d"].images == 0 and result.per_class["d"].accuracy is None


def test_certainty_is_in_the_last_bin() -> None:
    metrics = Metrics(("a", "b"))
    metrics.add(np.array([[1000, -1000], [1000, -1000]], np.float32), np.array([0, 1]))
    result = metrics.result()
    assert result.accuracy == 0.5 and result.expected_calibration_error == pytest.approx(0.5)


def test_a_model_that_diverged_is_wrong_and_its_figures_can_be_written_and_read() -> None:
    metrics = Metrics(("a", "b"))
    metrics.add(np.array([[np.nan, 0], [np.inf, 1], [2, 1]], np.float32), np.array([0, 0, 0]))
    result = metrics.result()
    assert result.accuracy == pytest.approx(1 / 3) and result.loss > 1e30
    assert type(result).from_json(result.to_json(), where="here") == result


def test_what_a_diverged_model_cannot_name_is_called_no_class() -> None:
    metrics = Metrics(("a", "b"))
    metrics.add(np.array([[np.nan, 0], [2, 1], [0, np.inf], [1, 2]], np.float32), np.array([1, 0, 1, 1]))
    result = metrics.result()
    assert result.confusion == ((1, 0), (0, 1)) and result.images == 4 and result.accuracy == 0.5
    found = {name: (of.images, of.accuracy, of.precision) for name, of in result.per_class.items()}
    assert found == {"a": (1, 1.0, 1.0), "b": (3, pytest.approx(1 / 3), 1.0)}


def test_metrics_tell_what_is_taken_for_what_and_what_is_most_wrong() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (200, 3)).astype(np.float32), rng.integers(0, 3, 200)
    metrics = Metrics(("a", "b", "c"))
    for start in range(0, 200, 7):
        part = slice(start, start + 7)
        metrics.add(logits[part], labels[part], np.arange(200)[part])
    found = metrics.result(lambda index: f"{index}.png")
    called = logits.argmax(1)
    by_hand = [[int(((labels == i) & (called == j)).sum()) for j in range(3)] for i in range(3)]
    assert [list(row) for row in found.confusion] == by_hand
    for i, name in enumerate("abc"):
        assert found.per_class[name].precision == pytest.approx(by_hand[i][i] / sum(row[i] for row in by_hand))
        assert found.per_class[name].accuracy == pytest.approx(by_hand[i][i] / sum(by_hand[i]))
    p = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (p / p.sum(1, keepdims=True)).max(1)
    worst = [i for i in np.argsort(-confidence) if called[i] != labels[i]][:10]
    assert [each.image for each in found.most_wrong] == [f"{i}.png" for i in worst]
    assert found.most_wrong[0].predicted == "abc"[called[worst[0]]]
    gap = sum(b.images * abs(b.confidence - b.accuracy) for b in found.reliability) / 200
    assert sum(b.images for b in found.reliability) == 200
    assert gap == pytest.approx(found.expected_calibration_error)


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    low, high = wilson_interval(81, 263) or (0, 0)  # worked by hand in Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 0) is None
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))


def test_of_many_classes_no_table_is_kept() -> None:
    metrics = Metrics(tuple(map(str, range(101))))
    metrics.add(np.zeros((1, 101), np.float32), np.array([0]))
    assert metrics.result().confusion == ()
