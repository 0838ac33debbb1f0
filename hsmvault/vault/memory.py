"""What the serving threads of a process share: the store's state, mirrored and checked.

`refresh` at the start of a request promises that what it returns, and every key read
afterwards, is not older than what the store held when it was called. Why that holds
with several threads:

- `store.changed` is asked per thread, on a connection of its own. A thread that hears
  True reads the log's tail under the lock before it goes on; until that succeeded it
  remembers that it must (`_behind`), since the store tells it only once.
- A thread that hears False has, since its last True, heard of no commit; and after
  that True it waited for a tail to be read which began after it.
- A tail drops the keys it touches before the view with its position is published, and
  a key that was being read meanwhile is not put into the ring (`Ring.put`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

from hsmvault.metrics import KEY_MISSES, count
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.errors import (
    IntegrityFailure,
    LogCompacted,
    NotServing,
    RegionBehind,
    StoreBehind,
    TwoHistories,
)
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.log import ACCESS_KINDS, Epoch, Head, Kind, Position
from hsmvault.model.record import Record
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import EpochRecord, RegionRecord, VaultRecord
from hsmvault.vault.checked import Found, check
from hsmvault.vault.ports import Hsm, Material, Store
from hsmvault.vault.ring import Held, Ring, Version
from hsmvault.vault.tail import PAGE, Tail, read_tail
from hsmvault.vault.view import Access, View

R = TypeVar("R", bound=Record)

POLL_SECONDS: Final = 0.005
"""How often a waiting thread looks: one pragma, some 5 µs."""
SEEN_MAX: Final = 16_384
"""Changes of keys that are remembered, the newest: some 3 MiB."""
READS_MAX: Final = 3
"""How often a key is read again that may have changed while it was read."""


class Memory:
    """The mirror of one region's store in one process. Safe to call from any thread.

    It must be the only one that asks its `store` whether it changed.

    Nothing is read before the first `refresh`, and keys only when they are asked for.
    """

    def __init__(
        self, store: Store, hsm: Hsm, *, region: str, keys_max: int = 4096
    ) -> None:
        self.region = region
        self.hsm = hsm
        self.store = store
        self.ring = Ring(keys_max)
        self._view: View | None = None
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self._local = threading.local()
        self._closing = threading.Event()

    # --- the view ------------------------------------------------------------

    def refresh(self) -> View:
        """Return a view that is not older than the store was when this was called.

        Raises NotServing as long as the region belongs to no vault.
        """
        local = self._local
        if self.store.changed() or getattr(local, "behind", True):
            local.behind = True
            with self._lock:
                self._catch_up()
            local.behind = False
        view = self._view
        if view is None:
            raise NotServing(
                "region {region} belongs to no vault yet; run hsmvault vault init, or "
                "have its primary add it: hsmvault region add",
                region=self.region,
            )
        return view

    def wait_for(
        self,
        position: Position,
        *,
        seconds: float,
        wanted: Callable[[], bool] = lambda: True,
    ) -> View:
        """Return a view that has reached `position`, or raise RegionBehind.

        Raises PositionLost at once when the position lies on a lineage that was cut,
        and gives up when the answer is no longer `wanted`, or at `close`.
        """
        deadline = time.monotonic() + seconds
        while True:
            view = self.refresh()
            if self._reached(view, position):
                return view
            if self._closing.is_set():
                raise NotServing("this partition is ending; ask another one")
            if time.monotonic() >= deadline or not wanted():
                raise RegionBehind(
                    "region {region} has reached {reached}, not yet {position}; "
                    "ask again, or ask another region",
                    region=self.region,
                    reached=view.served,
                    position=position,
                )
            self._closing.wait(POLL_SECONDS)

    @property
    def vault(self) -> VaultRecord:
        """The vault's settings, as of the last refresh."""
        view = self._view
        assert view is not None, "nothing is read before the first refresh"
        return view.vault

    @property
    def ordinal(self) -> int:
        """As which one this region joined; see RegionRecord."""
        view = self._view
        assert view is not None, "nothing is read before the first refresh"
        found = view.regions.get(self.region)
        if found is None:
            raise NotServing(
                "region {region} does not find itself among the vault's regions",
                region=self.region,
            )
        return found.record.ordinal

    def close(self) -> None:
        """End all waiting."""
        self._closing.set()

    def _reached(self, view: View, position: Position) -> bool:
        if position.epoch == view.epoch:
            return position.index <= view.position.index
        return self.store.reached(position)

    # --- keys ----------------------------------------------------------------

    def key(self, resource: str) -> Held | None:
        """Return a key by its folded name, in any state; None: there is none."""
        held = self.ring.get(resource)
        if held is not None:
            return held
        count(KEY_MISSES)
        for _ in range(READS_MAX):
            drops = self.ring.drops
            stored = self.store.state(resource)
            if stored is None:
                return None
            (key,) = self.check([stored], KeyRecord)
            held = Held(key)
            if self.ring.put(held, drops=drops):
                return held
        # Writes are dense: use what was read just now, without keeping it.
        return held

    def version(self, held: Held, version: str) -> Version | None:
        """Return a version of a key that is held; None: it has none of that id."""
        known = held.versions.get(version)
        if known is not None:
            return known
        key = held.key.record
        stored = self.store.state(f"{key.resource}/versions/{version}")
        if stored is None:
            return None
        (found,) = self.check([stored], VersionRecord)
        if found.record.incarnation != key.incarnation:
            # The name was purged and made again while this was read.
            return None
        known = Version(found, self._material(found.record))
        if known.material is not None:
            # Without: sealing adds it later, and no entry of the log tells of that.
            held.keep(known)
        return known

    def check(self, stored: Sequence[StoredRecord], wanted: type[R]) -> list[Found[R]]:
        """Read rows of state, or raise IntegrityFailure."""
        view = self._view
        assert view is not None, "nothing is read before the first refresh"
        for row in stored:
            self._require_no_older(row)
        return check(
            stored,
            wanted,
            hsm=self.hsm,
            vault_id=view.vault.vault_id,
            at=_places(view.lineage),
        )

    def _material(self, version: VersionRecord) -> Material | None:
        row = self.store.wrapped(version.version, self.region)
        if row is None:
            return None
        wrapped, mac = row
        if (wrapped.version, wrapped.region) != (version.version, self.region):
            raise IntegrityFailure(
                "the wrapped key of version {version} is another's; it is refused",
                version=version.version,
            )
        # The HSM checks this MAC itself, whenever it opens the material.
        return Material(version.version, version.spec, version.public_key, wrapped, mac)

    # --- following the log ---------------------------------------------------

    def _catch_up(self) -> None:
        view = self._view
        if view is None:
            self._load()
            return
        tail = read_tail(self.store, view.head, region=self.region)
        if tail is None or tail.everything:
            self._require_ahead(view.head)
            self._load()
        elif tail.head != view.head:
            self._follow(view, tail)

    def _require_ahead(self, known: Head) -> None:
        """Raise unless the log still has, in its place, what was served from it."""
        head = self.store.head()
        if head is None or head.position < known.position:
            raise StoreBehind(
                "the log of region {region} was set back behind {known}, which was "
                "served already; it is refused. Put the newest store back",
                region=self.region,
                known=known.position,
            )
        try:
            entries = self.store.entries(known.position.index - 1, limit=1)
        except LogCompacted:
            # A snapshot took its place: it was verified to be ahead when it came.
            return
        if not entries or entries[0].chain != known.chain:
            raise TwoHistories(
                "the log of region {region} was another one at {known}, which was "
                "served already; it is refused. Compare the region with another one",
                region=self.region,
                known=known.position,
            )

    def _require_no_older(self, row: StoredRecord) -> None:
        """Refuse a row that is older than a change that this process has seen."""
        seen = self._seen.get(row.resource, 0)
        if row.index >= seen:
            return
        # Read, perhaps, just before that change was.
        again = self.store.state(row.resource)
        if again is not None and again.index < seen:
            raise IntegrityFailure(
                "the state of {resource} is older than what was served already; it "
                "was changed in the store itself",
                resource=row.resource,
            )

    def _see(self, tail: Tail) -> None:
        for resource, index in tail.seen.items():
            self._seen.pop(resource, None)
            self._seen[resource] = index
        while len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def _follow(self, view: View, tail: Tail) -> None:
        access = view.access
        if tail.access_index:
            access = access.after(
                self._again(tail.access, AssignmentRecord, view),
                self._again(tail.roles, RoleDefinitionRecord, view),
                index=tail.access_index,
            )
        regions = view.regions
        if tail.regions:
            changed = self._again(tail.regions, RegionRecord, view)
            regions = MappingProxyType(
                {**regions, **{f.record.id: f for f in changed.values()}}
            )
        vault = view.vault
        if tail.vault:
            vault = self._again(["vault"], VaultRecord, view)["vault"].record
        self.ring.drop(tail.keys)
        self._see(tail)
        self._close(tail)
        self._view = View.of(
            region=self.region,
            head=tail.head,
            vault=vault,
            lineage=view.lineage,
            regions=regions,
            regions_index=tail.regions_index or view.regions_index,
            access=access,
        )

    def _again(
        self, resources: Iterable[str], wanted: type[R], view: View
    ) -> dict[str, Found[R]]:
        rows = [self.store.state(resource) for resource in sorted(resources)]
        present = [row for row in rows if row is not None]
        found = check(
            present,
            wanted,
            hsm=self.hsm,
            vault_id=view.vault.vault_id,
            at=_places(view.lineage),
        )
        return {f.record.resource: f for f in found}

    def _close(self, tail: Tail) -> None:
        for resource in tail.unusable:
            rows = self.store.states(
                Kind.KEY_VERSION, prefix=f"{resource}/versions/", limit=PAGE
            )
            tail.closed.update(row.resource.rpartition("/")[2] for row in rows)
        if tail.closed:
            self.hsm.forget(sorted(tail.closed))

    # --- loading -------------------------------------------------------------

    def _load(self) -> None:
        """Read everything but keys.

        What it reads may be newer than `head`, never older, and following the log
        from there puts that right.
        """
        head = self.store.head()
        vault_row = self.store.state("vault")
        if head is None or vault_row is None:
            return
        access_index = self.store.last_index(sorted(ACCESS_KINDS))
        regions_index = self.store.last_index([Kind.REGION])
        vault_id = VaultRecord.from_bytes(vault_row.record).vault_id

        def read(rows: Sequence[StoredRecord], wanted: type[R]) -> list[Found[R]]:
            return check(rows, wanted, hsm=self.hsm, vault_id=vault_id, at=places)

        epochs = self._all(Kind.EPOCH)
        lineage = tuple(
            sorted(
                (EpochRecord.from_bytes(row.record) for row in epochs),
                key=lambda epoch: epoch.number,
            )
        )
        places = _places(lineage)
        base = self.store.sealed_base()
        if base is not None:
            # What lies before it is believed without the log: so it must be ours.
            self.hsm.check_macs([(base[0].base_statement(vault_id), base[1])])
        read(epochs, EpochRecord)
        (vault,) = read([vault_row], VaultRecord)
        regions = read(self._all(Kind.REGION), RegionRecord)
        assignments = read(self._all(Kind.ROLE_ASSIGNMENT), AssignmentRecord)
        roles = read(self._all(Kind.ROLE_DEFINITION), RoleDefinitionRecord)
        versions = self.ring.clear()
        if versions:
            self.hsm.forget(versions)
        self._view = View.of(
            region=self.region,
            head=head,
            vault=vault.record,
            lineage=lineage,
            regions=MappingProxyType({f.record.id: f for f in regions}),
            regions_index=regions_index,
            access=Access(assignments, roles, index=access_index, region=self.region),
        )

    def _all(self, kind: Kind) -> list[StoredRecord]:
        rows: list[StoredRecord] = []
        while True:
            after = rows[-1].resource if rows else ""
            page = self.store.states(kind, after=after, limit=PAGE)
            rows += page
            if len(page) < PAGE:
                return rows


def _places(lineage: Sequence[EpochRecord]) -> Callable[[int], Position]:
    """Return what turns an index into a position: which reign it was made in."""

    def at(index: int) -> Position:
        reign = lineage[0]
        for epoch in lineage[1:]:
            if epoch.fork_index < index:
                reign = epoch
        return Position(Epoch(reign.number, reign.region), index)

    return at
