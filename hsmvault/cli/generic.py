"""`hsmvault client-config`: for gRPC clients that are not ours."""

import click

from hsmvault.cli import printing
from hsmvault.cli.groups import Command


@click.command(
    "client-config",
    cls=Command,
    examples=[
        "hsmvault client-config > service_config.json",
        "hsmvault client-config --writes",
    ],
)
@click.option(
    "--writes",
    is_flag=True,
    help="Repeat writes, too: for clients that send a request_id with each of them.",
)
@click.option(
    "--tokens",
    is_flag=True,
    help="For clients that show a token: without health checks, which carry none.",
)
def client_config(writes: bool, tokens: bool) -> None:
    """Print the service config with which a generic gRPC client survives a crash.

    It balances over partitions by their health, and repeats reads and cryptography
    that a partition did not answer; it needs no connection to print.
    """
    from hsmvault.client.service_config import service_config

    printing.dump(service_config(writes=writes, tokens=tokens))
