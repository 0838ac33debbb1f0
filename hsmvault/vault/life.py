"""How keys change, end, and come back."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from hsmvault.model.errors import DeletionProtected, NotDue, NotFound, PurgeTooEarly
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState, Step, after
from hsmvault.model.names import KeyName, VersionName
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Clock, Dates
from hsmvault.vault.settings import KeyPatch
from hsmvault.vault.view import View
from hsmvault.vault.writing import Draft, Request, Writer, require_etag

DAY_MS: Final = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class KeyLife:
    """Updates, deletes, recovers and purges keys. In force at once in this region."""

    memory: Memory
    catalogue: Catalogue
    writer: Writer
    clock: Clock
    dates: Dates
    lasting: Clock
    """Never behind what it once was: a retention is counted from it."""

    def update(
        self, request: Request, name: KeyName, patch: KeyPatch, *, etag: str
    ) -> Found[KeyRecord]:
        """Change what the patch names."""

        def decide(_view: View) -> Draft[KeyRecord]:
            found = self.catalogue.get(name)
            require_etag(found, etag)
            key = patch.applied(found.record, now_ms=self.clock())
            return Draft((key,), key)

        return self.writer.write(request, KeyRecord, decide)

    def update_version(
        self, request: Request, name: VersionName, *, enabled: bool, etag: str
    ) -> Found[VersionRecord]:
        """Enable or disable one version."""

        def decide(_view: View) -> Draft[VersionRecord]:
            held, version = self.catalogue.version(name.key, name.version)
            require_etag(version.found, etag)
            record = replace(
                version.found.record,
                revision=version.found.record.revision + 1,
                enabled=enabled,
                update_ms=self.clock(),
            )
            return Draft((record,), record, unchanged=held.key)

        return self.writer.write(request, VersionRecord, decide)

    def delete(self, request: Request, name: KeyName, *, etag: str) -> Found[KeyRecord]:
        """Soft-delete a key: unusable, its name taken, recoverable."""

        def decide(view: View) -> Draft[KeyRecord]:
            found = self._any(name)
            key = found.record
            state = after(key.state, Step.DELETE, name=key.name)
            require_etag(found, etag)
            if key.deletion_protection:
                raise DeletionProtected(
                    "{name} is protected against deletion; take that off first: "
                    "hsmvault key update --no-deletion-protection",
                    name=key.name,
                )
            now = self.clock()
            # By a clock that nobody sets back: else a retention could end early.
            ends = self.lasting() + view.vault.retention_days * DAY_MS
            gone = replace(
                key,
                revision=key.revision + 1,
                state=state,
                update_ms=now,
                delete_ms=now,
                purge_ms=ends,
            )
            return Draft((gone,), gone)

        return self.writer.write(request, KeyRecord, decide)

    def recover(
        self, request: Request, name: KeyName, *, etag: str
    ) -> Found[KeyRecord]:
        """Bring a deleted key back exactly as it was, `enabled` included."""

        def decide(_view: View) -> Draft[KeyRecord]:
            found = self._any(name)
            key = found.record
            state = after(key.state, Step.RECOVER, name=key.name)
            require_etag(found, etag)
            back = replace(
                key,
                revision=key.revision + 1,
                state=state,
                update_ms=self.clock(),
                delete_ms=0,
                purge_ms=0,
            )
            return Draft((back,), back)

        return self.writer.write(request, KeyRecord, decide)

    def purge(
        self, request: Request, name: KeyName, *, etag: str
    ) -> Found[TombstoneRecord]:
        """End a deleted key for good: its records and wrapped keys, in every region.

        The tombstone lists the versions, so that every region closes and drops them.
        """

        def decide(view: View) -> Draft[TombstoneRecord]:
            found = self._any(name)
            key = found.record
            after(key.state, Step.PURGE, name=key.name)
            require_etag(found, etag)
            if view.vault.purge_protection:
                self._require_ended(key)
            return self._end(key)

        return self.writer.write(request, TombstoneRecord, decide)

    def purge_due(
        self, request: Request, name: KeyName, *, incarnation: str
    ) -> Found[TombstoneRecord]:
        """End a deleted key whose retention has ended; NotDue for any other.

        Whoever asks has made sure that the clock can be trusted.
        """

        def decide(_view: View) -> Draft[TombstoneRecord]:
            key = self._any(name).record
            if (
                key.incarnation != incarnation
                or key.state is not KeyState.DELETED
                or self.clock() < key.purge_ms
            ):
                raise NotDue("{name} need not be purged now", name=key.name)
            return self._end(key)

        return self.writer.write(request, TombstoneRecord, decide)

    def _require_ended(self, key: KeyRecord) -> None:
        if self.clock() < key.purge_ms:
            raise PurgeTooEarly(
                "{name} cannot be purged before {date}: purge protection is on, "
                "and nobody can override it. Until then hsmvault key recover "
                "brings it back",
                name=key.name,
                date=date(key.purge_ms),
            )
        # A clock that was set forward says so, too; then another one has to agree.
        self.dates.require_past(key.purge_ms)

    def _end(self, key: KeyRecord) -> Draft[TombstoneRecord]:
        versions = self.catalogue.all_versions(key)
        tombstone = TombstoneRecord(
            name=key.name,
            incarnation=key.incarnation,
            revision=key.revision + 1,
            versions=tuple(v.record.version for v in versions),
            purge_ms=self.clock(),
        )
        return Draft((tombstone,), tombstone)

    def _any(self, name: KeyName) -> Found[KeyRecord]:
        """Return a key in any state: its moves say what is in the way."""
        held = self.memory.key(name.resource)
        if held is None or held.key.record.state is KeyState.PURGED:
            raise NotFound("there is no {name}", name=name)
        return held.key


def date(time_ms: int) -> str:
    """Write a time for people: to the second, in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
