"""Taking what the primary sent: verify all of it, then HSM work, then one transaction.

Nothing is stored before everything has been verified, and nothing that is stored is
overwritten: a batch or snapshot that does not fit raises, and the link stops.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import (
    IntegrityFailure,
    NotSupported,
    StaleEpoch,
    TwoHistories,
)
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.log import Entry, Head, Kind, chain
from hsmvault.model.material import Material
from hsmvault.model.record import Record
from hsmvault.model.records import read
from hsmvault.model.stored import StoredRecord, WrappedKey, pair_key_name
from hsmvault.model.vault_records import RegionRecord, VaultRecord
from hsmvault.regions.batches import in_batches
from hsmvault.regions.card import Card
from hsmvault.regions.ports import Arrived, AuditTrail, LogStore, Workers
from hsmvault.regions.signatures import signed_by
from hsmvault.replication.messages import (
    entry_in,
    head_in,
    request_in,
    row_in,
    signed_head_in,
    wrapped_in,
)
from hsmvault.replication.snapshot import read_part, statement
from hsmvault.replication.trust import Trust
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.store.lines import RequestAt

_CHUNKS_MAX: Final = 100_000
"""100 GiB: more than any vault has, and less than what would exhaust memory."""

Wrapped = tuple[WrappedKey, bytes]


class Applier:
    """Brings this extended region's store forward."""

    def __init__(
        self, store: LogStore, workers: Workers, trust: Trust, audit: AuditTrail
    ) -> None:
        self._store = store
        self._audit = audit
        self._workers = workers
        self._trust = trust
        self._region = trust.identity.region
        self._vault_id = trust.identity.vault_id

    def batch(self, message: pb.Batch) -> Head:
        """Apply a batch; the head that is durable then. Repeating it is harmless."""
        signed = signed_head_in(message.head)
        author = self._author(signed.head)
        if not signed_by(
            author,
            partition=signed.partition,
            statement=signed.head.statement(self._vault_id),
            signature=signed.signature,
        ):
            raise IntegrityFailure(
                "a batch up to {position} is not signed by a partition of {author}",
                position=signed.head.position,
                author=author.id,
            )
        ours = self._store.head()
        if ours is None:
            raise TwoHistories("entries arrived before any snapshot")
        came = [entry_in(entry) for entry in message.entries]
        entries = _following(ours, came, signed.head)
        if not entries:
            return ours
        states = [self._state(entry) for entry in entries]
        versions = _versions(states)
        # What belongs to entries that are held already is held too.
        held = _versions(map(_unchecked, came)).keys() - versions
        rows = [row for row in message.wrapped if row.version not in held]
        arrived = self._arrived(rows, versions, author.id)

        # All is verified. Now the HSM: own MACs, and own wrapping of what came.
        macs = self._macs(states)
        wrapped = self._rewrapped(arrived)
        self._audit.require()
        head = self._store.apply(
            entries, states=macs, wrapped=wrapped, expected_head=signed.head
        )
        self._record(entries, author.id)
        return head

    def _record(self, entries: Sequence[Entry], author: str) -> None:
        """Tell the audit trail what came. Of heads it would never end."""
        came = [e for e in entries if e.kind is not Kind.AUDIT_HEAD]
        if came:
            self._audit.note(
                "replication.applied",
                "/",
                from_region=author,
                position=str(came[-1].position),
                resources=[f"{e.position.index} /{e.resource}" for e in came],
            )

    def snapshot(
        self, manifest: pb.SnapshotManifest, fetch: Callable[[int], bytes]
    ) -> Head:
        """Fetch what is missing of a snapshot, and take its place in the log."""
        head = head_in(manifest.head)
        author = self._author(head)
        if not signed_by(
            author,
            partition=manifest.partition,
            statement=statement(manifest, vault_id=self._vault_id, region=self._region),
            signature=manifest.signature,
        ):
            raise IntegrityFailure(
                "a snapshot of {position} is not signed by a partition of {author}",
                position=head.position,
                author=author.id,
            )
        if len(manifest.digests) > _CHUNKS_MAX:
            raise NotSupported("a snapshot of more than 100 GiB arrived")
        held = set(self._store.staged(manifest.id))
        for number, digest in enumerate(manifest.digests):
            if number not in held:
                chunk = _verified(fetch(number), digest)
                self._store.stage_chunk(manifest.id, number, chunk)
        self._audit.require()
        self._install(manifest, head, author)
        self._audit.note(
            "replication.snapshot_installed",
            "/",
            from_region=author.id,
            position=str(head.position),
        )
        return head

    def _author(self, head: Head) -> RegionRecord:
        primary = self._trust.primary()
        epoch = self._store.epoch()
        if epoch is not None and head.position.epoch != epoch:
            raise StaleEpoch(
                "the primary writes in epoch {theirs}, and this region follows {ours}",
                theirs=head.position.epoch,
                ours=epoch,
            )
        if head.position.epoch.region != primary.id:
            raise IntegrityFailure(
                "{author} writes in epoch {epoch}, which is not its own",
                author=primary.id,
                epoch=head.position.epoch,
            )
        return primary

    def _state(self, entry: Entry) -> StoredRecord:
        record = read(entry.kind, entry.record)
        if entry.kind is Kind.EPOCH:
            raise StaleEpoch("a new epoch arrived without the proof that it may begin")
        if record.resource != entry.resource:
            raise IntegrityFailure(
                "the entry of {resource} carries the record of {other}",
                resource=entry.resource,
                other=record.resource,
            )
        self._require_lasting(record)
        revision: int = getattr(record, "revision")  # noqa: B009  # every record's
        return StoredRecord(entry.kind, entry.resource, revision, entry.record)

    def _require_lasting(self, record: Record) -> None:
        """Refuse an entry that changes by what this region knows whom to obey.

        Callers' CA, the rules of purging, and this region's own keys: with those in its
        hands, a primary could make the administrator who has this region destroyed.
        """
        if isinstance(record, VaultRecord):
            row = self._store.state("vault")
            held = VaultRecord.from_bytes(row.record) if row else record
            same = _lasting(record) == _lasting(held) and (
                record.purge_protection or not held.purge_protection
            )
        elif isinstance(record, RegionRecord) and record.id == self._region:
            card = self._trust.identity.card
            same = _proofs(Card.of_record(record)) == _proofs(card)
        else:
            return
        if not same:
            raise IntegrityFailure(
                "the primary's entry changes of {resource} what no entry may change",
                resource=record.resource,
            )

    def _arrived(
        self,
        rows: Iterable[pb.WrappedKey],
        versions: dict[str, tuple[KeySpec, bytes]],
        author: str,
    ) -> list[Arrived]:
        arrived = []
        pair = pair_key_name(author, self._region)
        for wrapped in map(wrapped_in, rows):
            known = versions.get(wrapped.version)
            if (
                known is None
                or wrapped.region != self._region
                or wrapped.wrapping_key != pair
            ):
                raise IntegrityFailure(
                    "a wrapped key of version {version} arrived that is not for here, "
                    "or belongs to no record that came with it",
                    version=wrapped.version[:40],
                )
            arrived.append(
                Arrived(Material(wrapped.version, *known, wrapped=wrapped, mac=b""))
            )
        return arrived

    def _macs(self, states: Sequence[StoredRecord]) -> list[StoredRecord]:
        macs = in_batches(
            self._workers.mac, [s.statement(self._vault_id) for s in states], size=500
        )
        return [
            dataclasses.replace(state, mac=mac)
            for state, mac in zip(states, macs, strict=True)
        ]

    def _rewrapped(self, arrived: Sequence[Arrived]) -> list[Wrapped]:
        rows = in_batches(self._workers.rewrap, arrived, size=32)
        for (wrapped, _), came in zip(rows, arrived, strict=True):
            if (wrapped.version, wrapped.region) != (
                came.material.version,
                self._region,
            ):
                raise IntegrityFailure("a partition wrapped another version")
        return rows

    def _install(
        self, manifest: pb.SnapshotManifest, head: Head, author: RegionRecord
    ) -> None:
        states: list[StoredRecord] = []
        rows: list[pb.WrappedKey] = []
        requests: list[RequestAt] = []
        for number, digest in enumerate(manifest.digests):
            staged = self._store.staged_chunk(manifest.id, number) or b""
            try:
                # Staged by an earlier process, perhaps: the digest decides.
                part = read_part(_verified(staged, digest))
            except IntegrityFailure:
                self._store.drop_staged()
                raise
            states += map(row_in, part.rows)
            rows += part.wrapped
            requests += map(request_in, part.requests)
        self._require_ours(states, author)
        arrived = self._arrived(rows, _versions(states), author.id)
        (seal,) = self._workers.mac([head.base_statement(self._vault_id)])
        self._store.install_snapshot(
            head,
            states=self._macs(states),
            wrapped=self._rewrapped(arrived),
            requests=requests,
            seal=seal,
        )

    def _require_ours(
        self, states: Sequence[StoredRecord], author: RegionRecord
    ) -> None:
        """The snapshot is of this vault, and knows both ends as we know them."""
        vault = next((s for s in states if s.kind is Kind.VAULT), None)
        if vault is None or (
            VaultRecord.from_bytes(vault.record).vault_id != self._vault_id
        ):
            raise IntegrityFailure("the snapshot is of another vault")
        regions = {
            record.id: record
            for record in (
                RegionRecord.from_bytes(s.record)
                for s in states
                if s.kind is Kind.REGION
            )
        }
        own, primary = regions.get(self._region), regions.get(author.id)
        card = self._trust.identity.card
        if own is None or _proofs(Card.of_record(own)) != _proofs(card):
            raise IntegrityFailure(
                "the primary knows this region by other keys than its own card's"
            )
        if (
            primary is None
            or not primary.primary
            or (primary.certificate != author.certificate)
        ):
            raise IntegrityFailure(
                "the snapshot names another primary than the one that sent it"
            )


def _lasting(vault: VaultRecord) -> tuple[object, ...]:
    return vault.vault_id, vault.client_ca, vault.retention_days, vault.create_ms


def _proofs(card: Card) -> tuple[object, ...]:
    return card.certificate, [(p.name, p.identity) for p in card.partitions]


def _following(ours: Head, entries: list[Entry], end: Head) -> list[Entry]:
    """What the batch adds to our log; raises unless it follows it without a gap."""
    if not entries or Head(entries[-1].position, entries[-1].chain) != end:
        raise TwoHistories("a batch does not end in the head that was signed")
    fresh = [e for e in entries if e.position.index > ours.position.index]
    previous, index = ours.chain, ours.position.index
    for entry in fresh:
        index += 1
        previous = chain(previous, entry)
        if entry.position.index != index or entry.position.epoch != end.position.epoch:
            raise TwoHistories(
                "entry {position} arrived where {index} should follow",
                position=entry.position,
                index=index,
            )
        if entry.chain != previous:
            raise TwoHistories(
                "entry {position} does not continue this region's chain",
                position=entry.position,
            )
    if not fresh and end.position.index == ours.position.index and end != ours:
        raise TwoHistories("two logs differ at {position}", position=end.position)
    return fresh


def _unchecked(entry: Entry) -> StoredRecord:
    return StoredRecord(entry.kind, entry.resource, 0, entry.record)


def _versions(states: Iterable[StoredRecord]) -> dict[str, tuple[KeySpec, bytes]]:
    records = (
        VersionRecord.from_bytes(s.record) for s in states if s.kind is Kind.KEY_VERSION
    )
    return {r.version: (r.spec, r.public_key) for r in records}


def _verified(chunk: bytes, digest: bytes) -> bytes:
    if hashlib.sha256(chunk).digest() != digest:
        raise IntegrityFailure("a chunk of the snapshot is not the one that was signed")
    return chunk
