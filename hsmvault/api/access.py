"""AccessService: who may do what. Parse, call, convert; no decisions."""

from dataclasses import dataclass

from hsmvault.api import convert
from hsmvault.api.dispatch import Call, requested
from hsmvault.api.paging import Listing
from hsmvault.model.access import BUILT_IN
from hsmvault.model.grants import Scope
from hsmvault.model.names import RoleAssignmentName
from hsmvault.v1 import access_service_pb2 as pb
from hsmvault.v1.resources_pb2 import RoleAssignment
from hsmvault.vault.access import AccessKeeper
from hsmvault.vault.catalogue import page_size


@dataclass(frozen=True, slots=True)
class AccessServicer:
    """One method per RPC of AccessService."""

    keeper: AccessKeeper

    def list_role_definitions(
        self, request: pb.ListRoleDefinitionsRequest, call: Call
    ) -> pb.ListRoleDefinitionsResponse:
        size = page_size(request.page_size)
        listing = Listing.of(call)
        start = listing.start(request.page_token)
        names = sorted(name for name in BUILT_IN if name > start)
        more = len(names) > size
        return pb.ListRoleDefinitionsResponse(
            role_definitions=[convert.role(BUILT_IN[name]) for name in names[:size]],
            next_page_token=listing.token(names[size - 1] if more else ""),
        )

    def get_role_assignment(
        self, request: pb.GetRoleAssignmentRequest, call: Call
    ) -> RoleAssignment:
        name = RoleAssignmentName.parse(request.name)
        return convert.assignment(self.keeper.get(name, call.view))

    def list_role_assignments(
        self, request: pb.ListRoleAssignmentsRequest, call: Call
    ) -> pb.ListRoleAssignmentsResponse:
        size = page_size(request.page_size)
        listing = Listing.of(call, request.principal, request.scope)
        found = self.keeper.list(
            call.view,
            after=listing.start(request.page_token),
            limit=size + 1,
            principal=request.principal,
            scope=request.scope,
        )
        last = found[size - 1].record.name if len(found) > size else ""
        return pb.ListRoleAssignmentsResponse(
            role_assignments=[convert.assignment(f) for f in found[:size]],
            next_page_token=listing.token(last),
        )

    def create_role_assignment(
        self, request: pb.CreateRoleAssignmentRequest, call: Call
    ) -> RoleAssignment:
        wanted = request.role_assignment
        return convert.assignment(
            self.keeper.create(
                requested(request, call),
                id_=request.role_assignment_id,
                principal=wanted.principal,
                role_definition=wanted.role_definition,
                scope=Scope.parse(wanted.scope),
            )
        )

    def delete_role_assignment(
        self, request: pb.DeleteRoleAssignmentRequest, call: Call
    ) -> pb.DeleteRoleAssignmentResponse:
        found = self.keeper.delete(
            requested(request, call),
            RoleAssignmentName.parse(request.name),
            etag=request.etag,
        )
        return pb.DeleteRoleAssignmentResponse(position=str(found.position))
