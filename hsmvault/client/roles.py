"""Who may do what: role definitions and assignments."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.client import methods
from hsmvault.client.caller import Caller, Options, WriteOptions
from hsmvault.model.access import BUILT_IN
from hsmvault.model.definitions import PREFIX, canonical
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
        known = list(self.definitions(**options))
        for role in known:
            if _called(title, role.name, role.title):
                return role
        raise NotFound(
            "there is no role {title!r}; there are {known}",
            title=title,
            known=", ".join(sorted(r.title for r in known)),
        )

    def define(
        self,
        title: str,
        data_actions: Iterable[str],
        *,
        not_data_actions: Iterable[str] = (),
        description: str = "",
        id_: str = "",
        **options: Unpack[WriteOptions],
    ) -> RoleDefinition:
        """Define a role of the vault's own. It grants nothing until it is assigned.

        Actions are spelled as Azure's, `keys/sign/action`, or `keys/*` for all that
        begin so; those of `not_data_actions` are taken out again.
        """
        request = messages.CreateRoleDefinitionRequest(
            role_definition_id=id_,
            role_definition=RoleDefinition(
                title=title,
                description=description,
                data_actions=data_actions,
                not_data_actions=not_data_actions,
            ),
        )
        return self._caller.call(methods.CREATE_ROLE_DEFINITION, request, **options)

    def redefine(
        self,
        role: str,
        *,
        title: str | None = None,
        description: str | None = None,
        data_actions: Sequence[str] | None = None,
        not_data_actions: Sequence[str] | None = None,
        etag: str = "",
        **options: Unpack[WriteOptions],
    ) -> RoleDefinition:
        """Change what is given, for everybody who holds the role."""
        given = {
            "title": title,
            "description": description,
            "data_actions": data_actions,
            "not_data_actions": not_data_actions,
        }
        request = messages.UpdateRoleDefinitionRequest(
            role_definition=RoleDefinition(
                name=self._named(role),
                title=title or "",
                description=description or "",
                data_actions=data_actions or (),
                not_data_actions=not_data_actions or (),
                etag=etag,
            ),
            update_mask=FieldMask(paths=[n for n, v in given.items() if v is not None]),
        )
        return self._caller.call(methods.UPDATE_ROLE_DEFINITION, request, **options)

    def undefine(
        self, role: str, *, etag: str = "", **options: Unpack[WriteOptions]
    ) -> str:
        """Delete a role of the vault's own; its assignments grant nothing from then on.

        Returns the position of the change.
        """
        request = messages.DeleteRoleDefinitionRequest(
            name=self._named(role), etag=etag
        )
        return self._caller.call(
            methods.DELETE_ROLE_DEFINITION, request, **options
        ).position

    def show(self, role: str, **options: Unpack[Options]) -> RoleDefinition:
        """Read one role definition, by its name or title."""
        request = messages.GetRoleDefinitionRequest(name=self._named(role))
        return self._caller.call(methods.GET_ROLE_DEFINITION, request, **options)

    def test(
        self, scope: str, permissions: Iterable[str], **options: Unpack[Options]
    ) -> frozenset[str]:
        """Return those of the permissions that the caller holds at the scope."""
        request = messages.TestPermissionsRequest(scope=scope, permissions=permissions)
        answer = self._caller.call(methods.TEST_PERMISSIONS, request, **options)
        return frozenset(answer.permissions)

    def _named(self, role: str) -> str:
        if role.startswith("roleDefinitions/"):
            return role
        # Every vault has these, and not everybody who holds one may list them.
        for known in BUILT_IN.values():
            if _called(role, known.name, known.title):
                return known.name
        return self.definition(role).name

    def list(
        self,
        *,
        principal: str = "",
        scope: str = "",
        at_scope: bool = False,
        below_scope: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[RoleAssignment]:
        """Go through the assignments at a scope, at first the vault's own.

        `principal`: that one's, at, above and below it. `at_scope`: all that is in
        force there, from above, too. `below_scope`: those at single keys, too.
        """
        token = ""
        while True:
            page = self._caller.call(
                methods.LIST_ROLE_ASSIGNMENTS,
                messages.ListRoleAssignmentsRequest(
                    page_token=token,
                    principal=principal,
                    scope=scope,
                    at_scope=at_scope,
                    below_scope=below_scope,
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
        regions: Iterable[str] = (),
        **options: Unpack[WriteOptions],
    ) -> RoleAssignment:
        """Grant a role, limited to `regions` if any are named.

        `role` is a role definition's name or title.
        """
        request = messages.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=principal,
                role_definition=self._named(role),
                scope=scope,
                regions=[region_name(region) for region in regions],
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


def _called(wanted: str, name: str, title: str) -> bool:
    """Tell whether a role is meant: the vault compares titles in this form, too."""
    titles = {canonical(title), canonical(title.removeprefix(PREFIX))}
    ids = {name.lower(), name.partition("/")[2].lower()}
    return canonical(wanted) in titles or wanted.lower() in ids


def assignment_name(name: str) -> str:
    """Return the full name of an assignment."""
    return name if name.startswith("roleAssignments/") else f"roleAssignments/{name}"


def region_name(name: str) -> str:
    """Return the full name of a region."""
    return name if name.startswith("regions/") else f"regions/{name}"
