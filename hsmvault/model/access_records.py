"""The records of who may do what."""

from dataclasses import dataclass
from typing import Any

from hsmvault.model.access import Permission, RoleDefinition
from hsmvault.model.grants import RoleAssignment, Scope
from hsmvault.model.record import Record

_KNOWN = frozenset(p.value for p in Permission)


@dataclass(frozen=True, slots=True)
class RoleDefinitionRecord(Record):
    """A role of the vault's own; `removed` once it was deleted."""

    name: str
    """`roleDefinitions/{id}`, in lower case."""
    revision: int
    title: str
    description: str
    data_actions: tuple[str, ...]
    """As they were given, patterns included."""
    not_data_actions: tuple[str, ...]
    permissions: tuple[str, ...]
    """What it grants, spelled out when it was written; this decides."""
    create_ms: int
    update_ms: int
    author: str
    """Who changed it last."""
    removed: bool = False

    @property
    def resource(self) -> str:
        """`roleDefinitions/{id}`."""
        return self.name

    @property
    def definition(self) -> RoleDefinition:
        """The decision's view of it. What this release does not know is not granted."""
        return RoleDefinition(
            self.name,
            self.title,
            frozenset(Permission(p) for p in self.permissions if p in _KNOWN),
            self.description,
            built_in=False,
        )

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            name: tuple(map(str, fields[name]))
            for name in ("data_actions", "not_data_actions", "permissions")
        }


@dataclass(frozen=True, slots=True)
class AssignmentRecord(Record):
    """A role assignment; `removed` once it was deleted."""

    name: str
    revision: int
    principal: str
    role_definition: str
    scope: str
    create_ms: int
    author: str
    removed: bool = False
    regions: tuple[str, ...] = ()
    """Ids of the regions that it is limited to; empty: it is not."""

    @property
    def resource(self) -> str:
        """`roleAssignments/{id}`."""
        return self.name

    @property
    def assignment(self) -> RoleAssignment:
        """The decision's view of it."""
        return RoleAssignment(
            self.name,
            self.principal,
            self.role_definition,
            Scope(self.scope),
            frozenset(self.regions),
        )

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"regions": tuple(map(str, fields.get("regions", ())))}
