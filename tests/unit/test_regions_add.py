"""What must hold before a region is added: decided from records alone."""

import dataclasses
from collections.abc import Callable

import pytest

from hsmvault.model.errors import (
    AlreadyExists,
    InvalidRequest,
    MalformedName,
    RegionBusy,
    VaultError,
    WrongState,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.vault_records import PartitionCard, RegionRecord, VaultRecord
from hsmvault.regions.add import IN_FLIGHT, addable, unfit
from hsmvault.regions.ports import Greeting

NOW = 1_700_000_000_000
VAULT = VaultRecord(
    "v" * 32, revision=1, create_ms=1, region_limit=2, page_key=bytes(32)
)


def region(
    name: str, state: RegionState = RegionState.SUCCEEDED, *, primary: bool = False
) -> RegionRecord:
    return RegionRecord(
        name=f"regions/{name}",
        revision=4,
        state=state,
        primary=primary,
        zone="eu",
        endpoint=f"{name}:1",
        partition_endpoints=(f"{name}:2",),
        private_endpoint=f"{name}:3",
        partitions=(PartitionCard("p0", name.encode()),),
        certificate=f"certificate of {name}",
        create_ms=1,
        update_ms=1,
    )


NORTH = region("north", primary=True)


def add(asked: RegionRecord, *others: RegionRecord) -> RegionRecord:
    regions = {record.id: record for record in (NORTH, *others)}
    return addable(asked, regions=regions, vault=VAULT, own="north", now_ms=NOW)


def test_a_new_region_begins_its_life_whatever_was_asked() -> None:
    asked = dataclasses.replace(region("south"), primary=True, problem="none of yours")

    record = add(asked)

    assert (record.state, record.primary) == (RegionState.PREPROVISIONING, False)
    assert (record.revision, record.problem) == (1, "")
    assert (record.create_ms, record.update_ms) == (NOW, NOW)


def test_no_region_ever_gets_the_ordinal_of_another() -> None:
    """It decides what share of a key's GCM invocations is the region's own."""
    former = dataclasses.replace(region("south", RegionState.PURGED), ordinal=1)
    other = dataclasses.replace(region("west"), ordinal=2)
    asked = dataclasses.replace(region("south"), ordinal=0)

    again = add(asked, former, other)

    assert again.ordinal == 3
    left = dataclasses.replace(again, state=RegionState.PURGED)
    assert add(region("east"), other, left).ordinal == 4


@pytest.mark.parametrize("state", [RegionState.PURGED, RegionState.FAILED], ids=str)
def test_a_name_that_is_free_again_goes_on_with_its_revisions(
    state: RegionState,
) -> None:
    assert add(region("south"), region("south", state)).revision == 5


Change = Callable[[RegionRecord], RegionRecord]


def changed(**fields: object) -> RegionRecord:
    return dataclasses.replace(region("south"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (changed(name="regions/South"), MalformedName),
        (changed(name="regions/../north"), MalformedName),
        (changed(name="regions/north"), InvalidRequest),
        (changed(zone="us"), WrongState),
        (changed(certificate=" "), InvalidRequest),
        (changed(endpoint=""), InvalidRequest),
        (changed(private_endpoint=""), InvalidRequest),
        (changed(partitions=()), InvalidRequest),
        (changed(partition_endpoints=()), InvalidRequest),
        (changed(partitions=(PartitionCard("p0", b""),)), InvalidRequest),
        (
            changed(
                partitions=(PartitionCard("p0", b"1"), PartitionCard("p0", b"2")),
                partition_endpoints=("a:1", "b:1"),
            ),
            InvalidRequest,
        ),
        (changed(certificate="certificate of north"), AlreadyExists),
        (changed(partitions=(PartitionCard("p0", b"north"),)), AlreadyExists),
        (changed(private_endpoint="north:3"), AlreadyExists),
    ],
)
def test_what_is_unsound_or_anothers_is_refused(
    asked: RegionRecord, refusal: type[VaultError]
) -> None:
    with pytest.raises(refusal):
        add(asked)


@pytest.mark.parametrize("state", sorted(IN_FLIGHT), ids=str)
def test_one_region_at_a_time(state: RegionState) -> None:
    with pytest.raises(RegionBusy):
        add(region("south"), region("east", state))


@pytest.mark.parametrize(
    "state",
    sorted(set(RegionState) - {RegionState.PURGED, RegionState.FAILED}),
    ids=str,
)
def test_a_name_that_is_taken_stays_taken(state: RegionState) -> None:
    with pytest.raises(AlreadyExists):
        add(region("south"), region("south", state))


def test_the_limit_counts_the_regions_that_are_there() -> None:
    gone = region("gone", RegionState.PURGED), region("bad", RegionState.FAILED)

    add(region("south"), region("east"), *gone)

    with pytest.raises(WrongState, match="limit is 2"):
        add(region("south"), region("east"), region("west"))


def test_only_an_empty_region_of_this_vault_is_fit() -> None:
    head = Head(Position(Epoch(1, "south"), 9), bytes(32))

    assert unfit(Greeting("vault", None, "1"), vault_id="vault") == ""
    assert "vault other" in unfit(Greeting("other", None, "1"), vault_id="vault")
    assert "not empty" in unfit(Greeting("vault", head, "1"), vault_id="vault")
