"""What does not verify changes nothing, and stops the link loudly.

The attacker here is whoever holds the primary's manager, its network or its private
certificate, but not the identity keys inside its partitions.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from hsmvault.model.errors import IntegrityFailure, StaleEpoch, TwoHistories, VaultError
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Head, Kind, SignedHead, chain
from hsmvault.regions.certificates import private_identity
from hsmvault.regions.registry import Registry
from hsmvault.replication.apply import Applier
from hsmvault.replication.links import FollowerLink
from hsmvault.replication.messages import (
    batch_out,
    entry_in,
    entry_out,
    head_in,
    signed_head_out,
)
from hsmvault.replication.node import Identity
from hsmvault.replication.sender import Sender
from hsmvault.replication.snapshot import Snapshots
from hsmvault.replication.trust import Trust
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.replication.v1 import replication_service_pb2_grpc as rpc
from hsmvault.replication.vouching import Vouching
from tests.support.fakes import FakeHsm
from tests.support.nodes import (
    VAULT,
    FakeNotes,
    TestRegion,
    TestVault,
    added,
    digest,
    now_ms,
    two_regions,
    until,
)


@dataclass
class Scene:
    """`south` in step, both managers stopped, and what `north` wrote since."""

    north: TestRegion
    south: TestRegion
    applier: Applier

    def sign(self, head: Head, *, by: FakeHsm | None = None) -> SignedHead:
        signer = by or self.north.hsms["p1"]
        return SignedHead(head, "p1", signer.sign_statement(head.statement(VAULT)))

    def batch(self, *, after: int | None = None) -> pb.Batch:
        """The next batch as an honest primary sends it."""
        entries = self.north.store.entries(self.south.index if after is None else after)
        versions = [
            VersionRecord.from_bytes(e.record).version
            for e in entries
            if e.kind is Kind.KEY_VERSION
        ]
        rows = self.north.store.wrapped_for(versions, "south").values()
        head = self.sign(Head(entries[-1].position, entries[-1].chain))
        return batch_out(entries, (wrapped for wrapped, _ in rows), head)

    def resigned(self, batch: pb.Batch, *, by: FakeHsm | None = None) -> pb.Batch:
        """The batch with its chain made anew over what it now holds, and signed."""
        head = self.south.store.head()
        assert head is not None
        previous = head.chain
        for entry in batch.entries:
            entry.chain = previous = chain(previous, entry_in(entry))
        last = entry_in(batch.entries[-1])
        signed = self.sign(Head(last.position, last.chain), by=by)
        batch.head.CopyFrom(signed_head_out(signed))
        return batch


def applier(region: TestRegion) -> Applier:
    identity = Identity(
        region.card,
        VAULT,
        region.private.certificate,
        region.private.key,
        joined=region.joined,
    )
    registry = Registry(
        region.store, region.workers, vault_id=VAULT, clock=now_ms, audit=FakeNotes()
    )
    return Applier(region.store, region.workers, Trust(identity, registry), FakeNotes())


def kept_snapshots(vault: TestVault) -> Snapshots:
    north = vault.north
    registry = Registry(
        north.store, north.workers, vault_id=VAULT, clock=now_ms, audit=FakeNotes()
    )
    vouching = Vouching(north.store, registry)
    return Snapshots(
        vault.directory / "made", north.store, north.workers, vouching, vault_id=VAULT
    )


@pytest.fixture
def scene(vault: TestVault) -> Scene:
    with two_regions(vault) as (_, south, _extended):
        vault.north.create("held")
        until(lambda: south.index == vault.north.index)
    vault.north.create("one")
    vault.north.create("two")
    return Scene(vault.north, south, applier(south))


def test_an_honest_batch_is_applied_and_repeating_it_is_harmless(scene: Scene) -> None:
    batch = scene.batch()

    head = scene.applier.batch(batch)
    again = scene.applier.batch(batch)

    assert head == again == scene.north.store.head()
    assert digest(scene.south.store) == digest(scene.north.store)


def test_a_batch_that_is_held_in_part_adds_the_rest(scene: Scene) -> None:
    overlapping = scene.batch(after=scene.south.index - 2)

    assert scene.applier.batch(overlapping) == scene.north.store.head()


Forgery = Callable[[Scene, pb.Batch], pb.Batch]


def _flipped(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def a_flipped_record(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.entries[0].record = _flipped(batch.entries[0].record)
    return batch


def a_flipped_time(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.entries[1].time_ms += 1
    return batch


def a_flipped_signature(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.head.signature = _flipped(batch.head.signature)
    return batch


def no_signature(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.head.signature = b""
    return batch


def a_missing_entry(_: Scene, batch: pb.Batch) -> pb.Batch:
    del batch.entries[0]
    return batch


def a_missing_entry_with_the_chain_made_anew(scene: Scene, batch: pb.Batch) -> pb.Batch:
    del batch.entries[0]
    return scene.resigned(batch)


def a_missing_end(_: Scene, batch: pb.Batch) -> pb.Batch:
    del batch.entries[-1]
    return batch


def another_order(_: Scene, batch: pb.Batch) -> pb.Batch:
    entries = [batch.entries[1], batch.entries[0], *batch.entries[2:]]
    batch.ClearField("entries")
    batch.entries.extend(entries)
    return batch


def no_entry(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.ClearField("entries")
    return batch


def a_signature_of_a_key_outside_the_partitions(
    scene: Scene, batch: pb.Batch
) -> pb.Batch:
    return scene.resigned(batch, by=FakeHsm("p1", "north", vault_id=VAULT))


def a_signature_of_the_follower_itself(scene: Scene, batch: pb.Batch) -> pb.Batch:
    return scene.resigned(batch, by=scene.south.hsms["p1"])


def a_signature_by_an_unknown_partition(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.head.partition = "p9"
    return batch


def a_head_of_another_vault(scene: Scene, batch: pb.Batch) -> pb.Batch:
    head = head_in(batch.head.head)
    batch.head.signature = scene.north.hsms["p1"].sign_statement(
        head.statement("f" * 32)
    )
    return batch


def a_later_epoch(scene: Scene, batch: pb.Batch) -> pb.Batch:
    for entry in batch.entries:
        entry.epoch_number = 2
    return scene.resigned(batch)


def an_epoch_of_ones_own(scene: Scene, batch: pb.Batch) -> pb.Batch:
    for entry in batch.entries:
        entry.epoch_region = "south"
    return scene.resigned(batch)


def a_record_under_another_name(scene: Scene, batch: pb.Batch) -> pb.Batch:
    batch.entries[0].resource = "keys/held"
    return scene.resigned(batch)


def a_revision_that_jumps(scene: Scene, batch: pb.Batch) -> pb.Batch:
    record = batch.entries[0].record
    batch.entries[0].record = record.replace(b'"revision":1', b'"revision":3')
    return scene.resigned(batch)


def an_unknown_kind(scene: Scene, batch: pb.Batch) -> pb.Batch:
    batch.entries[0].kind = "miracle"
    return batch


def a_record_that_does_not_read(scene: Scene, batch: pb.Batch) -> pb.Batch:
    batch.entries[0].record = b"{}"
    return scene.resigned(batch)


def a_flipped_wrapped_key(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.wrapped[0].wrapped = _flipped(batch.wrapped[0].wrapped)
    return batch


def swapped_wrapped_keys(_: Scene, batch: pb.Batch) -> pb.Batch:
    one, two = batch.wrapped[0].wrapped, batch.wrapped[1].wrapped
    batch.wrapped[0].wrapped, batch.wrapped[1].wrapped = two, one
    return batch


def a_wrapped_key_of_another_version(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.wrapped[0].version = "0" * 32
    return batch


def a_wrapped_key_for_another_region(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.wrapped[0].region = "north"
    return batch


def a_wrapped_key_under_the_region_key(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.wrapped[0].wrapping_key = "region/south"
    return batch


def an_oversize_wrapped_key(_: Scene, batch: pb.Batch) -> pb.Batch:
    batch.wrapped[0].wrapped = bytes(9000)
    return batch


FORGERIES: list[Forgery] = [
    a_flipped_record,
    a_flipped_time,
    a_flipped_signature,
    no_signature,
    a_missing_entry,
    a_missing_entry_with_the_chain_made_anew,
    a_missing_end,
    another_order,
    no_entry,
    a_signature_of_a_key_outside_the_partitions,
    a_signature_of_the_follower_itself,
    a_signature_by_an_unknown_partition,
    a_head_of_another_vault,
    a_later_epoch,
    an_epoch_of_ones_own,
    a_record_under_another_name,
    a_revision_that_jumps,
    an_unknown_kind,
    a_record_that_does_not_read,
    a_flipped_wrapped_key,
    swapped_wrapped_keys,
    a_wrapped_key_of_another_version,
    a_wrapped_key_for_another_region,
    a_wrapped_key_under_the_region_key,
    an_oversize_wrapped_key,
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__)
def test_a_batch_that_is_not_the_authors_changes_nothing(
    scene: Scene, forgery: Forgery
) -> None:
    before = digest(scene.south.store)

    with pytest.raises((IntegrityFailure, StaleEpoch)):
        scene.applier.batch(forgery(scene, scene.batch()))

    assert digest(scene.south.store) == before
    # The honest one still goes in: nothing was left half done.
    assert scene.applier.batch(scene.batch()) == scene.north.store.head()


def test_another_history_at_the_same_place_is_refused(scene: Scene) -> None:
    """A primary restored from a copy writes other entries under the same indexes."""
    head = scene.south.store.head()
    assert head is not None
    entry = scene.north.store.entries(scene.south.index - 1, limit=1)[0]
    other = entry_in(entry_out(entry))
    forked = SignedHead(Head(other.position, bytes(32)), "p1", b"")
    signed = scene.sign(forked.head)
    message = batch_out([other], [], signed)
    message.entries[0].chain = bytes(32)

    with pytest.raises(TwoHistories):
        scene.applier.batch(message)


def test_the_link_stops_with_an_alarm_and_nothing_is_stored(
    vault: TestVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Sender._batch

    def tampering(self: Sender, link: FollowerLink) -> pb.Batch:
        batch = honest(self, link)
        batch.entries[0].record = _flipped(batch.entries[0].record)
        return batch

    with two_regions(vault) as (_, south, extended):
        before = digest(south.store)
        monkeypatch.setattr(Sender, "_batch", tampering)
        vault.north.create("tampered")
        until(lambda: extended.replication().alarms)

        assert digest(south.store) == before
        assert not extended.replication().primary_reachable
        # It is left alone until somebody has looked, or a minute has gone.
        monkeypatch.setattr(Sender, "_batch", honest)
        vault.north.create("honest")
        assert digest(south.store) == before


def test_a_primary_that_is_behind_its_follower_feeds_it_nothing(
    vault: TestVault,
) -> None:
    """The primary's store was set back to an older copy while it was stopped."""
    with two_regions(vault):
        pass
    north, south = vault.north, vault.regions[1]
    copy = {p: p.read_bytes() for p in _files(north)}
    with north.node(), south.node():
        north.create("lost by the copy")
        until(lambda: south.index == north.index)
    before = digest(south.store)

    north.store.close()
    for path in _files(north):
        path.unlink()
    for path, content in copy.items():
        path.write_bytes(content)
    north.store = north.open_store()
    with north.node() as primary, south.node() as extended:
        until(lambda: primary.replication().alarms)

        assert "another history" in primary.replication().alarms[0]
        until(lambda: extended.replication().alarms)
        assert digest(south.store) == before


def _files(region: TestRegion) -> list[Path]:
    region.store.close()
    region.store = region.open_store()
    return sorted(region.directory.glob("vault.db*"))


def test_a_snapshot_that_is_not_the_authors_installs_nothing(
    vault: TestVault,
) -> None:
    vault.north.create("one")
    with vault.north.node() as primary:
        south = vault.region("south")
        south.officers.fails = lambda _p, _t: None
        with south.node():
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
    south.store.close()
    for path in south.directory.glob("vault.db*"):
        path.unlink()
    south.store = south.open_store()
    snapshots = kept_snapshots(vault)
    manifest = snapshots.offer(vault.north.record("south"))
    taking = applier(south)

    def fetch(number: int) -> bytes:
        return snapshots.chunk("south", manifest.id, number)

    def refused(message: pb.SnapshotManifest, chunks: Callable[[int], bytes]) -> None:
        with pytest.raises(VaultError) as error:
            taking.snapshot(message, chunks)
        assert isinstance(error.value, IntegrityFailure)
        assert south.store.head() is None

    changed = pb.SnapshotManifest()
    changed.CopyFrom(manifest)
    changed.head.index += 1
    refused(changed, fetch)
    changed.CopyFrom(manifest)
    changed.digests[0] = bytes(32)
    refused(changed, fetch)
    changed.CopyFrom(manifest)
    changed.signature = _flipped(manifest.signature)
    refused(changed, fetch)
    refused(manifest, lambda number: _flipped(fetch(number)))
    # Made for another region, by the same primary.
    other = snapshots.offer(vault.north.record("north"))
    refused(other, lambda number: snapshots.chunk("north", other.id, number))

    assert taking.snapshot(manifest, fetch) == vault.north.store.head()
    assert digest(south.store) == digest(vault.north.store)


def test_a_snapshot_must_know_both_ends_as_their_operators_do(
    vault: TestVault,
) -> None:
    """Else a primary could swap in, for either, keys that nobody has confirmed."""
    with two_regions(vault) as (_, south, _extended):
        pass
    south.store.close()
    for path in south.directory.glob("vault.db*"):
        path.unlink()
    south.store = south.open_store()
    snapshots = kept_snapshots(vault)
    manifest = snapshots.offer(vault.north.record("south"))
    hsms, private, joined = south.hsms, south.private, south.joined
    assert joined is not None

    def refused() -> None:
        with pytest.raises(IntegrityFailure):
            applier(south).snapshot(
                manifest, lambda n: snapshots.chunk("south", manifest.id, n)
            )
        assert south.store.head() is None

    south.hsms = hsms | {"p2": FakeHsm("p2", "south")}
    refused()
    south.hsms, south.private = hsms, private_identity("south")
    refused()
    other = private_identity("north").certificate.decode()
    south.private = private
    south.joined = dataclasses.replace(joined, certificate=other)
    refused()

    south.joined = joined
    applier(south).snapshot(
        manifest, lambda n: snapshots.chunk("south", manifest.id, n)
    )
    assert digest(south.store) == digest(vault.north.store)


def test_a_stranger_cannot_link_and_a_peer_only_as_itself(vault: TestVault) -> None:
    with two_regions(vault) as (_, south, _extended):
        stranger = private_identity("south")
        assert _hello(vault, stranger.certificate, stranger.key, "south") is (
            grpc.StatusCode.UNAVAILABLE
        )
        own = south.private
        assert _hello(vault, own.certificate, own.key, "north") is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
        # The primary's own certificate is no peer's.
        north = vault.north.private
        assert _hello(vault, north.certificate, north.key, "north") is (
            grpc.StatusCode.PERMISSION_DENIED
        )


def _hello(
    vault: TestVault, certificate: bytes, key: bytes, region: str
) -> grpc.StatusCode:
    credentials = grpc.ssl_channel_credentials(
        vault.north.private.certificate, key, certificate
    )
    options = [
        ("grpc.ssl_target_name_override", "north.hsmvault.internal"),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    address = f"127.0.0.1:{vault.north.port}"
    with grpc.secure_channel(address, credentials, options) as channel:
        call = rpc.ReplicationServiceStub(channel).Link(
            iter([pb.Up(hello=pb.Hello(vault_id=VAULT, region=region))]), timeout=10
        )
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass
        code = call.code()
        assert isinstance(code, grpc.StatusCode)
        return code


def test_a_region_cannot_fetch_what_was_made_for_another(vault: TestVault) -> None:
    snapshots = kept_snapshots(vault)
    manifest = snapshots.offer(vault.north.record("north"))

    for region, name, number in (
        ("south", manifest.id, 0),
        ("north", "../" + manifest.id, 0),
        ("north", "north.1/../../../etc", 0),
        ("north", manifest.id, -1),
        ("north", manifest.id, 99),
    ):
        with pytest.raises(VaultError):
            snapshots.chunk(region, name, number)
    assert snapshots.chunk("north", manifest.id, 0)
