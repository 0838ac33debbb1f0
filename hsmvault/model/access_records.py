"""The records of who may do what."""

from dataclasses import dataclass

from hsmvault.model.grants import RoleAssignment, Scope
from hsmvault.model.record import Record


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

    @property
    def resource(self) -> str:
        """`roleAssignments/{id}`."""
        return self.name

    @property
    def assignment(self) -> RoleAssignment:
        """The decision's view of it."""
        return RoleAssignment(
            self.name, self.principal, self.role_definition, Scope(self.scope)
        )
