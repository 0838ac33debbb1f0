"""What a stretch of the log touches: the part of it that memory has not seen yet."""

from dataclasses import dataclass, field
from typing import Final

from hsmvault.model.errors import LogCompacted, TwoHistories
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import ACCESS_KINDS, Entry, Head, Kind, chain
from hsmvault.vault.ports import Store

PAGE: Final = 1000
TAIL_MAX: Final = 10_000
"""Beyond so many entries, loading everything again is cheaper than following them."""


@dataclass(slots=True)
class Tail:
    """What a stretch of the log touches."""

    head: Head
    everything: bool = False
    vault: bool = False
    access: set[str] = field(default_factory=set)
    """Role assignments."""
    roles: set[str] = field(default_factory=set)
    """Role definitions."""
    access_index: int = 0
    regions: set[str] = field(default_factory=set)
    regions_index: int = 0
    keys: set[str] = field(default_factory=set)
    unusable: set[str] = field(default_factory=set)
    """Keys, by folded name, all of whose versions must be closed."""
    closed: set[str] = field(default_factory=set)
    """Version ids that must be closed."""
    seen: dict[str, int] = field(default_factory=dict)
    """Where each key and version last changed."""

    def add(self, entry: Entry) -> None:
        index = entry.position.index
        if entry.kind is Kind.EPOCH:
            self.everything = True
        elif entry.kind is Kind.VAULT:
            self.vault = True
        elif entry.kind in ACCESS_KINDS:
            changed = self.roles if entry.kind is Kind.ROLE_DEFINITION else self.access
            changed.add(entry.resource)
            self.access_index = index
        elif entry.kind is Kind.REGION:
            self.regions.add(entry.resource)
            self.regions_index = index
        # Heads decide nothing, and imports are read when they are asked for.
        elif entry.kind not in {Kind.IMPORT, Kind.AUDIT_HEAD}:
            self._add_key(entry)

    def _add_key(self, entry: Entry) -> None:
        self.keys.add("/".join(entry.resource.split("/")[:2]))
        self.seen[entry.resource] = entry.position.index
        if entry.kind is Kind.KEY:
            key = KeyRecord.from_bytes(entry.record)
            if key.state is not KeyState.ACTIVE or not key.enabled:
                self.unusable.add(key.resource)
        elif entry.kind is Kind.KEY_VERSION:
            version = VersionRecord.from_bytes(entry.record)
            if not version.enabled:
                self.closed.add(version.version)
        else:
            self.closed.update(TombstoneRecord.from_bytes(entry.record).versions)


def read_tail(store: Store, since: Head, *, region: str) -> Tail | None:
    """Read what came after `since`; None: the log does not go on from there.

    Raises TwoHistories where the chain is broken.
    """
    tail = Tail(since)
    while tail.head.position.index - since.position.index <= TAIL_MAX:
        try:
            entries = store.entries(tail.head.position.index, limit=PAGE)
        except LogCompacted:
            # A snapshot took the log's place.
            return None
        for entry in entries:
            if entry.position.index != tail.head.position.index + 1:
                return None
            if chain(tail.head.chain, entry) != entry.chain:
                raise TwoHistories(
                    "the log of region {region} breaks at index {index}; it is "
                    "refused. Compare the region with another one",
                    region=region,
                    index=entry.position.index,
                )
            tail.head = Head(entry.position, entry.chain)
            tail.add(entry)
        if len(entries) < PAGE:
            return tail if entries or store.head() == tail.head else None
    return None
