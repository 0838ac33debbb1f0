"""`hsmvault vault show` and `vault set`: what holds for the whole vault."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, changing, connected
from hsmvault.cli.groups import Command, Group
from hsmvault.v1.resources_pb2 import Vault

_ON_OFF: Final = ("off", "on")


@click.group(cls=Group)
def vault() -> None:
    """Found a vault, show its settings, and change them."""


@vault.command(cls=Command, examples=["hsmvault vault show --output json"])
@connected
def show(asking: Asking) -> None:
    """Show the vault's settings."""
    _show(asking, asking.vault.settings.get())


@vault.command(
    "set",
    cls=Command,
    examples=[
        "hsmvault vault set --purge-protection",
        "hsmvault vault set --legacy-algorithm +RSA1_5 --legacy-algorithm -A128CBC",
        "hsmvault vault set --allowed-network 10.0.0.0/8 --allowed-network fd00::/8",
        "hsmvault vault set --rate-limit 500 --key-limit 10000",
    ],
)
@click.option(
    "--purge-protection/--no-purge-protection",
    default=None,
    help="Nobody purges before retention ends. Once on, it stays on.",
)
@click.option(
    "--legacy-algorithm",
    "legacy",
    multiple=True,
    metavar="±NAME",
    help="+NAME allows a legacy algorithm, -NAME forbids it. May be repeated.",
)
@click.option(
    "--allowed-network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="Callers may come from these alone. May be repeated; replaces the list.",
)
@click.option("--any-network", is_flag=True, help="Callers may come from anywhere.")
@click.option(
    "--allow-lock-out", is_flag=True, help="Even if you are in none of the networks."
)
@click.option(
    "--rate-limit",
    type=click.IntRange(0),
    help="Calls per second, principal and partition; 0: any.",
)
@click.option(
    "--key-limit", type=click.IntRange(0), help="Keys, with deleted ones; 0: any."
)
@click.option("--version-limit", type=click.IntRange(1), help="Versions of a key.")
@click.option("--region-limit", type=click.IntRange(0), help="Extended regions.")
@click.option(
    "--role-escalation/--no-role-escalation",
    default=None,
    help="Crypto Officers may grant what they do not hold.",
)
@click.option(
    "--ecdsa-fault-guard/--no-ecdsa-fault-guard",
    default=None,
    help="Verify ECDSA signatures before they leave.",
)
@click.option(
    "--primary-down-writes",
    metavar="POLICY",
    help="manual, or deny: writes while the primary cannot be reached.",
)
@click.option(
    "--client-crl",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The client CA's revocation list (PEM).",
)
@click.option("--etag", default="", help="Refuse if it has changed since you read it.")
@changing
def set_vault(
    asking: Asking,
    *,
    legacy: tuple[str, ...],
    networks: tuple[str, ...],
    any_network: bool,
    allow_lock_out: bool,
    client_crl: Path | None,
    etag: str,
    **plain: Any,
) -> None:
    """Change the vault's settings. In other regions once replicated."""
    changes: dict[str, Any] = {k: v for k, v in plain.items() if v is not None}
    if networks and any_network:
        raise click.UsageError("--allowed-network, or --any-network: not both")
    if networks or any_network:
        changes["allowed_networks"] = list(networks)
    if client_crl is not None:
        # What is none is for the vault to say: bytes that are no ASCII are none.
        changes["client_crl"] = client_crl.read_text(encoding="ascii", errors="replace")
    if legacy:
        # Read and changed: the etag sees to it that nobody changed it in between.
        known = asking.vault.settings.get()
        etag = etag or known.etag
        changes["legacy_algorithms"] = _changed(known.legacy_algorithms, legacy)
    if not changes:
        raise click.UsageError("name at least one setting; see --help")
    _show(
        asking,
        asking.vault.settings.update(
            etag=etag, allow_lock_out=allow_lock_out, **changes
        ),
    )


def _changed(known: Any, signed: tuple[str, ...]) -> list[str]:
    names = set(known)
    for given in signed:
        sign, name = given[:1], given[1:]
        if sign not in {"+", "-"} or not name:
            raise click.UsageError(
                f"--legacy-algorithm takes +NAME or -NAME, not {given!r}"
            )
        if sign == "+":
            names.add(name)
        else:
            names.discard(name)
    return sorted(names)


def _show(asking: Asking, found: Vault) -> None:
    printing.one(found, _rows(found), as_json=asking.as_json)


def _rows(found: Vault) -> Mapping[str, str]:
    return {
        "vault": found.vault_id,
        "created": printing.when(found.create_time),
        "retention": f"{found.retention_days} days",
        "purge protection": _ON_OFF[found.purge_protection],
        "writes without primary": found.primary_down_writes,
        "extended regions": f"at most {found.region_limit}",
        "keys": f"at most {found.key_limit}" if found.key_limit else "any number",
        "versions of a key": f"at most {found.version_limit}",
        "allowed networks": ", ".join(found.allowed_networks) or "any",
        "rate limit": f"{found.rate_limit}/s for each principal and partition"
        if found.rate_limit
        else "none",
        "legacy algorithms": ", ".join(found.legacy_algorithms) or "none",
        "role escalation": _ON_OFF[found.role_escalation],
        "ECDSA fault guard": _ON_OFF[found.ecdsa_fault_guard],
        "revocation list": "set" if found.client_crl else "none",
        "etag": found.etag,
        "position": found.position,
    }
