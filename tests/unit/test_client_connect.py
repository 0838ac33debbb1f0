"""Connecting: what is missing or refused is said at once, and by its name."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import hsmvault
from hsmvault.client.caller import Seen, durability
from hsmvault.client.crypto import digest_of
from hsmvault.client.errors import CertificateRefused
from hsmvault.client.naming import expected_name
from hsmvault.client.profile import Profile
from hsmvault.model import errors
from hsmvault.regions.certificates import Authority
from tests.support.pretend_vault import PretendVault, pretend_vault


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendVault]:
    with pretend_vault(tmp_path_factory.mktemp("vault")) as pretended:
        yield pretended


def test_any_one_address_leads_to_the_whole_vault(vault: PretendVault) -> None:
    with vault.connect(endpoints=vault.regions["south"][2].address) as client:
        assert client.order == ("south", "north")


def test_addresses_that_are_dead_do_not_matter(vault: PretendVault) -> None:
    alive = vault.regions["north"][1].address
    with vault.connect(endpoints=["127.0.0.1:9", alive]) as client:
        assert client.keys.get("payroll").name == "keys/payroll"


def test_nobody_there_is_said_with_the_way_out(vault: PretendVault) -> None:
    with pytest.raises(errors.Unavailable, match="hsmvault serve"):
        vault.connect(endpoints="127.0.0.1:9", timeout=0.3)


def test_a_server_of_another_ca_is_refused(vault: PretendVault, tmp_path: Path) -> None:
    other = Authority.make(tmp_path / "ca", name="another")

    with pytest.raises(CertificateRefused, match="CA file"):
        vault.connect(ca=other.certificate)


def test_a_caller_of_another_ca_is_refused(vault: PretendVault, tmp_path: Path) -> None:
    stranger = Authority.make(tmp_path / "ca", name="another").caller("alice")

    with pytest.raises(CertificateRefused, match="client certificate"):
        vault.connect(certificate=stranger.certificate, key=stranger.key, timeout=3.0)


def test_an_expired_certificate_is_named_before_anything_is_dialled(
    vault: PretendVault,
) -> None:
    expired = vault.ca.caller("alice", days=0)

    with pytest.raises(CertificateRefused, match="expired on"):
        vault.connect(certificate=expired.certificate, key=expired.key)


def test_a_missing_file_is_named(vault: PretendVault, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"alice\.key"):
        vault.connect(key=tmp_path / "alice.key")


def test_a_profile_names_everything_relative_to_itself(
    vault: PretendVault, tmp_path: Path
) -> None:
    (tmp_path / "alice.pem").write_bytes(vault.caller.certificate)
    (tmp_path / "alice.key").write_bytes(vault.caller.key)
    (tmp_path / "ca.pem").write_bytes(vault.ca.certificate)
    profile = Profile(
        (vault.regions["north"][0].address,),
        tmp_path / "alice.pem",
        tmp_path / "alice.key",
        tmp_path / "ca.pem",
        "south",
    )
    profile.save(tmp_path / "alice.json")

    with hsmvault.connect(profile=tmp_path / "alice.json") as client:
        assert client.order[0] == "south"
    written = json.loads((tmp_path / "alice.json").read_text())
    assert written["key"] == "alice.key"


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"endpoints": 3}'))
def test_a_profile_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)

    with pytest.raises(errors.ConfigurationError, match=r"p\.json"):
        Profile.load(tmp_path / "p.json")


def test_a_closed_client_says_so(vault: PretendVault) -> None:
    client = vault.connect()
    client.close()

    with pytest.raises(errors.Unavailable):
        client.keys.get("payroll", timeout=0.2)


def test_what_was_seen_never_goes_back() -> None:
    seen = Seen()
    for text in ("1.north.9", "1.north.10", "1.north.2", "", "nonsense"):
        seen.observe(text)

    assert seen.text == "1.north.10"


@pytest.mark.parametrize(
    ("algorithm", "size"), (("ES256", 32), ("ES256K", 32), ("PS384", 48), ("ES512", 64))
)
def test_a_message_is_hashed_as_its_algorithm_wants(algorithm: str, size: int) -> None:
    assert len(digest_of(algorithm, b"hello")) == size


def test_an_algorithm_that_does_not_sign_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest):
        digest_of("A256GCM-X", b"hello")


def test_durability_is_read_in_every_form() -> None:
    assert durability("ALL_REGIONS").all_regions
    assert durability("REGION").regions == 0
    assert durability(2).regions == 2
    assert durability("2").regions == 2


@pytest.mark.parametrize("wanted", ["ALL", "all_regions", "-1", "", "two", "²"])
def test_a_durability_that_is_none_is_refused_and_not_taken_for_less(
    wanted: str,
) -> None:
    with pytest.raises(errors.InvalidRequest, match="ALL_REGIONS"):
        durability(wanted)


def test_a_version_that_is_expected_is_named_by_its_id_or_whole() -> None:
    id_ = "ab" * 16
    whole = f"keys/payroll/versions/{id_}"

    assert expected_name("payroll", id_) == whole
    assert expected_name("keys/payroll", id_) == whole
    assert expected_name(f"keys/payroll/versions/{'cd' * 16}", id_) == whole
    assert expected_name("payroll", whole) == whole
    assert expected_name("payroll", "") == ""
