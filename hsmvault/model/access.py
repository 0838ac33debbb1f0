"""Who may do what, where: permissions, scopes, built-in roles, and the decision.

Permissions are Azure Managed HSM's data actions, without the provider's prefix, and
the vault's own for regions. Nothing is implied: a role lists all that it grants.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from hsmvault.model.errors import InvalidRequest
from hsmvault.model.names import KeyName


class Permission(StrEnum):
    """Everything that can be granted."""

    KEYS_READ = "keys/read/action"
    KEYS_WRITE = "keys/write/action"
    KEYS_CREATE = "keys/create"
    KEYS_ROTATE = "keys/rotate/action"
    KEYS_DELETE = "keys/delete"
    KEYS_ENCRYPT = "keys/encrypt/action"
    KEYS_DECRYPT = "keys/decrypt/action"
    KEYS_WRAP = "keys/wrap/action"
    KEYS_UNWRAP = "keys/unwrap/action"
    KEYS_SIGN = "keys/sign/action"
    KEYS_VERIFY = "keys/verify/action"
    DELETED_KEYS_READ = "keys/deletedKeys/read/action"
    DELETED_KEYS_RECOVER = "keys/deletedKeys/recover/action"
    DELETED_KEYS_PURGE = "keys/deletedKeys/delete"
    RNG = "rng/action"
    ROLE_ASSIGNMENTS_READ = "roleAssignments/read/action"
    ROLE_ASSIGNMENTS_WRITE = "roleAssignments/write/action"
    ROLE_ASSIGNMENTS_DELETE = "roleAssignments/delete/action"
    ROLE_DEFINITIONS_READ = "roleDefinitions/read/action"
    REGIONS_READ = "regions/read/action"
    REGIONS_WRITE = "regions/write/action"
    REGIONS_DELETE = "regions/delete/action"
    TOPOLOGY_READ = "topology/read/action"
    """Held by every known caller: where to connect, and how far each region is."""


_ROLES_READ: Final = frozenset(
    {Permission.ROLE_ASSIGNMENTS_READ, Permission.ROLE_DEFINITIONS_READ}
)
_ROLES_WRITE: Final = frozenset(
    {Permission.ROLE_ASSIGNMENTS_WRITE, Permission.ROLE_ASSIGNMENTS_DELETE}
)

FOR_EVERYONE: Final = frozenset({Permission.TOPOLOGY_READ})
"""What any authenticated caller may do without an assignment."""


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """A named set of permissions."""

    name: str
    """`roleDefinitions/{id}`."""
    title: str
    permissions: frozenset[Permission]
    description: str
    built_in: bool = True


ADMINISTRATOR: Final = RoleDefinition(
    "roleDefinitions/a290e904-7015-4bba-90c8-60543313cdb4",
    "Managed HSM Administrator",
    _ROLES_READ
    | _ROLES_WRITE
    | {
        Permission.REGIONS_READ,
        Permission.REGIONS_WRITE,
        Permission.REGIONS_DELETE,
    },
    "Regions and role assignments; no key operation.",
)

CRYPTO_OFFICER: Final = RoleDefinition(
    "roleDefinitions/515eb02d-2335-4d2d-92f2-b1cbdf9c3778",
    "Managed HSM Crypto Officer",
    _ROLES_READ
    | _ROLES_WRITE
    | {
        Permission.DELETED_KEYS_READ,
        Permission.DELETED_KEYS_RECOVER,
        Permission.DELETED_KEYS_PURGE,
    },
    "Recovers and purges deleted keys, assigns roles; cannot use or make keys.",
)

CRYPTO_USER: Final = RoleDefinition(
    "roleDefinitions/21dbd100-6940-42c2-9190-5d6cb909625b",
    "Managed HSM Crypto User",
    _ROLES_READ
    | {
        Permission.KEYS_READ,
        Permission.KEYS_WRITE,
        Permission.KEYS_CREATE,
        Permission.KEYS_ROTATE,
        Permission.KEYS_DELETE,
        Permission.KEYS_ENCRYPT,
        Permission.KEYS_DECRYPT,
        Permission.KEYS_WRAP,
        Permission.KEYS_UNWRAP,
        Permission.KEYS_SIGN,
        Permission.KEYS_VERIFY,
        Permission.RNG,
    },
    "Makes, uses and deletes keys; cannot recover or purge them.",
)

CRYPTO_AUDITOR: Final = RoleDefinition(
    "roleDefinitions/2c18b078-7c48-4d3a-af88-5a3a1b3f82b3",
    "Managed HSM Crypto Auditor",
    _ROLES_READ
    | {
        Permission.KEYS_READ,
        Permission.DELETED_KEYS_READ,
        Permission.REGIONS_READ,
    },
    "Reads keys, deleted keys, roles and regions; changes and uses nothing.",
)

BUILT_IN: Final[Mapping[str, RoleDefinition]] = MappingProxyType(
    {
        role.name: role
        for role in (ADMINISTRATOR, CRYPTO_OFFICER, CRYPTO_USER, CRYPTO_AUDITOR)
    }
)


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
