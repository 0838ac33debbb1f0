"""Regions at the prompt: added with an officer who types the PINs, and removed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmvault.client.profile import Profile
from hsmvault.regions.layout import PARTITIONS
from tests.support.prompt import Ended, hsmvault
from tests.support.regions import LiveVault, running_vault

pytestmark = pytest.mark.softhsm

SO_PIN = "so-pin-12345678"


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    directory = tmp_path_factory.mktemp("vault")
    with running_vault(directory) as live:
        live.north.wait_serving(manager=True)
        files = live.admin
        Profile((live.north.endpoint,), files.certificate, files.key, files.ca).save(
            directory / "admin.json"
        )
        yield live


def typed(vault: LiveVault, *arguments: object) -> Ended:
    profile = str(vault.directory / "admin.json")
    return hsmvault(*arguments, environment={"HSMVAULT_PROFILE": profile})


def states(vault: LiveVault) -> dict[str, str]:
    listed = typed(vault, "region", "list", "--purged", "--output", "json")
    return {r["name"]: r["state"] for r in listed.json}


def test_a_region_waits_for_its_officer_and_is_removed_by_its_administrator(
    vault: LiveVault,
) -> None:
    south = vault.init("south", kind="extended", officer=False)
    south.serve(wait=False)
    south.wait_up()

    added = typed(vault, "region", "add", south.layout.directory, "--yes", "--no-wait")
    assert added.code == 0, added.err
    south.wait_until(
        lambda: states(vault)["regions/south"] == "AWAITING_CEREMONY",
        what="the ceremony to be waited for",
    )
    # Whoever types a wrong PIN is told so, and it is tried once.
    mistaken = attending(south.layout.directory, "not-the-so-pin")
    south.wait_until(
        lambda: states(vault)["regions/south"] == "FAILED", what="it to fail"
    )
    mistaken.terminate()
    assert "was not accepted" in mistaken.communicate()[1]
    glance = typed(vault, "status")
    assert "was not accepted" in glance.text

    again = typed(vault, "region", "add", south.layout.directory, "--yes", "--no-wait")
    assert again.code == 0, again.err
    officer = attending(south.layout.directory)
    try:
        waited = typed(vault, "region", "wait", "--added", "south", "--seconds", "90")
        assert waited.code == 0, waited.err
        assert states(vault)["regions/south"] == "SUCCEEDED"
        second = attending(south.layout.directory)
        assert "attached to this region already" in second.communicate()[1]
        assert second.returncode == 8

        removed = typed(vault, "region", "remove", "south", "--yes")
    finally:
        officer.terminate()
        said = officer.communicate()[1]

    assert removed.code == 0, removed.err
    assert states(vault)["regions/south"] == "PURGED"
    assert not south.layout.store.exists()
    assert south.ended() == 0
    assert SO_PIN not in said


def attending(directory: Path, so_pin: str = SO_PIN) -> "subprocess.Popen[str]":
    """Run `hsmvault ceremony` and type the PINs."""
    officer = subprocess.Popen(
        [sys.executable, "-m", "hsmvault.cli", "ceremony", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Without a terminal, PINs are read from stdin.
        start_new_session=True,
    )
    assert officer.stdin is not None
    officer.stdin.write(f"{so_pin}\n" * len(PARTITIONS))
    officer.stdin.flush()
    return officer


def test_a_card_with_another_fingerprint_is_not_added(vault: LiveVault) -> None:
    west = vault.init("west", kind="extended")

    refused = typed(
        vault, "region", "add", west.layout.card, "--fingerprint", "00" * 32
    )

    assert refused.code == 3, refused.err
    assert "fingerprint" in refused.err
    assert "regions/west" not in states(vault)


def test_the_primary_is_not_removed(vault: LiveVault) -> None:
    refused = typed(vault, "region", "remove", "north", "--yes")

    assert refused.code == 3, refused.err
    assert "only extended regions" in refused.err
    assert states(vault)["regions/north"] == "SUCCEEDED"
