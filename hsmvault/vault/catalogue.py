"""Reading keys: one, many, their versions, and their public halves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hsmvault.model.algorithms import KeyType
from hsmvault.model.errors import InvalidRequest, NotFound
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Kind
from hsmvault.model.names import KeyName
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Store
from hsmvault.vault.ring import Held, Version

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What there is. Answers nothing that this region's HSM did not vouch for."""

    store: Store
    memory: Memory

    def get(
        self, name: KeyName, *, active: bool = True, deleted: bool = False
    ) -> Found[KeyRecord]:
        """Return a key in one of the states asked for, or raise NotFound."""
        held = self.memory.key(name.resource)
        wanted = {KeyState.ACTIVE: active, KeyState.DELETED: deleted}
        if held is None or not wanted.get(held.key.record.state, False):
            raise NotFound("there is no {name}", name=name)
        return held.key

    def keys(
        self, *, after: str, limit: int, active: bool, deleted: bool
    ) -> list[Found[KeyRecord]]:
        """Keys by folded name, from beyond `after`."""
        state = None
        if not (active and deleted):
            state = KeyState.ACTIVE if active else KeyState.DELETED
        rows = self.store.states(Kind.KEY, after=after, limit=limit, state=state)
        return self.memory.check(rows, KeyRecord)

    def versions(
        self, name: KeyName, *, after: str, limit: int
    ) -> tuple[Found[KeyRecord], Sequence[Found[VersionRecord]]]:
        """The key, and its versions oldest first, from beyond the place `after`."""
        key = self.get(name)
        found = self.all_versions(key.record)
        return key, [f for f in found if place(f) > after][:limit]

    def all_versions(self, key: KeyRecord) -> list[Found[VersionRecord]]:
        """Every version of a key, oldest first."""
        prefix = f"{key.resource}/versions/"
        found: list[Found[VersionRecord]] = []
        while True:
            after = found[-1].record.resource if found else ""
            rows = self.store.states(
                Kind.KEY_VERSION, prefix=prefix, after=after, limit=PAGE_MAX
            )
            found += self.memory.check(rows, VersionRecord)
            if len(rows) < PAGE_MAX:
                break
        own = [f for f in found if f.record.incarnation == key.incarnation]
        return sorted(own, key=place)

    def version(self, name: KeyName, version: str | None) -> tuple[Held, Version]:
        """Return a version, by default the current one, or raise NotFound."""
        self.get(name)
        held = self.memory.key(name.resource)
        if held is not None:
            found = self.memory.version(held, version or held.key.record.current)
            if found is not None:
                return held, found
        raise NotFound(
            "there is no {name}", name=name.version(version) if version else name
        )

    def public_key(self, name: KeyName, version: str | None) -> Version:
        """Return a version that has a public half, or raise InvalidRequest."""
        _, found = self.version(name, version)
        if found.found.record.spec.type is KeyType.OCT:
            raise InvalidRequest(
                "{name} is an oct key, which has no public half", name=name
            )
        return found


def place(found: Found[VersionRecord]) -> str:
    """Where a version stands among its key's: by age, and by id where equally old."""
    return f"{found.record.create_ms:015d}/{found.record.version}"


def page_size(given: int) -> int:
    """Return the size of a page, or raise InvalidRequest."""
    if given < 0:
        raise InvalidRequest(
            "page_size is 1 to {most}, not {given}", most=PAGE_MAX, given=given
        )
    return min(given or PAGE_DEFAULT, PAGE_MAX)
