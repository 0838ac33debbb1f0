"""Wrapping what exists for a region that is being added."""

import threading
from collections.abc import Sequence
from typing import Final

from hsmvault.model.key_records import VersionRecord
from hsmvault.model.log import Kind
from hsmvault.model.material import Material
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.regions.batches import in_batches
from hsmvault.regions.ports import LogStore, Workers
from hsmvault.regions.registry import Registry
from hsmvault.telemetry import Event, report

_ROUND: Final = 300
"""Versions per round: each partition has its share in one call, and what a crash undoes
is at most this."""

_CALL: Final = 50
"""Versions per call to a partition: about half a second when all are RSA-4096."""


class Sealing:
    """Walks the existing versions: opens each, and wraps it for the new region.

    What is wrapped is stored, round by round; whoever starts again goes on with what is
    missing. Versions made meanwhile are wrapped for the region by their makers.
    """

    def __init__(
        self,
        store: LogStore,
        workers: Workers,
        registry: Registry,
        *,
        region: str,
    ) -> None:
        self._store = store
        self._workers = workers
        self._registry = registry
        self._own = region

    def run(self, region: str, ending: threading.Event) -> bool:
        """Seal what is missing for `region`; False if it was told to end before."""
        after, sealed = "", 0
        while not ending.is_set():
            rows = self._store.unsealed(region, after=after, limit=_ROUND)
            if not rows:
                if sealed:
                    report(Event.KEYS_SEALED, subject=region, versions=sealed)
                    self._registry.audit.note(
                        "keys.sealed", f"/regions/{region}", versions=sealed
                    )
                return True
            sealed += self._round(region, rows)
            after = rows[-1].resource
        return False

    def percent(self, region: str) -> int:
        """How much of what exists is wrapped for `region`."""
        total = self._store.count(Kind.KEY_VERSION)
        if total == 0:
            return 100
        return min(100, self._store.count_wrapped(region) * 100 // total)

    def _round(self, region: str, rows: Sequence[StoredRecord]) -> int:
        records = [
            VersionRecord.from_bytes(row.record) for row in self._registry.checked(rows)
        ]
        held = self._store.wrapped_for([r.version for r in records], self._own)
        materials = [
            Material(r.version, r.spec, r.public_key, *held[r.version])
            for r in records
            # Purged since it was listed: nothing to wrap, and nothing to miss.
            if r.version in held
        ]

        def seal(part: Sequence[Material]) -> list[tuple[WrappedKey, bytes]]:
            return self._workers.seal(part, region)

        return self._store.put_wrapped(in_batches(seal, materials, size=_CALL))
