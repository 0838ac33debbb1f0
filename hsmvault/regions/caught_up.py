"""What becomes so once other regions have caught up."""

import dataclasses
from typing import Final

from hsmvault.model.errors import ChangedMeanwhile
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState, VersionState
from hsmvault.model.log import Kind, Position
from hsmvault.model.stored import StoredRecord
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.ports import LogStore, Peers
from hsmvault.regions.registry import Registry
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock

LATE_MS: Final = 60_000
"""Linked regions have a version within a second."""
_ALARM: Final = "pending"


class CaughtUp:
    """Makes pending versions current when every region that they are for has them."""

    def __init__(
        self,
        store: LogStore,
        registry: Registry,
        peers: Peers,
        *,
        clock: Clock,
        alarms: Alarms,
    ) -> None:
        self._store = store
        self._registry = registry
        self._peers = peers
        self._clock = clock
        self._alarms = alarms

    def make_current(self) -> int:
        """Look at every pending version once; how many are pending no longer."""
        pending = self._store.states(Kind.KEY_VERSION, state=VersionState.PENDING)
        if not pending:
            self._alarms.clear(_ALARM)
            return 0
        regions = {record.id for record in self._registry.receiving()}
        made = 0
        late: list[tuple[VersionRecord, list[str]]] = []
        for row in sorted(self._registry.checked(pending), key=lambda r: r.index):
            version = VersionRecord.from_bytes(row.record)
            waits = [r for r in version.regions if r in regions]
            lacking = [r for r in waits if not self._holds(r, row.index)]
            if lacking:
                if self._clock() - version.create_ms > LATE_MS:
                    late.append((version, lacking))
                continue
            try:
                made += self._make(version)
            except ChangedMeanwhile:
                # Somebody wrote the key first; the next look decides anew.
                continue
        self._tell(late)
        return made

    def _tell(self, late: list[tuple[VersionRecord, list[str]]]) -> None:
        """Sound one alarm for all that wait for long, naming the first."""
        if not late:
            self._alarms.clear(_ALARM)
            return
        version, lacking = late[0]
        more = f", and {len(late) - 1} more" if len(late) > 1 else ""
        missing = ", ".join(f"regions/{region}" for region in lacking)
        self._alarms.sound(
            _ALARM,
            f"{version.key}/versions/{version.version} is not current, because "
            f"{missing} lacks it{more}. Not to wait: hsmvault key activate "
            f"{version.key} {version.version} --force",
        )

    def _holds(self, region: str, index: int) -> bool:
        mark = self._peers.watermark(region)
        return mark is not None and mark.index >= index

    def _make(self, version: VersionRecord) -> bool:
        row = self._store.state(version.key.lower())
        if row is None:
            return False
        key = KeyRecord.from_bytes(self._registry.checked([row])[0].record)
        # A deleted key comes back exactly as it was, and is looked at again then.
        if key.incarnation != version.incarnation or key.state is not KeyState.ACTIVE:
            return False
        now = self._clock()
        active = dataclasses.replace(
            version,
            revision=version.revision + 1,
            state=VersionState.ACTIVE,
            update_ms=now,
        )
        changes = [
            self._registry.change(Kind.KEY_VERSION, active, revision=active.revision)
        ]
        current = version.enabled and self._newer(version, key)
        if current:
            turned = dataclasses.replace(
                key, revision=key.revision + 1, current=version.version, update_ms=now
            )
            changes.append(
                self._registry.change(Kind.KEY, turned, revision=turned.revision)
            )
        position: Position = self._registry.commit(changes)
        report(
            Event.VERSION_CURRENT,
            subject=active.resource,
            current=current,
            position=str(position),
        )
        return True

    def _newer(self, version: VersionRecord, key: KeyRecord) -> bool:
        """Whether it was made after the current one: two may be pending at a time."""
        row: StoredRecord | None = self._store.state(
            f"{key.resource}/versions/{key.current}"
        )
        if row is None:
            return True
        return VersionRecord.from_bytes(row.record).create_ms <= version.create_ms
