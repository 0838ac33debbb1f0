"""`hsmvault`: the command line's front door."""

import importlib.metadata
import os
import sys
from collections.abc import Sequence

# gRPC tells of connections that come and go; whom it concerns hears it from us.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from hsmvault.cli import failing
from hsmvault.cli.audit import audit
from hsmvault.cli.batch import batch
from hsmvault.cli.carrying import backup, begin_import, import_key, restore
from hsmvault.cli.crypto import crypto
from hsmvault.cli.dev import dev
from hsmvault.cli.founding import caller
from hsmvault.cli.generic import client_config
from hsmvault.cli.groups import Group
from hsmvault.cli.key import key, version
from hsmvault.cli.local import ceremony, partition, serve
from hsmvault.cli.region import region
from hsmvault.cli.revoking import revoke, revoked, show
from hsmvault.cli.role import role
from hsmvault.cli.rotation import activate, rotation
from hsmvault.cli.status import status, topology
from hsmvault.cli.sweeper import sweeper
from hsmvault.cli.tailing import tail
from hsmvault.cli.vault import vault
from hsmvault.cli.watch import watch
from hsmvault.model.errors import ConfigurationError, VaultError


def _release() -> str:
    try:
        return importlib.metadata.version("hsmvault")
    except importlib.metadata.PackageNotFoundError:
        return "from a working copy that is not installed"


def _exit_codes() -> str:
    return (failing.__doc__ or "").partition("\n\n")[2]


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog="\b\nExit codes:\n" + _exit_codes(),
)
@click.version_option(_release(), prog_name="hsmvault")
def cli() -> None:
    """A self-hosted, multi-region key vault on PKCS#11 HSMs.

    `hsmvault dev up` starts two regions to try, and says how to go on.
    """


for _command in (rotation, activate, begin_import, import_key, backup, restore):
    key.add_command(_command)
for _command in (status, key, version, crypto, batch):
    cli.add_command(_command)
for _command in (role, region, topology, watch, client_config):
    cli.add_command(_command)
for _command in (revoke, revoked, show):
    caller.add_command(_command)
audit.add_command(tail)
for _command in (vault, caller, serve, ceremony, partition, sweeper, audit, dev):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit. Errors become one message and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(given, prog_name="hsmvault", standalone_mode=False)
    except (VaultError, ConfigurationError) as error:
        failing.show(error, as_json=_wants_json(given))
        code = failing.exit_code(error)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = failing.INTERRUPTED
    raise SystemExit(code if isinstance(code, int) else 0)


def _wants_json(arguments: Sequence[str]) -> bool:
    spelled = "--output=json" in arguments or (
        "--output" in arguments
        and arguments[arguments.index("--output") + 1 :][:1] == ["json"]
    )
    return spelled or os.environ.get("HSMVAULT_OUTPUT") == "json"
