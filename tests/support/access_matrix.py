"""What every role is answered by every RPC, written by hand: nothing is read from it.

`ACTIONS` is the recorded matrix: which role holds which data action. `ROWS` is one row
per RPC: what it needs, a request that changes nothing even where it is allowed (a
wrong etag, for instance, is ABORTED only for those who may), and the exact status for a
live, a deleted and an unknown key.

**A new RPC gets a row in `ROWS`, and a new permission one in `ACTIONS`.**
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

import hsmvault.v1
from hsmvault.regions.card import Card
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1 import vault_service_pb2 as vault
from hsmvault.v1.resources_pb2 import (
    Key,
    KeySpec,
    KeyVersion,
    Region,
    RoleAssignment,
    RoleDefinition,
    Vault,
)
from tests.support.served import region

Code = grpc.StatusCode
OK: Final = Code.OK
INVALID: Final = Code.INVALID_ARGUMENT
ABSENT: Final = Code.NOT_FOUND
TAKEN: Final = Code.ALREADY_EXISTS
STATE: Final = Code.FAILED_PRECONDITION
STALE: Final = Code.ABORTED
"""Allowed, and it would have been done, had the etag been the present one."""
DENIED: Final = Code.PERMISSION_DENIED

ROLES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "AD": ("Administrator", "a290e904-7015-4bba-90c8-60543313cdb4"),
        "CO": ("Crypto Officer", "515eb02d-2335-4d2d-92f2-b1cbdf9c3778"),
        "CU": ("Crypto User", "21dbd100-6940-42c2-9190-5d6cb909625b"),
        "PA": ("Policy Administrator", "4bd23610-cdcf-4971-bdee-bdc562cc28e4"),
        "AU": ("Crypto Auditor", "2c18b078-7c48-4d3a-af88-5a3a1b3f82b3"),
        "SE": (
            "Crypto Service Encryption User",
            "33413926-3206-4cdd-b39a-83574fe37a17",
        ),
        "SR": ("Crypto Service Release User", "21dbd100-6940-42c2-9190-5d6cb909625c"),
        "BK": ("Backup", "7b127d3c-77bd-4e3e-bbe0-dbb8971fa7f8"),
        "RS": ("Restore", "6efe6056-5259-49d2-8b3d-d3d73544b20b"),
        # Its id is published nowhere: this one is ours, and must stay.
        "EK": ("EKM Administrator", "e6b1d5c2-94a7-4f0e-8c3d-5f2a7b90c416"),
    }
)
"""The built-in roles: titles without `Managed HSM`, and published ids."""

ACTIONS: Final[Mapping[str, str]] = MappingProxyType(
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
        # The recorded service gives auditors this one, and not the purge that the
        # printed table has in its place.
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
        # The vault's own.
        "regions/read/action": "AD AU",
        "regions/write/action": "AD",
        "regions/delete/action": "AD",
        "vault/read/action": "AD CO PA AU",
        "vault/write/action": "AD",
        "topology/read/action": "",
    }
)
"""Who holds what, as Azure Managed HSM's live service answered it, and our own."""

Codes: TypeAlias = tuple[Code, Code, Code]
"""For a live, a deleted and an unknown key."""

EVERYBODY: Final = "everybody"
"""What a row needs that asks for no role."""


@dataclass(frozen=True)
class Row:
    """One RPC (or one way to ask it): what it needs, and what it then answers."""

    needs: tuple[str, ...]
    """Data actions; all of them are needed. `EVERYBODY`: none."""
    about: str
    """`ec` or `oct`: a key of that type. `/keys` and `/`: the collection, the vault."""
    request: Callable[[str], Message]
    """Of the key's id; "" where it is about no key."""
    codes: Codes
    instead: Mapping[str, Codes] = field(default_factory=dict)
    """Other codes for the holders of one role."""

    @property
    def of_a_key(self) -> bool:
        return not self.about.startswith("/")


def _key(
    needs: str,
    about: str,
    request: Callable[[str], Message],
    codes: Codes,
    **instead: Codes,
) -> Row:
    return Row(tuple(needs.split()), about, request, codes, instead)


def _whole(needs: str, request: Message, code: Code, about: str = "/") -> Row:
    return Row(tuple(needs.split()), about, lambda _key: request, (code, code, code))


def _new(key: str) -> keys.CreateKeyRequest:
    # The unknown key must stay unknown.
    kind = "none" if key.endswith("unknown") else "EC"
    return keys.CreateKeyRequest(key_id=key, key=Key(spec=KeySpec(type=kind)))


def _import(key: str) -> keys.ImportKeyRequest:
    known = b'{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAA"}'
    return keys.ImportKeyRequest(
        key_id=key, jwk=b"none" if key.endswith("unknown") else known
    )


def _assign(key: str) -> access.CreateRoleAssignmentRequest:
    return access.CreateRoleAssignmentRequest(
        role_assignment=RoleAssignment(principal="?", scope=f"/keys/{key}")
    )


def _add_region() -> regions.AddRegionRequest:
    card = Card.of_record(region("west"))
    message = Region(
        name="regions/west",
        zone="eu",
        endpoint="west.example:8440",
        private_endpoint="west.example:8450",
    )
    return regions.AddRegionRequest(region=message, fingerprint=card.fingerprint)


_KEYS: Final = {
    "CreateKey": _key("keys/create", "ec", _new, (TAKEN, TAKEN, INVALID)),
    "ImportKey": _key("keys/import/action", "ec", _import, (TAKEN, TAKEN, INVALID)),
    "BeginImport": _key(
        "keys/import/action",
        "ec",
        lambda key: keys.BeginImportRequest(key_id=key, validate_only=True),
        (TAKEN, TAKEN, OK),
    ),
    "BackupKey": _key(
        "keys/backup/action",
        "ec",
        lambda key: keys.BackupKeyRequest(name=f"keys/{key}"),
        (OK, ABSENT, ABSENT),
    ),
    "RestoreKey": _whole(
        "keys/restore/action",
        keys.RestoreKeyRequest(backup=b"none"),
        INVALID,
        "/keys",
    ),
    "GetKey": _key(
        "keys/read/action",
        "ec",
        lambda key: keys.GetKeyRequest(name=f"keys/{key}"),
        (OK, ABSENT, ABSENT),
    ),
    "GetKey show_deleted": _key(
        "keys/deletedKeys/read/action",
        "ec",
        lambda key: keys.GetKeyRequest(name=f"keys/{key}", show_deleted=True),
        (OK, OK, ABSENT),
        CO=(ABSENT, OK, ABSENT),
    ),
    "ListKeys": _whole("keys/read/action", keys.ListKeysRequest(), OK, "/keys"),
    "ListKeys show_deleted": _whole(
        "keys/deletedKeys/read/action",
        keys.ListKeysRequest(show_deleted=True),
        OK,
        "/keys",
    ),
    "ListKeyVersions": _key(
        "keys/read/action",
        "ec",
        lambda key: keys.ListKeyVersionsRequest(parent=f"keys/{key}"),
        (OK, ABSENT, ABSENT),
    ),
    "UpdateKey": _key(
        "keys/write/action",
        "ec",
        lambda key: keys.UpdateKeyRequest(
            key=Key(name=f"keys/{key}", enabled=True, etag="old")
        ),
        (STALE, ABSENT, ABSENT),
    ),
    "UpdateKeyVersion": _key(
        "keys/write/action",
        "ec",
        lambda key: keys.UpdateKeyVersionRequest(
            key_version=KeyVersion(name=f"keys/{key}/versions/{'0' * 32}", enabled=True)
        ),
        (ABSENT, ABSENT, ABSENT),
    ),
    "RotateKey": _key(
        "keys/rotate/action",
        "ec",
        lambda key: keys.RotateKeyRequest(name=f"keys/{key}", etag="old"),
        (STALE, ABSENT, ABSENT),
    ),
    "ActivateKeyVersion": _key(
        "keys/rotate/action",
        "ec",
        lambda key: keys.ActivateKeyVersionRequest(
            name=f"keys/{key}/versions/{'0' * 32}", etag="old"
        ),
        (ABSENT, ABSENT, ABSENT),
    ),
    "GetRotationPolicy": _key(
        "keys/read/action",
        "ec",
        lambda key: keys.GetRotationPolicyRequest(name=f"keys/{key}/rotationPolicy"),
        (OK, ABSENT, ABSENT),
    ),
    "UpdateRotationPolicy": _key(
        "keys/write/action",
        "ec",
        lambda key: keys.UpdateRotationPolicyRequest(
            rotation_policy=keys.RotationPolicy(
                name=f"keys/{key}/rotationPolicy", etag="old"
            )
        ),
        (STALE, ABSENT, ABSENT),
    ),
    "GetDeletedKey": _key(
        "keys/deletedKeys/read/action",
        "ec",
        lambda key: keys.GetDeletedKeyRequest(name=f"keys/{key}"),
        (ABSENT, OK, ABSENT),
    ),
    "ListDeletedKeys": _whole(
        "keys/deletedKeys/read/action", keys.ListDeletedKeysRequest(), OK, "/keys"
    ),
    "DeleteKey": _key(
        "keys/delete",
        "ec",
        lambda key: keys.DeleteKeyRequest(name=f"keys/{key}", etag="old"),
        (STALE, STATE, ABSENT),
    ),
    "RecoverKey": _key(
        "keys/deletedKeys/recover/action",
        "ec",
        lambda key: keys.RecoverKeyRequest(name=f"keys/{key}", etag="old"),
        (STATE, STALE, ABSENT),
    ),
    "PurgeKey": _key(
        "keys/deletedKeys/delete",
        "ec",
        lambda key: keys.PurgeKeyRequest(name=f"keys/{key}", etag="old"),
        (STATE, STALE, ABSENT),
    ),
    "GetPublicKey": _key(
        "keys/read/action",
        "ec",
        lambda key: keys.GetPublicKeyRequest(name=f"keys/{key}"),
        (OK, ABSENT, ABSENT),
    ),
}
_CRYPTO: Final = {
    "Sign": _key(
        "keys/sign/action",
        "ec",
        lambda key: crypto.SignRequest(
            name=f"keys/{key}", algorithm="ES256", digest=bytes(32)
        ),
        (OK, STATE, ABSENT),
    ),
    "Verify": _key(
        "keys/verify/action",
        "ec",
        lambda key: crypto.VerifyRequest(
            name=f"keys/{key}",
            algorithm="ES256",
            digest=bytes(32),
            signature=bytes(64),
        ),
        (OK, STATE, ABSENT),
    ),
    "Encrypt": _key(
        "keys/encrypt/action",
        "oct",
        lambda key: crypto.EncryptRequest(name=f"keys/{key}", algorithm="A256GCM"),
        (OK, STATE, ABSENT),
    ),
    "Decrypt": _key(
        "keys/decrypt/action",
        "oct",
        lambda key: crypto.DecryptRequest(
            name=f"keys/{key}", algorithm="A256GCM", iv=bytes(12), tag=bytes(16)
        ),
        (INVALID, STATE, ABSENT),
    ),
    "ReEncrypt": _key(
        "keys/decrypt/action keys/encrypt/action",
        "oct",
        lambda key: crypto.ReEncryptRequest(
            name=f"keys/{key}",
            algorithm="A256GCM",
            iv=bytes(12),
            tag=bytes(16),
            target_name=f"keys/{key}",
            target_algorithm="A256GCM",
        ),
        (INVALID, STATE, ABSENT),
    ),
    "WrapKey": _key(
        "keys/wrap/action",
        "oct",
        lambda key: crypto.WrapKeyRequest(
            name=f"keys/{key}", algorithm="A256KW", plaintext=bytes(16)
        ),
        (OK, STATE, ABSENT),
    ),
    "UnwrapKey": _key(
        "keys/unwrap/action",
        "oct",
        lambda key: crypto.UnwrapKeyRequest(
            name=f"keys/{key}", algorithm="A256KW", wrapped=bytes(24)
        ),
        (INVALID, STATE, ABSENT),
    ),
    "GenerateDataKey": _key(
        "keys/wrap/action",
        "oct",
        lambda key: crypto.GenerateDataKeyRequest(name=f"keys/{key}"),
        (OK, STATE, ABSENT),
    ),
    # The call is for everybody; what its items need, they are refused by themselves.
    "Batch": _whole(
        EVERYBODY,
        crypto.BatchRequest(items=[crypto.BatchItem(reference="nothing")]),
        OK,
    ),
    "GetRandomBytes": _whole(
        "rng/action", crypto.GetRandomBytesRequest(count=16), OK, "/keys"
    ),
}
_BUILT_IN: Final = f"roleDefinitions/{ROLES['CU'][1]}"
_ACCESS: Final = {
    "GetRoleDefinition": _whole(
        "roleDefinitions/read/action",
        access.GetRoleDefinitionRequest(name=_BUILT_IN),
        OK,
    ),
    "ListRoleDefinitions": _whole(
        "roleDefinitions/read/action", access.ListRoleDefinitionsRequest(), OK
    ),
    "CreateRoleDefinition": _whole(
        "roleDefinitions/write/action",
        access.CreateRoleDefinitionRequest(role_definition=RoleDefinition(title="?")),
        INVALID,
    ),
    "UpdateRoleDefinition": _whole(
        "roleDefinitions/write/action",
        access.UpdateRoleDefinitionRequest(
            role_definition=RoleDefinition(name=_BUILT_IN, title="Mine")
        ),
        STATE,
    ),
    "DeleteRoleDefinition": _whole(
        "roleDefinitions/delete/action",
        access.DeleteRoleDefinitionRequest(name=_BUILT_IN),
        STATE,
    ),
    "GetRoleAssignment": _whole(
        "roleAssignments/read/action",
        access.GetRoleAssignmentRequest(name="roleAssignments/ada"),
        OK,
    ),
    "ListRoleAssignments": _key(
        "roleAssignments/read/action",
        "ec",
        lambda key: access.ListRoleAssignmentsRequest(scope=f"/keys/{key}"),
        (OK, OK, OK),
    ),
    "CreateRoleAssignment": _key(
        "roleAssignments/write/action", "ec", _assign, (INVALID, INVALID, INVALID)
    ),
    "DeleteRoleAssignment": _whole(
        "roleAssignments/delete/action",
        access.DeleteRoleAssignmentRequest(name="roleAssignments/ada", etag="old"),
        STALE,
    ),
    "TestPermissions": _whole(
        EVERYBODY,
        access.TestPermissionsRequest(scope="/", permissions=["keys/read/action"]),
        OK,
    ),
}
_REGIONS: Final = {
    "AddRegion": _whole("regions/write/action", _add_region(), OK),
    "RemoveRegion": _whole(
        "regions/delete/action",
        regions.RemoveRegionRequest(name="regions/west"),
        INVALID,
    ),
    "ListRegions": _whole("regions/read/action", regions.ListRegionsRequest(), OK),
    "GetReplicationStatus": _whole(
        "regions/read/action", regions.GetReplicationStatusRequest(), OK
    ),
    "ListAuditHeads": _whole(
        "regions/read/action", regions.ListAuditHeadsRequest(), OK
    ),
    "WaitForPosition": _whole(
        EVERYBODY, regions.WaitForPositionRequest(position="1.north.1"), OK
    ),
    "GetTopology": _whole(EVERYBODY, regions.GetTopologyRequest(), OK),
}
_VAULT: Final = {
    "GetVault": _whole("vault/read/action", vault.GetVaultRequest(), OK),
    "UpdateVault": _whole(
        "vault/write/action",
        vault.UpdateVaultRequest(vault=Vault(etag="old", rate_limit=1)),
        STALE,
    ),
    # A stream, until it is cancelled; of a key that is not there it has nothing to say.
    "Watch": _key(
        "keys/read/action",
        "ec",
        lambda key: vault.WatchRequest(
            scope=f"/keys/{key}", kinds=[vault.Change.KEY_VERSION]
        ),
        (OK, OK, OK),
    ),
}

ROWS: Final[Mapping[str, Row]] = MappingProxyType(
    {
        f"{service}/{rpc}": row
        for service, rows in (
            ("KeyService", _KEYS),
            ("CryptoService", _CRYPTO),
            ("AccessService", _ACCESS),
            ("RegionService", _REGIONS),
            ("VaultService", _VAULT),
        )
        for rpc, row in rows.items()
    }
)
"""By `Service/Rpc`; a second way to ask the same RPC has a word after a space."""


def services() -> Iterator[ServiceDescriptor]:
    """Every service of the public package, from its generated descriptors."""
    for module in pkgutil.iter_modules(hsmvault.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"hsmvault.v1.{module.name}").DESCRIPTOR
            yield from file.services_by_name.values()


def streams() -> set[str]:
    """Every RPC that answers with a stream."""
    return {
        f"{s.name}/{m.name}"
        for s in services()
        for m in s.methods
        if m.server_streaming
    }


def rpcs() -> set[str]:
    """Every RPC there is, as `Service/Rpc`."""
    return {f"{s.name}/{m.name}" for s in services() for m in s.methods}


def begin(channel: grpc.Channel, rpc: str, raw: bytes, *, timeout: float = 60) -> None:
    """Ask until the first answer; a stream is not wanted any longer then."""
    path = f"/hsmvault.v1.{rpc}"
    if rpc not in streams():
        unary: Any = channel.unary_unary(path)
        unary(raw, timeout=timeout)
        return
    stream: Any = channel.unary_stream(path)
    answers = stream(raw, timeout=timeout)
    next(answers)
    answers.cancel()
