"""`hsmvault region init` and `hsmvault vault init`, as functions."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsmvault import config
from hsmvault.config import EXTENDED, RegionConfig
from hsmvault.model import errors
from hsmvault.model.errors import (
    AlreadyExists,
    ConfigurationError,
    Unavailable,
    WrongState,
)
from hsmvault.model.log import Position
from hsmvault.regions import birth
from hsmvault.regions.birth import (
    Progress,
    RegionBorn,
    RegionPlan,
    certify_listener,
    quiet,
)
from hsmvault.regions.card import Card
from hsmvault.regions.certificates import Authority, ClientFiles, add_caller
from hsmvault.regions.files import replace_file
from hsmvault.regions.genesis import VaultPlan, fresh_vault_id
from hsmvault.server.lock import held
from hsmvault.server.opening import open_store
from hsmvault.server.settings import region_toml

_SECONDS: Final = 60.0
_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class VaultFounded:
    """A vault that has its first entries."""

    vault_id: str
    position: Position
    administrator: ClientFiles
    ca_directory: Path


def init_region(plan: RegionPlan, progress: Progress = quiet) -> RegionBorn:
    """Make a region. See `regions/birth.py` for what a crash leaves."""
    return birth.init_region(plan, settings=region_toml, progress=progress)


def found_vault(
    directory: Path,
    *,
    ca_directory: Path,
    out_directory: Path,
    administrator: str = "admin",
    retention_days: int = 90,
    purge_protection: bool = False,
    hostnames: tuple[str, ...] = (),
    progress: Progress = quiet,
) -> VaultFounded:
    """Found a vault in a primary region that is not being served yet.

    What can be repeated comes first, and the log's first entries last: after a crash,
    run it again. A CA in `ca_directory` is used, else one is made there.
    """
    settings = config.load(directory)
    layout = settings.layout
    if settings.region.kind == EXTENDED:
        raise WrongState(
            "region {region} is extended: it takes its vault from its primary",
            region=settings.region.name,
        )
    card = Card.parse(layout.card.read_text(encoding="utf-8"))
    vault_id = card.vault_id or fresh_vault_id()
    plan = VaultPlan(vault_id, "", "", retention_days, purge_protection)
    plan.require_lawful()
    with held(layout):
        _require_empty(settings)
        progress("making the CA", 1, _STEPS)
        authority = _authority(ca_directory, settings)
        hosts = RegionPlan(
            layout.directory,
            settings.region.name,
            host=settings.listen.host,
            advertise=settings.listen.advertise,
            hostnames=hostnames,
        ).hosts
        certify_listener(layout, authority, hosts=hosts)

        progress("issuing the administrator's certificate", 2, _STEPS)
        admin = _administrator(ca_directory, administrator, out_directory, authority)
        card = dataclasses.replace(card, vault_id=vault_id)
        replace_file(layout.card, card.to_json().encode(), 0o644)

        progress("writing the first entries", 3, _STEPS)
        plan = dataclasses.replace(
            plan,
            administrator=admin.principal,
            client_ca=authority.certificate.decode(),
        )
        position = _found(settings, plan)
    progress("done", _STEPS, _STEPS)
    return VaultFounded(vault_id, position, admin, ca_directory)


def _require_empty(settings: RegionConfig) -> None:
    with open_store(settings) as store:
        head = store.head()
    if head is not None:
        raise AlreadyExists(
            "region {region} holds a vault already, at position {position}; nothing "
            "was changed. hsmvault caller add issues further certificates",
            region=settings.region.name,
            position=head.position,
        )


def _authority(directory: Path, settings: RegionConfig) -> Authority:
    if (directory / "ca.key").exists():
        return Authority.open(directory)
    return Authority.make(directory, name=f"hsmvault {settings.region.name} CA")


def _administrator(
    ca_directory: Path, name: str, out_directory: Path, authority: Authority
) -> ClientFiles:
    files = ClientFiles(
        certificate=out_directory / f"{name}.pem",
        key=out_directory / f"{name}.key",
        ca=out_directory / "ca.pem",
        principal=f"CN={name}",
    )
    known = files.certificate.exists() and files.key.exists() and files.ca.exists()
    if known and files.ca.read_bytes() == authority.certificate:
        # An earlier attempt came this far.
        return files
    return add_caller(ca_directory, name, out_directory)


def _found(settings: RegionConfig, plan: VaultPlan) -> Position:
    """Write the first entries, in a process that is logged in to p0 for as long."""
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "hsmvault.server.genesis",
                str(settings.layout.directory),
            ],
            input=json.dumps(dataclasses.asdict(plan)),
            env={**os.environ, **settings.environment("p0")},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable("the HSM of partition p0 does not answer") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise Unavailable(
            "the first entries were not written: {problem}",
            problem=done.stderr.strip()[-2000:] or f"exit code {done.returncode}",
        ) from error
    if "position" in answer:
        return Position.parse(answer["position"])
    kind = getattr(errors, answer["kind"])
    if issubclass(kind, ConfigurationError):
        raise kind(answer["problem"])
    raise errors.complete(kind, answer["problem"], {})


__all__ = ["RegionPlan", "VaultFounded", "add_caller", "found_vault", "init_region"]
