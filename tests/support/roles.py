"""What tests ask of roles most: make, define, assign, and who holds what."""

from typing import Any

from hsmvault.model.access import Permission
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment, RoleDefinition
from tests.support.served import Caller


def create(who: Caller, key_id: str, **fields: Any) -> Key:
    spec = KeySpec(type="EC")
    return who.keys.CreateKey(
        keys.CreateKeyRequest(key_id=key_id, key=Key(spec=spec), **fields)
    )


def assign(
    who: Caller, principal: str, role: str, scope: str = "/", **fields: Any
) -> RoleAssignment:
    return who.access.CreateRoleAssignment(
        access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=principal, role_definition=role, scope=scope, **fields
            )
        )
    )


def define(who: Caller, title: str, id_: str = "", **fields: Any) -> RoleDefinition:
    wanted = {"data_actions": ["keys/sign/action"], **fields}
    return who.access.CreateRoleDefinition(
        access.CreateRoleDefinitionRequest(
            role_definition_id=id_,
            role_definition=RoleDefinition(title=title, **wanted),
        )
    )


def held(who: Caller, scope: str = "/") -> set[str]:
    request = access.TestPermissionsRequest(scope=scope, permissions=list(Permission))
    return set(who.access.TestPermissions(request).permissions) - {
        "topology/read/action"
    }
