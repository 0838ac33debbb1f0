"""Who may do what: role definitions and assignments."""

from collections.abc import Iterator
from typing import Unpack

from hsmvault.client import methods
from hsmvault.client.caller import Caller, Options, WriteOptions
from hsmvault.model.errors import NotFound
from hsmvault.v1 import access_service_pb2 as messages
from hsmvault.v1.resources_pb2 import RoleAssignment, RoleDefinition


class Roles:
    """`vault.roles`: look at role definitions, assign and revoke."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def definitions(self, **options: Unpack[Options]) -> Iterator[RoleDefinition]:
        """Go through all role definitions."""
        token = ""
        while True:
            page = self._caller.call(
                methods.LIST_ROLE_DEFINITIONS,
                messages.ListRoleDefinitionsRequest(page_token=token),
                **options,
            )
            yield from page.role_definitions
            token = page.next_page_token
            if not token:
                return

    def definition(self, title: str, **options: Unpack[Options]) -> RoleDefinition:
        """Find a role by its name, its title, or its title without `Managed HSM`."""
        wanted = title.lower()
        known = list(self.definitions(**options))
        for role in known:
            names = {role.name.lower(), role.title.lower()}
            names |= {n.removeprefix("managed hsm ") for n in names}
            names |= {n.removeprefix("roledefinitions/") for n in names}
            if wanted in names:
                return role
        raise NotFound(
            "there is no role {title!r}; there are {known}",
            title=title,
            known=", ".join(r.title for r in known),
        )

    def list(
        self, *, principal: str = "", scope: str = "", **options: Unpack[Options]
    ) -> Iterator[RoleAssignment]:
        """Go through the assignments, of one principal or scope if given."""
        token = ""
        while True:
            page = self._caller.call(
                methods.LIST_ROLE_ASSIGNMENTS,
                messages.ListRoleAssignmentsRequest(
                    page_token=token, principal=principal, scope=scope
                ),
                **options,
            )
            yield from page.role_assignments
            token = page.next_page_token
            if not token:
                return

    def get(self, name: str, **options: Unpack[Options]) -> RoleAssignment:
        """Read one assignment."""
        request = messages.GetRoleAssignmentRequest(name=assignment_name(name))
        return self._caller.call(methods.GET_ROLE_ASSIGNMENT, request, **options)

    def assign(
        self,
        principal: str,
        role: str,
        *,
        scope: str = "/keys",
        **options: Unpack[WriteOptions],
    ) -> RoleAssignment:
        """Grant a role. `role` is a role definition's name or title."""
        if not role.startswith("roleDefinitions/"):
            role = self.definition(role).name
        request = messages.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=principal, role_definition=role, scope=scope
            )
        )
        return self._caller.call(methods.CREATE_ROLE_ASSIGNMENT, request, **options)

    def revoke(
        self, name: str, *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> str:
        """Take a grant back; in force on all partitions when it answers.

        Returns the position of the change.
        """
        request = messages.DeleteRoleAssignmentRequest(
            name=assignment_name(name), etag=etag
        )
        return self._caller.call(
            methods.DELETE_ROLE_ASSIGNMENT, request, **options
        ).position


def assignment_name(name: str) -> str:
    """Return the full name of an assignment."""
    return name if name.startswith("roleAssignments/") else f"roleAssignments/{name}"
