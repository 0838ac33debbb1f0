"""A primary turns on its extended region, with its own partitions at its command.

The attacker runs the primary: what they append is chained and signed rightly, by true
identity keys. They have no administrator's key, and may not make one of their own.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.log import Head, Kind, SignedHead
from hsmvault.model.record import Record
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import PartitionCard, RegionRecord, VaultRecord
from hsmvault.regions.certificates import Authority, private_identity
from hsmvault.regions.registry import Registry
from hsmvault.replication.apply import Applier
from hsmvault.replication.messages import batch_out
from hsmvault.replication.node import Identity
from hsmvault.replication.trust import Trust
from tests.support.nodes import (
    VAULT,
    FakeNotes,
    TestRegion,
    TestVault,
    now_ms,
    two_regions,
    until,
)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[TestVault]:
    """`south` in step with `north`, and both managers stopped."""
    vault = TestVault(tmp_path)
    with two_regions(vault) as (_, south, _extended):
        until(lambda: south.index == vault.north.index)
    yield vault
    vault.close()


def _sent(north: TestRegion, south: TestRegion) -> None:
    """Have `south` take what `north` wrote since, signed by a true identity key."""
    entries = north.store.entries(south.index)
    head = Head(entries[-1].position, entries[-1].chain)
    signature = north.hsms["p0"].sign_statement(head.statement(VAULT))
    identity = Identity(
        south.card,
        VAULT,
        south.private.certificate,
        south.private.key,
        joined=south.joined,
    )
    registry = Registry(
        south.store, south.workers, vault_id=VAULT, clock=now_ms, audit=FakeNotes()
    )
    applier = Applier(
        south.store, south.workers, Trust(identity, registry), FakeNotes()
    )
    applier.batch(batch_out(entries, (), SignedHead(head, "p0", signature)))


def _held(north: TestRegion, resource: str) -> StoredRecord:
    row = north.store.state(resource)
    assert row is not None
    return row


def _other_ca(record: VaultRecord, directory: Path) -> VaultRecord:
    mine = Authority.make(directory / "evil", name="evil")
    return dataclasses.replace(record, client_ca=mine.certificate.decode())


VAULTS: list[Callable[[VaultRecord, Path], VaultRecord]] = [
    _other_ca,
    lambda record, _: dataclasses.replace(record, vault_id="f" * 32),
    lambda record, _: dataclasses.replace(record, retention_days=7),
]


def _append(north: TestRegion, kind: Kind, record: Record) -> None:
    revision: int = getattr(record, "revision")  # noqa: B009
    north.commit(north.change(kind, record, revision))


@pytest.mark.parametrize("change", VAULTS, ids=["ca", "id", "retention"])
def test_an_entry_does_not_change_whom_a_region_obeys(
    vault: TestVault,
    tmp_path: Path,
    change: Callable[[VaultRecord, Path], VaultRecord],
) -> None:
    south = vault.regions[-1]
    before = south.index
    record = VaultRecord.from_bytes(_held(vault.north, "vault").record)
    changed = change(record, tmp_path)
    _append(
        vault.north,
        Kind.VAULT,
        dataclasses.replace(changed, revision=record.revision + 1),
    )

    with pytest.raises(IntegrityFailure, match="no entry may change"):
        _sent(vault.north, south)

    assert south.index == before


def test_an_entry_that_changes_nothing_of_that_is_taken(vault: TestVault) -> None:
    south = vault.regions[-1]
    record = VaultRecord.from_bytes(_held(vault.north, "vault").record)
    changed = dataclasses.replace(
        record, revision=record.revision + 1, region_limit=2, purge_protection=True
    )
    _append(vault.north, Kind.VAULT, changed)

    _sent(vault.north, south)

    assert south.index == vault.north.index


@pytest.mark.parametrize("what", ["certificate", "identities"])
def test_an_entry_does_not_change_a_region_s_own_keys(
    vault: TestVault, what: str
) -> None:
    south = vault.regions[-1]
    record = RegionRecord.from_bytes(_held(vault.north, "regions/south").record)
    mine = private_identity("south").certificate.decode()
    cards = tuple(PartitionCard(p.name, b"other") for p in record.partitions)
    changed = dataclasses.replace(
        record,
        revision=record.revision + 1,
        certificate=mine if what == "certificate" else record.certificate,
        partitions=cards if what == "identities" else record.partitions,
    )
    _append(vault.north, Kind.REGION, changed)

    with pytest.raises(IntegrityFailure, match="no entry may change"):
        _sent(vault.north, south)
