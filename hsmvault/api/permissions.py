"""What a caller must be allowed to do before an RPC may run, and where it may run.

An RPC that is missing here does not run. Tests compare this table with the service
descriptors in both directions, so forgetting one fails the build.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from hsmvault.model.access import Permission
from hsmvault.model.backup import BACKUP_BYTES
from hsmvault.model.grants import Scope
from hsmvault.model.names import (
    KeyName,
    RoleAssignmentName,
    VersionName,
    parse_key_or_version,
    parse_rotation_policy,
)
from hsmvault.vault.view import View

_NAMES_MAX: Final = 8192


class Write(Enum):
    """What an extended region does with an RPC."""

    NONE = "serves it"
    FORWARD = "has the primary run it, and answers once its own copy has caught up"
    REDIRECT = "refuses it, naming the primary: its word for the caller is not enough"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one RPC needs."""

    permission: Permission
    resource: Callable[[Any, View], str]
    """What the request is about: a path with a leading slash, key names folded.

    Parses the name, so a malformed one is refused before anything else.
    """
    write: Write = Write.NONE
    request_bytes: int = 0
    """The longest request that is read; 0: as long as any other."""
    redirects: Callable[[Any], bool] = lambda _request: False
    """Which requests are redirected although others are forwarded."""
    waits: bool = False
    """Runs in the pool where waiting does not keep others from being served."""
    hidden: bool = False
    """What it is about was looked up, so a refusal does not name it."""
    also: tuple[Permission, Callable[[Any, View], str]] | None = None
    """A second permission that is needed, on what else the request is about."""
    show_deleted: Permission | None = None
    """Needed instead of `permission` when the request wants deleted ones too."""

    @property
    def permissions(self) -> frozenset[Permission]:
        """All that the RPC may ask for."""
        also = () if self.also is None else (self.also[0],)
        return frozenset({self.permission, self.show_deleted or self.permission, *also})


@lru_cache(_NAMES_MAX)
def key_or_version(name: str) -> tuple[KeyName, str | None]:
    """Parse the name of a key or of a version, remembering the usual ones."""
    return parse_key_or_version(name)


@lru_cache(_NAMES_MAX)
def _key_path(name: str) -> str:
    return f"/keys/{key_or_version(name)[0].folded}"


def _named(request: Any, _view: View) -> str:
    # Hot: no parsing for names that were seen lately.
    return _key_path(request.name)


def _target_named(request: Any, _view: View) -> str:
    return _key_path(request.target_name)


def _key_named(request: Any, _view: View) -> str:
    return f"/keys/{KeyName.parse(request.name).folded}"


def _new_key(request: Any, _view: View) -> str:
    return f"/keys/{KeyName.of_id(request.key_id).folded}"


def _updated_key(request: Any, _view: View) -> str:
    return f"/keys/{KeyName.parse(request.key.name).folded}"


def _updated_version(request: Any, _view: View) -> str:
    return f"/keys/{VersionName.parse(request.key_version.name).key.folded}"


def _version_named(request: Any, _view: View) -> str:
    return f"/keys/{VersionName.parse(request.name).key.folded}"


def _policy_named(request: Any, _view: View) -> str:
    return f"/keys/{parse_rotation_policy(request.name).folded}"


def _updated_policy(request: Any, _view: View) -> str:
    return f"/keys/{parse_rotation_policy(request.rotation_policy.name).folded}"


def _parent_key(request: Any, _view: View) -> str:
    return f"/keys/{KeyName.parse(request.parent).folded}"


def _keys(_request: Any, _view: View) -> str:
    return "/keys"


def _vault(_request: Any, _view: View) -> str:
    return "/"


def _asked_scope(request: Any, _view: View) -> str:
    return Scope.parse(request.scope).path if request.scope else "/"


def _new_scope(request: Any, _view: View) -> str:
    return Scope.parse(request.role_assignment.scope).path


def _scope_of_assignment(request: Any, view: View) -> str:
    return view.access.scope_of(str(RoleAssignmentName.parse(request.name)))


_KEYS: Final = {
    "CreateKey": Rule(Permission.KEYS_CREATE, _new_key, Write.FORWARD, waits=True),
    "ImportKey": Rule(
        Permission.KEYS_IMPORT,
        _new_key,
        Write.FORWARD,
        waits=True,
        # Not through a third region, even though its link is as well sealed.
        redirects=lambda request: request.WhichOneof("material") in {"jwk", "pkcs8"},
    ),
    "BeginImport": Rule(Permission.KEYS_IMPORT, _new_key, Write.FORWARD, waits=True),
    "BackupKey": Rule(Permission.KEYS_BACKUP, _key_named, waits=True),
    "RestoreKey": Rule(
        Permission.KEYS_RESTORE,
        _keys,
        Write.REDIRECT,
        waits=True,
        request_bytes=BACKUP_BYTES + 1024,
    ),
    "GetKey": Rule(
        Permission.KEYS_READ, _key_named, show_deleted=Permission.DELETED_KEYS_READ
    ),
    "ListKeys": Rule(
        Permission.KEYS_READ,
        _keys,
        waits=True,
        show_deleted=Permission.DELETED_KEYS_READ,
    ),
    "ListKeyVersions": Rule(Permission.KEYS_READ, _parent_key, waits=True),
    "UpdateKey": Rule(Permission.KEYS_WRITE, _updated_key, Write.FORWARD, waits=True),
    "UpdateKeyVersion": Rule(
        Permission.KEYS_WRITE, _updated_version, Write.FORWARD, waits=True
    ),
    "RotateKey": Rule(Permission.KEYS_ROTATE, _key_named, Write.FORWARD, waits=True),
    "ActivateKeyVersion": Rule(
        Permission.KEYS_ROTATE, _version_named, Write.FORWARD, waits=True
    ),
    "GetRotationPolicy": Rule(Permission.KEYS_READ, _policy_named),
    "UpdateRotationPolicy": Rule(
        Permission.KEYS_WRITE, _updated_policy, Write.FORWARD, waits=True
    ),
    "GetDeletedKey": Rule(Permission.DELETED_KEYS_READ, _key_named),
    "ListDeletedKeys": Rule(Permission.DELETED_KEYS_READ, _keys, waits=True),
    "DeleteKey": Rule(Permission.KEYS_DELETE, _key_named, Write.FORWARD, waits=True),
    "RecoverKey": Rule(
        Permission.DELETED_KEYS_RECOVER, _key_named, Write.FORWARD, waits=True
    ),
    "PurgeKey": Rule(
        Permission.DELETED_KEYS_PURGE, _key_named, Write.REDIRECT, waits=True
    ),
    "GetPublicKey": Rule(Permission.KEYS_READ, _named),
}
_CRYPTO: Final = {
    "Sign": Rule(Permission.KEYS_SIGN, _named),
    "Verify": Rule(Permission.KEYS_VERIFY, _named),
    "Encrypt": Rule(Permission.KEYS_ENCRYPT, _named),
    "Decrypt": Rule(Permission.KEYS_DECRYPT, _named),
    "ReEncrypt": Rule(
        Permission.KEYS_DECRYPT, _named, also=(Permission.KEYS_ENCRYPT, _target_named)
    ),
    "WrapKey": Rule(Permission.KEYS_WRAP, _named),
    "UnwrapKey": Rule(Permission.KEYS_UNWRAP, _named),
    "GenerateDataKey": Rule(Permission.KEYS_WRAP, _named),
    # What its items need is decided item by item, by the rules above.
    "Batch": Rule(Permission.TOPOLOGY_READ, _vault, waits=True),
    # At /keys, so that a Crypto User of all keys may, and one of a single key not.
    "GetRandomBytes": Rule(Permission.RNG, _keys),
}
_ACCESS: Final = {
    "GetRoleDefinition": Rule(Permission.ROLE_DEFINITIONS_READ, _vault),
    "ListRoleDefinitions": Rule(Permission.ROLE_DEFINITIONS_READ, _vault),
    "CreateRoleDefinition": Rule(
        Permission.ROLE_DEFINITIONS_WRITE, _vault, Write.REDIRECT, waits=True
    ),
    "UpdateRoleDefinition": Rule(
        Permission.ROLE_DEFINITIONS_WRITE, _vault, Write.REDIRECT, waits=True
    ),
    "DeleteRoleDefinition": Rule(
        Permission.ROLE_DEFINITIONS_DELETE, _vault, Write.REDIRECT, waits=True
    ),
    "GetRoleAssignment": Rule(
        Permission.ROLE_ASSIGNMENTS_READ, _scope_of_assignment, hidden=True
    ),
    "ListRoleAssignments": Rule(Permission.ROLE_ASSIGNMENTS_READ, _asked_scope),
    "CreateRoleAssignment": Rule(
        Permission.ROLE_ASSIGNMENTS_WRITE, _new_scope, Write.REDIRECT, waits=True
    ),
    "DeleteRoleAssignment": Rule(
        Permission.ROLE_ASSIGNMENTS_DELETE,
        _scope_of_assignment,
        Write.REDIRECT,
        waits=True,
        hidden=True,
    ),
    # About the caller alone, who may know what they may.
    "TestPermissions": Rule(Permission.TOPOLOGY_READ, _vault),
}
_VAULT: Final = {
    "GetVault": Rule(Permission.VAULT_READ, _vault),
    "UpdateVault": Rule(Permission.VAULT_WRITE, _vault, Write.REDIRECT, waits=True),
    # What it tells is decided change by change, by the rules for reading.
    "Watch": Rule(Permission.TOPOLOGY_READ, _asked_scope, waits=True),
}
_REGIONS: Final = {
    "AddRegion": Rule(Permission.REGIONS_WRITE, _vault, Write.REDIRECT, waits=True),
    "RemoveRegion": Rule(Permission.REGIONS_DELETE, _vault, Write.REDIRECT, waits=True),
    "ListRegions": Rule(Permission.REGIONS_READ, _vault, waits=True),
    "GetReplicationStatus": Rule(Permission.REGIONS_READ, _vault, waits=True),
    "WaitForPosition": Rule(Permission.TOPOLOGY_READ, _vault, waits=True),
    "ListAuditHeads": Rule(Permission.REGIONS_READ, _vault, waits=True),
    "GetTopology": Rule(Permission.TOPOLOGY_READ, _vault, waits=True),
}

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        f"/hsmvault.v1.{service}/{method}": rule
        for service, rules in (
            ("KeyService", _KEYS),
            ("CryptoService", _CRYPTO),
            ("AccessService", _ACCESS),
            ("RegionService", _REGIONS),
            ("VaultService", _VAULT),
        )
        for method, rule in rules.items()
    }
)
"""Every RPC by its full method path. Health and reflection need only an identity."""
