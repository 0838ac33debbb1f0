"""Who may do what: granting and revoking. In force at once in this region."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hsmvault.model.access import ADMINISTRATOR, RoleDefinition
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import (
    AlreadyExists,
    InvalidRequest,
    LastAdministrator,
    LimitReached,
    NotFound,
)
from hsmvault.model.grants import Scope
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.names import RoleAssignmentName, RoleDefinitionName
from hsmvault.vault.checked import Found
from hsmvault.vault.granting import require_may_grant
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
        regions: Sequence[str] = (),
    ) -> Found[AssignmentRecord]:
        """Grant a role at a scope, limited to `regions` by their ids if any are named.

        An empty `id_` is chosen by the vault.
        """
        require_principal(principal)
        definition = str(RoleDefinitionName.parse(role_definition))
        limit = tuple(sorted(set(regions)))
        name = str(RoleAssignmentName.parse(f"roleAssignments/{id_}")) if id_ else ""

        def decide(view: View) -> Draft[AssignmentRecord]:
            role = role_of(view.access, definition)
            _require_known(view, limit)
            require_may_grant(
                view,
                request.caller,
                role.permissions,
                role=role.title,
                scope=scope,
                regions=limit,
            )
            _require_room(view.access, scope)
            _require_new(view.access, principal, role, scope, limit)
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
                regions=limit,
            )
            escalates = view.vault.role_escalation
            return Draft((record,), record, settings_matter=escalates)

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
                    "{name} is the last assignment of Administrator at / in every "
                    "region; without it nobody could grant anything again. Appoint "
                    "another one first: hsmvault role assign",
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
        self, view: View, caller: Caller, asked: "Listed", *, after: str, limit: int
    ) -> "list[Found[AssignmentRecord]]":
        """Assignments by name, from beyond `after`, that the caller may read.

        Each is decided on by itself: who may list those at a key, and asks for what
        its principals hold above, is not shown what they could not get one by one.
        """
        names = sorted(name for name in view.access.assignments if name > after)
        matching = (view.access.assignments[name] for name in names)
        return [
            found
            for found in matching
            if asked.includes(found.record)
            and view.access.permits(
                caller.principal,
                caller.permission,
                found.record.scope,
                caller.via_region,
            )
        ][:limit]


@dataclass(frozen=True, slots=True)
class Listed:
    """Which assignments are asked for."""

    scope: Scope
    principal: str = ""
    """Only this one's, at, above and below the scope."""
    at_scope: bool = False
    """Those at or above the scope: all that is in force there."""
    below_scope: bool = False
    """Those below the scope, too."""

    def includes(self, record: AssignmentRecord) -> bool:
        """Tell whether an assignment is among them."""
        if self.principal not in {"", record.principal}:
            return False
        above = Scope(record.scope).covers(self.scope.path)
        below = self.scope.covers(record.scope)
        if self.at_scope:
            return above or (self.below_scope and below)
        # Both mean the whole vault, and are listed together.
        alike = {record.scope, self.scope.path} <= {"/", "/keys"}
        if self.principal:
            return above or below or alike
        return alike or (below and (above or self.below_scope))


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


def role_of(access: Access, name: str) -> RoleDefinition:
    """Return a role definition, or raise InvalidRequest naming those there are."""
    role = access.definitions.get(name)
    if role is None:
        known = (f"{r.name} ({r.title})" for r in access.definitions.values())
        raise InvalidRequest(
            "unknown {name}; known are {known}",
            name=name[:100],
            known=", ".join(known),
        )
    return role


def _administers(found: Found[AssignmentRecord]) -> bool:
    record = found.record
    return (
        record.role_definition == ADMINISTRATOR.name
        and record.scope == "/"
        # One who must be in a certain region is nobody's last resort.
        and not record.regions
    )


def _require_known(view: View, regions: Sequence[str]) -> None:
    """Raise InvalidRequest unless all of these regions are there."""
    known = {
        id_
        for id_, found in view.regions.items()
        if found.record.state is not RegionState.PURGED
    }
    odd = [region for region in regions if region not in known]
    if odd:
        raise InvalidRequest(
            "there is no region {odd}; an assignment can be limited to {known}",
            odd=", ".join(odd)[:200],
            known=", ".join(sorted(known)),
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
            "first: hsmvault role revoke",
            most=most,
            scope=scope.path,
        )


def _require_new(
    access: Access,
    principal: str,
    role: RoleDefinition,
    scope: Scope,
    regions: Sequence[str],
) -> None:
    wanted = (principal, role.name, tuple(regions))
    for found in access.at(scope):
        record = found.record
        if (record.principal, record.role_definition, record.regions) == wanted:
            raise AlreadyExists(
                "{principal} is {role} at {scope} already, by {name}",
                principal=principal,
                role=role.title,
                scope=scope.path,
                name=record.name,
            )
