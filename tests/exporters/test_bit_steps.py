"""The way from many bits to few: against every choice there is, and no part ever going back up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeplast_exporters.bit_steps import total, way_down

BITS = (32, 8, 4)
numbers = st.integers(0, 1000).map(float)
tables = st.lists(
    st.tuples(numbers, numbers, st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5
)


def parts(table: list[tuple[float, float, int, int, int]]) -> tuple[dict, dict]:
    """Errors that rise and bytes that fall with fewer bits."""
    errors = {f"p{i}": {32: 0.0, 8: e, 4: e + more} for i, (e, more, *_) in enumerate(table)}
    sizes = {f"p{i}": {32: a + b + c, 8: a + b, 4: a} for i, (*_, a, b, c) in enumerate(table)}
    return errors, sizes


@settings(deadline=None)
@given(tables, st.floats(0, 1))
def test_the_error_is_the_least_possible_but_for_the_last_step(table: list, share: float) -> None:
    errors, sizes = parts(table)
    states = way_down(errors, sizes)
    most, least = total(states[0], sizes), total(states[-1], sizes)
    limit = least + share * (most - least)
    index = next(i for i, state in enumerate(states) if total(state, sizes) <= limit)
    choices = (dict(zip(errors, bits, strict=True)) for bits in itertools.product(BITS, repeat=len(errors)))
    best = min(total(state, errors) for state in choices if total(state, sizes) <= limit)
    last_step = total(states[index], errors) - total(states[max(index - 1, 0)], errors)
    assert best <= total(states[index], errors) <= best + last_step + 1e-6
    if total(states[index], sizes) == limit:  # nothing is left over, so nothing better could have been bought
        assert total(states[index], errors) == pytest.approx(best)


@settings(deadline=None)
@given(tables)
def test_less_room_never_gives_a_part_more_bits(table: list) -> None:
    errors, sizes = parts(table)
    states = way_down(errors, sizes)
    assert set(states[0].values()) == {32} and set(states[-1].values()) == {4}
    for before, after in itertools.pairwise(states):
        assert total(after, sizes) < total(before, sizes)
        assert all(after[part] <= before[part] for part in errors)


def test_what_forgives_goes_first_and_a_bad_middle_is_passed_over() -> None:
    errors = {"plastic": {32: 0.0, 8: 1.0, 4: 10.0}, "smooth": {32: 0.0, 8: 0.1, 4: 1.0}, "odd": {32: 0, 8: 90, 4: 95}}
    sizes = {part: {32: 400, 8: 100, 4: 50} for part in errors}
    states = way_down(errors, sizes)
    assert [(state["plastic"], state["smooth"], state["odd"]) for state in states] == [
        (32, 32, 32), (32, 8, 32), (8, 8, 32), (8, 4, 32), (4, 4, 32), (4, 4, 4),
    ]  # fmt: skip


def test_fewer_bits_never_count_as_more_exact() -> None:
    states = way_down({"a": {8: 5.0, 4: 1.0}, "b": {8: 0.0, 4: 1.0}}, {part: {8: 100, 4: 50} for part in "ab"})
    assert states == [{"a": 8, "b": 8}, {"a": 4, "b": 8}, {"a": 4, "b": 4}]
