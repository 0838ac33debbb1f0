"""`hsmvault region init`, `vault init`, `caller add`: before anybody can connect."""

from dataclasses import replace
from pathlib import Path

import click

from hsmvault.cli import bars, printing
from hsmvault.cli.groups import Command, Group
from hsmvault.cli.region import region
from hsmvault.cli.vault import vault
from hsmvault.client.profile import Profile
from hsmvault.regions import birth, certificates
from hsmvault.regions.certificates import CA_DAYS, CALLER_DAYS, ClientFiles
from hsmvault.regions.layout import PARTITIONS

_CA = Path("ca")
"""Where `vault init` puts the CA unless it is told otherwise."""

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


def write_profile(
    files: ClientFiles, path: Path, *, endpoints: tuple[str, ...], region: str = ""
) -> None:
    """Write the profile beside a caller's files."""
    known = Profile(endpoints, files.certificate, files.key, files.ca, region)
    known.save(path)


@region.command(
    "init",
    cls=Command,
    examples=[
        "hsmvault region init regions/north --name north --officer officer/north",
        "hsmvault region init regions/south --name south --ca ca \\",
        "         --join regions/north/card.json --officer officer/south",
    ],
)
@click.argument("directory", type=_DIRECTORY)
@click.option("--name", required=True, help="1 to 24 lower-case letters, digits, -.")
@click.option(
    "--zone", default="default", show_default=True, help="Keys never leave it."
)
@click.option(
    "--join",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The primary's card.json: makes an extended region.",
)
@click.option(
    "--ca",
    type=_DIRECTORY,
    help="The vault's CA, to certify the listener. With --join, default: ./ca.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="To listen on.")
@click.option("--advertise", default="", help="What others connect to; default: host.")
@click.option("--hostname", "hostnames", multiple=True, help="Also in the certificate.")
@click.option("--port", type=int, help="Of the region; default: any free one.")
@click.option("--private-port", type=int, help="For other regions.")
@click.option("--partition-port", "partition_ports", type=int, multiple=True)
@click.option(
    "--token-port",
    "token_ports",
    type=int,
    multiple=True,
    help="For callers with tokens: a shared one, then one of each partition.",
)
@click.option(
    "--module",
    type=click.Path(path_type=Path),
    default=birth.SOFTHSM,
    show_default=True,
    help="The HSM's PKCS#11 library.",
)
@click.option(
    "--officer",
    "--officer-dir",
    "officer_directory",
    type=_DIRECTORY,
    help="Keep SO PINs there, for development. Default: typed, and kept nowhere.",
)
def init(
    *,
    directory: Path,
    name: str,
    zone: str,
    join: Path | None,
    ca: Path | None,
    host: str,
    advertise: str,
    hostnames: tuple[str, ...],
    port: int | None,
    private_port: int | None,
    partition_ports: tuple[int, ...],
    token_ports: tuple[int, ...],
    module: Path,
    officer_directory: Path | None,
) -> None:
    """Make a region in DIRECTORY: tokens, PINs, keys, certificates, settings."""
    from hsmvault.server.founding import init_region

    if join and ca is None and (_CA / "ca.key").exists():
        ca = _CA
    plan = birth.RegionPlan(
        directory,
        name,
        kind="extended" if join else "primary",
        zone=zone,
        host=host,
        advertise=advertise,
        hostnames=hostnames,
        ports=_ports(port, private_port, partition_ports, token_ports),
        officer_directory=officer_directory,
        module=module,
        join=join,
        ca_directory=ca,
    )
    if officer_directory is None:
        # Nobody types PINs for what cannot be.
        birth.require_possible(plan)
        plan = replace(plan, so_pins=_typed_pins())
    with bars.steps(f"making region {name}") as progress:
        born = init_region(plan, progress)
    card = born.card
    click.echo(f"region {card.region} is made in {directory}")
    click.echo(f"  endpoint     {card.endpoint}")
    click.echo(f"  fingerprint  {card.fingerprint}")
    if officer_directory:
        click.echo(f"  SO PINs      {officer_directory} (development only)")
    following = (
        f"hsmvault serve --region {directory}, then hsmvault region add {directory}"
        if join
        else f"hsmvault vault init {directory}"
    )
    click.echo(f"next: {following}")


def _ports(
    port: int | None,
    private_port: int | None,
    partition_ports: tuple[int, ...],
    token_ports: tuple[int, ...],
) -> birth.Ports | None:
    if port is None and private_port is None and not (partition_ports or token_ports):
        return None
    if port is None or private_port is None or len(partition_ports) != len(PARTITIONS):
        raise click.UsageError(
            "name all ports or none: --port, --private-port, and --partition-port "
            f"{len(PARTITIONS)} times"
        )
    if len(token_ports) not in {0, 1 + len(PARTITIONS)}:
        raise click.UsageError(
            f"give --token-port {1 + len(PARTITIONS)} times, or not at all"
        )
    return birth.Ports(port, private_port, partition_ports, token_ports)


def _typed_pins() -> dict[str, str]:
    """Ask for a new SO PIN per partition. They are kept nowhere."""
    printing.note(
        "Choose an SO PIN for each partition. They belong to the security officers, "
        "and are kept nowhere: who loses them cannot add or replace anything."
    )
    return {
        name: printing.ask_secret(
            f"SO PIN for {name}",
            twice=True,
            instead="--officer DIR keeps them in files, for development",
        )
        for name in PARTITIONS
    }


@vault.command(
    "init",
    cls=Command,
    examples=["hsmvault vault init regions/north --ca ca --out callers"],
)
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--ca", type=_DIRECTORY, default=_CA, show_default=True, help="Made if new."
)
@click.option(
    "--out",
    type=_DIRECTORY,
    default=Path("callers"),
    show_default=True,
    help="Where the administrator's certificate, key and profile go.",
)
@click.option("--administrator", default="admin", show_default=True)
@click.option(
    "--retention-days",
    type=click.IntRange(7, 90),
    default=90,
    show_default=True,
    help="How long deleted keys can be recovered. Never changes again.",
)
@click.option("--purge-protection", is_flag=True, help="Nobody purges before that.")
def vault_init(
    *,
    directory: Path,
    ca: Path,
    out: Path,
    administrator: str,
    retention_days: int,
    purge_protection: bool,
) -> None:
    """Found a vault in a primary region: its CA, and its first administrator."""
    from hsmvault import config
    from hsmvault.server.founding import found_vault

    with bars.steps("founding the vault") as progress:
        founded = found_vault(
            directory,
            administrator=administrator,
            ca_directory=ca,
            out_directory=out,
            retention_days=retention_days,
            purge_protection=purge_protection,
            progress=progress,
        )
    profile = out / f"{administrator}.json"
    settings = config.load(directory)
    write_profile(founded.administrator, profile, endpoints=(settings.endpoint,))
    click.echo(f"vault {founded.vault_id} is founded, at position {founded.position}")
    click.echo(f"  administrator  {founded.administrator.principal}")
    click.echo(f"  profile        {profile}")
    click.echo(f"next: hsmvault serve --region {directory}")


@click.group(cls=Group)
def caller() -> None:
    """Issue client certificates, look at them, and revoke them."""


@caller.command(
    "add",
    cls=Command,
    examples=[
        "hsmvault caller add alice --endpoint 127.0.0.1:7400",
        "hsmvault caller add pay --spiffe spiffe://example/pay --days 30",
    ],
)
@click.argument("name")
@click.option("--ca", type=_DIRECTORY, default=_CA, show_default=True)
@click.option("--out", type=_DIRECTORY, default=Path("callers"), show_default=True)
@click.option(
    "--spiffe", default="", help="Identity as a SPIFFE id instead of CN=NAME."
)
@click.option(
    "--days",
    type=click.IntRange(1, CA_DAYS),
    default=CALLER_DAYS,
    show_default=True,
    help="Validity.",
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    envvar="HSMVAULT_ENDPOINT",
    metavar="HOST:PORT",
    help="For the profile; may be repeated.",
)
@click.option(
    "--like",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="HSMVAULT_PROFILE",
    help="Take the endpoints from this profile.",
)
def add_caller(
    *,
    name: str,
    ca: Path,
    out: Path,
    spiffe: str,
    days: int,
    endpoints: tuple[str, ...],
    like: Path | None,
) -> None:
    """Issue a certificate for NAME, with key and profile. It grants nothing yet."""
    if not endpoints and like is not None:
        endpoints = Profile.load(like).endpoints
    files = certificates.add_caller(ca, name, out, spiffe=spiffe, days=days)
    click.echo(f"{files.principal}: {files.certificate}, {files.key}")
    if endpoints:
        profile = out / f"{name}.json"
        write_profile(files, profile, endpoints=endpoints)
        click.echo(f"  profile  {profile}")
    click.echo(f'next: hsmvault role assign {files.principal} "Crypto User"')
