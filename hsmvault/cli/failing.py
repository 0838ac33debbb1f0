"""Errors at the prompt: one message that says what to do, and an exit code.

0  done                          9  changed meanwhile: read again, then retry
1  unexpected, or a plain "no"  10  overloaded: back off, then retry
2  wrong usage                  11  unavailable: try again later
3  the request is wrong         12  integrity: stop, and call an operator
4  unknown caller               13  not supported here
5  access denied                78  configuration or PIN: correct it first
6  not found                   130  interrupted
7  the name is taken
8  wrong state
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from hsmvault.local.status import Unanswered
from hsmvault.model import errors
from hsmvault.model.errors import ConfigurationError, VaultError

CONFIGURATION: Final = 78
INTERRUPTED: Final = 130

CODES: Final[Mapping[type[VaultError], int]] = MappingProxyType(
    {
        errors.InvalidRequest: 3,
        errors.Unauthenticated: 4,
        errors.AccessDenied: 5,
        errors.NotFound: 6,
        errors.AlreadyExists: 7,
        errors.WrongState: 8,
        errors.Conflict: 9,
        errors.Overloaded: 10,
        errors.Unavailable: 11,
        errors.IntegrityFailure: 12,
        errors.NotSupported: 13,
    }
)
"""One exit code per group, so that scripts can act on it."""

_WAYS_OUT: Final[Mapping[type[VaultError], str]] = MappingProxyType(
    {
        errors.AccessDenied: "ask an administrator: hsmvault role assign PRINCIPAL "
        '"Crypto User" --scope /keys',
        errors.Unauthenticated: "hsmvault caller add issues certificates; tokens are "
        "your issuer's to give",
        errors.Overloaded: "wait a moment, and repeat",
        Unanswered: "is the region running? hsmvault serve --region DIR starts it",
    }
)
"""Said after messages that do not themselves end with what to do."""

_LISTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "there is no keys/": "see what there is: hsmvault key list",
        "there is no roleAssignments/": "see what there is: hsmvault role list",
    }
)
"""Where a name that is none can be looked up."""


def exit_code(error: VaultError | ConfigurationError) -> int:
    """Return the exit code of the error's group."""
    if isinstance(error, ConfigurationError):
        return CONFIGURATION
    return next((code for group, code in CODES.items() if isinstance(error, group)), 1)


def way_out(error: VaultError) -> str:
    """Return what to do, where the message leaves it open."""
    if "hsmvault " in str(error):
        return ""
    for beginning, way in _LISTS.items():
        if str(error).startswith(beginning):
            return way
    return next((way for kind, way in _WAYS_OUT.items() if isinstance(error, kind)), "")


def show(error: VaultError | ConfigurationError, *, as_json: bool) -> None:
    """Print the error to stderr, as text or as JSON."""
    if as_json:
        shown = {
            "reason": getattr(error, "reason", "CONFIGURATION_ERROR"),
            "message": str(error),
            "facts": getattr(error, "facts", {}),
        }
        click.echo(json.dumps({"error": shown}), err=True)
        return
    click.secho("error: ", fg="red", bold=True, err=True, nl=False)
    click.echo(str(error), err=True)
    if isinstance(error, VaultError) and (way := way_out(error)):
        click.echo(f"       {way}", err=True)
