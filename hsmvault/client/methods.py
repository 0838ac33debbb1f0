"""Every RPC the client calls: its path, its messages, and how it may be repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1 import resources_pb2 as resources
from hsmvault.v1 import vault_service_pb2 as vault

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class Repeat(Enum):
    """When a call that may or may not have happened is sent again."""

    ALWAYS = "always"
    """It changes nothing. Signing twice gives two good signatures."""
    WITH_ID = "with its request_id"
    """The vault answers the second as it answered the first."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, A]):
    """One RPC."""

    path: str
    encode: Callable[[Q], bytes]
    decode: Callable[[bytes], A]
    repeat: Repeat
    deadline: float
    """Seconds that it gets unless the caller says otherwise, all tries together."""
    waits: bool = False
    """Slow on purpose: one try gets all the time there is."""


DEADLINE: Final = 10.0
PATIENT: Final = 60.0
"""Generating RSA-4096 takes about 8 s alone, and waits for its turn."""


def _method(
    path: str,
    ask: type[Q],
    answer: type[A],
    repeat: Repeat = Repeat.ALWAYS,
    deadline: float = DEADLINE,
    *,
    waits: bool = False,
) -> Method[Q, A]:
    return Method(
        f"/hsmvault.v1.{path}",
        ask.SerializeToString,
        answer.FromString,
        repeat,
        deadline,
        waits,
    )


_ID: Final = Repeat.WITH_ID

CREATE_KEY: Final = _method(
    "KeyService/CreateKey", keys.CreateKeyRequest, resources.Key, _ID, PATIENT
)
IMPORT_KEY: Final = _method(
    "KeyService/ImportKey", keys.ImportKeyRequest, resources.Key, _ID, PATIENT
)
BEGIN_IMPORT: Final = _method(
    "KeyService/BeginImport", keys.BeginImportRequest, keys.Import, _ID, PATIENT
)
BACKUP_KEY: Final = _method(
    "KeyService/BackupKey",
    keys.BackupKeyRequest,
    keys.BackupKeyResponse,
    deadline=PATIENT,
)
RESTORE_KEY: Final = _method(
    "KeyService/RestoreKey", keys.RestoreKeyRequest, resources.Key, _ID, PATIENT
)
GET_KEY: Final = _method("KeyService/GetKey", keys.GetKeyRequest, resources.Key)
LIST_KEYS: Final = _method(
    "KeyService/ListKeys", keys.ListKeysRequest, keys.ListKeysResponse
)
LIST_KEY_VERSIONS: Final = _method(
    "KeyService/ListKeyVersions",
    keys.ListKeyVersionsRequest,
    keys.ListKeyVersionsResponse,
)
UPDATE_KEY: Final = _method(
    "KeyService/UpdateKey", keys.UpdateKeyRequest, resources.Key, _ID
)
UPDATE_KEY_VERSION: Final = _method(
    "KeyService/UpdateKeyVersion",
    keys.UpdateKeyVersionRequest,
    resources.KeyVersion,
    _ID,
)
ROTATE_KEY: Final = _method(
    "KeyService/RotateKey", keys.RotateKeyRequest, resources.KeyVersion, _ID, PATIENT
)
ACTIVATE_KEY_VERSION: Final = _method(
    "KeyService/ActivateKeyVersion",
    keys.ActivateKeyVersionRequest,
    keys.ActivateKeyVersionResponse,
    _ID,
)
GET_ROTATION_POLICY: Final = _method(
    "KeyService/GetRotationPolicy", keys.GetRotationPolicyRequest, keys.RotationPolicy
)
UPDATE_ROTATION_POLICY: Final = _method(
    "KeyService/UpdateRotationPolicy",
    keys.UpdateRotationPolicyRequest,
    keys.RotationPolicy,
    _ID,
)
GET_DELETED_KEY: Final = _method(
    "KeyService/GetDeletedKey", keys.GetDeletedKeyRequest, resources.Key
)
LIST_DELETED_KEYS: Final = _method(
    "KeyService/ListDeletedKeys",
    keys.ListDeletedKeysRequest,
    keys.ListDeletedKeysResponse,
)
DELETE_KEY: Final = _method(
    "KeyService/DeleteKey", keys.DeleteKeyRequest, resources.Key, _ID
)
RECOVER_KEY: Final = _method(
    "KeyService/RecoverKey", keys.RecoverKeyRequest, resources.Key, _ID
)
PURGE_KEY: Final = _method(
    "KeyService/PurgeKey", keys.PurgeKeyRequest, keys.PurgeKeyResponse, _ID
)
GET_PUBLIC_KEY: Final = _method(
    "KeyService/GetPublicKey", keys.GetPublicKeyRequest, keys.PublicKey
)

SIGN: Final = _method("CryptoService/Sign", crypto.SignRequest, crypto.SignResponse)
VERIFY: Final = _method(
    "CryptoService/Verify", crypto.VerifyRequest, crypto.VerifyResponse
)
ENCRYPT: Final = _method(
    "CryptoService/Encrypt", crypto.EncryptRequest, crypto.EncryptResponse
)
DECRYPT: Final = _method(
    "CryptoService/Decrypt", crypto.DecryptRequest, crypto.DecryptResponse
)
RE_ENCRYPT: Final = _method(
    "CryptoService/ReEncrypt", crypto.ReEncryptRequest, crypto.ReEncryptResponse
)
WRAP_KEY: Final = _method(
    "CryptoService/WrapKey", crypto.WrapKeyRequest, crypto.WrapKeyResponse
)
UNWRAP_KEY: Final = _method(
    "CryptoService/UnwrapKey", crypto.UnwrapKeyRequest, crypto.UnwrapKeyResponse
)
GENERATE_DATA_KEY: Final = _method(
    "CryptoService/GenerateDataKey",
    crypto.GenerateDataKeyRequest,
    crypto.GenerateDataKeyResponse,
)
BATCH: Final = _method(
    "CryptoService/Batch", crypto.BatchRequest, crypto.BatchResponse, deadline=PATIENT
)
GET_RANDOM_BYTES: Final = _method(
    "CryptoService/GetRandomBytes",
    crypto.GetRandomBytesRequest,
    crypto.GetRandomBytesResponse,
)

GET_ROLE_DEFINITION: Final = _method(
    "AccessService/GetRoleDefinition",
    access.GetRoleDefinitionRequest,
    resources.RoleDefinition,
)
LIST_ROLE_DEFINITIONS: Final = _method(
    "AccessService/ListRoleDefinitions",
    access.ListRoleDefinitionsRequest,
    access.ListRoleDefinitionsResponse,
)
CREATE_ROLE_DEFINITION: Final = _method(
    "AccessService/CreateRoleDefinition",
    access.CreateRoleDefinitionRequest,
    resources.RoleDefinition,
    _ID,
)
UPDATE_ROLE_DEFINITION: Final = _method(
    "AccessService/UpdateRoleDefinition",
    access.UpdateRoleDefinitionRequest,
    resources.RoleDefinition,
    _ID,
)
DELETE_ROLE_DEFINITION: Final = _method(
    "AccessService/DeleteRoleDefinition",
    access.DeleteRoleDefinitionRequest,
    access.DeleteRoleDefinitionResponse,
    _ID,
)
GET_ROLE_ASSIGNMENT: Final = _method(
    "AccessService/GetRoleAssignment",
    access.GetRoleAssignmentRequest,
    resources.RoleAssignment,
)
LIST_ROLE_ASSIGNMENTS: Final = _method(
    "AccessService/ListRoleAssignments",
    access.ListRoleAssignmentsRequest,
    access.ListRoleAssignmentsResponse,
)
CREATE_ROLE_ASSIGNMENT: Final = _method(
    "AccessService/CreateRoleAssignment",
    access.CreateRoleAssignmentRequest,
    resources.RoleAssignment,
    _ID,
)
DELETE_ROLE_ASSIGNMENT: Final = _method(
    "AccessService/DeleteRoleAssignment",
    access.DeleteRoleAssignmentRequest,
    access.DeleteRoleAssignmentResponse,
    _ID,
)
TEST_PERMISSIONS: Final = _method(
    "AccessService/TestPermissions",
    access.TestPermissionsRequest,
    access.TestPermissionsResponse,
)

ADD_REGION: Final = _method(
    "RegionService/AddRegion",
    regions.AddRegionRequest,
    resources.Region,
    _ID,
    PATIENT,
)
REMOVE_REGION: Final = _method(
    "RegionService/RemoveRegion",
    regions.RemoveRegionRequest,
    resources.Region,
    _ID,
    PATIENT,
)
LIST_AUDIT_HEADS: Final = _method(
    "RegionService/ListAuditHeads",
    regions.ListAuditHeadsRequest,
    regions.ListAuditHeadsResponse,
)
LIST_REGIONS: Final = _method(
    "RegionService/ListRegions",
    regions.ListRegionsRequest,
    regions.ListRegionsResponse,
)
GET_REPLICATION_STATUS: Final = _method(
    "RegionService/GetReplicationStatus",
    regions.GetReplicationStatusRequest,
    regions.ReplicationStatus,
)
WAIT_FOR_POSITION: Final = _method(
    "RegionService/WaitForPosition",
    regions.WaitForPositionRequest,
    regions.WaitForPositionResponse,
    waits=True,
)
GET_TOPOLOGY: Final = _method(
    "RegionService/GetTopology", regions.GetTopologyRequest, regions.Topology
)

GET_VAULT: Final = _method(
    "VaultService/GetVault", vault.GetVaultRequest, resources.Vault
)
UPDATE_VAULT: Final = _method(
    "VaultService/UpdateVault", vault.UpdateVaultRequest, resources.Vault, _ID
)
