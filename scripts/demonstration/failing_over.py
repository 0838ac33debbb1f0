"""Steps 4 and 5: a partition is killed, then a whole region, under load."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import hsmvault
from hsmvault.model.errors import PrimaryUnavailable, VaultError
from hsmvault.server.running import region_status, start_region
from scripts.demonstration.load import Load
from scripts.demonstration.stage import ClaimFailed, Stage, ms

PATIENCE = 30.0


def until(true: Callable[[], bool], what: str) -> float:
    """Wait for something; return how long it took."""
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > PATIENCE:
            raise ClaimFailed(f"{what}, within {PATIENCE:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - begun


def process(directory: Path, name: str) -> dict[str, object]:
    """What the supervisor says of one of its processes."""
    known = region_status(directory).get("processes", [])
    return next((dict(p) for p in known if p["name"] == name), {})


def kill_partition(stage: Stage, vault: hsmvault.Vault, north: Path) -> None:
    """Kill one partition server while the client signs."""
    with Load(vault) as load:
        until(lambda: load.by("north", "p1") > 50, "the load runs")
        pid = int(str(process(north, "p1")["pid"]))
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        stage.say(f"SIGKILL to process {pid}, partition [bold]north/p1[/]")
        until(lambda: process(north, "p1").get("pid") != pid, "p1 is started anew")
        until(lambda: process(north, "p1").get("state") == "serving", "p1 serves again")
        back = time.monotonic() - killed
        since = time.monotonic()
        until(lambda: load.by("north", "p1", since=since) > 50, "p1 gets calls again")
    stage.say(
        f"{len(load.served)} signatures meanwhile, longest pause {ms(load.gap(killed))}"
    )
    for failure in load.failures[:3]:
        stage.say(f"[red]{failure}[/]")
    stage.claim(f"failed calls: {len(load.failures)}", true=not load.failures)
    stage.claim(f"north/p1 came back by itself, after {ms(back)}", true=True)


def kill_region(stage: Stage, vault: hsmvault.Vault, north: Path) -> None:
    """Kill all of north while the client signs, then bring it back."""
    with Load(vault) as load:
        until(lambda: load.by("north") > 50, "the load runs")
        status = region_status(north)
        pids = [int(status["pid"]), *(int(p["pid"]) for p in status["processes"])]
        killed = time.monotonic()
        for pid in pids:
            # Some end by themselves, because the first of them did.
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        stage.say(f"SIGKILL to all {len(pids)} processes of [bold]north[/]")
        until(lambda: load.by("south", since=killed) > 50, "south answers")
        gap = load.gap(killed)
        stage.say(f"the client goes on in [bold]south[/]; the gap was {ms(gap)}")
        stage.say(f"failed calls: {len(load.failures)}")
        stage.claim("the gap is under 1 s", true=gap < 1.0)
        _write_is_refused(stage, vault)
        begun = time.monotonic()
        start_region(north)
        since = time.monotonic()
        until(lambda: load.by("north", since=since) > 50, "north gets calls again")
        stage.say(
            f"north is back: serving after {ms(since - begun)}, and the client with it"
        )
    stage.claim(f"failed calls in all: {len(load.failures)}", true=not load.failures)
    _same_position(stage, vault)


def _write_is_refused(stage: Stage, vault: hsmvault.Vault) -> None:
    try:
        vault.keys.create("demo-refused")
    except PrimaryUnavailable as error:
        stage.claim(
            f"south refuses writes: {error.reason}, policy "
            f"{error.facts.get('policy', '?')}",
            true=error.facts.get("policy") == "manual",
        )
    else:
        stage.claim("south refuses writes", true=False)


def _same_position(stage: Stage, vault: hsmvault.Vault) -> None:
    key = vault.keys.create("demo-afterwards")
    took = time.monotonic()
    until(lambda: _linked(vault), "south follows north again")
    vault.regions.wait(key.position, region="south", seconds=PATIENCE)
    took = time.monotonic() - took
    positions = {
        name: vault.at(name).regions.topology().position for name in ("north", "south")
    }
    stage.claim(
        f"after a write, both are at {positions['north']} (south {ms(took)} later)",
        true=positions["north"] == positions["south"],
    )


def _linked(vault: hsmvault.Vault) -> bool:
    try:
        return vault.at("south").regions.topology().primary_reachable
    except VaultError:
        return False
