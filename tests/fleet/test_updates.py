"""What travels: rounded, checked when it arrives, and nothing lost over the rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeplast.errors import UsageError
from edgeplast.fleet.updates import TRAVEL, LeftOver, RefusedUpdateError, norm, packed, unpacked

ARRAYS = arrays(np.float32, array_shapes(max_dims=3, max_side=5), elements=st.floats(-1e4, 1e4, width=32))
ROUNDED_BY = {"float32": 0.0, "float16": 2.0**-10, "int8": 0.5 / 127 + 1e-6}
"""Largest error as a share of the row's largest magnitude."""


def shapes(update: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in update.items()}


@given(array=ARRAYS, travel=st.sampled_from(TRAVEL))
def test_what_arrives_is_what_was_sent_up_to_rounding(array: np.ndarray, travel: str) -> None:
    arrived = unpacked(packed({"w": array}, travel), {"w": array.shape})["w"]
    rows = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    allowed = np.abs(rows).max(axis=1, initial=0) * ROUNDED_BY[travel] + 1e-7
    assert arrived.dtype == np.float32 and arrived.shape == array.shape
    assert (np.abs(arrived - array).reshape(rows.shape) <= allowed[:, None]).all()


def test_int8_is_a_quarter_of_the_bytes() -> None:
    update = {"w": np.ones((64, 192), np.float32)}
    size = {travel: sum(a.nbytes for a in packed(update, travel).values()) for travel in TRAVEL}
    assert size["float16"] * 2 == size["float32"] and size["int8"] < size["float32"] * 0.26


@pytest.mark.parametrize("travel", ["float16", "int8"])
def test_error_feedback_makes_up_for_rounding_over_the_rounds(tmp_path: Path, travel: str) -> None:
    rng = np.random.default_rng(0)
    left, wanted, arrived, without = LeftOver(tmp_path / "left", "7"), 0.0, 0.0, 0.0
    for _ in range(200):
        update = {"w": rng.normal(3e-4, 1e-3, (4, 32)).astype(np.float32)}
        update["w"][:, 0] = 1.0  # one large number in each row leaves the others few steps
        wanted = wanted + update["w"]
        without = without + unpacked(packed(update, travel), shapes(update))["w"]
        whole = left.added(update)
        sent = packed(whole, travel)
        left.keep(whole, sent)
        arrived = arrived + unpacked(sent, shapes(update))["w"]
    off, off_without = np.abs(arrived - wanted).max(), np.abs(without - wanted).max()
    assert off < 0.01 and off < off_without / 3


def test_what_another_run_left_over_is_forgotten(tmp_path: Path) -> None:
    update = {"w": np.full((2, 3), 0.123456, np.float32)}
    LeftOver(tmp_path / "left", "1").keep(update, packed(update, "float16"))
    assert not np.array_equal(LeftOver(tmp_path / "left", "1").added(update)["w"], update["w"])
    assert np.array_equal(LeftOver(tmp_path / "left", "2").added(update)["w"], update["w"])
    (tmp_path / "left").write_bytes(b"torn")
    assert np.array_equal(LeftOver(tmp_path / "left", "1").added(update)["w"], update["w"])


GOOD = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a": None}, "1 of 2 arrays are missing, a first"),
        ({"c": np.ones(1, np.float32)}, "1 arrays have names that the model does not know"),
        ({"a": np.ones((3, 2), np.float32)}, r"a has shape \[3, 2\] instead of \[2, 3\]"),
        ({"a": np.ones((2, 3), np.float64)}, "a is float64; float32, float16, int8 are taken"),
        ({"a": np.array([["x"] * 3] * 2)}, "a is <U1"),
        ({"b": np.array([1, np.nan, 1, 1], np.float32)}, "b holds what is no finite number"),
        ({"b": np.array([1, np.inf, 1, 1], np.float16)}, "b holds what is no finite number"),
        ({"a": np.ones((2, 3), np.int8)}, "a is int8 and has no scale for each of its 2 rows"),
        ({"a": np.ones((2, 3), np.int8), "a:scale": np.ones(3, np.float32)}, "no scale for each of its 2 rows"),
        ({"a": np.ones((2, 3), np.int8), "a:scale": np.full(2, np.inf, np.float32)}, "a holds what is no finite"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(changed: dict[str, np.ndarray | None], said: str) -> None:
    sent = {name: array for name, array in {**GOOD, **changed}.items() if array is not None}
    with pytest.raises(RefusedUpdateError, match=said):
        unpacked(sent, shapes(GOOD))


def test_an_unknown_way_to_travel_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"Unknown travel 'float8'.*Known: float32, float16, int8"):
        packed(GOOD, "float8")


def test_norm_is_over_all_arrays() -> None:
    assert norm({"a": np.full((2, 2), 3, np.float32), "b": np.full(1, 8, np.float32)}) == pytest.approx(10)
