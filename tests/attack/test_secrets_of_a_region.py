"""Somebody else on the machine: what can be had without being the serving user.

The attacker lists processes, reads whatever is readable by others, and waits for a core
file of a process that crashes.
"""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmvault.regions.layout import PARTITIONS
from tests.support.callers import Callers, create, populated_vault, sign


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("v")) as some:
        sign(some(), create(some(), "a").name)
        yield some


def _pids(callers: Callers) -> list[int]:
    north = callers.vault.north
    return [north.pid, *(int(p["pid"]) for p in north.processes())]


def _secrets(directory: Path) -> list[bytes]:
    pins = [*directory.glob("*/secrets/*.pin"), *directory.glob("officer/*/*.so-pin")]
    assert len(pins) == 2 * len(PARTITIONS)
    return [path.read_bytes().strip() for path in pins]


def test_no_process_shows_a_pin_in_its_arguments_or_environment(
    callers: Callers,
) -> None:
    secrets = _secrets(callers.vault.directory)

    for pid in _pids(callers):
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()
            assert not [s for s in secrets if s in shown]


def test_no_process_that_reads_a_pin_leaves_a_core_file(callers: Callers) -> None:
    for pid in _pids(callers):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = [line for line in limits if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"], Path(f"/proc/{pid}/cmdline").read_text()


def test_a_pin_is_in_its_own_file_and_nowhere_else(callers: Callers) -> None:
    directory = callers.vault.directory
    secrets = _secrets(directory)

    holding = [
        path
        for path in directory.rglob("*")
        if path.is_file() and any(s in path.read_bytes() for s in secrets)
    ]

    assert {path.suffix for path in holding} == {".pin", ".so-pin"}


def test_others_may_read_no_secret_and_enter_no_directory_of_a_region(
    callers: Callers,
) -> None:
    region = callers.vault.north.layout.directory
    others = stat.S_IRWXG | stat.S_IRWXO

    for path in [region, *(p for p in region.iterdir() if p.is_dir())]:
        assert not path.stat().st_mode & others, path
    for path in callers.vault.directory.rglob("*"):
        if (
            path.suffix in {".pin", ".so-pin", ".key", ".sock"}
            or "tokens" in path.parts
        ):
            private = not path.stat().st_mode & others
            assert private or path.name == "softhsm2.conf", path
