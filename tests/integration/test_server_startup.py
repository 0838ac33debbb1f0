"""What keeps a region from starting: one clear error, an exit code, nothing changed."""

import hashlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmvault.regions.layout import Layout
from tests.support.regions import LiveRegion, LiveVault, founded_vault, running_vault

RUNNING_ERROR = 1
CONFIGURATION_ERROR = 78

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with founded_vault(tmp_path_factory.mktemp("startup")) as vault:
        yield vault


@pytest.fixture
def north(vault: LiveVault, tmp_path: Path) -> Iterator[LiveRegion]:
    """The region; whatever a test does to its directory is undone."""
    directory = vault.north.layout.directory
    kept = tmp_path / "kept"
    shutil.copytree(directory, kept)
    yield vault.north
    vault.north.kill()
    shutil.rmtree(directory)
    shutil.copytree(kept, directory)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegion]:
    """Another region, which is being served, and which tests leave as it is."""
    with running_vault(tmp_path_factory.mktemp("served")) as vault:
        yield vault.north


def refused(region: LiveRegion) -> tuple[int, str]:
    """Serve a region that must not start; its exit code, and what it said."""
    before = contents(region)
    region.serve(wait=False)
    code = region.ended()
    said = [line for line in region.said.splitlines() if line.startswith("hsmvault: ")]
    assert len(said) == 1, region.said
    assert contents(region) == before
    return code, said[0]


def contents(region: LiveRegion) -> dict[str, str]:
    """Everything in the directory that lasts, by its digest."""
    layout = region.layout
    passing = {layout.run, layout.logs}
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in layout.directory.rglob("*")
        if path.is_file()
        and not passing & set(path.parents)
        and path.name != "serve.err"
        # The tokens' own locks and SQLite's shared memory come and go.
        and path.suffix not in {".lock", ".db-shm", ".db-wal"}
    }


def edit(region: LiveRegion, old: str, new: str) -> None:
    text = region.layout.config.read_text()
    assert old in text
    region.layout.config.write_text(text.replace(old, new))


def test_a_wrong_pin_is_tried_once_and_stops_the_region(north: LiveRegion) -> None:
    for partition in ("p0", "p1", "p2"):
        north.layout.pin(partition).write_text("wrong-pin-1234")

    north.serve(wait=False)
    code = north.ended()

    assert code == CONFIGURATION_ERROR
    for partition in ("p0", "p1", "p2"):
        assert f"hsmvault: partition {partition}: token" in north.said
        assert "It was tried once and is not tried again" in north.said
    # One start each: nobody tried again.
    assert north.said.count('"event": "process.started"') == 4
    assert "wrong-pin" not in north.said + north.logs()


def test_one_wrong_pin_leaves_the_other_partitions_serving(north: LiveRegion) -> None:
    north.layout.pin("p1").write_text("wrong-pin-1234")

    north.serve(wait=False)
    north.wait_serving(partitions=("p0", "p2"))
    north.wait_until(
        lambda: north.partition("p1")["state"] == "needs operator", what="p1 to stop"
    )

    assert north.partition("p1")["restarts"] == 0
    assert "correct the PIN file" in north.partition("p1")["problem"]
    assert north.stop() == 0


def test_a_missing_module_is_named(north: LiveRegion) -> None:
    edit(north, "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/nowhere/libhsm.so")

    code, said = refused(north)

    assert code == CONFIGURATION_ERROR
    assert "no PKCS#11 module /usr/lib/nowhere/libhsm.so" in said
    assert "apt-get install softhsm2" in said


def test_a_token_that_is_not_ours_is_refused(north: LiveRegion) -> None:
    for partition in ("p0", "p1", "p2"):
        edit(
            north,
            north.config.partitions[partition].token_serial,
            f"{partition[1] * 16}",
        )

    north.serve(wait=False)
    code = north.ended()

    assert code == CONFIGURATION_ERROR
    assert "this is not the token that the region was set up with" in north.said


def test_a_port_in_use_is_named_with_its_setting(north: LiveRegion) -> None:
    for port, setting in (
        (north.config.listen.port, "`port`"),
        (north.config.listen.partition_ports[1], "`partition_ports`"),
        (north.config.listen.private_port, "`private_port`"),
    ):
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()

            code, said = refused(north)

        assert code == RUNNING_ERROR
        assert f"127.0.0.1:{port} is in use by another program" in said
        assert setting in said


def test_a_port_that_another_program_shares_is_in_use(north: LiveRegion) -> None:
    """SO_REUSEPORT would let both listen, and give each some of the calls."""
    port = north.config.listen.port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()

        code, said = refused(north)

    assert code == RUNNING_ERROR
    assert f"127.0.0.1:{port} is in use" in said


def test_a_half_initialised_directory_is_refused(north: LiveRegion) -> None:
    north.layout.config.rename(north.layout.incomplete)

    code, said = refused(north)

    assert code == CONFIGURATION_ERROR
    assert "half-initialised" in said
    assert "run hsmvault region init again" in said


def test_a_directory_that_is_no_region_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hsmvault.server.supervisor", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == CONFIGURATION_ERROR
    assert "region.toml is missing" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_region_without_a_vault_says_what_comes_first(north: LiveRegion) -> None:
    north.layout.server_certificate.unlink()

    code, said = refused(north)

    assert code == CONFIGURATION_ERROR
    assert "run hsmvault vault init first" in said


@pytest.mark.parametrize(
    "secret", ["secrets/p1.pin", "tls/server.key", "tls/private.key"]
)
def test_a_secret_that_others_can_read_is_not_used(
    north: LiveRegion, secret: str
) -> None:
    (north.layout.directory / secret).chmod(0o640)

    code, said = refused(north)

    assert code == CONFIGURATION_ERROR
    assert f"{secret} can be read by others (mode 640)" in said
    assert "chmod 600" in said


def test_so_pins_that_others_can_read_are_not_used(
    vault: LiveVault, north: LiveRegion
) -> None:
    pin = vault.directory / "officer" / "north" / "p0.so-pin"
    pin.chmod(0o644)

    code, said = refused(north)

    pin.chmod(0o600)
    assert code == CONFIGURATION_ERROR
    assert "p0.so-pin can be read by others" in said


def test_an_unknown_setting_is_an_error_with_its_name(north: LiveRegion) -> None:
    edit(north, "private_port", "privat_port")

    code, said = refused(north)

    assert code == CONFIGURATION_ERROR
    assert "region.toml: listen.privat_port is unknown" in said


def test_a_directory_is_served_once(served: LiveRegion) -> None:
    again = LiveRegion(served.layout)

    again.serve(wait=False)
    code = again.ended()

    assert code == RUNNING_ERROR
    assert f"is being served already, by process {served.pid}" in again.said
    served.wait_serving()


def test_a_copy_of_a_region_does_not_share_its_port(
    served: LiveRegion, tmp_path: Path
) -> None:
    """The copy has a lock of its own, and the same user: only the port tells."""
    copied = tmp_path / "copy"
    # Sockets cannot be copied.
    shutil.copytree(
        served.layout.directory, copied, ignore=shutil.ignore_patterns("*.sock")
    )
    copy = LiveRegion(Layout(copied))

    copy.serve(wait=False)
    code = copy.ended()

    assert code == RUNNING_ERROR
    assert f"{served.endpoint} is in use by another program" in copy.said
    served.wait_serving()


def test_a_store_older_than_its_token_remembers_is_not_served(
    vault: LiveVault, north: LiveRegion, tmp_path: Path
) -> None:
    """Restoring an old copy of the store must not bring back what was revoked."""
    old = tmp_path / "old.db"
    shutil.copy(north.layout.store, old)
    north.serve()
    vault.grant("alice", "Managed HSM Crypto User")
    assert north.stop() == 0
    for path in north.layout.store_directory.iterdir():
        path.unlink()
    shutil.copy(old, north.layout.store)

    north.serve(wait=False)
    code = north.ended()

    assert code == CONFIGURATION_ERROR
    # More than the grant, if the heads of its trails were anchored while it ended.
    told = r"the store ends at 1\.north\.4, but the token remembers 1\.north\.(\d+)"
    remembered = re.search(told, north.said)
    assert remembered, north.said
    assert int(remembered[1]) > 4


def test_what_a_region_keeps_is_for_its_user_alone(served: LiveRegion) -> None:
    layout = served.layout

    for path in (
        layout.directory,
        layout.run,
        layout.secrets,
        layout.tls,
        layout.store_directory,
        layout.socket("p0"),
        layout.store,
        layout.pin("p0"),
        layout.server_key,
        layout.private_key,
    ):
        assert path.stat().st_mode & 0o077 == 0, path
