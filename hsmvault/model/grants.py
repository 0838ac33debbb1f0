"""Where a role is held, by whom, and the decision: deny unless something grants it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from hsmvault.model.access import FOR_EVERYONE, Permission, RoleDefinition
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
    regions: frozenset[str] = frozenset()
    """Where it is in force: the ids of regions; empty: everywhere."""

    def holds_in(self, regions: Collection[str]) -> bool:
        """Tell whether it is in force in all of these regions; none named: in any."""
        return not self.regions or (bool(regions) and self.regions.issuperset(regions))


def permissions_of(
    assignment: RoleAssignment, definitions: Mapping[str, RoleDefinition]
) -> frozenset[Permission]:
    """Return what the assignment grants; nothing, if its role is not there."""
    role = definitions.get(assignment.role_definition)
    return role.permissions if role else frozenset()


def allowed(
    assignments: Iterable[RoleAssignment],
    definitions: Mapping[str, RoleDefinition],
    *,
    principal: str,
    permission: Permission,
    resource: str,
    regions: Collection[str] = (),
) -> bool:
    """Grant only if some assignment says so. Nothing denies; nothing is implied.

    `resource` is a path with a leading slash, key names folded to lower case. Asked
    about several `regions`, one assignment must hold in all of them; about none, in
    every region, also those to come.
    """
    if permission in FOR_EVERYONE:
        return True
    return any(
        a.principal == principal
        and permission in permissions_of(a, definitions)
        and a.scope.covers(resource)
        and a.holds_in(regions)
        for a in assignments
    )
