"""Entries of the log → what a watcher is told of them: only what they may read.

One function per kind of entry, and none for a kind that is nobody's to see.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from hsmvault.api import convert, convert_roles, convert_vault
from hsmvault.model.access import Permission
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.grants import Scope
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Entry, Kind
from hsmvault.model.record import Record
from hsmvault.model.records import read
from hsmvault.model.vault_records import RegionRecord, VaultRecord
from hsmvault.v1 import vault_service_pb2 as pb
from hsmvault.vault.checked import Found
from hsmvault.vault.view import View

READ: Final[Mapping[int, tuple[Permission, ...]]] = MappingProxyType(
    {
        pb.Change.KEY: (Permission.KEYS_READ, Permission.DELETED_KEYS_READ),
        pb.Change.KEY_VERSION: (Permission.KEYS_READ,),
        pb.Change.ROLE_ASSIGNMENT: (Permission.ROLE_ASSIGNMENTS_READ,),
        pb.Change.ROLE_DEFINITION: (Permission.ROLE_DEFINITIONS_READ,),
        pb.Change.REGION: (Permission.REGIONS_READ,),
        pb.Change.VAULT: (Permission.VAULT_READ,),
    }
)
"""By kind, the permissions of which one is needed to be told anything."""
OF_THE_VAULT: Final = frozenset(
    {pb.Change.ROLE_DEFINITION, pb.Change.REGION, pb.Change.VAULT}
)
"""Kinds that lie at `/` and nowhere else."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who is told, as of one view."""

    view: View
    principal: str

    def may(self, permission: Permission, path: str) -> bool:
        return self.view.access.permits(self.principal, permission, path)


def change(
    entry: Entry, reader: Reader, *, scope: Scope, kinds: frozenset[int]
) -> pb.Change | None:
    """Tell an entry; None where it is not asked for, or not for the reader to see."""
    told = _TOLD.get(entry.kind)
    if told is None or told.kind not in kinds:
        return None
    record = read(entry.kind, entry.record)
    path = told.path(record)
    if not scope.covers(path):
        return None
    resource = told.shown(Found(record, entry.record, entry.position), reader, path)
    if resource is None:
        return None
    return pb.Change(
        position=str(entry.position),
        time=convert.timestamp(entry.time_ms),
        kind=told.kind,
        name=getattr(record, "name", convert_vault.NAME)
        if not isinstance(record, VersionRecord)
        else f"{record.key}/versions/{record.version}",
        removed=not resource,
        **resource,
    )


Shown = dict[str, Any] | None
"""The resource by its field; {}: it is gone; None: not for the reader to see."""


@dataclass(frozen=True, slots=True)
class _Told:
    """How one kind of entry is told."""

    kind: "pb.Change.Kind.ValueType"
    path: Callable[[Any], str]
    shown: Callable[[Found[Any], Reader, str], Shown]


def _of_key(record: Record) -> str:
    return f"/{record.resource.partition('/versions/')[0]}"


def _of_vault(_record: Record) -> str:
    return "/"


def _of_assignment(record: AssignmentRecord) -> str:
    return record.scope


def _key(found: Found[KeyRecord], reader: Reader, path: str) -> Shown:
    deleted = found.record.state is KeyState.DELETED
    wanted = Permission.DELETED_KEYS_READ if deleted else Permission.KEYS_READ
    if reader.may(wanted, path):
        return {"key": convert.key(found)}
    return {} if deleted and reader.may(Permission.KEYS_READ, path) else None


def _tombstone(_found: Found[TombstoneRecord], reader: Reader, path: str) -> Shown:
    known = any(reader.may(permission, path) for permission in READ[pb.Change.KEY])
    return {} if known else None


def _version(found: Found[VersionRecord], reader: Reader, path: str) -> Shown:
    if not reader.may(Permission.KEYS_READ, path):
        return None
    return {"key_version": convert.version(found, current="")}


def _assignment(found: Found[AssignmentRecord], reader: Reader, path: str) -> Shown:
    if not reader.may(Permission.ROLE_ASSIGNMENTS_READ, path):
        return None
    if found.record.removed:
        return {}
    defunct = reader.view.access.defunct(found.record)
    return {"role_assignment": convert_roles.assignment(found, defunct=defunct)}


def _definition(found: Found[RoleDefinitionRecord], reader: Reader, path: str) -> Shown:
    if not reader.may(Permission.ROLE_DEFINITIONS_READ, path):
        return None
    return (
        {} if found.record.removed else {"role_definition": convert_roles.custom(found)}
    )


def _region(found: Found[RegionRecord], reader: Reader, path: str) -> Shown:
    if not reader.may(Permission.REGIONS_READ, path):
        return None
    return {"region": convert.region(found)}


def _vault(found: Found[VaultRecord], reader: Reader, path: str) -> Shown:
    if not reader.may(Permission.VAULT_READ, path):
        return None
    return {"vault": convert_vault.vault(found)}


_TOLD: Final[Mapping[Kind, _Told]] = MappingProxyType(
    {
        Kind.KEY: _Told(pb.Change.KEY, _of_key, _key),
        Kind.TOMBSTONE: _Told(pb.Change.KEY, _of_key, _tombstone),
        Kind.KEY_VERSION: _Told(pb.Change.KEY_VERSION, _of_key, _version),
        Kind.ROLE_ASSIGNMENT: _Told(
            pb.Change.ROLE_ASSIGNMENT, _of_assignment, _assignment
        ),
        Kind.ROLE_DEFINITION: _Told(pb.Change.ROLE_DEFINITION, _of_vault, _definition),
        Kind.REGION: _Told(pb.Change.REGION, _of_vault, _region),
        Kind.VAULT: _Told(pb.Change.VAULT, _of_vault, _vault),
    }
)
"""Epochs are told by the position alone."""
