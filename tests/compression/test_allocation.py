"""Which units go: enough, hardly more than enough, the least worthy first, and never all of a component."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeplast.compression.allocation import Choice, allocate, gone_by_ratio, least_worthy, most_saved


@st.composite
def choices(draw: st.DrawFn) -> list[Choice]:
    made = []
    for i in range(draw(st.integers(1, 5))):
        units = draw(st.integers(1, 40))
        worth = draw(st.lists(st.floats(0, 1e6), min_size=units, max_size=units))
        made.append(
            Choice(
                f"c{i}",
                np.array(worth),
                cost=draw(st.sampled_from([0, 1, 7, 250.5])),
                least=draw(st.integers(1, units)),
                step=draw(st.sampled_from([1, 1, 4, 8])),
            )
        )
    return made


def saved(made: list[Choice], gone: dict[str, np.ndarray]) -> float:
    return sum(choice.cost * len(gone[choice.name]) for choice in made)


@given(choices(), st.floats(0, 1))
def test_enough_goes_and_no_group_too_many(made: list[Choice], share: float):
    wanted = share * most_saved(made)
    gone = allocate(made, wanted)
    assert saved(made, gone) >= wanted * (1 - 1e-12)
    for choice in made:
        units = gone[choice.name]
        assert len(choice.worth) - len(units) >= choice.least >= 1
        assert len(units) % choice.step == 0 and len(np.unique(units)) == len(units)
        if len(units) and choice.cost:  # without its last group too little would be saved
            assert saved(made, gone) - choice.step * choice.cost < wanted


@given(choices(), st.floats(0, 1))
def test_within_a_component_the_least_worthy_go(made: list[Choice], share: float):
    gone = allocate(made, share * most_saved(made))
    for choice in made:
        stays = np.delete(choice.worth, gone[choice.name])
        assert not len(gone[choice.name]) or choice.worth[gone[choice.name]].max() <= stays.min()


def test_over_components_the_least_worth_per_cost_goes_first():
    made = [Choice("cheap", np.ones(10), cost=1), Choice("dear", np.ones(10), cost=2)]
    assert {name: len(units) for name, units in allocate(made, 18).items()} == {"cheap": 0, "dear": 9}


def test_what_saves_nothing_is_left_alone():
    assert not len(allocate([Choice("free", np.zeros(5), cost=0), Choice("other", np.ones(5), cost=1)], 2)["free"])


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_a_ratio_takes_its_share_and_leaves_one(units: int, ratio: float):
    count = gone_by_ratio(units, ratio)
    assert 0 <= count < units and (abs(count - ratio * units) <= 0.5 or count == units - 1)
    worth = np.random.default_rng(units).random(units)
    assert len(least_worthy(worth, count)) == count
