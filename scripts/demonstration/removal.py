"""Step 7: south is removed; its tokens are re-initialised and its store is gone."""

import os
import subprocess
import sys
from pathlib import Path

from scripts.demonstration.failing_over import until
from scripts.demonstration.stage import ClaimFailed, Stage
from scripts.demonstration.thief import Token


def at_the_prompt(stage: Stage, profile: Path, *arguments: str) -> None:
    """Run a command of the CLI as a person would, and show what it says."""
    stage.say(f"[dim]$ hsmvault {' '.join(arguments)}[/]")
    done = subprocess.run(
        [sys.executable, "-m", "hsmvault.cli", *arguments],
        env={**os.environ, "HSMVAULT_PROFILE": str(profile), "COLUMNS": "96"},
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        stage.console.print(f"    {line}", markup=False)
    if done.returncode:
        raise ClaimFailed(f"hsmvault {' '.join(arguments)}: {done.stderr.strip()}")


def remove(stage: Stage, profile: Path, south: Path) -> None:
    """Remove south by the CLI, and look at what is left of it."""
    token = Token.of(south)
    store = south / "store" / "vault.db"
    stage.claim("south has its store", true=store.exists())
    at_the_prompt(stage, profile, "region", "list")
    at_the_prompt(stage, profile, "region", "remove", "south", "--yes")
    until(lambda: not store.exists(), "the store is deleted")
    stage.claim(
        "the store of south is gone", true=not list(store.parent.glob("vault.db*"))
    )
    stage.claim(
        "its tokens are re-initialised: the user PIN opens nothing, no object is left",
        true=_is_empty(token),
    )
    at_the_prompt(stage, profile, "region", "list", "--purged")


def _is_empty(token: Token) -> bool:
    with token.stranger() as stranger:
        return not stranger.login(token.pin).ok and not stranger.find()
