"""The options that every command of a connected vault takes, and the connection.

They come last in a command's help, under a heading of their own; each can be set in
the environment instead, and a profile file stands for all of them.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import click

from hsmvault.client.connect import Vault, connect
from hsmvault.client.profile import Profile
from hsmvault.model.errors import ConfigurationError, NotFound

P = ParamSpec("P")
R = TypeVar("R")

TIMEOUT: Final = 5.0
"""Seconds to find anybody: at a prompt one does not wait long for nothing."""

_OPTIONS: Final = (
    click.option(
        "--profile",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HSMVAULT_PROFILE",
        show_envvar=True,
        help="File that names endpoints, certificate, key and CA.",
    ),
    click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        envvar="HSMVAULT_ENDPOINT",
        show_envvar=True,
        metavar="HOST:PORT",
        help="Any address of any region; may be repeated.",
    ),
    click.option(
        "--certificate",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HSMVAULT_CERTIFICATE",
        show_envvar=True,
        help="Your client certificate (PEM).",
    ),
    click.option(
        "--key",
        "private_key",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HSMVAULT_KEY",
        show_envvar=True,
        help="Its private key (PEM).",
    ),
    click.option(
        "--ca",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HSMVAULT_CA",
        show_envvar=True,
        help="The CA of the vault's servers (PEM).",
    ),
    click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HSMVAULT_TOKEN_FILE",
        show_envvar=True,
        help="File with a token, instead of both; --endpoint is a token port then.",
    ),
    click.option(
        "--at",
        "region",
        default="",
        envvar="HSMVAULT_REGION",
        show_envvar=True,
        metavar="REGION",
        help="Ask this region, and no other.",
    ),
    click.option(
        "--min-position",
        default="",
        metavar="POSITION",
        help="Answer only from what includes this position.",
    ),
)
_VALIDATE_ONLY: Final = click.option(
    "--validate-only",
    is_flag=True,
    help="Say what would happen, and change nothing.",
)

CONNECTION: Final = frozenset(
    {"profile", "endpoints", "certificate", "private_key", "ca", "region"}
    | {"token_file"}
    | {"min_position", "validate_only", "output"}
)
"""Parameters that help lists apart."""

_OUTPUT: Final = click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    envvar="HSMVAULT_OUTPUT",
    show_envvar=True,
    help="For people or for programs.",
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the vault is, who we are, and how answers are to look."""

    profile: Path | None
    endpoints: tuple[str, ...]
    certificate: Path | None
    private_key: Path | None
    ca: Path | None
    token_file: Path | None
    region: str
    min_position: str
    validate_only: bool
    output: str

    @property
    def as_json(self) -> bool:
        return self.output == "json"

    def open(self) -> Vault:
        """Connect, or raise what is in the way."""
        shown = self.token_file or (self.certificate and self.private_key)
        if self.profile is None and not all((self.endpoints, shown, self.ca)):
            raise ConfigurationError(
                "where is the vault, and who are you? Give --profile FILE (or set "
                "HSMVAULT_PROFILE), or --endpoint with --ca, and --certificate and "
                "--key, or --token-file. "
                "`hsmvault dev up` starts a vault to try, and writes a profile"
            )
        return connect(
            self.endpoints,
            certificate=self.certificate,
            key=self.private_key,
            ca=self.ca,
            token=self.token_file,
            profile=self.profile,
            timeout=TIMEOUT,
        )

    def identity(self) -> tuple[Path, Path]:
        """Return certificate and key, for what an administrator must sign."""
        if self.certificate is not None and self.private_key is not None:
            return self.certificate, self.private_key
        if self.profile is None and self.token_file is None:
            raise ConfigurationError("give --profile, or --certificate and --key")
        certificate, key = self.certificate, self.private_key
        if self.profile is not None:
            known = Profile.load(self.profile)
            certificate, key = certificate or known.certificate, key or known.key
        if certificate is None or key is None:
            raise ConfigurationError(
                "this is signed with the key of a client certificate, and you come "
                "with a token; give --certificate and --key, or another --profile"
            )
        return certificate, key


def at(vault: Vault, region: str) -> Vault:
    """Return the vault as one region shows it, or raise NotFound: nobody waits here."""
    name = region.removeprefix("regions/")
    if name not in vault.order:
        topology = vault.regions.topology()
        known = [r.name.removeprefix("regions/") for r in topology.regions]
        if name not in known:
            raise NotFound(
                "there is no region {region}; there are {known}",
                region=name,
                known=", ".join(known),
            )
    return vault.at(name)


class Asking:
    """What a command works with: a view of the vault, and the connection's options."""

    def __init__(self, connection: Connection, vault: Vault) -> None:
        self.connection = connection
        view = at(vault, connection.region) if connection.region else vault
        position = connection.min_position
        view = view.session(position) if position else view
        checking = connection.validate_only
        self.whole = vault.validating() if checking else vault
        """Every region, whatever --at says."""
        self.vault = view.validating() if checking else view

    @property
    def as_json(self) -> bool:
        return self.connection.as_json


def output_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add --output alone: to commands that connect to nothing."""
    return _OUTPUT(function)


def connected(function: Callable[..., None]) -> Callable[..., None]:
    """Add the connection's options, and hand the command an `Asking` first."""
    return _connected(function, (*_OPTIONS, _OUTPUT))


def changing(function: Callable[..., None]) -> Callable[..., None]:
    """Add those, and --validate-only: to commands that change something."""
    return _connected(function, (*_OPTIONS, _VALIDATE_ONLY, _OUTPUT))


def _connected(
    function: Callable[..., None],
    options: Sequence[Callable[[Callable[..., None]], Callable[..., None]]],
) -> Callable[..., None]:
    @functools.wraps(function)
    def run(*args: Any, **given: Any) -> None:
        given.setdefault("validate_only", False)
        connection = Connection(**{name: given.pop(name) for name in CONNECTION})
        click.get_current_context().meta["output"] = connection.output
        with connection.open() as vault:
            function(Asking(connection, vault), *args, **given)
        if connection.validate_only:
            click.echo("validated only: nothing was changed", err=True)

    decorated: Callable[..., None] = run
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
