"""Who may do what: granting and revoking. In force at once in this region.

Nobody grants more than they hold at the scope, except Administrators, who may assign
any role: an Administrator who could only hand on an Administrator's permissions could
never appoint the first Crypto User.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from hsmvault.model.access import ADMINISTRATOR, BUILT_IN, RoleDefinition
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidRequest,
    LastAdministrator,
    LimitReached,
    NotFound,
)
from hsmvault.model.grants import Scope
from hsmvault.model.names import RoleAssignmentName, RoleDefinitionName
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Clock, Store
from hsmvault.vault.view import Access, Caller, View
from hsmvault.vault.writing import Draft, Request, Writer, require_etag

AT_VAULT_MAX: Final = 50
"""Assignments at `/` and `/keys` together, as in Azure Managed HSM."""
AT_KEY_MAX: Final = 10
PRINCIPAL_MAX: Final = 512
_PRINCIPAL: Final = re.compile(
    r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+"
    r"|CN=\S(.*\S)?"
    # The issuer and the subject of a token: neither can hold a `#`, so that no two
    # pairs are spelled alike, and nothing else begins so.
    r"|jwt:https://[A-Za-z0-9.:_~/-]+#[A-Za-z0-9._:@|/+=~-]{1,255}"
)


@dataclass(frozen=True, slots=True)
class AccessKeeper:
    """Grants and revokes, and never leaves the vault without an Administrator."""

    store: Store
    memory: Memory
    writer: Writer
    clock: Clock
    new_id: Callable[[], str]

    def create(
        self,
        request: Request,
        *,
        id_: str,
        principal: str,
        role_definition: str,
        scope: Scope,
    ) -> Found[AssignmentRecord]:
        """Grant a role at a scope. An empty `id_` is chosen by the vault."""
        require_principal(principal)
        role = role_of(role_definition)
        name = str(RoleAssignmentName.parse(f"roleAssignments/{id_}")) if id_ else ""

        def decide(view: View) -> Draft[AssignmentRecord]:
            _require_holds(view.access, request.caller, role, scope)
            _require_room(view.access, scope)
            _require_new(view.access, principal, role, scope)
            chosen = name or f"roleAssignments/{self.new_id()}"
            if self.store.state(chosen) is not None:
                raise AlreadyExists(
                    "{name} exists or existed; choose another id, or none",
                    name=chosen,
                )
            record = AssignmentRecord(
                name=chosen,
                revision=1,
                principal=principal,
                role_definition=role.name,
                scope=scope.path,
                create_ms=self.clock(),
                author=request.caller.principal,
            )
            return Draft((record,), record)

        return self.writer.write(request, AssignmentRecord, decide)

    def delete(
        self, request: Request, name: RoleAssignmentName, *, etag: str
    ) -> Found[AssignmentRecord]:
        """Revoke an assignment."""

        def decide(view: View) -> Draft[AssignmentRecord]:
            found = self.get(name, view)
            require_etag(found, etag)
            if _administers(found) and not any(
                _administers(other)
                for other in view.access.assignments.values()
                if other.record.name != found.record.name
            ):
                raise LastAdministrator(
                    "{name} is the last assignment of Administrator at /; without it "
                    "nobody could grant anything again. Appoint another one first: "
                    "hsmvault role assign",
                    name=found.record.name,
                )
            record = replace(
                found.record, revision=found.record.revision + 1, removed=True
            )
            return Draft((record,), record)

        return self.writer.write(request, AssignmentRecord, decide)

    def get(self, name: RoleAssignmentName, view: View) -> Found[AssignmentRecord]:
        """Return an assignment in force, or raise NotFound."""
        found = view.access.assignments.get(str(name))
        if found is None:
            raise NotFound("there is no {name}", name=name)
        return found

    def list(
        self, view: View, *, after: str, limit: int, principal: str, scope: str
    ) -> "list[Found[AssignmentRecord]]":
        """Assignments in force by name, from beyond `after`; "" means any."""
        wanted = Scope.parse(scope).path if scope else ""
        names = sorted(name for name in view.access.assignments if name > after)
        matching = (view.access.assignments[name] for name in names)
        return [
            found
            for found in matching
            if principal in {"", found.record.principal}
            and wanted in {"", found.record.scope}
        ][:limit]


def require_principal(principal: str) -> None:
    """Raise InvalidRequest unless a caller could be called so."""
    if (
        len(principal) > PRINCIPAL_MAX
        or not principal.isprintable()
        or _PRINCIPAL.fullmatch(principal) is None
    ):
        raise InvalidRequest(
            "malformed principal {principal!r}; expected spiffe://domain/path, "
            "CN=name for a certificate without a SPIFFE id, or jwt:ISSUER#SUBJECT for "
            "a token",
            principal=principal[:100],
        )


def role_of(name: str) -> RoleDefinition:
    """Return a role definition, or raise InvalidRequest naming those there are."""
    role = BUILT_IN.get(str(RoleDefinitionName.parse(name)))
    if role is None:
        raise InvalidRequest(
            "unknown {name}; known are {known}",
            name=name[:100],
            known=", ".join(f"{r.name} ({r.title})" for r in BUILT_IN.values()),
        )
    return role


def _administers(found: Found[AssignmentRecord]) -> bool:
    record = found.record
    return record.role_definition == ADMINISTRATOR.name and record.scope == "/"


def _require_holds(
    access: Access, caller: Caller, role: RoleDefinition, scope: Scope
) -> None:
    if any(
        a.role_definition == ADMINISTRATOR.name and a.scope.covers(scope.path)
        for a in access.of(caller.principal)
    ):
        return
    lacking = sorted(
        p
        for p in role.permissions
        if not access.permits(caller.principal, p, scope.path)
    )
    if lacking:
        raise AccessDenied(
            "{principal} cannot grant {role} at {scope} without holding {lacking} "
            "there; an Administrator can: hsmvault role assign",
            principal=caller.principal,
            role=role.title,
            scope=scope.path,
            lacking=", ".join(lacking),
        )


def _require_room(access: Access, scope: Scope) -> None:
    per_key = scope.path.startswith("/keys/")
    taken = len(access.at(scope))
    if not per_key:
        taken = len(access.at(Scope("/"))) + len(access.at(Scope("/keys")))
    most = AT_KEY_MAX if per_key else AT_VAULT_MAX
    if taken >= most:
        raise LimitReached(
            "there are {most} assignments at {scope}, and no more fit; remove one "
            "first: hsmvault role unassign",
            most=most,
            scope=scope.path,
        )


def _require_new(
    access: Access, principal: str, role: RoleDefinition, scope: Scope
) -> None:
    for found in access.at(scope):
        record = found.record
        if (record.principal, record.role_definition) == (principal, role.name):
            raise AlreadyExists(
                "{principal} is {role} at {scope} already, by {name}",
                principal=principal,
                role=role.title,
                scope=scope.path,
                name=record.name,
            )
