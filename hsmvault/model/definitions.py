"""Roles of the vault's own: how they may be called, and what they grant.

Titles are compared in one canonical form, letters and digits in lower case, so that no
title passes for another one's or for a built-in role's.
"""

import re
from collections.abc import Iterable
from typing import Final

from hsmvault.model.access import BUILT_IN, LEFT_OUT, Permission
from hsmvault.model.errors import InvalidRequest

TITLE_MAX: Final = 64
DESCRIPTION_MAX: Final = 1024
ACTIONS_MAX: Final = 100
DEFINITIONS_MAX: Final = 50
"""Custom definitions in a vault, as in Azure Managed HSM."""
PREFIX: Final = "Managed HSM "
"""What the built-in roles' titles begin with."""

_TITLE: Final = re.compile(r"[A-Za-z0-9.-]+(?: [A-Za-z0-9.-]+)*")
_PATTERN: Final = re.compile(r"[A-Za-z]+(?:/[A-Za-z]+)*(?:/\*)?")
_SEPARATORS: Final = str.maketrans("", "", " .-")


def canonical(title: str) -> str:
    """Return the form in which titles and ids of roles are compared."""
    return title.translate(_SEPARATORS).lower()


RESERVED: Final = frozenset(
    {canonical(role.title) for role in BUILT_IN.values()}
    | {canonical(role.title.removeprefix(PREFIX)) for role in BUILT_IN.values()}
    | {"admin", "all", "any", "anyone", "everybody", "everyone", "managedhsm"}
    | {"nobody", "none", "owner", "root", "self", "superuser", "system", "vault"}
)
"""What no custom role is called, in canonical form: it would pass for more."""


def require_free(name: str) -> None:
    """Raise InvalidRequest where a title or an id is reserved."""
    form = canonical(name)
    if form in RESERVED or form.startswith(canonical(PREFIX)) or not form:
        raise InvalidRequest(
            "{name!r} is reserved, or reads like a built-in role; choose another one",
            name=name[:TITLE_MAX],
        )


def require_title(title: str) -> None:
    """Raise InvalidRequest unless a custom role may be called so."""
    if len(title) > TITLE_MAX or _TITLE.fullmatch(title) is None:
        raise InvalidRequest(
            "malformed title {title!r}; expected 1 to {most} letters, digits, dots, "
            "dashes and single spaces",
            title=title[:TITLE_MAX],
            most=TITLE_MAX,
        )
    require_free(title)


def require_description(description: str) -> None:
    """Raise InvalidRequest unless it is short and can be printed."""
    if len(description) > DESCRIPTION_MAX or not description.isprintable():
        raise InvalidRequest(
            "description is at most {most} printable characters, in one line",
            most=DESCRIPTION_MAX,
        )


def granted(
    data_actions: Iterable[str], not_data_actions: Iterable[str]
) -> frozenset[Permission]:
    """Spell out what a role grants, or raise InvalidRequest.

    `prefix/*` means what begins so among the permissions of this release: a role does
    not grow by itself when a later release knows more.
    """
    found = _matching(data_actions) - _matching(not_data_actions)
    if not found:
        raise InvalidRequest(
            "data_actions without not_data_actions leave nothing that could be "
            "granted; name some, as in keys/sign/action or keys/deletedKeys/*"
        )
    return found


def _matching(patterns: Iterable[str]) -> frozenset[Permission]:
    given = list(patterns)
    if len(given) > ACTIONS_MAX:
        raise InvalidRequest(
            "{given} actions are more than the {most} that a role takes",
            given=len(given),
            most=ACTIONS_MAX,
        )
    return frozenset(p for pattern in given for p in _meant(pattern))


def _meant(pattern: str) -> list[Permission]:
    if _PATTERN.fullmatch(pattern) is None:
        found: list[Permission] = []
    elif pattern.endswith("/*"):
        found = [p for p in Permission if p.startswith(pattern.removesuffix("*"))]
    else:
        found = [p for p in Permission if p == pattern]
    if not found:
        raise InvalidRequest(
            "{pattern!r} is no action that can be granted{reason}; there are {known}, "
            "and prefixes of them before /*",
            pattern=pattern[:100],
            reason=f" ({LEFT_OUT[pattern]})" if pattern in LEFT_OUT else "",
            known=", ".join(sorted(Permission)),
        )
    return found
