"""What can be granted, and the built-in roles that grant it.

Permissions are Azure Managed HSM's data actions, without the provider's prefix, and
the vault's own for regions. Nothing is implied: a role lists all that it grants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Permission(StrEnum):
    """Everything that can be granted."""

    KEYS_READ = "keys/read/action"
    KEYS_WRITE = "keys/write/action"
    KEYS_CREATE = "keys/create"
    KEYS_ROTATE = "keys/rotate/action"
    KEYS_DELETE = "keys/delete"
    KEYS_IMPORT = "keys/import/action"
    KEYS_BACKUP = "keys/backup/action"
    KEYS_RESTORE = "keys/restore/action"
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
    ROLE_DEFINITIONS_WRITE = "roleDefinitions/write/action"
    ROLE_DEFINITIONS_DELETE = "roleDefinitions/delete/action"
    REGIONS_READ = "regions/read/action"
    REGIONS_WRITE = "regions/write/action"
    REGIONS_DELETE = "regions/delete/action"
    VAULT_READ = "vault/read/action"
    VAULT_WRITE = "vault/write/action"
    TOPOLOGY_READ = "topology/read/action"
    """Held by every known caller: where to connect, and how far each region is."""


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


MATRIX: Final[Mapping[str, str]] = MappingProxyType(
    {
        "keys/read/action": "CU AU SE",
        "keys/write/action": "CU",
        "keys/create": "CU",
        "keys/rotate/action": "CU",
        "keys/delete": "CU",
        "keys/import/action": "CU",
        "keys/export/action": "CO",
        "keys/release/action": "CU SR",
        "keys/backup/action": "CU BK",
        "keys/restore/action": "CU RS",
        "keys/encrypt/action": "CU",
        "keys/decrypt/action": "CU",
        "keys/wrap/action": "CU SE",
        "keys/unwrap/action": "CU SE",
        "keys/sign/action": "CU",
        "keys/verify/action": "CU",
        # Not purge, which the printed table gives auditors in place of this.
        "keys/deletedKeys/read/action": "CO AU",
        "keys/deletedKeys/recover/action": "CO",
        "keys/deletedKeys/delete": "CO",
        "rng/action": "CU",
        "roleAssignments/read/action": "AD CO CU PA AU",
        "roleAssignments/write/action": "AD CO PA",
        "roleAssignments/delete/action": "AD CO PA",
        "roleDefinitions/read/action": "AD CO CU PA AU",
        "roleDefinitions/write/action": "AD CO PA",
        "roleDefinitions/delete/action": "AD CO PA",
        "securitydomain/download/action": "AD",
        "securitydomain/download/read": "AD",
        "securitydomain/upload/action": "AD",
        "securitydomain/upload/read": "AD",
        "securitydomain/transferkey/read": "AD",
        "backup/start/action": "AD BK",
        "backup/status/action": "AD BK",
        "restore/start/action": "AD RS",
        "restore/status/action": "AD RS",
        # The vault's own: Azure has these in its control plane.
        "regions/read/action": "AD AU",
        "regions/write/action": "AD",
        "regions/delete/action": "AD",
        "vault/read/action": "AD CO PA AU",
        "vault/write/action": "AD",
        "topology/read/action": "",
    }
)
"""Azure Managed HSM's whole matrix, as its live service answered it, and our own rows.

A row of which no Permission has the value grants nothing yet; add the Permission with
the RPC that asks for it, and the roles of its row hold it.
"""

LEFT_OUT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "keys/export/action": "no key leaves the vault in the clear",
        "keys/release/action": "keys are not released to enclaves",
    }
    | dict.fromkeys(
        (
            "securitydomain/download/action",
            "securitydomain/download/read",
            "securitydomain/upload/action",
            "securitydomain/upload/read",
            "securitydomain/transferkey/read",
        ),
        "region keys stay in their tokens; a region is added by a ceremony instead",
    )
    | dict.fromkeys(
        (
            "backup/start/action",
            "backup/status/action",
            "restore/start/action",
            "restore/status/action",
        ),
        "whole regions are backed up cold, by their files and the HSM vendor's means",
    )
)
"""Rows of the matrix that nothing here asks for, and why."""


def _role(column: str, id_: str, title: str, description: str) -> RoleDefinition:
    granted = {action for action, held in MATRIX.items() if column in held.split()}
    return RoleDefinition(
        f"roleDefinitions/{id_}",
        f"Managed HSM {title}",
        frozenset(p for p in Permission if p in granted),
        description,
    )


ADMINISTRATOR: Final = _role(
    "AD",
    "a290e904-7015-4bba-90c8-60543313cdb4",
    "Administrator",
    "The vault's settings, regions and roles; no key operation.",
)
CRYPTO_OFFICER: Final = _role(
    "CO",
    "515eb02d-2335-4d2d-92f2-b1cbdf9c3778",
    "Crypto Officer",
    "Recovers and purges deleted keys, assigns roles; cannot use or make keys.",
)
CRYPTO_USER: Final = _role(
    "CU",
    "21dbd100-6940-42c2-9190-5d6cb909625b",
    "Crypto User",
    "Makes, uses and deletes keys; cannot recover or purge them.",
)
POLICY_ADMINISTRATOR: Final = _role(
    "PA",
    "4bd23610-cdcf-4971-bdee-bdc562cc28e4",
    "Policy Administrator",
    "Defines, assigns and revokes roles; nothing with keys.",
)
CRYPTO_AUDITOR: Final = _role(
    "AU",
    "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3",
    "Crypto Auditor",
    "Reads keys, deleted keys, roles, regions and settings; changes and uses nothing.",
)
ENCRYPTION_USER: Final = _role(
    "SE",
    "33413926-3206-4cdd-b39a-83574fe37a17",
    "Crypto Service Encryption User",
    "Reads keys, wraps and unwraps: for services that encrypt under a caller's key.",
)
RELEASE_USER: Final = _role(
    "SR",
    "21dbd100-6940-42c2-9190-5d6cb909625c",
    "Crypto Service Release User",
    "Would release keys to enclaves; grants nothing here.",
)
BACKUP: Final = _role(
    "BK",
    "7b127d3c-77bd-4e3e-bbe0-dbb8971fa7f8",
    "Backup",
    "Backs keys up; cannot restore or use them.",
)
RESTORE: Final = _role(
    "RS",
    "6efe6056-5259-49d2-8b3d-d3d73544b20b",
    "Restore",
    "Restores keys from their backups; cannot make or use them.",
)
EKM_ADMINISTRATOR: Final = _role(
    "EK",
    # Azure has not published its id: this one is ours.
    "e6b1d5c2-94a7-4f0e-8c3d-5f2a7b90c416",
    "EKM Administrator",
    "Would manage connections to external key managers; grants nothing here.",
)

BUILT_IN: Final[Mapping[str, RoleDefinition]] = MappingProxyType(
    {
        role.name: role
        for role in (
            ADMINISTRATOR,
            CRYPTO_OFFICER,
            CRYPTO_USER,
            POLICY_ADMINISTRATOR,
            CRYPTO_AUDITOR,
            ENCRYPTION_USER,
            RELEASE_USER,
            BACKUP,
            RESTORE,
            EKM_ADMINISTRATOR,
        )
    }
)
