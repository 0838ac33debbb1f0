"""The order of everything, and a chain that cannot mean two histories."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hsmvault.model.errors import InvalidRequest
from hsmvault.model.log import (
    GENESIS,
    Entry,
    Epoch,
    Head,
    Position,
    RequestMark,
    chain,
    packed,
)
from tests.unit import strategies as some

parts = st.lists(st.binary(max_size=20), max_size=6)


@given(some.positions)
def test_a_position_reads_back_as_it_was_written(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(some.positions, some.positions)
def test_a_later_epoch_comes_after_every_index_of_an_earlier_one(
    one: Position, other: Position
) -> None:
    if one.epoch.number != other.epoch.number:
        assert (one < other) == (one.epoch.number < other.epoch.number)
    elif one.epoch.region == other.epoch.region:
        assert (one < other) == (one.index < other.index)


@given(some.text)
def test_what_parses_as_a_position_is_written_alike(text: str) -> None:
    try:
        position = Position.parse(text)
    except InvalidRequest:
        return
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.north",
        "1.north.",
        ".north.1",
        "1.north.-1",
        "1.North.1",
        "1.north.1 ",
        "1.north.1\n",
        "1.north.1.1",
        "-1.north.1",
        "1.north." + "9" * 19,
        "9999999999.north.1",
        "0x1.north.1",
    ],
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Position.parse(text)


@given(parts, parts)
def test_packing_is_injective(one: list[bytes], other: list[bytes]) -> None:
    """What is signed or MACed means one thing: no field can leak into the next."""
    assert (packed(*one) == packed(*other)) == (one == other)


@given(st.binary(max_size=20), st.binary(min_size=1, max_size=20), st.data())
def test_moving_a_border_between_fields_changes_what_is_packed(
    one: bytes, other: bytes, data: st.DataObject
) -> None:
    by = data.draw(st.integers(1, len(other)))

    assert packed(one, other) != packed(one + other[:by], other[by:])


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_packed_apart(one: int, other: int) -> None:
    assert (packed(one) == packed(other)) == (one == other)


@given(some.entries, st.binary(min_size=32, max_size=32))
def test_the_chain_depends_on_everything_before(entry: Entry, previous: bytes) -> None:
    assume(previous != GENESIS)

    assert chain(previous, entry) != chain(GENESIS, entry)
    assert len(chain(previous, entry)) == 32


@given(some.entries, some.entries)
def test_entries_that_differ_have_different_chain_values(
    one: Entry, other: Entry
) -> None:
    assert (chain(GENESIS, one) == chain(GENESIS, other)) == (one == other)


@given(some.entries, some.request_marks)
def test_no_field_of_an_entry_is_outside_the_chain(
    entry: Entry, mark: RequestMark
) -> None:
    """Whatever a thief of the store changes, the next signed head does not fit."""
    place, epoch = entry.position, entry.position.epoch
    changed = [
        replace(entry, time_ms=entry.time_ms + 1),
        replace(entry, resource=entry.resource + "x"),
        replace(entry, record=entry.record + b"x"),
        replace(entry, position=Position(epoch, place.index + 1)),
        replace(
            entry, position=Position(Epoch(epoch.number + 1, epoch.region), place.index)
        ),
        replace(
            entry,
            position=Position(Epoch(epoch.number, epoch.region + "x"), place.index),
        ),
        replace(entry, request=None if entry.request else mark),
    ]

    values = {chain(GENESIS, e) for e in [entry, *changed]}

    assert len(values) == len(changed) + 1


@given(some.entries, st.binary(min_size=32, max_size=32))
def test_an_entrys_own_chain_value_is_not_part_of_it(
    entry: Entry, value: bytes
) -> None:
    assert chain(GENESIS, entry) == chain(GENESIS, replace(entry, chain=value))


@given(some.positions, some.positions, some.version_ids, some.version_ids)
def test_a_head_vouches_for_one_place_in_one_vault(
    one: Position, other: Position, vault: str, another: str
) -> None:
    head, elsewhere = Head(one, GENESIS), Head(other, GENESIS)

    assert (head.statement(vault) == elsewhere.statement(another)) == (
        (one, vault) == (other, another)
    )
