"""Keys that come from outside: in the clear over TLS, or under a wrapping key of ours.

A wrapping key is good for one attempt, whatever comes of it: that it was used is
durable before anything is opened with it. So no blob is ever opened twice, as two kinds
of key, and nobody learns anything by trying.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hsmvault.model.algorithms import SIZES, KeyType
from hsmvault.model.errors import ImportSpent, InvalidRequest, NotFound, Unavailable
from hsmvault.model.import_records import ImportRecord
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.log import packed
from hsmvault.model.material import require_length
from hsmvault.model.names import ImportName, KeyName
from hsmvault.vault.checked import Found
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.life import date
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Blob, Clock, Generated, Hsm, Plain, Witness
from hsmvault.vault.settings import KeySettings
from hsmvault.vault.view import View
from hsmvault.vault.writing import Draft, Request, Writer

LIFETIME_MS: Final = 60 * 60 * 1000
"""How long a wrapping key waits, unless asked otherwise."""
LIFETIME_MS_MIN: Final = 60 * 1000
LIFETIME_MS_MAX: Final = 24 * 60 * 60 * 1000
BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class Importer:
    """Begins imports and ends them. What they bring is as what is made here."""

    hsm: Hsm
    witness: Witness
    memory: Memory
    writer: Writer
    maker: KeyMaker
    clock: Clock
    new_id: Callable[[], str]

    def digest(self, request: bytes) -> bytes:
        """Return what tells a request with key material from another.

        By the HSM's key: a plain hash in the store would let guesses be tried on it.
        """
        (mac,) = self.hsm.mac([packed("hsmvault/import/v1", request)])
        return mac

    def begin(
        self, request: Request, name: KeyName, *, bits: int, lifetime_ms: int
    ) -> Found[ImportRecord]:
        """Make a wrapping key for one key of this name.

        It is a session object of this partition's process: where that ends, or another
        region becomes primary, the import has to be begun again.
        """
        # 1. Nothing is made for a request that cannot succeed.
        bits, lifetime_ms = bits or BITS, lifetime_ms or LIFETIME_MS
        _require_lawful(bits, lifetime_ms)
        begun: list[str] = []

        def decide(view: View) -> Draft[ImportRecord]:
            self.maker.require_free(name)
            now = self.clock()
            id_, expire_ms = self.new_id(), now + lifetime_ms
            public_key = b""
            if not request.validate_only:
                # 2. Make it, in the HSM. If we end here, it ends with us.
                begun.append(id_)
                self.hsm.end_imports([], now_ms=now)
                public_key = self.hsm.begin_import(id_, bits, expire_ms=expire_ms)
            record = ImportRecord(
                name=str(ImportName(id_)),
                revision=1,
                key=str(name),
                bits=bits,
                public_key=public_key,
                region=view.region,
                partition=self.hsm.name,
                author=request.caller.principal,
                create_ms=now,
                expire_ms=expire_ms,
            )
            # 3. Commit, and answer.
            return Draft((record,), record)

        kept = ""
        try:
            found = self.writer.write(request, ImportRecord, decide)
            kept = found.record.id
        finally:
            lost = [id_ for id_ in begun if id_ != kept]
            if lost:
                self.hsm.end_imports(lost, now_ms=self.clock())
        return found

    def bring(
        self, request: Request, name: KeyName, plain: Plain, settings: KeySettings
    ) -> Found[KeyRecord]:
        """Make a key of material that came in the clear."""
        return self.maker.create(
            request,
            name,
            plain.spec,
            settings,
            material=lambda version, regions: self.hsm.bring(
                version, plain, regions=regions
            ),
        )

    def finish(
        self,
        request: Request,
        name: KeyName,
        import_name: ImportName,
        blob: Blob,
        settings: KeySettings,
    ) -> Found[KeyRecord]:
        """Make a key of what came under a wrapping key, which is used up by it."""
        opened: list[Generated] = []

        def material(version: str, regions: Sequence[str]) -> Generated:
            if not opened:
                record = self._use_up(request, name, import_name, blob)
                # 3. Open it, prove it, wrap it for every region: the wrapping key is
                # gone then.
                opened.append(self._open(record, version, blob, regions))
            return _renamed(opened[0], version, regions)

        if request.validate_only:
            self._usable(name, import_name, self.memory.refresh())
        return self.maker.create(request, name, blob.spec, settings, material=material)

    def _use_up(
        self, request: Request, name: KeyName, import_name: ImportName, blob: Blob
    ) -> ImportRecord:
        # 1. While the blob cannot be one, or whoever holds the wrapping key does not
        # answer, nothing is used up.
        record = self._usable(name, import_name, self.memory.refresh()).record
        require_length(blob, record.bits)
        self._require_held(record)

        def decide(view: View) -> Draft[ImportRecord]:
            found = self._usable(name, import_name, view).record
            used = replace(found, revision=found.revision + 1, used_ms=self.clock())
            return Draft((used,), used)

        # 2. Used, and durably so: what follows happens once, or not at all.
        self.writer.write(replace(request, request_id=""), ImportRecord, decide)
        return record

    def _open(
        self, record: ImportRecord, version: str, blob: Blob, regions: Sequence[str]
    ) -> Generated:
        if record.partition == self.hsm.name:
            return self.hsm.finish_import(record.id, version, blob, regions=regions)
        return self.witness.finish_import(
            record.partition, record.id, version, blob, regions=regions
        )

    def _usable(
        self, name: KeyName, import_name: ImportName, view: View
    ) -> Found[ImportRecord]:
        """Return an import as it is now, or raise for one that is not to be had."""
        resource = str(import_name)
        stored = self.memory.store.state(resource)
        if stored is None:
            raise NotFound("there is no {name}", name=resource)
        (found,) = self.memory.check([stored], ImportRecord)
        record = found.record
        if KeyName.parse(record.key).folded != name.folded:
            raise InvalidRequest(
                "{name} was begun for {key}, and is good for no other key",
                name=resource,
                key=record.key,
            )
        if record.used_ms:
            raise ImportSpent(
                "{name} was used at {date}, and is good for one attempt. Begin again: "
                "hsmvault key begin-import",
                name=resource,
                date=date(record.used_ms),
            )
        if self.clock() >= record.expire_ms:
            raise ImportSpent(
                "{name} expired at {date}. Begin again: hsmvault key begin-import",
                name=resource,
                date=date(record.expire_ms),
            )
        if record.region != view.region:
            raise ImportSpent(
                "{name} ended when its region, {region}, ceased to be the primary. "
                "Begin again: hsmvault key begin-import",
                name=resource,
                region=record.region,
            )
        return found

    def _require_held(self, record: ImportRecord) -> None:
        own = record.partition == self.hsm.name
        try:
            if (
                self.hsm.holds_import(record.id)
                if own
                else self.witness.holds_import(record.partition, record.id)
            ):
                return
        except Unavailable as error:
            raise Unavailable(
                "partition {partition}, which holds the wrapping key of {name}, does "
                "not answer; retry, or begin again: hsmvault key begin-import",
                partition=record.partition,
                name=record.name,
            ) from error
        raise ImportSpent(
            "the wrapping key of {name} ended with the process of partition "
            "{partition}, which held it. Begin again: hsmvault key begin-import",
            name=record.name,
            partition=record.partition,
        )


def _require_lawful(bits: int, lifetime_ms: int) -> None:
    if bits not in SIZES[KeyType.RSA]:
        raise InvalidRequest(
            "a wrapping key has {known} bits, not {bits}",
            known=", ".join(map(str, SIZES[KeyType.RSA])),
            bits=bits,
        )
    if not LIFETIME_MS_MIN <= lifetime_ms <= LIFETIME_MS_MAX:
        raise InvalidRequest(
            "lifetime is {least} s to {most} s, not {given} s",
            least=LIFETIME_MS_MIN // 1000,
            most=LIFETIME_MS_MAX // 1000,
            given=lifetime_ms // 1000,
        )


def _renamed(made: Generated, version: str, regions: Sequence[str]) -> Generated:
    """Take what was opened in an earlier attempt at the same write."""
    if [w.region for w in made.wrapped] != list(regions):
        raise ImportSpent(
            "the set of regions changed while the key was opened, and its wrapping key "
            "is used up. Begin again: hsmvault key begin-import"
        )
    wrapped = tuple(replace(w, version=version) for w in made.wrapped)
    return Generated(wrapped, made.public_key)
