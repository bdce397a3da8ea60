"""Bytes and seconds as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeplast.errors import UsageError
from edgeplast.units import (
    exact_bytes,
    format_bytes,
    format_count,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("256MiB", 256 << 20),
        (" 200 mb ", 200_000_000),
        ("1.5GiB", 3 << 29),
        (".5k", 500),
        ("1048576", 1 << 20),
        (1048576, 1 << 20),
        ("1 KiB", 1024),
    ],
)
def test_amounts_of_memory_are_read(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "many", "-1MiB", "0MiB", "0.2B", "1TBit", "1 2MiB", "9" * 400, "MiB", -3])
def test_what_is_no_amount_is_refused_with_examples(text: str | int) -> None:
    with pytest.raises(UsageError, match="256MiB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["128", "0", "0.2", " 200 "])
def test_a_small_number_without_a_unit_is_asked_for_one(text: str) -> None:
    with pytest.raises(UsageError, match=rf"has no unit\. Give one: {text.strip()}MiB, "):
        parse_bytes(text)


@given(st.text())
def test_any_text_is_an_amount_or_a_usage_error(text: str) -> None:
    try:
        assert parse_bytes(text) >= 1
    except UsageError as error:
        assert repr(text) in str(error)


@given(st.integers(1, 1 << 50))
def test_a_formatted_amount_reads_back_within_half_a_percent(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.0051)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12.3 ms"),
        (0.55, "0.55 s"),
        (41, "41 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("0.5 s", 0.5), ("2", 2.0), (" 1.5ms ", 0.0015)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "0ms", "-3s", "5 min"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .* as a time\. Give a positive number with a unit: 20ms"):
        parse_seconds(text)


@pytest.mark.parametrize(("text", "count"), [("800M", 800_000_000), ("1.2G", 1_200_000_000), ("7", 7), ("2 k", 2000)])
def test_counts_are_read(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "0", "3 MiB", "-1M"])
def test_what_is_no_count_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .* as a number\. Give a positive one, e\.g\. 800M"):
        parse_count(text)


@given(st.integers(1, 10**14))
def test_a_formatted_count_reads_back_within_half_a_percent(count: int) -> None:
    assert parse_count(format_count(count)) == pytest.approx(count, rel=0.0051)


@given(st.integers(1, 2**50))
def test_exact_bytes_are_read_back(count: int) -> None:
    assert parse_bytes(exact_bytes(count)) == count


def test_exact_bytes_are_written_as_people_would() -> None:
    assert [exact_bytes(n) for n in (256 << 20, 3 << 30, 1000)] == ["256MiB", "3GiB", "1000B"]
