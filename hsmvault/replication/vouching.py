"""Before this region signs what it sends: is it what its own partitions have MACed?

A follower believes our signature and makes MACs of its own. So whoever could write our
store, and nothing else, must not get a record signed that no partition of ours stands
for: every record and wrapped key that goes out is checked against its MAC first.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from hsmvault.model.errors import IntegrityFailure, Unavailable
from hsmvault.model.log import Entry
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.regions.ports import LogStore
from hsmvault.regions.registry import Registry
from hsmvault.store.schema import place_of

BATCH: Final = 500
"""Rows whose MACs are checked in one call: some 20 ms of HMACs."""


class Vouching:
    """Checks what is about to be signed. Raises IntegrityFailure."""

    def __init__(self, store: LogStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def entries(self, entries: Sequence[Entry]) -> None:
        """Check the newest record of everything that these entries change.

        What an entry left behind and a later one changed again is not kept any more; a
        forged one in between would go with the next, and only where there is one.
        """
        places = {
            place_of(StoredRecord(e.kind, e.resource, 0, e.record)): e for e in entries
        }
        held = []
        for place, entry in places.items():
            # None: the log says that it was purged since, and its tombstone follows.
            row = self._store.state(place)
            if row is None:
                continue
            if row.index == entry.position.index and row.record != entry.record:
                raise IntegrityFailure(
                    "the log's record of {resource} is not the one in the state",
                    resource=entry.resource,
                )
            held.append(row)
        self._registry.require([self._pair(row) for row in held])

    def exported(self, rows: Sequence[StoredRecord]) -> None:
        """Check rows of a snapshot, which carry no MACs, against those in the state."""
        pairs = []
        for row in rows:
            held = self._store.state(place_of(row))
            if held is None or held.index != row.index:
                # Written meanwhile. The next attempt takes it as it then is.
                raise Unavailable("the state changed while its snapshot was made")
            if held.record != row.record:
                raise IntegrityFailure(
                    "the state of {resource} is not what was exported",
                    resource=row.resource,
                )
            pairs.append(self._pair(held))
        self._registry.require(pairs)

    def wrapped(self, rows: Iterable[tuple[WrappedKey, bytes]]) -> None:
        """Check wrapped keys, so that none goes out under another version's id."""
        vault_id = self._registry.vault_id
        self._registry.require([(w.statement(vault_id), mac) for w, mac in rows])

    def exported_keys(self, keys: Sequence[WrappedKey], region: str) -> None:
        """Check wrapped keys of a snapshot against those that are kept."""
        held = self._store.wrapped_for([k.version for k in keys], region)
        for key in keys:
            if key.version not in held or held[key.version][0] != key:
                raise Unavailable("wrapped keys changed while a snapshot was made")
        self.wrapped(held.values())

    def _pair(self, row: StoredRecord) -> tuple[bytes, bytes]:
        return row.statement(self._registry.vault_id), row.mac
