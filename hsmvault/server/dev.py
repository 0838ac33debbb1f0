"""A whole vault on one machine for development: regions, CA, officers and callers.

Everything lies in one directory: `ca/`, `callers/`, `officer/{region}/` with SO PINs,
and a directory per region. What is there is kept; so `dev_up` can be repeated.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hsmvault.model.errors import AlreadyExists, InvalidRequest
from hsmvault.regions.birth import Progress, RegionPlan, quiet
from hsmvault.regions.card import Card
from hsmvault.regions.certificates import ClientFiles
from hsmvault.regions.layout import Layout
from hsmvault.server.founding import found_vault, init_region
from hsmvault.server.running import (
    region_status,
    running_pid,
    start_region,
    stop_region,
)

REGIONS: Final = ("north", "south")
ADMINISTRATOR: Final = "admin"


@dataclass(frozen=True, slots=True)
class DevRegion:
    """One region of a development vault."""

    name: str
    layout: Layout
    card: Card
    pid: int | None
    """Of its supervisor; None: it is not running."""
    status: Mapping[str, Any]
    """What the supervisor says of its processes."""
    purged: bool = False

    @property
    def directory(self) -> Path:
        """The region's directory."""
        return self.layout.directory

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """What the supervisor says of each of its processes."""
        known: Sequence[Mapping[str, Any]] = self.status.get("processes", ())
        return known

    @property
    def endpoint(self) -> str:
        """host:port of its public API."""
        return self.card.endpoint


@dataclass(frozen=True, slots=True)
class Dev:
    """A development vault in a directory."""

    directory: Path

    @property
    def ca_directory(self) -> Path:
        """The private CA."""
        return self.directory / "ca"

    @property
    def callers(self) -> Path:
        """Certificates of callers."""
        return self.directory / "callers"

    @property
    def admin(self) -> ClientFiles:
        """The first administrator's certificate."""
        return ClientFiles(
            certificate=self.callers / f"{ADMINISTRATOR}.pem",
            key=self.callers / f"{ADMINISTRATOR}.key",
            ca=self.callers / "ca.pem",
            principal=f"CN={ADMINISTRATOR}",
        )

    def region(self, name: str) -> DevRegion:
        """Look at one region."""
        layout = Layout(self.directory / name)
        return DevRegion(
            name=name,
            layout=layout,
            card=Card.parse(layout.card.read_text(encoding="utf-8")),
            pid=running_pid(layout.directory),
            status=region_status(layout.directory),
            purged=layout.purged.exists(),
        )

    @property
    def regions(self) -> Mapping[str, DevRegion]:
        """Look at every region, the primary first."""
        found = [
            self.region(path.name)
            for path in self.directory.glob("*/")
            if Layout(path).card.exists()
        ]
        found.sort(key=lambda one: (one.layout.joined.exists(), one.name))
        return {one.name: one for one in found}


AddRegion = Callable[[Dev, str], None]
"""Adds a region that is being served to the vault, through the public API.

Raises AlreadyExists when it is there.
"""


def dev_up(
    directory: Path,
    regions: Sequence[str] = REGIONS,
    *,
    add_region: AddRegion,
    progress: Progress = quiet,
) -> Dev:
    """Make what is missing, serve what is not served, and add each further region.

    The first region is the primary. Servers go on when this process ends.
    """
    if not regions:
        raise InvalidRequest("name at least one region")
    dev = Dev(directory.absolute())
    primary, *others = regions
    steps = 2 + 3 * len(others)
    if not dev.admin.key.exists():
        progress(f"making region {primary} and its vault", 1, steps)
        if not (dev.directory / primary).exists():
            init_region(_plan(dev, primary))
        found_vault(
            dev.directory / primary,
            ca_directory=dev.ca_directory,
            out_directory=dev.callers,
            administrator=ADMINISTRATOR,
        )
    progress(f"serving region {primary}", 2, steps)
    _serve(dev, primary)
    for number, name in enumerate(others):
        _extend(
            dev,
            name,
            primary=primary,
            add_region=add_region,
            progress=lambda what, n, _, at=number: progress(  # type: ignore[misc]
                what, 2 + 3 * at + n, steps
            ),
        )
    return dev


def _extend(
    dev: Dev, name: str, *, primary: str, add_region: AddRegion, progress: Progress
) -> None:
    progress(f"making region {name}", 1, 3)
    if not (dev.directory / name).exists():
        init_region(_plan(dev, name, join=dev.region(primary).layout.card))
    progress(f"serving region {name}", 2, 3)
    _serve(dev, name)
    progress(f"adding region {name}", 3, 3)
    # Unless an earlier attempt came this far.
    with contextlib.suppress(AlreadyExists):
        add_region(dev, name)


def _plan(dev: Dev, name: str, *, join: Path | None = None) -> RegionPlan:
    return RegionPlan(
        dev.directory / name,
        name,
        "extended" if join else "primary",
        officer_directory=dev.directory / "officer" / name,
        join=join,
        ca_directory=dev.ca_directory,
    )


def _serve(dev: Dev, name: str) -> None:
    if running_pid(dev.directory / name) is None:
        start_region(dev.directory / name)


def dev_status(directory: Path) -> list[DevRegion]:
    """Look at every region in the directory, the primary first."""
    return list(Dev(directory.absolute()).regions.values())


def dev_down(directory: Path, progress: Progress = quiet) -> None:
    """Stop every region, the primary last; what they hold is kept."""
    regions = dev_status(directory)[::-1]
    for number, region in enumerate(regions, 1):
        progress(f"stopping region {region.name}", number, len(regions))
        stop_region(region.directory)


__all__ = [
    "Dev",
    "DevRegion",
    "dev_down",
    "dev_status",
    "dev_up",
    "region_status",
    "start_region",
    "stop_region",
]
