"""The keys that were used lately, as they are in force. Bounded; safe to share.

A key in the ring was read from state that this HSM vouched for, and has not changed
since: `drop` takes it out before its change is published.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.vault.checked import Found
from hsmvault.vault.ports import Material

VERSIONS_MAX: Final = 64
"""Versions and plans kept per key; a key is used by few of its versions at a time."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version and its material; None: this region holds none."""

    found: Found[VersionRecord]
    material: Material | None


@dataclass(slots=True)
class Held:
    """A key in the ring, with the versions of it that were asked for.

    Threads that hold it after it was dropped finish with what they saw; what they add
    is lost with it.
    """

    key: Found[KeyRecord]
    versions: dict[str, Version] = field(default_factory=dict)
    plans: dict[Any, Any] = field(default_factory=dict)
    """What crypto worked out for a version and an algorithm."""

    def keep(self, version: Version) -> None:
        """Remember a version, and forget all when there are too many."""
        if len(self.versions) >= VERSIONS_MAX:
            self.versions.clear()
            self.plans.clear()
        self.versions[version.found.record.version] = version


class Ring:
    """Held keys by folded name, the least recently used dropped first."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock = threading.Lock()
        self._drops = 0

    def get(self, resource: str) -> Held | None:
        """Return a key that is held, and mark it as used."""
        held = self._held.get(resource)
        if held is not None:
            try:
                self._held.move_to_end(resource)
            except KeyError:
                # Dropped in between; who asked came before that and may use it.
                return held
        return held

    @property
    def drops(self) -> int:
        """How often keys were dropped: take it before reading what `put` will hold."""
        return self._drops

    def put(self, held: Held, *, drops: int) -> bool:
        """Hold a key, unless anything was dropped since `drops`: it may be older."""
        with self._lock:
            if self._drops != drops:
                return False
            resource = held.key.record.resource
            self._held[resource] = held
            self._held.move_to_end(resource)
            while len(self._held) > self._keys_max:
                self._held.popitem(last=False)
            return True

    def drop(self, resources: Iterable[str]) -> None:
        """Forget keys; whoever is reading one now will not put it back."""
        with self._lock:
            self._drops += 1
            for resource in resources:
                self._held.pop(resource, None)

    def clear(self) -> list[str]:
        """Forget all keys. Returns the versions that were held."""
        with self._lock:
            self._drops += 1
            versions = [v for held in self._held.values() for v in held.versions]
            self._held.clear()
            return versions

    def __len__(self) -> int:
        return len(self._held)
