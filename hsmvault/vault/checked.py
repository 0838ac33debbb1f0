"""Reading state, and believing nothing that this region's HSM did not vouch for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.audit_records import AuditHeadRecord
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.import_records import ImportRecord
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.log import Kind, Position
from hsmvault.model.record import Record, etag
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import EpochRecord, RegionRecord, VaultRecord
from hsmvault.vault.ports import Hsm

R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)

KINDS: dict[type[Record], Kind] = {
    EpochRecord: Kind.EPOCH,
    VaultRecord: Kind.VAULT,
    RegionRecord: Kind.REGION,
    RoleDefinitionRecord: Kind.ROLE_DEFINITION,
    AssignmentRecord: Kind.ROLE_ASSIGNMENT,
    KeyRecord: Kind.KEY,
    VersionRecord: Kind.KEY_VERSION,
    ImportRecord: Kind.IMPORT,
    AuditHeadRecord: Kind.AUDIT_HEAD,
    TombstoneRecord: Kind.TOMBSTONE,
}


@dataclass(frozen=True, slots=True)
class Found(Generic[R_co]):
    """A record as it is in force, and where in the log it last changed."""

    record: R_co
    raw: bytes
    position: Position

    @property
    def etag(self) -> str:
        """Changes whenever the record does."""
        return etag(self.raw)


def check(
    stored: Sequence[StoredRecord],
    wanted: type[R],
    *,
    hsm: Hsm,
    vault_id: str,
    at: Callable[[int], Position],
) -> list[Found[R]]:
    """Read rows of one kind, or raise IntegrityFailure naming the one that is not ours.

    `at` turns an index of the log into a position.
    """
    found = [_read(row, wanted, at) for row in stored]
    pairs = [(row.statement(vault_id), row.mac) for row in stored]
    try:
        hsm.check_macs(pairs)
    except IntegrityFailure as error:
        raise IntegrityFailure(
            "the stored record of {resource} was not written by this region's HSM; "
            "it is refused. Compare the region with another one before you restore it",
            resource=_first_foreign(stored, pairs, hsm),
        ) from error
    return found


def _read(
    row: StoredRecord, wanted: type[R], at: Callable[[int], Position]
) -> Found[R]:
    record = wanted.from_bytes(row.record)
    revision: object = getattr(record, "revision", None)
    if (row.kind, row.resource, row.revision) != (
        KINDS[wanted],
        record.resource,
        revision,
    ):
        raise IntegrityFailure(
            "the stored record of {resource} is about something else; it is refused",
            resource=row.resource,
        )
    return Found(record, row.record, at(row.index))


def _first_foreign(
    stored: Sequence[StoredRecord], pairs: Sequence[tuple[bytes, bytes]], hsm: Hsm
) -> str:
    for row, pair in zip(stored, pairs, strict=True):
        try:
            hsm.check_macs([pair])
        except IntegrityFailure:
            return row.resource
    return "several resources"
