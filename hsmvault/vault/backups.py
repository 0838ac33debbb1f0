"""Keys carried out of the vault, and back into the same one.

A backup outlives a purge: that is what it is for. It opens nothing by itself: what is
wrapped in it was wrapped for regions of this vault, and only they open it.
"""

from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from hsmvault.model.backup import BACKUP_BYTES, BackedUp, KeyBackup
from hsmvault.model.errors import (
    BackupInvalid,
    ChangedMeanwhile,
    IntegrityFailure,
    NotFound,
    RegionNotReady,
    TooLarge,
)
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.names import KeyName
from hsmvault.model.stored import WrappedKey, pair_key_name, region_key_name
from hsmvault.model.vault_records import RegionRecord
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.checked import Found
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.ports import Clock, Hsm, Material, Store
from hsmvault.vault.quotas import require_room
from hsmvault.vault.view import View
from hsmvault.vault.writing import Draft, Request, Writer

Wrapped: TypeAlias = tuple[WrappedKey, bytes]

_IN_PLACE: Final = (
    "a backup restores under the name that it was made of, and only when that is "
    "free: for the backup to take its place, hsmvault key delete, then hsmvault key "
    "purge"
)


class Verifier(Protocol):
    """What knows the signatures of regions."""

    def __call__(
        self,
        region: RegionRecord,
        /,
        *,
        partition: str,
        statement: bytes,
        signature: bytes,
    ) -> bool:
        """Tell whether that partition's identity key signed the statement."""


@dataclass(frozen=True, slots=True)
class Backups:
    """Backs keys up, and restores them."""

    store: Store
    hsm: Hsm
    catalogue: Catalogue
    writer: Writer
    maker: KeyMaker
    clock: Clock
    signed: Verifier

    # --- out -----------------------------------------------------------------

    def backup(self, name: KeyName) -> KeyBackup:
        """Carry out a live key, with all versions, wrapped for every present region.

        Any region can: what it does not hold wrapped for another one, it wraps.
        """
        view = self.catalogue.memory.refresh()
        key = self.catalogue.get(name)
        versions = self.catalogue.all_versions(key.record)
        made = KeyBackup(
            vault_id=view.vault.vault_id,
            region=view.region,
            partition=self.hsm.name,
            time_ms=self.clock(),
            position=view.served,
            key=key.raw,
            versions=tuple(self._backed_up(found, view) for found in versions),
        )
        self._require_unchanged(key)
        made = replace(made, signature=self.hsm.sign_statement(made.statement()))
        size = len(made.to_bytes())
        if size > BACKUP_BYTES:
            raise TooLarge(
                "the backup of {name} would have {size} bytes, and {most} can be "
                "restored: it has too many versions. Move on to a new key",
                name=key.record.name,
                size=size,
                most=BACKUP_BYTES,
            )
        return made

    def _backed_up(self, found: Found[VersionRecord], view: View) -> BackedUp:
        record = found.record
        own = self.store.wrapped(record.version, view.region)
        if own is None:
            raise RegionNotReady(
                "region {region} does not hold version {version} of {name} yet; wait, "
                "or ask another region",
                region=view.region,
                version=record.version,
                name=record.key,
            )
        material = Material(record.version, record.spec, record.public_key, *own)
        others = [self._for(region, material, view) for region in view.receiving[1:]]
        return BackedUp(found.raw, (own, *others))

    def _for(self, region: str, material: Material, view: View) -> Wrapped:
        held = self.store.wrapped(material.version, region)
        if held is None or held[0].wrapping_key != pair_key_name(view.region, region):
            return self.hsm.seal(material, region), b""
        return held[0], b""

    def _require_unchanged(self, key: Found[KeyRecord]) -> None:
        """Raise unless the key is still what was read before its versions."""
        stored = self.store.state(key.record.resource)
        if stored is None:
            raise NotFound("there is no {name}", name=key.record.name)
        if stored.record != key.raw:
            raise ChangedMeanwhile(
                "{name} changed while it was backed up; try again", name=key.record.name
            )

    # --- in ------------------------------------------------------------------

    def restore(self, request: Request, backup: KeyBackup) -> Found[KeyRecord]:
        """Bring a purged key back: its name, its versions, their ids and dates.

        As in making a key, nobody can name it before the last step, and after it, it is
        durable and every version of it was opened and used.
        """

        def decide(view: View) -> Draft[KeyRecord]:
            # 1. It is ours, whole, and its name is free.
            self._require_ours(backup, view)
            key, versions = _records(backup)
            self.maker.require_free(KeyName.parse(key.name), _IN_PLACE)
            # 2. The records: another incarnation, since the former one has its grave.
            now, incarnation = self.clock(), self.maker.new_id()
            fresh = [
                replace(
                    version,
                    incarnation=incarnation,
                    revision=1,
                    regions=tuple(view.receiving),
                    update_ms=now,
                )
                for version in versions
            ]
            back = replace(key, incarnation=incarnation, revision=1, update_ms=now)
            require_room(self.store, view.vault, [*fresh, back])
            # 3. Open what is for here, use it, and wrap it for every region anew.
            wrapped: list[Wrapped] = []
            if not request.validate_only:
                for version, one in zip(fresh, backup.versions, strict=True):
                    wrapped += self._reopened(version, one, view)
            # 4. Commit, and answer. The key comes last: its position is the whole's.
            return Draft((*fresh, back), back, wrapped=wrapped, regions_matter=True)

        return self.writer.write(request, KeyRecord, decide)

    def _require_ours(self, backup: KeyBackup, view: View) -> None:
        if backup.vault_id != view.vault.vault_id:
            raise BackupInvalid(
                "the backup is of another vault, {other}; its keys open there only",
                other=backup.vault_id[:64],
            )
        # Regions that were removed are known still, as they last were.
        author = view.regions.get(backup.region)
        if author is None or not self.signed(
            author.record,
            partition=backup.partition,
            statement=backup.statement(),
            signature=backup.signature,
        ):
            raise BackupInvalid(
                "the backup is not signed by a partition of this vault as it is known "
                "here; it was edited, or made by what was never part of it"
            )

    def _reopened(
        self, version: VersionRecord, one: BackedUp, view: View
    ) -> list[Wrapped]:
        own = self._own(version, one, view)
        material = Material(version.version, version.spec, version.public_key, *own)
        try:
            self.hsm.self_test(material)
        except IntegrityFailure as error:
            raise _does_not_open(version, view) from error
        others = [self.hsm.seal(material, region) for region in view.receiving[1:]]
        macs = self.hsm.mac([w.statement(view.vault.vault_id) for w in others])
        return [own, *zip(others, macs, strict=True)]

    def _own(self, version: VersionRecord, one: BackedUp, view: View) -> Wrapped:
        """Return what rests in this region, from what was carried for it."""
        carried = next((w for w in one.wrapped if w[0].region == view.region), None)
        if carried is None:
            raise RegionNotReady(
                "the backup is of a time before {region} was part of the vault, so "
                "nothing in it is wrapped for it; restore it where one of its regions, "
                "{regions}, is the primary",
                region=view.region,
                regions=", ".join(w[0].region for w in one.wrapped),
            )
        wrapped, mac = carried
        if wrapped.version != version.version:
            raise BackupInvalid("the backup's wrapped keys are another version's")
        if wrapped.wrapping_key == region_key_name(view.region):
            return wrapped, mac
        try:
            own = self.hsm.rewrap(version.spec, version.public_key, wrapped)
        except IntegrityFailure as error:
            raise _does_not_open(version, view) from error
        (mac,) = self.hsm.mac([own.statement(view.vault.vault_id)])
        return own, mac


def _records(backup: KeyBackup) -> tuple[KeyRecord, list[VersionRecord]]:
    """Read the records of a backup that is signed, and fit together all the same."""
    try:
        key = KeyRecord.from_bytes(backup.key)
        versions = [VersionRecord.from_bytes(one.record) for one in backup.versions]
    except IntegrityFailure as error:
        raise BackupInvalid(
            "the backup was made by a newer release; restore it with that one"
        ) from error
    ids = {version.version for version in versions}
    fits = (
        key.state is KeyState.ACTIVE
        and key.current in ids
        and len(ids) == len(versions)
        and all(
            (v.key, v.incarnation, v.spec) == (key.name, key.incarnation, key.spec)
            for v in versions
        )
    )
    if not fits:
        raise BackupInvalid("the backup's key and versions do not belong together")
    return key, versions


def _does_not_open(version: VersionRecord, view: View) -> BackupInvalid:
    return BackupInvalid(
        "version {version} of the backup does not open in region {region}: its region "
        "key, or the pair key to it, is another one since; restore it where one of the "
        "other regions is the primary",
        version=version.version,
        region=view.region,
    )
