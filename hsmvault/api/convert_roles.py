"""Messages ↔ roles and their assignments, both ways, nothing else."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.api.convert import paths, timestamp
from hsmvault.model.access import Permission, RoleDefinition
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.names import RegionName
from hsmvault.v1 import resources_pb2 as pb
from hsmvault.vault.checked import Found
from hsmvault.vault.definitions import Wanted

PERMISSIONS_MAX: Final = 100
"""That may be asked about at once."""


def assignment(found: Found[AssignmentRecord], *, defunct: bool) -> pb.RoleAssignment:
    """Write a role assignment."""
    record = found.record
    return pb.RoleAssignment(
        name=record.name,
        principal=record.principal,
        role_definition=record.role_definition,
        scope=record.scope,
        regions=[f"regions/{region}" for region in record.regions],
        create_time=timestamp(record.create_ms),
        author=record.author,
        etag=found.etag,
        position=str(found.position),
        defunct=defunct,
    )


def region_ids(message: pb.RoleAssignment) -> list[str]:
    """Read what an assignment is limited to, or raise MalformedName."""
    return [RegionName.parse(name).region for name in message.regions]


def built_in(role: RoleDefinition) -> pb.RoleDefinition:
    """Write a built-in role definition."""
    granted = sorted(role.permissions)
    return pb.RoleDefinition(
        name=role.name,
        title=role.title,
        description=role.description,
        permissions=granted,
        data_actions=granted,
        built_in=role.built_in,
    )


def custom(found: Found[RoleDefinitionRecord]) -> pb.RoleDefinition:
    """Write a role definition of the vault's own."""
    record = found.record
    return pb.RoleDefinition(
        name=record.name,
        title=record.title,
        description=record.description,
        permissions=sorted(record.definition.permissions),
        data_actions=record.data_actions,
        not_data_actions=record.not_data_actions,
        create_time=timestamp(record.create_ms),
        update_time=timestamp(record.update_ms),
        author=record.author,
        etag=found.etag,
        position=str(found.position),
    )


def wanted(message: pb.RoleDefinition) -> Wanted:
    """Read what a new role is to be like."""
    return Wanted(
        message.title,
        message.description,
        tuple(message.data_actions),
        tuple(message.not_data_actions),
    )


_CHANGES: Final[Mapping[str, Callable[[pb.RoleDefinition], Any]]] = {
    "title": lambda m: m.title,
    "description": lambda m: m.description,
    "data_actions": lambda m: tuple(m.data_actions),
    "not_data_actions": lambda m: tuple(m.not_data_actions),
}


def changes(message: pb.RoleDefinition, mask: FieldMask) -> dict[str, Any]:
    """Read what an update changes, or raise InvalidRequest."""
    named = paths(message, mask, known=list(_CHANGES))
    return {name: _CHANGES[name](message) for name in named}


def permission(name: str) -> Permission:
    """Read a permission, or raise InvalidRequest."""
    try:
        return Permission(name)
    except ValueError as error:
        raise InvalidRequest(
            "unknown permission {name!r}; known are {known}",
            name=name[:100],
            known=", ".join(sorted(Permission)),
        ) from error
