"""Pictures dealt to simulated devices: each with one, each device with enough, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast.errors import InputError, UsageError
from edgeplast.fleet.dealing import dealt


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(2, 7), each=st.integers(10, 40), devices=st.integers(1, 12),
    concentration=st.sampled_from([0.05, 0.3, 1.0, 100.0]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_every_picture_is_with_one_device_and_each_has_some(
    classes: int, each: int, devices: int, concentration: float, seed: int
) -> None:
    labels = np.repeat(np.arange(classes), each)
    if len(labels) < devices * 4:
        return
    hands = dealt(labels, devices, concentration, seed)
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(labels)))
    assert min(map(len, hands)) >= 4
    assert all(np.array_equal(a, b) for a, b in zip(hands, dealt(labels, devices, concentration, seed), strict=True))


def test_a_small_concentration_makes_devices_that_see_few_classes() -> None:
    labels = np.repeat(np.arange(10), 100)

    def classes_seen(concentration: float) -> float:
        hands = dealt(labels, 10, concentration, 1)
        return float(np.mean([max(np.bincount(labels[hand])) / len(hand) for hand in hands]))

    assert classes_seen(0.1) > classes_seen(1.0) > classes_seen(100.0)


def test_too_few_pictures_are_told() -> None:
    with pytest.raises(InputError, match=r"12 pictures are too few for 4 devices of at least 4 each"):
        dealt(np.zeros(12, np.int64), 4, 0.3, 0)
    with pytest.raises(UsageError, match="Cannot deal pictures to 3 devices with concentration 0 and seed 0"):
        dealt(np.zeros(12, np.int64), 3, 0.0, 0)
