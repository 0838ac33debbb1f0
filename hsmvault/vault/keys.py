"""Making keys and versions of them, in numbered steps whose order is the design."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import AlreadyExists, KeyNotEnabled, NotDue, NotFound
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState, VersionState
from hsmvault.model.log import Kind
from hsmvault.model.names import KeyName
from hsmvault.model.stored import WrappedKey
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Clock, Generated, Hsm, Material, Store, Witness
from hsmvault.vault.quotas import require_key_room, require_version_room
from hsmvault.vault.settings import KeySettings
from hsmvault.vault.view import View
from hsmvault.vault.writing import Draft, Request, Writer, require_etag

Source: TypeAlias = Callable[[str, Sequence[str]], Generated]
"""Gives the material of a version, wrapped for each region."""

_RENAME: Final = (
    "choose another name, or make a new version of it with hsmvault key rotate"
)


@dataclass(frozen=True, slots=True)
class _Made:
    """A fresh version, proven, with its wrapped keys and their MACs."""

    version: VersionRecord
    wrapped: tuple[tuple[WrappedKey, bytes], ...]


@dataclass(frozen=True, slots=True)
class KeyMaker:
    """Makes keys that outlive the loss of any one partition, and rotates them."""

    store: Store
    hsm: Hsm
    witness: Witness
    memory: Memory
    writer: Writer
    clock: Clock
    new_id: Callable[[], str]
    """128 random bits in hex."""

    def create(
        self,
        request: Request,
        name: KeyName,
        spec: KeySpec,
        settings: KeySettings,
        *,
        material: Source | None = None,
    ) -> Found[KeyRecord]:
        """Make a key and its first version, of `material` that comes from outside.

        The order is what makes a crash harmless. Before step 6 nobody can name the
        key, and nothing of it is left in a partition or in the store; after it, the
        key is durable and was opened again and used.
        """
        # 1. Nothing is made for a request that cannot succeed.
        settings.require_valid(spec)

        def decide(view: View) -> Draft[KeyRecord]:
            self.require_free(name)
            require_key_room(self.store, view.vault)
            # 2. to 4.
            new = self._new(str(name), self.new_id(), spec, view, VersionState.ACTIVE)
            new = replace(new, imported=material is not None)
            made = self._make(request, new, view, material or self._generated(spec))
            # 5. The records; the writer MACs them.
            key = KeyRecord(
                name=str(name),
                incarnation=made.version.incarnation,
                revision=1,
                spec=spec,
                operations=settings.operations or spec.default_operations,
                create_ms=made.version.create_ms,
                update_ms=made.version.create_ms,
                current=made.version.version,
                enabled=settings.enabled,
                not_before_ms=settings.not_before_ms,
                expire_ms=settings.expire_ms,
                tags=settings.tags,
                deletion_protection=settings.deletion_protection,
            )
            # 6. Commit: refused if the regions changed, since then it would not be
            # wrapped for all of them. The key comes last: its position is the whole's.
            return Draft(
                (made.version, key), key, wrapped=made.wrapped, regions_matter=True
            )

        # 7. Answer.
        return self.writer.write(request, KeyRecord, decide)

    def rotate(
        self, request: Request, name: KeyName, *, etag: str
    ) -> Found[VersionRecord]:
        """Make a new version of a key.

        It is current when this answers only where this region is the only one. Else it
        is PENDING until every region that it is wrapped for holds it: a region could
        otherwise be asked to use a version that has not arrived.
        """

        def decide(view: View) -> Draft[VersionRecord]:
            return self._next(request, self._rotatable(name, etag), view)

        return self.writer.write(request, VersionRecord, decide)

    def rotate_due(
        self, request: Request, name: KeyName, *, incarnation: str
    ) -> Found[VersionRecord]:
        """Rotate a key whose policy says that it is time, and only then.

        The version and the date of the next one are one transaction, and the date is
        looked at again for it: whoever asks twice, or after a crash, raises NotDue.
        """

        def decide(view: View) -> Draft[VersionRecord]:
            found = self._rotatable(name, "")
            key = found.record
            if key.incarnation != incarnation or not 0 < key.due_ms <= self.clock():
                raise NotDue("{name} need not rotate now", name=key.name)
            if self.store.states(
                Kind.KEY_VERSION,
                prefix=f"{key.resource}/versions/",
                state=VersionState.PENDING,
                limit=1,
            ):
                raise NotDue(
                    "{name} has a version that is not current yet; the next one waits "
                    "for it, or for hsmvault key activate",
                    name=key.name,
                )
            return self._next(request, found, view)

        return self.writer.write(request, VersionRecord, decide)

    def _next(
        self, request: Request, found: Found[KeyRecord], view: View
    ) -> Draft[VersionRecord]:
        key = found.record
        require_version_room(self.store, view.vault, key.resource)
        alone = len(view.receiving) == 1
        state = VersionState.ACTIVE if alone else VersionState.PENDING
        new = self._new(key.name, key.incarnation, key.spec, view, state)
        made = self._make(request, new, view, self._generated(key.spec))
        version = made.version
        if not alone and key.rotation is None:
            return Draft(
                (version,),
                version,
                wrapped=made.wrapped,
                regions_matter=True,
                unchanged=found,
            )
        moved = replace(
            key,
            revision=key.revision + 1,
            current=version.version if alone else key.current,
            update_ms=version.create_ms,
        )
        if key.rotation is not None:
            moved = replace(
                moved,
                rotation=key.rotation.begun(version.create_ms),
                expire_ms=key.rotation.expires_ms(version.create_ms) or key.expire_ms,
            )
        return Draft(
            (version, moved), version, wrapped=made.wrapped, regions_matter=True
        )

    def _new(
        self,
        name: str,
        incarnation: str,
        spec: KeySpec,
        view: View,
        state: VersionState,
    ) -> VersionRecord:
        """Return the record of a version that has no material yet."""
        now = self.clock()
        return VersionRecord(
            key=name,
            incarnation=incarnation,
            version=self.new_id(),
            revision=1,
            spec=spec,
            public_key=b"",
            regions=tuple(view.receiving),
            create_ms=now,
            update_ms=now,
            state=state,
        )

    def _generated(self, spec: KeySpec) -> Source:
        return lambda id_, regions: self.hsm.generate(id_, spec, regions=regions)

    def _make(
        self, request: Request, new: VersionRecord, view: View, source: Source
    ) -> _Made:
        if request.validate_only:
            return _Made(new, ())
        id_, spec = new.version, new.spec
        # 2. Make the material and wrap it for every region, in one call to the HSM.
        generated = source(id_, view.receiving)
        # 3. MAC what was wrapped: from here on nobody can exchange it.
        macs = self.hsm.mac(
            [w.statement(view.vault.vault_id) for w in generated.wrapped]
        )
        wrapped = tuple(zip(generated.wrapped, macs, strict=True))
        # 4. Prove that it opens and works, before anyone depends on it: in a sibling,
        # so that it does not hang on this one partition.
        own, mac = next(w for w in wrapped if w[0].region == view.region)
        material = Material(id_, spec, generated.public_key, own, mac)
        if not self.witness.self_test(material):
            self.hsm.self_test(material)
        return _Made(replace(new, public_key=generated.public_key), wrapped)

    def require_free(self, name: KeyName, way_out: str = _RENAME) -> None:
        """Raise AlreadyExists if a key has this name, live or deleted.

        `way_out` is what can be done about one that is live.
        """
        held = self.memory.key(name.resource)
        if held is None:
            return
        taken = held.key.record
        if taken.state is KeyState.DELETED:
            raise AlreadyExists(
                "{name} is taken by a deleted key; bring it back with hsmvault key "
                "recover, or end it with hsmvault key purge",
                name=taken.name,
            )
        raise AlreadyExists("{name} exists; " + way_out, name=taken.name)

    def _rotatable(self, name: KeyName, etag: str) -> Found[KeyRecord]:
        held = self.memory.key(name.resource)
        if held is None or held.key.record.state is not KeyState.ACTIVE:
            raise NotFound("there is no {name}", name=name)
        require_etag(held.key, etag)
        key = held.key.record
        if not key.enabled:
            raise KeyNotEnabled(
                "{name} is disabled and does not rotate; enable it first: "
                "hsmvault key update --enable",
                name=key.name,
            )
        return held.key
