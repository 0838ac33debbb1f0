"""Rates: exact, fair between names, and bounded in memory whoever asks."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hsmvault.api.rates import SECOND_NS, Rates


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: int = 10**12

    def __call__(self) -> int:
        return self.now


@given(st.integers(1, 1000))
def test_a_second_s_worth_is_there_at_once_and_then_one_by_one(rate: int) -> None:
    clock = Clock()
    rates = Rates(clock)

    taken = sum(rates.take("a", rate) == 0 for _ in range(rate + 5))
    wait = rates.take("a", rate)
    clock.now += wait - 1
    early = rates.take("a", rate)
    clock.now += 1

    assert taken == rate
    assert 0 < wait <= SECOND_NS // rate
    assert early == 1
    assert rates.take("a", rate) == 0
    assert rates.take("a", rate) > 0


@given(st.integers(1, 200), st.lists(st.integers(0, SECOND_NS // 10), max_size=60))
def test_never_more_than_the_rate_in_the_long_run(rate: int, pauses: list[int]) -> None:
    clock = Clock()
    rates, taken, began = Rates(clock), 0, clock.now
    for pause in pauses:
        clock.now += pause
        taken += rates.take("a", rate) == 0

    seconds = (clock.now - began) / SECOND_NS
    assert taken <= rate + seconds * rate * 1.001 + 1


def test_names_do_not_take_from_each_other() -> None:
    rates = Rates(Clock())
    while not rates.take("greedy", 5):
        pass

    assert rates.take("modest", 5) == 0


def test_what_costs_more_than_there_is_is_paid_for_afterwards() -> None:
    clock = Clock()
    rates = Rates(clock)

    assert rates.take("a", 10) == 0
    rates.charge("a", 10, 999)

    assert rates.take("a", 10) == 99 * SECOND_NS + SECOND_NS // 10
    clock.now += 100 * SECOND_NS
    assert rates.take("a", 10) == 0


def test_as_many_names_are_kept_as_there_is_room_for_the_busy_ones_first() -> None:
    clock = Clock()
    rates = Rates(clock, names_max=100)
    while not rates.take("busy", 10):
        pass

    clock.now += SECOND_NS // 5
    for number in range(10_000):
        rates.take(f"n{number}", 10)
        # So that buckets fill up again, but never that of the busy one.
        clock.now += SECOND_NS // 100
        rates.charge("busy", 10, 1)

    assert len(rates) <= 100
    assert rates.take("busy", 10) > 0


def test_a_flood_of_new_names_does_not_grow_beyond_the_bound() -> None:
    rates = Rates(Clock(), names_max=50)

    for number in range(5_000):
        rates.take(f"n{number}", 10)

    assert len(rates) <= 50
