"""A snapshot as files: written once, signed, and fetched piece by piece.

    run/snapshots/{region}.{created}.{index}.{nonce}/
        00000 00001 …   chunks: each a SnapshotPart of at most 1 MiB
        manifest        written last, so a directory that has it is whole

The manifest's signature covers the digest of every chunk, so a chunk may come by any
way, in any order, and after any number of cuts.
"""

import hashlib
import itertools
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from hsmvault.model.errors import IntegrityFailure, LogCompacted, NotFound
from hsmvault.model.log import Head, packed
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.ports import LogStore, Workers
from hsmvault.replication.messages import head_in, head_out, put_item
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.replication.vouching import BATCH, Vouching
from hsmvault.store.lines import SnapshotItem
from hsmvault.telemetry import Event, report

CHUNK_BYTES: Final = 1024 * 1024
_FILL: Final = CHUNK_BYTES - 128 * 1024
"""Where a chunk is closed: no item is larger than what is left then."""

_ID: Final = re.compile(r"([a-z][a-z0-9-]{0,23})\.\d{1,16}\.\d{1,18}\.[0-9a-f]{16}")


def statement(manifest: pb.SnapshotManifest, *, vault_id: str, region: str) -> bytes:
    """The bytes that the primary's identity key signs: the snapshot, for one region."""
    return packed(
        "hsmvault/snapshot/v1",
        vault_id,
        region,
        manifest.id,
        manifest.head.epoch_number,
        manifest.head.epoch_region,
        manifest.head.index,
        manifest.head.chain,
        *manifest.digests,
    )


class Snapshots:
    """Makes and keeps the snapshots that followers are fetching: one per region."""

    def __init__(
        self,
        directory: Path,
        store: LogStore,
        workers: Workers,
        vouching: Vouching,
        *,
        vault_id: str,
    ) -> None:
        self._directory = directory
        self._store = store
        self._workers = workers
        self._vouching = vouching
        self._vault_id = vault_id
        self._making = threading.Lock()

    def offer(self, region: RegionRecord) -> pb.SnapshotManifest:
        """Return the snapshot that the region is fetching already, or make one."""
        with self._making:
            for path in self._of(region.id):
                manifest = self._usable(path, region)
                if manifest is not None:
                    return manifest
                shutil.rmtree(path)
            return self._make(region)

    def chunk(self, region: str, snapshot_id: str, number: int) -> bytes:
        """One chunk of a snapshot that was made for this region."""
        match = _ID.fullmatch(snapshot_id)
        # The id names a directory: nothing but an id of the region's own gets there.
        if match is None or match[1] != region or not 0 <= number < 10**6:
            raise NotFound("there is no such snapshot for region {r}", r=region)
        try:
            return (self._directory / snapshot_id / _name(number)).read_bytes()
        except OSError as error:
            raise NotFound(
                "snapshot {id} is not kept any more", id=snapshot_id
            ) from error

    def drop(self, region: str) -> None:
        """Delete what was made for a region: it has it, or will not get it."""
        with self._making:
            for path in self._of(region):
                shutil.rmtree(path, ignore_errors=True)

    def _of(self, region: str) -> list[Path]:
        return sorted(self._directory.glob(f"{region}.*"))

    def _usable(self, path: Path, region: RegionRecord) -> pb.SnapshotManifest | None:
        # A region that was removed and added again has other pair keys.
        if not path.name.startswith(f"{region.id}.{region.create_ms}."):
            return None
        try:
            manifest = pb.SnapshotManifest.FromString((path / "manifest").read_bytes())
            head = head_in(manifest.head)
            return (
                manifest if self._store.head_at(head.position.index) == head else None
            )
        except (OSError, DecodeError, LogCompacted):
            return None

    def _make(self, region: RegionRecord) -> pb.SnapshotManifest:
        items = self._store.export_snapshot(region.id)
        head = next(items)
        assert isinstance(head, Head)
        index = head.position.index
        name = f"{region.id}.{region.create_ms}.{index}.{secrets.token_hex(8)}"
        manifest = pb.SnapshotManifest(id=name, head=head_out(head))
        path = self._directory / name
        path.mkdir(mode=0o700, parents=True)
        part, size = pb.SnapshotPart(), 0
        for item in self._vouched(items, region.id):
            size += put_item(part, item)
            if size >= _FILL:
                manifest.digests.append(_write(path, len(manifest.digests), part))
                part, size = pb.SnapshotPart(), 0
        manifest.digests.append(_write(path, len(manifest.digests), part))
        manifest.partition, manifest.signature = self._workers.sign(
            statement(manifest, vault_id=self._vault_id, region=region.id)
        )
        (path / "manifest").write_bytes(manifest.SerializeToString())
        report(
            Event.SNAPSHOT_OFFERED,
            subject=region.id,
            position=str(head.position),
            chunks=len(manifest.digests),
        )
        return manifest

    def _vouched(
        self, items: Iterator[SnapshotItem], region: str
    ) -> Iterator[SnapshotItem]:
        """Pass the items on, once their MACs have been checked."""
        while some := list(itertools.islice(items, BATCH)):
            self._vouching.exported([i for i in some if isinstance(i, StoredRecord)])
            keys = [i for i in some if isinstance(i, WrappedKey)]
            self._vouching.exported_keys(keys, region)
            yield from some


def read_part(chunk: bytes) -> pb.SnapshotPart:
    """Read a chunk whose digest was checked."""
    try:
        return pb.SnapshotPart.FromString(chunk)
    except DecodeError as error:
        raise IntegrityFailure("a chunk of the snapshot does not read") from error


def _name(number: int) -> str:
    return f"{number:05}"


def _write(path: Path, number: int, part: pb.SnapshotPart) -> bytes:
    data = part.SerializeToString()
    (path / _name(number)).write_bytes(data)
    return hashlib.sha256(data).digest()
