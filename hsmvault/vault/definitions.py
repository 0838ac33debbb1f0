"""Roles of the vault's own: made, changed and deleted. In force at once in this region.

What a definition grants is spelled out when it is written, and its assignments follow
it. A deleted one leaves them behind, defunct, and its name is never used again: so
nothing that was granted by it comes back under another meaning.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hsmvault.model.access import BUILT_IN, Permission
from hsmvault.model.access_records import RoleDefinitionRecord
from hsmvault.model.definitions import (
    DEFINITIONS_MAX,
    canonical,
    granted,
    require_description,
    require_free,
    require_title,
)
from hsmvault.model.errors import AlreadyExists, LimitReached, NotFound, WrongState
from hsmvault.model.names import RoleDefinitionName
from hsmvault.vault.checked import Found
from hsmvault.vault.granting import require_may_widen
from hsmvault.vault.ports import Clock, Store
from hsmvault.vault.view import Access, View
from hsmvault.vault.writing import Draft, Request, Writer, require_etag


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a role is to be like."""

    title: str
    description: str
    data_actions: Sequence[str]
    not_data_actions: Sequence[str]


@dataclass(frozen=True, slots=True)
class DefinitionKeeper:
    """Keeps the vault's own role definitions."""

    store: Store
    writer: Writer
    clock: Clock
    new_id: Callable[[], str]

    def create(
        self, request: Request, *, id_: str, wanted: Wanted
    ) -> Found[RoleDefinitionRecord]:
        """Define a role. It grants nothing until it is assigned.

        An empty `id_` is chosen by the vault.
        """
        name = ""
        if id_:
            name = str(RoleDefinitionName.parse(f"roleDefinitions/{id_}"))
            require_free(id_)
        permissions = _checked(wanted)

        def decide(view: View) -> Draft[RoleDefinitionRecord]:
            if len(view.access.custom) >= DEFINITIONS_MAX:
                raise LimitReached(
                    "there are {most} custom roles, and no more fit; delete one "
                    "first: hsmvault role undefine",
                    most=DEFINITIONS_MAX,
                )
            _require_new_title(view.access, wanted.title)
            chosen = name or f"roleDefinitions/{self.new_id()}"
            if chosen in BUILT_IN or self.store.state(chosen) is not None:
                raise AlreadyExists(
                    "{name} exists or existed; choose another id, or none",
                    name=chosen,
                )
            now = self.clock()
            record = RoleDefinitionRecord(
                name=chosen,
                revision=1,
                title=wanted.title,
                description=wanted.description,
                data_actions=tuple(wanted.data_actions),
                not_data_actions=tuple(wanted.not_data_actions),
                permissions=permissions,
                create_ms=now,
                update_ms=now,
                author=request.caller.principal,
            )
            return Draft((record,), record)

        return self.writer.write(request, RoleDefinitionRecord, decide)

    def update(
        self,
        request: Request,
        name: RoleDefinitionName,
        changes: Mapping[str, Any],
        *,
        etag: str,
    ) -> Found[RoleDefinitionRecord]:
        """Change the named fields of `Wanted`, for all who hold the role."""

        def decide(view: View) -> Draft[RoleDefinitionRecord]:
            found = self._custom(name, view)
            require_etag(found, etag)
            changed = replace(
                found.record,
                **changes,
                revision=found.record.revision + 1,
                update_ms=self.clock(),
                author=request.caller.principal,
            )
            permissions = _checked(
                Wanted(
                    changed.title,
                    changed.description,
                    changed.data_actions,
                    changed.not_data_actions,
                )
            )
            if canonical(changed.title) != canonical(found.record.title):
                _require_new_title(view.access, changed.title)
            record = replace(changed, permissions=permissions)
            _require_may_change(view, request, found.record, record)
            escalates = view.vault.role_escalation
            return Draft((record,), record, settings_matter=escalates)

        return self.writer.write(request, RoleDefinitionRecord, decide)

    def delete(
        self, request: Request, name: RoleDefinitionName, *, etag: str
    ) -> Found[RoleDefinitionRecord]:
        """Delete a role; its assignments grant nothing from then on."""

        def decide(view: View) -> Draft[RoleDefinitionRecord]:
            found = self._custom(name, view)
            require_etag(found, etag)
            record = replace(
                found.record,
                revision=found.record.revision + 1,
                update_ms=self.clock(),
                author=request.caller.principal,
                removed=True,
            )
            return Draft((record,), record)

        return self.writer.write(request, RoleDefinitionRecord, decide)

    def _custom(
        self, name: RoleDefinitionName, view: View
    ) -> Found[RoleDefinitionRecord]:
        role = BUILT_IN.get(str(name))
        if role is not None:
            raise WrongState(
                "{name} is {role}, a built-in role, which nobody changes or deletes; "
                "define one of your own: hsmvault role define",
                name=name,
                role=role.title,
            )
        found = view.access.custom.get(str(name))
        if found is None:
            raise NotFound("there is no {name}", name=name)
        return found


def _checked(wanted: Wanted) -> tuple[str, ...]:
    """Check all of a definition; return what it grants, spelled out."""
    require_title(wanted.title)
    require_description(wanted.description)
    permissions = granted(wanted.data_actions, wanted.not_data_actions)
    return tuple(sorted(permissions))


def _require_new_title(access: Access, title: str) -> None:
    for found in access.custom.values():
        if canonical(found.record.title) == canonical(title):
            raise AlreadyExists(
                "{name} is called {title!r} already; choose another title",
                name=found.record.name,
                title=found.record.title,
            )


def _require_may_change(
    view: View,
    request: Request,
    before: RoleDefinitionRecord,
    after: RoleDefinitionRecord,
) -> None:
    added = sorted(set(after.permissions) - set(before.permissions))
    for found in view.access.assignments.values():
        if found.record.role_definition == before.name:
            require_may_widen(
                view,
                request.caller,
                [Permission(p) for p in added],
                role=before.title,
                held=found.record,
            )
