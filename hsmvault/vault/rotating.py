"""Rotation policies, and pending versions that are not to wait for every region."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from hsmvault.model.errors import KeyNotEnabled, VersionsPending, WrongState
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import VersionState
from hsmvault.model.log import Kind, Position
from hsmvault.model.names import KeyName, VersionName
from hsmvault.model.rotation import Rotation
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.checked import Found
from hsmvault.vault.ports import Clock, Store
from hsmvault.vault.view import View
from hsmvault.vault.writing import Draft, Request, Writer, require_etag

PENDING_MAX: Final = 16
"""Pending versions that a key is shown with; it seldom has one."""


@dataclass(frozen=True, slots=True)
class RotationPatch:
    """What an update of a policy changes; None: left as it is."""

    after_create_ms: int | None = None
    before_expire_ms: int | None = None
    expire_after_ms: int | None = None

    def applied(self, rotation: Rotation) -> Rotation:
        """Return the policy with what the patch names."""
        return replace(
            rotation,
            after_create_ms=_or(self.after_create_ms, rotation.after_create_ms),
            before_expire_ms=_or(self.before_expire_ms, rotation.before_expire_ms),
            expire_after_ms=_or(self.expire_after_ms, rotation.expire_after_ms),
        )


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """Policies of keys, and their pending versions."""

    store: Store
    catalogue: Catalogue
    writer: Writer
    clock: Clock

    def update_policy(
        self, request: Request, name: KeyName, patch: RotationPatch, *, etag: str
    ) -> Found[KeyRecord]:
        """Change a key's policy; one that asks for nothing is taken away."""

        def decide(_view: View) -> Draft[KeyRecord]:
            found = self.catalogue.get(name)
            require_etag(found, etag)
            key = found.record
            rotation = patch.applied(key.rotation or Rotation())
            rotation.require_valid()
            if not rotation.empty and key.rotation is None:
                newest = self.catalogue.all_versions(key)[-1].record
                rotation = rotation.begun(newest.create_ms)
            changed = replace(
                key,
                revision=key.revision + 1,
                update_ms=self.clock(),
                rotation=None if rotation.empty else rotation,
            )
            return Draft((changed,), changed)

        return self.writer.write(request, KeyRecord, decide)

    def pending(self, key: KeyRecord) -> list[str]:
        """The ids of the versions that are not current yet, because of some region."""
        rows = self.store.states(
            Kind.KEY_VERSION,
            prefix=f"{key.resource}/versions/",
            state=VersionState.PENDING,
            limit=PENDING_MAX,
        )
        return [row.resource.rpartition("/")[2] for row in rows]

    def activate(
        self,
        request: Request,
        name: VersionName,
        *,
        watermarks: Mapping[str, Position],
        force: bool,
        etag: str,
    ) -> tuple[Found[VersionRecord], list[str]]:
        """Make a pending version current now; returns which regions lack it, too.

        Refused while a region that it is wrapped for lacks it, unless forced: what it
        encrypts then cannot be opened there before it arrives. `watermarks` says how
        far each region has come.
        """
        missing: list[str] = []

        def decide(view: View) -> Draft[VersionRecord]:
            held, found = self.catalogue.version(name.key, name.version)
            version, key = found.found.record, held.key.record
            require_etag(found.found, etag)
            if version.state is not VersionState.PENDING:
                raise WrongState(
                    "{name} is {state}, not PENDING; it became current when it could",
                    name=name,
                    state=version.state,
                )
            if not version.enabled:
                raise KeyNotEnabled(
                    "{name} is disabled; enable it first: hsmvault version update "
                    "--enable",
                    name=name,
                )
            missing[:] = _lacking(found.found, watermarks, view)
            if missing and not force:
                raise VersionsPending(
                    "{regions} do not hold {name} yet; it becomes current by itself "
                    "once they do. Not to wait for them: hsmvault key activate --force",
                    regions=", ".join(f"regions/{region}" for region in missing),
                    name=name,
                )
            now = self.clock()
            active = replace(
                version,
                revision=version.revision + 1,
                state=VersionState.ACTIVE,
                update_ms=now,
            )
            turned = replace(
                key, revision=key.revision + 1, current=version.version, update_ms=now
            )
            return Draft((active, turned), active)

        return self.writer.write(request, VersionRecord, decide), missing


def _lacking(
    found: Found[VersionRecord], watermarks: Mapping[str, Position], view: View
) -> list[str]:
    """The regions that a version is wrapped for and that have not acknowledged it."""
    return [
        region
        for region in view.receiving
        if region != view.region
        and region in found.record.regions
        and (
            region not in watermarks or watermarks[region].index < found.position.index
        )
    ]


def _or(patch: int | None, present: int) -> int:
    return present if patch is None else patch
