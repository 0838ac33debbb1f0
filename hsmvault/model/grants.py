"""Where a role is held, by whom, and the decision: deny unless something grants it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from hsmvault.model.access import BUILT_IN, FOR_EVERYONE, Permission
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.names import KeyName


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """`/`, `/keys` or `/keys/{key}`. A scope covers itself and all below it."""

    path: str

    @classmethod
    def parse(cls, path: str) -> Self:
        """Parse a scope, or raise InvalidRequest. Keys are folded to lower case."""
        if path in {"/", "/keys"}:
            return cls(path)
        if not path.startswith("/keys/"):
            raise InvalidRequest(
                "malformed scope {scope!r}; expected /, /keys or /keys/{{key}}",
                scope=path[:200],
            )
        return cls(f"/keys/{KeyName.parse(path[1:]).folded}")

    def covers(self, resource: str) -> bool:
        """Tell whether `resource`, a path with a leading slash, lies in this scope."""
        # "/keys/a" must not cover "/keys/ab": compare whole segments.
        return self.path == "/" or f"{resource}/".startswith(f"{self.path}/")


@dataclass(frozen=True, slots=True)
class RoleAssignment:
    """A principal, what it may do, and where."""

    name: str
    """`roleAssignments/{id}`."""
    principal: str
    role_definition: str
    scope: Scope


def permissions_of(assignment: RoleAssignment) -> frozenset[Permission]:
    """Return what the assignment grants; nothing, if its role is unknown."""
    role = BUILT_IN.get(assignment.role_definition)
    return role.permissions if role else frozenset()


def allowed(
    assignments: Iterable[RoleAssignment],
    *,
    principal: str,
    permission: Permission,
    resource: str,
) -> bool:
    """Grant only if some assignment says so. Nothing denies; nothing is implied.

    `resource` is a path with a leading slash, key names folded to lower case.
    """
    if permission in FOR_EVERYONE:
        return True
    return any(
        a.principal == principal
        and permission in permissions_of(a)
        and a.scope.covers(resource)
        for a in assignments
    )
