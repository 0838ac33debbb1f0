"""AccessService: who may do what. Parse, call, convert; no decisions."""

from dataclasses import dataclass

from hsmvault.api import convert_roles as convert
from hsmvault.api.dispatch import Call, requested
from hsmvault.api.paging import Listing
from hsmvault.model.access import BUILT_IN
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import InvalidRequest, NotFound
from hsmvault.model.grants import Scope
from hsmvault.model.names import RoleAssignmentName, RoleDefinitionName
from hsmvault.v1 import access_service_pb2 as pb
from hsmvault.v1.resources_pb2 import RoleAssignment, RoleDefinition
from hsmvault.vault.access import AccessKeeper, Listed
from hsmvault.vault.catalogue import page_size
from hsmvault.vault.checked import Found
from hsmvault.vault.definitions import DefinitionKeeper
from hsmvault.vault.view import Access


@dataclass(frozen=True, slots=True)
class AccessServicer:
    """One method per RPC of AccessService."""

    keeper: AccessKeeper
    definitions: DefinitionKeeper

    def get_role_definition(
        self, request: pb.GetRoleDefinitionRequest, call: Call
    ) -> RoleDefinition:
        name = str(RoleDefinitionName.parse(request.name))
        if name not in call.view.access.definitions:
            raise NotFound("there is no {name}", name=name)
        return _definition(name, call.view.access)

    def list_role_definitions(
        self, request: pb.ListRoleDefinitionsRequest, call: Call
    ) -> pb.ListRoleDefinitionsResponse:
        size = page_size(request.page_size)
        listing = Listing.of(call)
        start = listing.start(request.page_token)
        access = call.view.access
        names = sorted(name for name in access.definitions if name > start)
        more = len(names) > size
        return pb.ListRoleDefinitionsResponse(
            role_definitions=[_definition(name, access) for name in names[:size]],
            next_page_token=listing.token(names[size - 1] if more else ""),
        )

    def create_role_definition(
        self, request: pb.CreateRoleDefinitionRequest, call: Call
    ) -> RoleDefinition:
        require_named_by_id(
            request.role_definition.name, "role_definition", request.role_definition_id
        )
        return convert.custom(
            self.definitions.create(
                requested(request, call),
                id_=request.role_definition_id,
                wanted=convert.wanted(request.role_definition),
            )
        )

    def update_role_definition(
        self, request: pb.UpdateRoleDefinitionRequest, call: Call
    ) -> RoleDefinition:
        message = request.role_definition
        return convert.custom(
            self.definitions.update(
                requested(request, call),
                RoleDefinitionName.parse(message.name),
                convert.changes(message, request.update_mask),
                etag=message.etag,
            )
        )

    def delete_role_definition(
        self, request: pb.DeleteRoleDefinitionRequest, call: Call
    ) -> pb.DeleteRoleDefinitionResponse:
        found = self.definitions.delete(
            requested(request, call),
            RoleDefinitionName.parse(request.name),
            etag=request.etag,
        )
        return pb.DeleteRoleDefinitionResponse(position=str(found.position))

    def get_role_assignment(
        self, request: pb.GetRoleAssignmentRequest, call: Call
    ) -> RoleAssignment:
        name = RoleAssignmentName.parse(request.name)
        return _assignment(self.keeper.get(name, call.view), call)

    def list_role_assignments(
        self, request: pb.ListRoleAssignmentsRequest, call: Call
    ) -> pb.ListRoleAssignmentsResponse:
        size = page_size(request.page_size)
        asked = Listed(
            Scope.parse(request.scope or "/"),
            request.principal,
            at_scope=request.at_scope,
            below_scope=request.below_scope,
        )
        listing = Listing.of(
            call,
            asked.principal,
            asked.scope.path,
            str(asked.at_scope),
            str(asked.below_scope),
        )
        found = self.keeper.list(
            call.view,
            call.caller,
            asked,
            after=listing.start(request.page_token),
            limit=size + 1,
        )
        last = found[size - 1].record.name if len(found) > size else ""
        return pb.ListRoleAssignmentsResponse(
            role_assignments=[_assignment(f, call) for f in found[:size]],
            next_page_token=listing.token(last),
        )

    def create_role_assignment(
        self, request: pb.CreateRoleAssignmentRequest, call: Call
    ) -> RoleAssignment:
        wanted = request.role_assignment
        require_named_by_id(wanted.name, "role_assignment", request.role_assignment_id)
        found = self.keeper.create(
            requested(request, call),
            id_=request.role_assignment_id,
            principal=wanted.principal,
            role_definition=wanted.role_definition,
            scope=Scope.parse(wanted.scope),
            regions=convert.region_ids(wanted),
        )
        # It was just refused unless its role was there.
        return convert.assignment(found, defunct=False)

    def delete_role_assignment(
        self, request: pb.DeleteRoleAssignmentRequest, call: Call
    ) -> pb.DeleteRoleAssignmentResponse:
        found = self.keeper.delete(
            requested(request, call),
            RoleAssignmentName.parse(request.name),
            etag=request.etag,
        )
        return pb.DeleteRoleAssignmentResponse(position=str(found.position))

    def test_permissions(
        self, request: pb.TestPermissionsRequest, call: Call
    ) -> pb.TestPermissionsResponse:
        scope = Scope.parse(request.scope)
        if len(request.permissions) > convert.PERMISSIONS_MAX:
            raise InvalidRequest(
                "{given} permissions are more than the {most} that may be asked about",
                given=len(request.permissions),
                most=convert.PERMISSIONS_MAX,
            )
        asked = dict.fromkeys(convert.permission(p) for p in request.permissions)
        held = [
            p
            for p in asked
            if call.view.access.permits(call.principal, p, scope.path, call.via_region)
        ]
        return pb.TestPermissionsResponse(permissions=held)


def require_named_by_id(name: str, resource: str, id_: str) -> None:
    """Raise InvalidRequest where a new resource is named otherwise than by its id."""
    head, _, tail = resource.partition("_")
    if name and (not id_ or name != f"{head}{tail.capitalize()}s/{id_}"):
        raise InvalidRequest(
            "{resource}.name is chosen by {resource}_id: leave it empty",
            resource=resource,
        )


def _definition(name: str, access: Access) -> RoleDefinition:
    role = BUILT_IN.get(name)
    return convert.built_in(role) if role else convert.custom(access.custom[name])


def _assignment(found: Found[AssignmentRecord], call: Call) -> RoleAssignment:
    return convert.assignment(found, defunct=call.view.access.defunct(found.record))
