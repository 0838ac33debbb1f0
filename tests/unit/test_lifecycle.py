"""The life of a key and of a region: what is not in a table does not happen."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.algorithms import Operation
from hsmvault.model.errors import KeyNotEnabled, WrongState
from hsmvault.model.lifecycle import (
    NEXT,
    RECEIVING,
    REGION_NEXT,
    KeyState,
    RegionState,
    Step,
    after,
    require_within_dates,
)
from tests.unit import strategies as some

PAST = {Operation.DECRYPT, Operation.UNWRAP_KEY, Operation.VERIFY}


@pytest.mark.parametrize(("state", "step"), tuple(product(KeyState, Step)))
def test_a_key_moves_as_the_table_says_or_not_at_all(
    state: KeyState, step: Step
) -> None:
    if (state, step) in NEXT:
        assert after(state, step, name="keys/a") is NEXT[state, step]
    else:
        with pytest.raises(WrongState, match=r"keys/a is .*, so it cannot"):
            after(state, step, name="keys/a")


def test_a_purged_key_never_comes_back() -> None:
    assert not [step for state, step in NEXT if state is KeyState.PURGED]


def test_a_live_key_is_deleted_before_it_is_purged() -> None:
    assert (KeyState.ACTIVE, Step.PURGE) not in NEXT


def test_deleting_and_recovering_leads_back() -> None:
    deleted = after(KeyState.ACTIVE, Step.DELETE, name="keys/a")

    assert after(deleted, Step.RECOVER, name="keys/a") is KeyState.ACTIVE


@given(st.lists(st.sampled_from(Step), max_size=12))
def test_whatever_is_asked_purging_is_the_end(steps: list[Step]) -> None:
    state, purged = KeyState.ACTIVE, False
    for step in steps:
        try:
            state = after(state, step, name="keys/a")
        except WrongState:
            continue
        assert not purged
        purged = state is KeyState.PURGED


def test_every_state_of_a_region_says_where_it_leads() -> None:
    assert REGION_NEXT.keys() == set(RegionState)


@pytest.mark.parametrize("state", set(RegionState) - {RegionState.PURGED}, ids=str)
def test_every_region_can_be_removed_in_the_end(state: RegionState) -> None:
    reached, found = {state}, {state}
    while found:
        found = {after for one in found for after in REGION_NEXT[one]} - reached
        reached |= found

    assert RegionState.PURGED in reached


def test_a_region_purges_only_through_deleting() -> None:
    leading = {s for s, after in REGION_NEXT.items() if RegionState.PURGED in after}

    assert leading == {RegionState.DELETING}
    assert not REGION_NEXT[RegionState.PURGED]


def test_a_region_on_its_way_out_receives_no_keys() -> None:
    assert not RECEIVING & {
        RegionState.DELETING,
        RegionState.PURGED,
        RegionState.FAILED,
    }


@given(some.operations, some.times, some.times, some.times)
def test_outside_its_dates_a_key_only_reads_the_past(
    operation: Operation, now: int, not_before: int, expire: int
) -> None:
    early = not_before != 0 and now < not_before
    late = expire != 0 and now >= expire
    try:
        require_within_dates(
            operation,
            now_ms=now,
            not_before_ms=not_before,
            expire_ms=expire,
            name="keys/a",
        )
    except KeyNotEnabled:
        assert operation not in PAST
        assert early or late
    else:
        assert operation in PAST or not (early or late)
