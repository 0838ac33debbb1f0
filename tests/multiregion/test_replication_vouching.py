"""Whoever can write the primary's store, and no more, gets nothing signed and sent.

A follower believes the primary's signature and puts its own MAC under what it says. So
a record without a MAC of the primary's partitions must never be signed for it.
"""

import dataclasses
import secrets

import pytest

from hsmvault.model.access import ADMINISTRATOR
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Kind
from hsmvault.vault.ports import Change
from tests.support.nodes import TestVault, added, digest, now_ms, two_regions, until

AES = KeySpec.of("oct")


def forged(vault: TestVault) -> Change:
    """An assignment that makes mallory an administrator, under a MAC of nobody's."""
    record = AssignmentRecord(
        name="roleAssignments/mallory",
        revision=1,
        principal="CN=mallory",
        role_definition=ADMINISTRATOR.name,
        scope="/",
        create_ms=now_ms(),
        author="CN=admin",
    )
    change = vault.north.change(Kind.ROLE_ASSIGNMENT, record, 1)
    stored = dataclasses.replace(change.stored, mac=secrets.token_bytes(32))
    return Change(stored)


def swap(vault: TestVault) -> None:
    """Give each of two AES keys the other's wrapped bytes: both would open."""
    one, two = vault.north.create("one", AES), vault.north.create("two", AES)
    held = vault.north.store.wrapped_for([one.version, two.version], "south")
    (first, mac), (second, other) = held[one.version], held[two.version]
    vault.north.store.put_wrapped(
        [
            (dataclasses.replace(first, wrapped=second.wrapped), mac),
            (dataclasses.replace(second, wrapped=first.wrapped), other),
        ]
    )


def test_a_record_without_our_mac_is_not_sent_with_the_log(vault: TestVault) -> None:
    with two_regions(vault) as (primary, south, extended):
        before = digest(south.store)
        vault.north.commit(forged(vault))
        until(lambda: primary.replication().alarms)
        until(lambda: extended.replication().alarms)

        assert any(a.startswith("store:") for a in primary.replication().alarms)
        assert digest(south.store) == before


def test_a_record_without_our_mac_is_not_sent_with_a_snapshot(vault: TestVault) -> None:
    vault.north.commit(forged(vault))
    with vault.north.node() as primary:
        south = vault.region("south")
        with south.node() as extended:
            added(primary, south)
            until(lambda: extended.replication().alarms)

            assert any(a.startswith("store:") for a in primary.replication().alarms)
            assert south.store.head() is None


@pytest.mark.parametrize("when", ["log", "snapshot"])
def test_wrapped_keys_that_were_swapped_are_not_sent(
    vault: TestVault, when: str
) -> None:
    with two_regions(vault) as (primary, south, extended):
        held = south.store.head()
        south.workers.away = True
        if when == "snapshot":
            south.store.close()
            for path in south.directory.glob("vault.db*"):
                path.unlink()
            held = None
    south.workers.away = False
    swap(vault)
    if when == "snapshot":
        south.store = south.open_store()

    with vault.north.node() as primary, south.node() as extended:
        until(lambda: primary.replication().alarms and extended.replication().alarms)

        assert south.store.head() == held
        assert vault.north.state_of("south") is RegionState.SUCCEEDED
