"""Which kind of entry carries which record."""

from typing import Final

from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.audit_records import AuditHeadRecord
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.import_records import ImportRecord
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.log import Kind
from hsmvault.model.record import Record
from hsmvault.model.vault_records import EpochRecord, RegionRecord, VaultRecord

TYPES: Final[dict[Kind, type[Record]]] = {
    Kind.EPOCH: EpochRecord,
    Kind.VAULT: VaultRecord,
    Kind.REGION: RegionRecord,
    Kind.ROLE_DEFINITION: RoleDefinitionRecord,
    Kind.ROLE_ASSIGNMENT: AssignmentRecord,
    Kind.KEY: KeyRecord,
    Kind.KEY_VERSION: VersionRecord,
    Kind.IMPORT: ImportRecord,
    Kind.AUDIT_HEAD: AuditHeadRecord,
    Kind.TOMBSTONE: TombstoneRecord,
}
"""The type of record that each kind of entry carries."""


def read(kind: Kind, raw: bytes) -> Record:
    """Read a record of any kind, or raise IntegrityFailure."""
    known = TYPES.get(kind)
    if known is None:
        raise IntegrityFailure("a record of unknown kind {kind}", kind=kind)
    return known.from_bytes(raw)
