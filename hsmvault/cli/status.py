"""`hsmvault status`: regions, partitions, lag and alarms at a glance."""

import time
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from rich.console import Group as Together
from rich.console import RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, connected
from hsmvault.cli.groups import Command
from hsmvault.client.connect import Vault
from hsmvault.model.errors import VaultError
from hsmvault.v1.region_service_pb2 import ReplicationStatus, Topology
from hsmvault.v1.resources_pb2 import Region

_EACH_SECONDS = 2.0
"""What one region gets to answer; one that is down must not hide the others."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What every region says of itself, and what the first says of all."""

    topology: Topology
    answers: dict[str, ReplicationStatus | VaultError]
    """By region; the error where it did not answer."""

    def require_answer(self) -> None:
        """Raise why, if no region at all says how it is."""
        failed = [a for a in self.answers.values() if isinstance(a, VaultError)]
        if failed and len(failed) == len(self.answers):
            raise failed[0]


def look(vault: Vault) -> Glance:
    """Ask every region."""
    topology = vault.regions.topology()
    answers: dict[str, ReplicationStatus | VaultError] = {}
    for region in topology.regions:
        name = region.name.removeprefix("regions/")
        serves = region.state in {Region.SUCCEEDED, Region.PROVISIONING}
        if not serves and not region.primary:
            continue
        try:
            answers[name] = vault.at(name).regions.status(timeout=_EACH_SECONDS)
        except VaultError as error:
            answers[name] = error
    return Glance(topology, answers)


def drawn(glance: Glance) -> RenderableType:
    """Draw regions, then partitions, then what needs somebody."""
    regions = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("region", "kind", "state", "position", "lag", "partitions"):
        regions.add_column(heading)
    followers = _followers(glance)
    for region in glance.topology.regions:
        name = region.name.removeprefix("regions/")
        answer = glance.answers.get(name)
        followed = followers.get(name)
        regions.add_row(
            f"[bold]{name}[/]",
            "primary" if region.primary else "extended",
            printing.state(Region.State.Name(region.state)),
            answer.position if isinstance(answer, ReplicationStatus) else "",
            _lag(followed) if followed and not region.primary else "",
            _partitions(answer),
        )
    lines: list[RenderableType] = [regions]
    lines += [
        Text(f"{region.name.removeprefix('regions/')}: {region.problem}", style="red")
        for region in glance.topology.regions
        if region.problem
    ]
    for name, answer in glance.answers.items():
        if isinstance(answer, VaultError):
            lines.append(Text(f"{name}: {answer}", style="red"))
            continue
        lines += [
            Text(f"{name}/{p.name}: {p.problem or 'not serving'}", style="red")
            for p in answer.partitions
            if not p.serving
        ]
        lines += [Text(f"alarm in {name}: {a}", style="red") for a in answer.alarms]
    if len(lines) == 1:
        lines.append(Text("no alarms", style="green"))
    return Together(*lines)


def _followers(glance: Glance) -> dict[str, ReplicationStatus.RegionStatus]:
    """Return each region's progress: as the primary knows it, if it answers."""
    known: dict[str, ReplicationStatus.RegionStatus] = {}
    primary = {
        r.name.removeprefix("regions/") for r in glance.topology.regions if r.primary
    }
    for name in sorted(glance.answers, key=lambda n: n in primary):
        answer = glance.answers[name]
        if isinstance(answer, ReplicationStatus):
            for status in answer.regions:
                known[status.region.removeprefix("regions/")] = status
    return known


def _lag(status: ReplicationStatus.RegionStatus) -> str:
    if not status.connected:
        return "[red]not linked[/]"
    if not status.lag_entries and status.summary:
        return f"[green]{status.summary}[/]"
    seconds = status.lag.ToTimedelta().total_seconds()
    return f"{status.lag_entries} entries, {seconds:.1f} s"


def _partitions(answer: ReplicationStatus | VaultError | None) -> str:
    if not isinstance(answer, ReplicationStatus):
        return "[red]no answer[/]" if answer else ""
    serving = sum(p.serving for p in answer.partitions)
    count = len(answer.partitions)
    colour = "green" if serving == count else "red"
    return f"[{colour}]{serving}/{count} serving[/]"


@click.command(cls=Command, examples=["hsmvault status", "hsmvault status --watch"])
@click.option("--watch", is_flag=True, help="Go on, until Ctrl-C.")
@connected
def status(asking: Asking, watch: bool) -> None:
    """Show regions, partitions, lag and alarms at a glance.

    A region that does not answer is shown, and is no failure. If none answers you, the
    exit code says why.
    """
    if watch and not asking.as_json:
        _follow(asking)
        return
    glance = look(asking.whole)
    if asking.as_json:
        printing.dump({name: _plain(a) for name, a in glance.answers.items()})
    else:
        printing.console().print(drawn(glance))
    glance.require_answer()


def _plain(answer: ReplicationStatus | VaultError) -> Any:
    return str(answer) if isinstance(answer, VaultError) else printing.plain(answer)


def _follow(asking: Asking) -> NoReturn:
    """Look again and again. Who watches wants to see the end of an outage, too."""
    with Live(console=printing.console()) as live:
        while True:
            try:
                live.update(drawn(look(asking.whole)))
            except VaultError as error:
                live.update(Text(str(error), style="red"))
            time.sleep(1)


@click.command(cls=Command, examples=["hsmvault topology --output json"])
@connected
def topology(asking: Asking) -> None:
    """Show where to connect: regions, and the partitions' own addresses."""
    answer = asking.vault.regions.topology()
    if asking.as_json:
        printing.dump(printing.plain(answer))
        return
    printing.many(
        [answer],
        ("region", "kind", "endpoint", "partitions", "for tokens"),
        (
            (
                r.name.removeprefix("regions/"),
                "primary" if r.primary else "extended",
                r.endpoint,
                ", ".join(f"{p.name} {p.endpoint}" for p in r.partitions),
                r.token_endpoint,
            )
            for r in answer.regions
        ),
        as_json=False,
        empty="no regions",
    )
