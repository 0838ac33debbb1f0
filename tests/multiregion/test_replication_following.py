"""An extended region follows: a snapshot, then the log, over real links with mTLS."""

import dataclasses
import sqlite3
import threading
from contextlib import closing

import pytest

from hsmvault.model.errors import (
    ClockUntrusted,
    InvalidRequest,
    PrimaryUnavailable,
    Unavailable,
)
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.lifecycle import KeyState, RegionState, VersionState
from hsmvault.model.log import Kind
from hsmvault.replication import snapshot
from hsmvault.replication.node import Node
from tests.support.nodes import (
    QUICK,
    Cable,
    TestVault,
    added,
    digest,
    now_ms,
    two_regions,
    until,
)

KEYS = "/hsmvault.v1.KeyService/"


def test_a_region_that_is_added_ends_up_with_everything(vault: TestVault) -> None:
    before = [vault.north.create(f"old-{number}") for number in range(5)]

    with two_regions(vault) as (primary, south, extended):
        after = vault.north.create("new")
        until(lambda: south.index == vault.north.index)

        assert digest(south.store) == digest(vault.north.store)
        assert all(south.usable(version) for version in (*before, after))
        assert extended.replication().primary_reachable
        assert not primary.replication().alarms
        assert not extended.replication().alarms


def test_nothing_that_rests_in_a_region_is_wrapped_by_a_pair_key(
    vault: TestVault,
) -> None:
    """What a thief of both the link and the store has must not fit together."""
    before = vault.north.create("before")

    with two_regions(vault) as (_, south, _extended):
        after = vault.north.create("after")
        until(lambda: south.index == vault.north.index)

        sent = [
            row[0].wrapped
            for version in (before, after)
            if (row := vault.north.store.wrapped(version.version, "south"))
        ]
        assert len(sent) == 2
        for version in (before, after):
            held = south.store.wrapped(version.version, "south")
            assert held is not None
            assert held[0].wrapping_key == "region/south"
        files = b"".join(p.read_bytes() for p in south.directory.glob("vault.db*"))
        assert not any(wrapped in files for wrapped in sent)


def test_a_region_that_was_cut_off_goes_on_where_it_was(vault: TestVault) -> None:
    cable = Cable(lambda: vault.north.port)
    with vault.north.node() as primary:
        south = vault.region("south")
        assert south.joined is not None
        south.joined = dataclasses.replace(
            south.joined, private_endpoint=f"127.0.0.1:{cable.port}"
        )
        with south.node() as extended:
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
            until(lambda: south.index == vault.north.index)
            installed = south.store.base()

            cable.cut()
            until(lambda: not extended.replication().primary_reachable)
            missed = [vault.north.create(f"missed-{number}") for number in range(20)]
            (state,) = primary.replication().followers
            assert state.lag_entries >= 40
            cable.mend()
            until(lambda: south.index == vault.north.index)

            assert digest(south.store) == digest(vault.north.store)
            assert all(south.usable(version) for version in missed)
            # By the log, not by a second snapshot.
            assert south.store.base() == installed
    cable.close()


def test_a_primary_that_restarts_is_followed_again(vault: TestVault) -> None:
    with two_regions(vault) as (_, south, _extended):
        pass

    with south.node(), vault.north.node() as primary:
        late = vault.north.create("late")
        until(lambda: south.index == vault.north.index)

        assert south.usable(late)
        until(lambda: not primary.replication().followers[0].lag_entries)


def test_a_snapshot_goes_on_with_the_chunks_that_are_missing(
    vault: TestVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_FILL", 4096)
    versions = [vault.north.create(f"key-{number}") for number in range(40)]
    fetched: list[int] = []
    fetch = snapshot.Snapshots.chunk

    def counted(
        self: snapshot.Snapshots, region: str, snapshot_id: str, number: int
    ) -> bytes:
        fetched.append(number)
        return fetch(self, region, snapshot_id, number)

    monkeypatch.setattr(snapshot.Snapshots, "chunk", counted)
    with vault.north.node() as primary:
        south = vault.region("south")
        stage, fails = south.store.stage_chunk, [4]

        def stumbling(snapshot_id: str, n: int, chunk: bytes) -> None:
            if n in fails:
                fails.remove(n)
                raise Unavailable("the disk was full for a moment")
            stage(snapshot_id, n, chunk)

        monkeypatch.setattr(south.store, "stage_chunk", stumbling)
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)

            assert all(south.usable(version) for version in versions)
            # Each once, but for the one that was fetched and could not be staged.
            assert len(set(fetched)) > 8
            assert sorted(fetched) == sorted([*set(fetched), 4])
            # Once it is installed, what was made for it does not stay behind.
            made = vault.north.directory / "run" / "snapshots"
            until(lambda: not list(made.iterdir()))


def test_watermarks_say_who_has_what_durably(vault: TestVault) -> None:
    with two_regions(vault) as (primary, south, extended):
        south.workers.away = True
        vault.north.create("waits")
        head = vault.north.store.head()
        assert head is not None

        reached, behind = primary.await_watermark(
            head.position, regions=-1, timeout=0.3
        )
        assert (reached, behind) == (False, ["south"])
        assert primary.await_watermark(head.position, regions=0, timeout=0.0)[0]

        south.workers.away = False
        reached, behind = primary.await_watermark(
            head.position, regions=-1, timeout=30.0
        )
        assert (reached, behind) == (True, [])
        (state,) = primary.replication().followers
        assert (state.watermark, state.migration_percent) == (str(head.position), 100)
        # Absence of the own partitions is no alarm: they come back.
        assert not extended.replication().alarms


def test_writes_are_forwarded_in_both_names_and_nothing_else_is(
    vault: TestVault,
) -> None:
    with two_regions(vault) as (primary, _south, extended):
        done = extended.forward(
            KEYS + "CreateKey", b"request", principal="CN=alice", timeout=5.0
        )

        assert done.response == b"done:request"
        assert vault.north.workers.executed == [
            (KEYS + "CreateKey", b"request", "CN=alice", "south")
        ]
        for method in (
            KEYS + "PurgeKey",
            "/hsmvault.v1.AccessService/CreateRoleAssignment",
            "/hsmvault.v1.RegionService/RemoveRegion",
            "",
        ):
            with pytest.raises(Unavailable, match="PERMISSION_DENIED"):
                extended.forward(method, b"", principal="CN=alice", timeout=5.0)
        with pytest.raises(InvalidRequest):
            primary.forward(KEYS + "CreateKey", b"", principal="CN=a", timeout=5.0)
        assert len(vault.north.workers.executed) == 1


def test_a_write_with_its_callers_proof_is_forwarded_whatever_it_is(
    vault: TestVault,
) -> None:
    """The primary's partition verifies the proof, and decides by it."""
    purge = KEYS + "PurgeKey"
    with two_regions(vault) as (_primary, _south, extended):
        done = extended.forward(
            purge, b"request", principal="jwt:https://i#a", proof=b"token", timeout=5.0
        )

        assert done.response == b"done:request"
        assert vault.north.workers.executed == [
            (purge, b"request", "jwt:https://i#a", "south")
        ]
        assert vault.north.workers.proofs == [b"token"]


def test_without_its_primary_a_region_says_which_policy_holds(vault: TestVault) -> None:
    with two_regions(vault) as (_, south, _extended):
        pass

    with south.node() as extended:
        assert not extended.replication().primary_reachable
        with pytest.raises(PrimaryUnavailable) as refused:
            extended.forward(KEYS + "CreateKey", b"", principal="CN=a", timeout=5.0)
        assert refused.value.facts["policy"] == "manual"


def test_a_new_version_is_current_once_every_region_has_it(vault: TestVault) -> None:
    vault.north.create("turned")

    with two_regions(vault) as (_, south, _extended):
        south.workers.away = True
        pending = vault.north.rotate("turned")
        # Many looks by the job later it is still as it was.
        looked = threading.Event()
        looked.wait(0.5)
        assert vault.north.key("turned").current != pending.version

        south.workers.away = False
        until(lambda: vault.north.key("turned").current == pending.version)
        until(lambda: south.index == vault.north.index)

        row = south.store.state(pending.resource)
        assert row is not None
        assert VersionRecord.from_bytes(row.record).state is VersionState.ACTIVE
        assert south.key("turned").current == pending.version
        assert south.usable(pending)


def test_a_version_that_waits_for_long_sounds_an_alarm_until_it_is_current(
    vault: TestVault,
) -> None:
    shift = [0]
    vault.north.clock = lambda: now_ms() + shift[0]
    vault.north.create("turned")

    with two_regions(vault) as (primary, south, _extended):
        south.workers.away = True
        pending = vault.north.rotate("turned")
        shift[0] = 61_000
        until(lambda: any(pending.version in a for a in primary.alarms.texts()))
        (alarm,) = (a for a in primary.alarms.texts() if pending.version in a)
        south.workers.away = False
        until(lambda: not primary.alarms.texts())

    assert "regions/south lacks it" in alarm
    assert f"hsmvault key activate keys/turned {pending.version} --force" in alarm


def test_a_linked_regions_clock_confirms_that_a_date_has_come(
    vault: TestVault,
) -> None:
    """Just started, a primary does not believe its own clock alone."""
    past = now_ms() - 1000

    def confirmed(node: Node, date_ms: int) -> bool:
        try:
            node.require_past(date_ms)
        except ClockUntrusted:
            return False
        return True

    with vault.north.node() as primary:
        assert not confirmed(primary, past)
        south = vault.region("south")
        with south.node():
            added(primary, south)
            until(lambda: confirmed(primary, past))
            assert not confirmed(primary, now_ms() + 1_000_000)
        until(lambda: not confirmed(primary, past))


def test_a_newer_version_stays_current_when_an_older_one_arrives_late(
    vault: TestVault,
) -> None:
    vault.north.create("turned")

    with two_regions(vault) as (_, south, _extended):
        south.workers.away = True
        first = vault.north.rotate("turned")
        second = vault.north.rotate("turned")
        # Its last change is the later one, though it was made before the other.
        touched = dataclasses.replace(first, revision=2, create_ms=first.create_ms - 1)
        vault.north.commit(vault.north.change(Kind.KEY_VERSION, touched, 2))
        south.workers.away = False
        until(lambda: not vault.north.store.states(Kind.KEY_VERSION, state="PENDING"))

        assert vault.north.key("turned").current == second.version


def test_the_newest_head_is_anchored_in_every_partition(vault: TestVault) -> None:
    with two_regions(vault) as (_, south, _extended):
        vault.north.create("last")
        until(lambda: south.index == vault.north.index)

    for region in (vault.north, south):
        head = region.store.head()
        assert [hsm.anchor for hsm in region.hsms.values()] == [head] * 3


def test_a_region_that_only_follows_looks_for_rows_that_were_hidden_too(
    vault: TestVault,
) -> None:
    """It lists keys by the same columns, and may be the primary one day.

    The attacker writes to its store, and has no session in its HSM.
    """
    vault.north.create("k")
    with two_regions(vault) as (_, south, _extended):
        until(lambda: south.index == vault.north.index)
    with closing(sqlite3.connect(south.directory / "vault.db")) as file:
        file.execute("UPDATE state SET life = 'DELETED' WHERE place = 'keys/k'")
        file.commit()
    assert not south.store.states(Kind.KEY, state=KeyState.ACTIVE)

    with south.node(dataclasses.replace(QUICK, upkeep=0.05)) as extended:
        until(lambda: any("keys/k" in told for told in extended.replication().alarms))

    assert south.store.states(Kind.KEY, state=KeyState.ACTIVE)
