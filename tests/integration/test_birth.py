"""Making regions and vaults: what is there afterwards, and what is refused before."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmvault import config
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import (
    AlreadyExists,
    ConfigurationError,
    InvalidRequest,
    WrongState,
)
from hsmvault.model.log import Kind
from hsmvault.model.vault_records import RegionRecord, VaultRecord
from hsmvault.regions.birth import RegionPlan
from hsmvault.regions.card import Card
from hsmvault.regions.certificates import add_caller
from hsmvault.regions.layout import PARTITIONS
from hsmvault.server.founding import found_vault, init_region
from hsmvault.server.opening import open_store
from tests.support.regions import LiveVault, founded_vault

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with founded_vault(tmp_path_factory.mktemp("birth")) as vault:
        yield vault


def plan(directory: Path, name: str = "north", **changes: Any) -> RegionPlan:
    given: dict[str, Any] = {
        "directory": directory / name,
        "name": name,
        "officer_directory": directory / "officer" / name,
    }
    return RegionPlan(**(given | changes))


def everything(directory: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


# --- what is there ----------------------------------------------------------------


def test_a_new_region_holds_no_so_pin(vault: LiveVault) -> None:
    """Whoever has the region's directory must not be able to admit a recipient."""
    pins = {
        (vault.directory / "officer" / "north" / f"{p}.so-pin").read_bytes()
        for p in PARTITIONS
    }

    assert len(pins) == 3
    for path in vault.north.layout.directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(pin in content for pin in pins), path


def test_every_partition_has_a_token_a_pin_and_an_identity_of_its_own(
    vault: LiveVault,
) -> None:
    settings = vault.north.config
    card = vault.north.card

    assert len({p.token_serial for p in settings.partitions.values()}) == 3
    assert len({p.user_pin_file.read_text() for p in settings.partitions.values()}) == 3
    assert len({p.identity for p in card.partitions}) == 3
    assert [p.token_label for p in settings.partitions.values()] == [
        "hsmvault-north-p0",
        "hsmvault-north-p1",
        "hsmvault-north-p2",
    ]


def test_a_new_vault_begins_with_its_epoch_its_region_and_one_administrator(
    vault: LiveVault,
) -> None:
    with open_store(vault.north.config) as store:
        kinds = [entry.kind for entry in store.entries(0)]
        founded = VaultRecord.from_bytes(store.states(Kind.VAULT)[0].record)
        region = RegionRecord.from_bytes(store.states(Kind.REGION)[0].record)
        roles = [
            AssignmentRecord.from_bytes(stored.record)
            for stored in store.states(Kind.ROLE_ASSIGNMENT)
        ]

    assert kinds == [Kind.EPOCH, Kind.VAULT, Kind.REGION, Kind.ROLE_ASSIGNMENT]
    assert founded.vault_id == vault.north.card.vault_id
    assert founded.client_ca == (vault.ca / "ca.pem").read_text()
    assert Card.of_record(region).fingerprint == vault.north.card.fingerprint
    assert [(r.principal, r.scope) for r in roles] == [("CN=admin", "/")]


def test_the_settings_explain_every_setting(vault: LiveVault) -> None:
    text = vault.north.layout.config.read_text()

    lines = text.splitlines()
    settings = [i for i, line in enumerate(lines) if " = " in line and line[0] != "#"]
    for number in settings:
        explained = [
            line for line in lines[max(0, number - 4) : number] if line.startswith("#")
        ]
        assert explained, lines[number]
    # And they are all that can be set.
    assert config.load(vault.north.layout.directory).region.name == "north"


def test_certificates_are_for_one_end_only(vault: LiveVault) -> None:
    server = x509.load_pem_x509_certificate(
        vault.north.layout.server_certificate.read_bytes()
    )
    caller = x509.load_pem_x509_certificate(vault.admin.certificate.read_bytes())
    private = x509.load_pem_x509_certificate(
        vault.north.layout.private_certificate.read_bytes()
    )

    def usage(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        return list(found.value)

    assert usage(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert usage(caller) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for leaf in (server, caller, private):
        basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
        assert not basic.value.ca


def test_a_callers_key_is_for_its_owner_alone(vault: LiveVault, tmp_path: Path) -> None:
    files = add_caller(vault.ca, "bob", tmp_path / "callers")

    assert files.principal == "CN=bob"
    assert files.key.stat().st_mode & 0o077 == 0
    assert (tmp_path / "callers").stat().st_mode & 0o077 == 0


def test_a_caller_with_a_spiffe_id_is_known_by_it(
    vault: LiveVault, tmp_path: Path
) -> None:
    files = add_caller(
        vault.ca, "pay", tmp_path, spiffe="spiffe://example.org/payments"
    )

    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.org/payments"]
    assert files.principal == "spiffe://example.org/payments"


# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"name": "North"}, InvalidRequest, "malformed region name"),
        ({"zone": "EU west"}, InvalidRequest, "malformed zone"),
        ({"kind": "secondary"}, InvalidRequest, "neither primary nor extended"),
        ({"kind": "extended"}, InvalidRequest, "needs the card of the primary"),
        ({"module": Path("/no/hsm.so")}, ConfigurationError, "no PKCS#11 module"),
        ({"officer_directory": None}, InvalidRequest, "no SO PIN for p0, p1, p2"),
        ({"host": "203.0.113.7"}, ConfigurationError, "cannot listen on 203.0.113.7"),
    ],
)
def test_a_region_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        init_region(plan(tmp_path, **changes))

    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "north").mkdir()
    (tmp_path / "north" / "letters").write_text("dear")

    with pytest.raises(WrongState, match="is not empty; name a new directory"):
        init_region(plan(tmp_path))

    assert [p.name for p in (tmp_path / "north").iterdir()] == ["letters"]


def test_so_pins_of_another_region_are_never_overwritten(
    vault: LiveVault, tmp_path: Path
) -> None:
    officer = vault.directory / "officer" / "north"
    before = everything(officer)

    with pytest.raises(WrongState, match="holds SO PINs already"):
        init_region(plan(tmp_path, "west", officer_directory=officer))

    assert everything(officer) == before
    assert not (tmp_path / "west").exists()


def test_a_region_joins_only_a_vault_that_is_there_in_its_own_zone(
    vault: LiveVault, tmp_path: Path
) -> None:
    card = json.loads(vault.north.layout.card.read_text())
    unfounded = tmp_path / "unfounded.json"
    unfounded.write_text(json.dumps(card | {"vault_id": ""}))
    touched = tmp_path / "touched.json"
    touched.write_text(json.dumps(card | {"private_endpoint": "203.0.113.7:1"}))

    for join, zone, says in (
        (unfounded, "default", "run hsmvault vault init there"),
        (touched, "default", "does not match its own fingerprint"),
        (vault.north.layout.card, "moon", "zones be equal"),
        (tmp_path / "none.json", "default", "cannot read the primary's card"),
    ):
        asked = plan(tmp_path, "south", kind="extended", join=join, zone=zone)
        with pytest.raises((InvalidRequest, WrongState, ConfigurationError)) as refused:
            init_region(asked)
        assert says in str(refused.value)
    assert not (tmp_path / "south").exists()


def test_a_second_vault_in_one_region_is_refused_and_the_first_is_untouched(
    vault: LiveVault, tmp_path: Path
) -> None:
    before = everything(vault.north.layout.tls), vault.north.layout.card.read_text()

    with pytest.raises(AlreadyExists, match="holds a vault already"):
        found_vault(
            vault.north.layout.directory,
            ca_directory=tmp_path / "other-ca",
            out_directory=tmp_path / "callers",
        )

    after = everything(vault.north.layout.tls), vault.north.layout.card.read_text()
    assert after == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("days", [6, 91, 0])
def test_a_retention_that_is_not_offered_is_refused(
    vault: LiveVault, tmp_path: Path, days: int
) -> None:
    with pytest.raises(InvalidRequest, match="choose 7 to 90"):
        found_vault(
            vault.north.layout.directory,
            ca_directory=tmp_path / "ca",
            out_directory=tmp_path / "callers",
            retention_days=days,
        )

    assert not list(tmp_path.iterdir())


def test_a_ca_that_others_can_read_certifies_nobody(
    vault: LiveVault, tmp_path: Path
) -> None:
    key = vault.ca / "ca.key"
    key.chmod(0o644)

    with pytest.raises(ConfigurationError, match="can be read by others"):
        add_caller(vault.ca, "mallory", tmp_path)

    key.chmod(0o600)
    assert not list(tmp_path.iterdir())


def test_a_region_that_nobody_could_certify_is_not_made(
    vault: LiveVault, tmp_path: Path
) -> None:
    """Else its listener would have no certificate, and it could not serve."""
    asked = plan(
        tmp_path,
        "south",
        kind="extended",
        join=vault.north.layout.card,
        ca_directory=tmp_path / "no-ca",
    )

    with pytest.raises(ConfigurationError, match="no CA in"):
        init_region(asked)

    assert not list(tmp_path.iterdir())


# --- crashes ------------------------------------------------------------------------

_DIES = """
import os, sys
from pathlib import Path
from hsmvault.regions.birth import RegionPlan
from hsmvault.server.founding import init_region

directory, fuse = Path(sys.argv[1]), int(sys.argv[2])

def step(what, number, of):
    if number == fuse:
        os._exit(9)

init_region(RegionPlan(directory / "north", "north",
                       officer_directory=directory / "officer"), step)
"""


@pytest.mark.parametrize("fuse", [3, 5, 6, 7, 8])
def test_a_region_whose_making_was_cut_short_says_so(tmp_path: Path, fuse: int) -> None:
    # Its officers hold standard error too: reading it waits until they have ended.
    done = subprocess.run(
        [sys.executable, "-c", _DIES, str(tmp_path), str(fuse)],
        stderr=subprocess.PIPE,
        check=False,
    )

    assert done.returncode == 9
    with pytest.raises(ConfigurationError, match="half-initialised"):
        config.load(tmp_path / "north")
    with pytest.raises(WrongState, match="is not empty"):
        init_region(plan(tmp_path, officer_directory=tmp_path / "officer"))
