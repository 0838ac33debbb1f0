"""Run the demonstration. It fails if any of its claims is not so."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

import hsmvault
from hsmvault.cli.dev import bring_up, tell_how_to_go_on
from hsmvault.model.errors import ConfigurationError, VaultError
from hsmvault.server.dev import Dev, dev_down
from scripts.demonstration import (
    certificate,
    envelope,
    failing_over,
    keys,
    removal,
    secrecy,
    thief,
)
from scripts.demonstration.stage import ClaimFailed, Stage

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(".hsmvault-dev")


@click.command()
@click.option("--keep", is_flag=True, help="Leave both regions running at the end.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help=f"Where regions are kept; default: {KEPT}.",
)
def main(*, keep: bool, directory: Path | None) -> None:
    """Run two regions on this machine through the vault's main job."""
    signal.signal(signal.SIGTERM, _interrupted)
    stage = Stage()
    try:
        with _place(keep=keep, directory=directory) as place:
            _play(stage, place, keep=keep)
    except ClaimFailed as error:
        click.secho(f"the demonstration failed: {error}", fg="red", err=True)
        sys.exit(1)
    except (VaultError, ConfigurationError) as error:
        click.secho(f"the demonstration stopped: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing is left behind" if not keep else "interrupted")
        sys.exit(130)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _place(*, keep: bool, directory: Path | None) -> Iterator[Path]:
    """Give a directory for the regions; take it away again unless it is kept."""
    if keep or directory is not None:
        place = directory or KEPT
        if place.exists() and any(place.iterdir()):
            raise ConfigurationError(
                f"{place} is in use: hsmvault dev down --dir {place}, then remove it, "
                "or name another with --dir"
            )
    else:
        place = Path(tempfile.mkdtemp(prefix="hsmvault-demo-"))
    finished = False
    try:
        yield place
        finished = True
    finally:
        if not (keep and finished):
            # Whoever presses Ctrl-C twice means it, but would leave servers behind.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            try:
                dev_down(place)
            finally:
                shutil.rmtree(place, ignore_errors=True)


def _play(stage: Stage, place: Path, *, keep: bool) -> None:
    stage.console.print(
        "[bold]hsmvault[/]: two regions on this machine, each three SoftHSM2 "
        "partitions in processes of their own, mTLS on every connection"
    )
    begun = time.monotonic()
    running = bring_up(place, ("north", "south"))
    stage.say(
        f"[bold]north[/] (primary) and [bold]south[/] (extended) serve, after "
        f"{time.monotonic() - begun:.1f} s"
    )
    with tempfile.TemporaryDirectory(prefix="hsmvault-scratch-") as scratch:
        _steps(stage, running, Path(scratch), keep=keep)
    stage.console.print()
    stage.console.print(
        f"[green bold]{stage.claims} claims, all true[/], in "
        f"{time.monotonic() - stage.begun:.0f} s"
    )
    if keep:
        tell_how_to_go_on(running, place)


def _steps(stage: Stage, running: Dev, scratch: Path, *, keep: bool) -> None:
    north, south = (running.region(n).directory for n in ("north", "south"))
    with hsmvault.connect(
        profile=running.callers / "alice.json", region="north"
    ) as vault:
        with stage.step(1, "Three keys, made in north"):
            made = keys.make_keys(stage, vault)
        with stage.step(2, "A certificate, signed in south by the replicated key"):
            certificate.certify(stage, vault, scratch)
        with stage.step(3, "Sealed in north, opened in south"):
            data = envelope.envelope(stage, vault, ROOT / "README.md")
        with stage.step(4, "A partition of north is killed while the client signs"):
            failing_over.kill_partition(stage, vault, north)
        with stage.step(5, "All of north is killed while the client signs"):
            failing_over.kill_region(stage, vault, north)
        with stage.step(6, "What a thief finds in south"):
            wrapped = secrecy.search_store(stage, vault, south, made=made, data=data)
            thief.try_to_extract(stage, south, wrapped)
    with stage.step(7, "South is removed"):
        removal.remove(stage, running.callers / "admin.json", south)
    if keep:
        stage.say("and made anew, to be kept")
        for gone in (south, running.directory / "officer" / "south"):
            shutil.rmtree(gone)
        bring_up(running.directory, ("north", "south"))


if __name__ == "__main__":
    main(prog_name="./scripts/demo")
