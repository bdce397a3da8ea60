"""Updates beside one another: the odd one is left out, with its reason; what a device says of itself is looked at."""

from __future__ import annotations

import pytest

from edgeplast.fleet.checking import examples_of, largest_median, too_large


def test_an_update_far_larger_than_the_others_is_left_out() -> None:
    found = too_large({"a": 1.0, "b": 1.2, "c": 30.0, "d": 0.9}, 10)
    assert list(found) == ["c"] and "its norm is 30, more than 10 × the largest median so far (1.1)" in found["c"]


@pytest.mark.parametrize("norms", [{"a": 1.0, "b": 1e9}, {"a": 0.0, "b": 0.0, "c": 1.0}])
def test_of_two_nobody_can_say_which_is_odd_and_zeros_set_no_measure(norms: dict[str, float]) -> None:
    assert too_large(norms, 10) == {}


def test_any_norm_is_taken_where_that_is_wanted() -> None:
    assert too_large({"a": 1.0, "b": 1.0, "c": 1e30}, 0) == {}


@pytest.mark.parametrize("given", [None, 0, -3, True, float("nan"), float("inf"), 1e12, [5], "5"])
def test_a_count_of_pictures_that_cannot_be_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"it says it learned from .* pictures"):
        examples_of({"n": given}, "n")


def test_a_possible_count_is_taken() -> None:
    assert examples_of({"n": 42}, "n") == 42 and examples_of({"n": 42.0}, "n") == 42


def test_who_still_learns_when_the_others_have_learned_is_taken() -> None:
    """Norms of a fleet of ten on blood cells: the fifth device has other pictures and is the last to learn."""
    rounds = [[0.98, 1.19, 1.09, 0.98, 1.26], [0.26, 1.06, 0.40, 0.41, 0.54]]
    last = {"a": 0.0083, "b": 0.009, "c": 0.0098, "d": 0.0074, "e": 0.0967}
    assert too_large(last, 10) and not too_large(last, 10, largest_median(rounds))
    assert list(too_large({**last, "f": 12.0}, 10, largest_median(rounds))) == ["f"]
    assert largest_median([]) == 0 and largest_median([[1.0, 2.0]]) == 0
