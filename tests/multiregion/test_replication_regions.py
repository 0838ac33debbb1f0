"""Regions come and go: added step by step, crash or not, and removed for good."""

import base64
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from hsmvault.model.access import CRYPTO_OFFICER
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityFailure,
    InvalidRequest,
    NotFound,
    NotPrimary,
    PinRejected,
    RegionBusy,
    Unavailable,
    VaultError,
    WrongState,
)
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Head, Kind
from hsmvault.model.orders import ORDER_MS, RemovalOrder
from hsmvault.model.stored import pair_key_name
from hsmvault.regions.certificates import Authority
from hsmvault.regions.heads import HeadSigner
from hsmvault.regions.purge import order_facts
from hsmvault.replication.node import Node
from tests.support.nodes import (
    ADMIN,
    VAULT,
    TestRegion,
    TestVault,
    added,
    digest,
    now_ms,
    two_regions,
    until,
)

BY = f"CN={ADMIN}"


# --- adding ----------------------------------------------------------------------


def test_all_pairs_of_regions_get_keys_of_their_own(vault: TestVault) -> None:
    with two_regions(vault) as (primary, south, _):
        east = vault.region("east")
        with east.node():
            added(primary, east)
            until(lambda: vault.north.state_of("east") is RegionState.SUCCEEDED)

            keys = set()
            for one in (vault.north, south, east):
                for other in (vault.north, south, east):
                    if one is other:
                        continue
                    name = pair_key_name(one.name, other.name)
                    copies = {h.keys[name] for h in one.hsms.values()}
                    assert {h.keys[name] for h in other.hsms.values()} == copies
                    (key,) = copies
                    keys.add(key)
            assert len(keys) == 6
            late = vault.north.create("late")
            until(lambda: south.index == east.index == vault.north.index)
            assert south.usable(late)
            assert east.usable(late)


def test_a_third_region_waits_for_the_officers_of_all_the_others(
    vault: TestVault,
) -> None:
    with two_regions(vault) as (primary, south, _):
        south.officers.here = False
        east = vault.region("east")
        with east.node():
            added(primary, east)
            until(lambda: "region south" in vault.north.record("east").problem)
            # It follows all the same.
            assert vault.north.state_of("east") is RegionState.PROVISIONING
            until(lambda: east.index == vault.north.index)

            south.officers.here = True
            until(lambda: vault.north.state_of("east") is RegionState.SUCCEEDED)
            assert vault.north.record("east").problem == ""


def test_writes_go_on_while_a_region_is_added_and_all_arrive(vault: TestVault) -> None:
    first = [vault.north.create(f"old-{number}") for number in range(10)]
    meanwhile: list[VersionRecord] = []

    def write() -> None:
        if len(meanwhile) < 5:
            meanwhile.append(vault.north.create(f"during-{len(meanwhile)}"))

    vault.north.workers.before_seal = write
    with two_regions(vault) as (_, south, _extended):
        until(lambda: south.index == vault.north.index)

        assert meanwhile
        assert all(south.usable(version) for version in (*first, *meanwhile))


STATES = (
    RegionState.PREPROVISIONING,
    RegionState.AWAITING_CEREMONY,
    RegionState.PROVISIONING,
)


@pytest.mark.parametrize("state", STATES, ids=str)
def test_a_manager_that_starts_again_takes_the_region_from_where_it_was(
    vault: TestVault, state: RegionState
) -> None:
    versions = [vault.north.create(f"key-{number}") for number in range(5)]
    hinder, release = hindrance(vault, state)
    with vault.north.node() as primary:
        south = vault.region("south")
        hinder(south)
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is state)

    release(south)
    with vault.north.node(), south.node():
        until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
        until(lambda: south.index == vault.north.index)

        assert all(south.usable(version) for version in versions)


def test_nothing_is_sent_before_all_is_sealed(vault: TestVault) -> None:
    """A snapshot without its wrapped keys would never get them."""
    version = vault.north.create("old")
    hinder, release = hindrance(vault, RegionState.PROVISIONING)
    with vault.north.node() as primary:
        south = vault.region("south")
        hinder(south)
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.PROVISIONING)
            # Some heartbeats long.
            threading.Event().wait(0.5)
            assert south.store.head() is None

            release(south)
            until(lambda: south.index == vault.north.index > 0)
            assert south.usable(version)


def hindrance(
    vault: TestVault, state: RegionState
) -> tuple[Callable[[TestRegion], None], Callable[[TestRegion], None]]:
    """What keeps a region in a state, and what sets it free again."""

    def broken(*_: object) -> None:
        raise Unavailable("it is away")

    def free(south: TestRegion) -> None:
        south.joined = vault.north.card
        vault.north.officers.fails = lambda _p, _t: None
        vault.north.workers.before_seal = lambda: None

    def hinder(south: TestRegion) -> None:
        match state:
            case RegionState.PREPROVISIONING:
                nowhere = dataclasses.replace(
                    vault.north.card, private_endpoint="127.0.0.1:1"
                )
                south.joined = nowhere
            case RegionState.AWAITING_CEREMONY:
                vault.north.officers.fails = broken
            case _:
                vault.north.workers.before_seal = broken

    return hinder, free


@pytest.mark.parametrize("step", range(0, 24, 3))
def test_a_ceremony_that_breaks_off_anywhere_is_held_again(
    vault: TestVault, step: int
) -> None:
    asked = 0

    def break_once(_partition: str, _task: Mapping[str, object]) -> None:
        nonlocal asked
        asked += 1
        if asked == step + 1:
            raise Unavailable("the officer's process ended")

    with vault.north.node() as primary:
        south = vault.region("south")
        vault.north.officers.fails = south.officers.fails = break_once
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
            late = vault.north.create("late")
            until(lambda: south.index == vault.north.index)

            assert south.usable(late)


@pytest.mark.parametrize("where", ["north", "south"])
def test_a_wrong_pin_is_tried_once_and_fails_the_adding(
    vault: TestVault, where: str
) -> None:
    tried: list[str] = []

    def rejected(partition: str, _task: Mapping[str, object]) -> None:
        tried.append(partition)
        raise PinRejected("the token refused the SO PIN")

    with vault.north.node() as primary:
        south = vault.region("south")
        region = vault.north if where == "north" else south
        region.officers.fails = rejected
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.FAILED)

            assert "refused the SO PIN" in vault.north.record("south").problem
            assert len(tried) == len(set(tried))

            # Put right, it is added again under its name.
            region.officers.fails = lambda _p, _t: None
            again = added(primary, south)
            assert again.revision == vault.north.record("south").revision
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)


def test_a_region_that_is_not_empty_is_not_added(vault: TestVault) -> None:
    """One that was removed behind its back, say, and is brought in again as it is."""
    with two_regions(vault) as (_, south, _extended):
        pass
    with vault.north.node() as primary:
        primary.remove_region(vault.order("south"), force=True, principal=BY)
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.FAILED)

            assert "not empty" in vault.north.record("south").problem


def test_what_cannot_be_added_is_refused_with_nothing_changed(vault: TestVault) -> None:
    with two_regions(vault) as (primary, south, extended):
        abroad = vault.region("abroad", zone="elsewhere")
        twin = vault.region("twin")
        twin.private = south.private
        for region, refusal in (
            (south, AlreadyExists),
            (vault.north, InvalidRequest),
            (abroad, WrongState),
            (twin, AlreadyExists),
        ):
            before = digest(vault.north.store)
            with pytest.raises(refusal):
                added(primary, region)
            assert digest(vault.north.store) == before
        with pytest.raises(NotPrimary):
            added(extended, abroad)

        added(primary, vault.region("east"))
        with pytest.raises(RegionBusy):
            added(primary, vault.region("west"))


# --- removing --------------------------------------------------------------------


def test_a_removed_region_wipes_its_tokens_and_deletes_its_store(
    vault: TestVault,
) -> None:
    version = vault.north.create("kept")
    with two_regions(vault) as (primary, south, _extended):
        primary.remove_region(vault.order("south"), force=False, principal=BY)
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)
        assert south.purging.left.wait(30)

        assert south.purging.steps == ["stop", "destroy", "leave"]
        assert not list(south.directory.glob("vault.db*"))
        assert [h.keys for h in south.hsms.values()] == [{}, {}, {}]
        assert not any(h.has_pair_keys("south") for h in vault.north.hsms.values())
        pair = pair_key_name("north", "south")
        assert not any(pair in h.keys for h in vault.north.hsms.values())
        assert vault.north.store.count_wrapped("south") == 0
        assert vault.north.usable(version)
        assert not primary.replication().alarms
        assert not primary.replication().followers


def test_other_regions_forget_a_removed_one_and_its_name_is_free_again(
    vault: TestVault,
) -> None:
    with two_regions(vault) as (primary, south, _), _third(vault, primary) as east:
        primary.remove_region(vault.order("south"), force=False, principal=BY)
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)
        pair = pair_key_name("east", "south")
        until(lambda: not any(pair in h.keys for h in east.hsms.values()))
        assert south.purging.left.wait(30)

        heir = TestRegion(vault.directory / "heir", "south", joined=vault.north.card)
        vault.regions.append(heir)
        with heir.node():
            added(primary, heir)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
            late = vault.north.create("late")
            until(lambda: heir.index == vault.north.index)
            assert heir.usable(late)


@contextmanager
def _third(vault: TestVault, primary: Node) -> Iterator[TestRegion]:
    east = vault.region("east")
    with east.node():
        added(primary, east)
        until(lambda: vault.north.state_of("east") is RegionState.SUCCEEDED)
        yield east


def test_a_region_that_cannot_be_reached_is_removed_only_by_force(
    vault: TestVault,
) -> None:
    with two_regions(vault) as (_, south, _extended):
        pass
    with vault.north.node() as primary:
        primary.remove_region(vault.order("south"), force=False, principal=BY)
        until(lambda: "--force" in vault.north.record("south").problem)
        assert vault.north.state_of("south") is RegionState.DELETING

        primary.remove_region(vault.order("south"), force=True, principal=BY)
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)

        # Its certificate opens nothing any more.
        with south.node() as extended:
            vault.north.create("later")
            assert not extended.replication().primary_reachable
            assert south.index < vault.north.index


def test_a_region_that_never_came_is_removed_without_force(vault: TestVault) -> None:
    with vault.north.node() as primary:
        south = vault.region("south")
        added(primary, south)
        primary.remove_region(vault.order("south"), force=False, principal=BY)
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)

        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)


def test_a_removal_goes_on_after_the_managers_start_again(vault: TestVault) -> None:
    with two_regions(vault) as (_, south, _extended):
        pass
    with vault.north.node() as primary:
        primary.remove_region(vault.order("south"), force=False, principal=BY)

    with vault.north.node(), south.node():
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)
        assert south.purging.left.wait(30)


def test_without_officers_a_region_destroys_what_it_can_and_waits(
    vault: TestVault,
) -> None:
    with two_regions(vault) as (primary, south, _extended):
        south.officers.here = False
        primary.remove_region(vault.order("south"), force=False, principal=BY)
        until(lambda: "hsmvault ceremony" in vault.north.record("south").problem)
        assert not any(h.has_pair_keys("north") for h in south.hsms.values())
        assert south.purging.steps == []

        south.officers.here = True
        until(lambda: vault.north.state_of("south") is RegionState.PURGED)
        assert south.purging.left.wait(30)


def grant(vault: TestVault, principal: str, role: str) -> None:
    record = AssignmentRecord(
        name=f"roleAssignments/{principal.removeprefix('CN=')}",
        revision=1,
        principal=principal,
        role_definition=role,
        scope="/",
        create_ms=now_ms(),
        author=BY,
    )
    vault.north.commit(vault.north.change(Kind.ROLE_ASSIGNMENT, record, 1))


Order = Callable[[TestVault], RemovalOrder]


def of_another_region(vault: TestVault) -> RemovalOrder:
    return dataclasses.replace(vault.order("east"), region="south")


def of_another_vault(vault: TestVault) -> RemovalOrder:
    return vault.order("south", vault="f" * 32)


def too_old(vault: TestVault) -> RemovalOrder:
    return vault.order("south", time_ms=now_ms() - ORDER_MS - 1000)


def from_the_future(vault: TestVault) -> RemovalOrder:
    return vault.order("south", time_ms=now_ms() + ORDER_MS + 60_000)


def with_another_time(vault: TestVault) -> RemovalOrder:
    order = vault.order("south")
    return dataclasses.replace(order, time_ms=order.time_ms + 1)


def by_somebody_without_a_role(vault: TestVault) -> RemovalOrder:
    return vault.order("south", caller=vault.authority.caller("mallory"))


def by_a_crypto_officer(vault: TestVault) -> RemovalOrder:
    return vault.order("south", caller=vault.authority.caller("officer"))


def by_a_ca_of_ones_own(vault: TestVault) -> RemovalOrder:
    authority = Authority.make(vault.directory / "forged", name="test")
    return vault.order("south", caller=authority.caller(ADMIN))


def unsigned(vault: TestVault) -> RemovalOrder:
    return dataclasses.replace(vault.order("south"), signature=b"")


def without_a_certificate(vault: TestVault) -> RemovalOrder:
    return dataclasses.replace(vault.order("south"), certificate="")


ORDERS: list[Order] = [
    of_another_region,
    of_another_vault,
    too_old,
    from_the_future,
    with_another_time,
    by_somebody_without_a_role,
    by_a_crypto_officer,
    by_a_ca_of_ones_own,
    unsigned,
    without_a_certificate,
]


@pytest.mark.parametrize("forge", ORDERS, ids=lambda forge: forge.__name__)
def test_a_forged_order_purges_nothing_here_or_there(
    vault: TestVault, forge: Order
) -> None:
    grant(vault, "CN=officer", CRYPTO_OFFICER.name)
    with two_regions(vault) as (primary, south, extended):
        order = forge(vault)
        before = digest(vault.north.store)

        # The primary refuses it …
        with pytest.raises(VaultError):
            primary.remove_region(order, force=True, principal=BY)
        assert digest(vault.north.store) == before

        # … and a primary that does not is refused by the region.
        removal = primary._operations._removal
        removal._keep(order, force=True)
        primary._registry.move("south", RegionState.DELETING)
        until(lambda: vault.north.record("south").problem)
        assert south.purging.steps == []
        assert not [name for _, name in south.officers.asked if name == "wipe"]
        assert south.index
        assert extended.replication().primary_reachable


def test_an_order_needs_the_entry_that_removes_the_region(vault: TestVault) -> None:
    """An administrator's signature alone, replayed by a peer, purges nothing."""
    with two_regions(vault) as (primary, south, extended):
        row = vault.north.store.state("regions/south")
        assert row is not None
        removal = primary._operations._removal
        refusal = removal._send(vault.order("south"), row.index)

        assert "does not remove" in refusal
        assert south.purging.steps == []
        assert extended.replication().primary_reachable


def test_an_entry_that_the_primarys_partitions_did_not_sign_purges_nothing(
    vault: TestVault,
) -> None:
    """Whoever holds the manager, but no partition, signs with a key of their own."""
    with two_regions(vault) as (primary, south, _):
        removal = primary._operations._removal
        foreign = vault.region("foreign").workers
        removal._signer = HeadSigner(foreign, vault_id=VAULT)
        primary.remove_region(vault.order("south"), force=True, principal=BY)
        until(lambda: "not signed" in vault.north.record("south").problem)

        assert south.purging.steps == []


def test_an_order_for_one_region_purges_no_other(vault: TestVault) -> None:
    with two_regions(vault) as (primary, south, _):
        removal = primary._operations._removal
        primary._registry.move("south", RegionState.DELETING)
        until(lambda: south.index == vault.north.index)

        with pytest.raises(AccessDenied):
            primary._links.order_purge(
                "south", facts_of(vault, removal._signer, vault.order("east"))
            )
        assert south.purging.steps == []


def test_an_entry_that_is_not_the_one_under_the_signature_purges_nothing(
    vault: TestVault,
) -> None:
    """The signed head is honest, and of another entry at that very place."""
    with two_regions(vault) as (primary, south, _):
        removal = primary._operations._removal
        facts = facts_of(vault, removal._signer, vault.order("south"))
        deleting = dataclasses.replace(
            vault.north.record("south"), state=RegionState.DELETING
        )
        entry = facts["entry"]
        assert isinstance(entry, dict)
        entry["record"] = base64.b64encode(deleting.to_bytes()).decode()

        with pytest.raises(IntegrityFailure, match="not signed"):
            primary._links.order_purge("south", facts)
        assert south.purging.steps == []


def facts_of(
    vault: TestVault, signer: HeadSigner, order: RemovalOrder
) -> dict[str, object]:
    """An order with the last entry about south, as the primary sends it."""
    store = vault.north.store
    row = store.state("regions/south")
    assert row is not None
    (entry,) = store.entries(row.index - 1, limit=1)
    before = store.head_at(row.index - 1)
    assert before is not None
    signed = signer.signed(Head(entry.position, entry.chain))
    return order_facts(order, entry=entry, previous=before.chain, signed=signed)


def test_only_who_signed_the_order_may_bring_it(vault: TestVault) -> None:
    with two_regions(vault) as (primary, _south, _extended):
        with pytest.raises(AccessDenied):
            primary.remove_region(
                vault.order("south"), force=False, principal="CN=mallory"
            )
        with pytest.raises(NotFound):
            primary.remove_region(vault.order("west"), force=False, principal=BY)
        with pytest.raises(InvalidRequest):
            primary.remove_region(vault.order("north"), force=False, principal=BY)


def test_a_purge_that_meets_a_wrong_pin_is_not_tried_again(vault: TestVault) -> None:
    with two_regions(vault) as (primary, south, _extended):
        tried: list[str] = []

        def rejected(partition: str, task: Mapping[str, object]) -> None:
            if task["task"] == "wipe":
                tried.append(partition)
                raise PinRejected("the token refused the SO PIN")

        south.officers.fails = rejected
        primary.remove_region(vault.order("south"), force=False, principal=BY)
        until(lambda: "SO PIN" in vault.north.record("south").problem)

        assert tried == ["p0"]
        assert "destroy" not in south.purging.steps
