"""Nobody grants more than they hold: neither by an assignment nor by a definition.

Administrators may assign any role: one who could only hand on an Administrator's
permissions could never appoint the first Crypto User. Crypto Officers and Policy
Administrators may, as Azure's do by design, where the vault's setting says so.
"""

from collections.abc import Iterable
from typing import Final

from hsmvault.model.access import (
    ADMINISTRATOR,
    CRYPTO_OFFICER,
    POLICY_ADMINISTRATOR,
    Permission,
)
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import AccessDenied
from hsmvault.model.grants import Scope
from hsmvault.vault.view import Caller, View

_ESCALATING: Final = frozenset({CRYPTO_OFFICER.name, POLICY_ADMINISTRATOR.name})


def require_may_grant(
    view: View,
    caller: Caller,
    permissions: Iterable[Permission],
    *,
    role: str,
    scope: Scope,
    regions: Iterable[str],
) -> None:
    """Raise AccessDenied unless the caller may let others have these permissions.

    What is granted in some regions must be held in all of them, and what is granted
    in every region must be held in every one.
    """
    if not _appoints(view, caller, scope, regions):
        _require_held(view, caller, permissions, role=role, scope=scope, of=regions)


def require_may_widen(
    view: View,
    caller: Caller,
    added: Iterable[Permission],
    *,
    role: str,
    held: AssignmentRecord,
) -> None:
    """Raise AccessDenied unless the caller may add permissions to a role held so.

    Nobody widens what they hold themselves, whoever they are: who may assign roles
    has to do that, where all can see it.
    """
    scope = Scope(held.scope)
    if held.principal == caller.principal or not _appoints(
        view, caller, scope, held.regions
    ):
        _require_held(view, caller, added, role=role, scope=scope, of=held.regions)


def _appoints(view: View, caller: Caller, scope: Scope, regions: Iterable[str]) -> bool:
    """Tell whether the caller has a role that may grant what it does not hold."""
    escalating = _ESCALATING if view.vault.role_escalation else frozenset[str]()
    return any(
        a.role_definition in escalating | {ADMINISTRATOR.name}
        and a.scope.covers(scope.path)
        and a.holds_in(frozenset(regions))
        for a in view.access.of(caller.principal)
    )


def _require_held(
    view: View,
    caller: Caller,
    permissions: Iterable[Permission],
    *,
    role: str,
    scope: Scope,
    of: Iterable[str],
) -> None:
    # Region by region: held here by one assignment and there by another, it is held.
    places = [{region} for region in of] or [set[str]()]
    lacking = sorted(
        p
        for p in permissions
        if not all(
            view.access.holds(caller.principal, p, scope.path, place)
            for place in places
        )
    )
    if lacking:
        raise AccessDenied(
            "{principal} cannot grant {role} at {scope} without holding {lacking} "
            "there; an Administrator can: hsmvault role assign",
            principal=caller.principal,
            role=role,
            scope=scope.path,
            lacking=", ".join(lacking),
        )
