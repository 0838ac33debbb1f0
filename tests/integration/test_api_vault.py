"""The vault's settings: read, changed in force at once, and kept within bounds."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from hsmvault.model.vault_records import VaultRecord
from hsmvault.regions.certificates import Authority
from hsmvault.v1.key_service_pb2 import DeleteKeyRequest, PurgeKeyRequest
from hsmvault.v1.resources_pb2 import Vault
from hsmvault.v1.vault_service_pb2 import GetVaultRequest
from tests.support.served import (
    PAGE_KEY,
    VAULT_ID,
    FakeManager,
    Served,
    follow,
    genesis,
    make_key,
    refusal,
    region,
    served,
    signed,
)
from tests.support.settings import get, update

StatusCode = grpc.StatusCode
INVALID = StatusCode.INVALID_ARGUMENT
FAILED = StatusCode.FAILED_PRECONDITION


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


def test_the_vault_is_read_with_all_its_settings(north: Served) -> None:
    found = get(north, by="tom")

    assert (found.name, found.vault_id) == ("vault", VAULT_ID)
    assert (found.retention_days, found.version_limit) == (90, 100)
    assert found.primary_down_writes == "manual"
    assert found.position == "1.north.2"
    assert found.etag


def _others(found: Vault, name: str) -> Any:
    """What is left without a setting, and without what changes with all of them."""
    left: Any = Vault()
    left.CopyFrom(found)
    for field in (name, "etag", "position"):
        left.ClearField(field)
    return left


def test_every_setting_is_changed_and_none_beside_those_named(north: Served) -> None:
    wanted: dict[str, Any] = {
        "purge_protection": True,
        "primary_down_writes": "deny",
        "region_limit": 5,
        "legacy_algorithms": ["A128CBC", "RSA1_5"],
        "role_escalation": True,
        "ecdsa_fault_guard": True,
        "key_limit": 10,
        "version_limit": 7,
        "allowed_networks": ["127.0.0.0/8", "::1/128"],
        "rate_limit": 100_000,
    }
    for name, value in wanted.items():
        before = get(north)

        after = update(north, **{name: value})

        changed = getattr(after, name)
        assert value == (list(changed) if isinstance(value, list) else changed)
        assert after.etag != before.etag
        assert _others(after, name) == _others(before, name)
    assert get(north).version_limit == 7


def test_a_change_is_in_force_in_every_partition_without_loading_it_all_again(
    tmp_path: Path,
) -> None:
    keys: dict[str, bytes] = {}
    with ExitStack() as stack:
        one = stack.enter_context(served(tmp_path, keys=keys))
        two = stack.enter_context(
            served(tmp_path, keys=keys, ca=one.ca, partition="p1")
        )
        make_key(one, "a")
        signed(two.uma, "keys/a")
        held = two.services.memory.ring.get("keys/a")

        update(one, role_escalation=True)

        assert two.services.memory.refresh().vault.role_escalation
        assert held is two.services.memory.ring.get("keys/a")
        assert get(two).etag == get(one).etag


def test_purge_protection_goes_on_and_never_off_again(north: Served) -> None:
    make_key(north, "a")
    north.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a"))
    update(north, purge_protection=True)

    code, reason, message = refusal(lambda: update(north, purge_protection=False))
    early = refusal(lambda: north.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/a")))

    assert (code, reason) == (FAILED, "PURGE_PROTECTION_IRREVERSIBLE")
    assert "90 days" in message
    assert get(north).purge_protection
    assert early[:2] == (FAILED, "PURGE_TOO_EARLY")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"region_limit": -1}, "region_limit is 0 to 16, not -1"),
        ({"key_limit": -1}, "key_limit is 0 to 100000000"),
        ({"version_limit": 0}, "version_limit is 1 to 1000, not 0"),
        ({"version_limit": 1001}, "version_limit is 1 to 1000"),
        ({"rate_limit": -1}, "rate_limit is 0 to 1000000"),
        ({"legacy_algorithms": ["A256GCM"]}, "A256GCM is no legacy algorithm"),
        ({"legacy_algorithms": ["rsa1_5"]}, "RSA1_5"),
        ({"allowed_networks": ["10.0.0.1/8"]}, "is not a network"),
        ({"allowed_networks": ["::ffff:7f00:0/104"]}, "write it as an IPv4 network"),
        ({"primary_down_writes": ""}, "manual or deny, not ''"),
        ({"client_crl": "nonsense"}, "is not a CRL in PEM"),
        ({"retention_days": 7}, "update_mask names retention_days"),
        ({"vault_id": "x"}, "update_mask names vault_id"),
        ({"client_ca": "x"}, "update_mask names client_ca"),
        ({}, "update_mask names nothing"),
    ],
)
def test_what_no_vault_can_be_set_to_is_refused_at_the_edge(
    north: Served, settings: dict[str, Any], words: str
) -> None:
    before = get(north)

    code, _, message = refusal(lambda: update(north, **settings))

    assert code is INVALID
    assert words in message
    assert get(north) == before


def test_a_policy_that_this_release_does_not_have_is_refused_saying_so(
    north: Served,
) -> None:
    code, reason, message = refusal(
        lambda: update(north, primary_down_writes="after:6h")
    )

    assert (code, reason) == (StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED")
    assert "choose manual or deny" in message


def test_another_vault_is_not_one_of_this_service(north: Served) -> None:
    asked = [
        lambda: north.ada.vault.GetVault(GetVaultRequest(name="vaults/x")),
        lambda: update(north, name="vaults/x", rate_limit=1),
    ]

    assert {refusal(ask)[1] for ask in asked} == {"MALFORMED_NAME"}


def test_a_change_by_an_etag_that_is_not_the_present_one_is_refused(
    north: Served,
) -> None:
    old = get(north).etag
    update(north, rate_limit=1000, etag=old)

    code, reason, _ = refusal(lambda: update(north, rate_limit=2000, etag=old))

    assert (code, reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert get(north).rate_limit == 1000


def test_a_repeated_request_id_changes_nothing_a_second_time(north: Served) -> None:
    first = update(north, rate_limit=1000, request_id="one")
    update(north, rate_limit=2000)

    again = update(north, rate_limit=1000, request_id="one")
    other = refusal(lambda: update(north, rate_limit=3000, request_id="one"))

    assert again.etag == first.etag
    assert get(north).rate_limit == 2000
    assert other[0] is INVALID


def test_networks_that_leave_their_author_out_are_refused_unless_they_are_meant(
    north: Served,
) -> None:
    elsewhere = ["10.0.0.0/8"]

    code, reason, message = refusal(lambda: update(north, allowed_networks=elsewhere))

    assert (code, reason) == (FAILED, "LOCK_OUT")
    assert "--allow-lock-out" in message
    assert not get(north).allowed_networks
    meant = update(north, allowed_networks=elsewhere, allow_lock_out=True)
    assert list(meant.allowed_networks) == elsewhere


def _revocations(directory: Path, *, key: Any = None) -> str:
    """An empty revocation list in the name of the CA in `directory`."""
    authority = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    key = key or load_pem_private_key((directory / "ca.key").read_bytes(), None)
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder(
        authority.subject, now, now + timedelta(days=1)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_a_revocation_list_is_taken_from_the_callers_ca_alone(tmp_path: Path) -> None:
    ca = Authority.make(tmp_path / "ca", name="callers")
    settings = VaultRecord(
        VAULT_ID, 1, 1, client_ca=ca.certificate.decode(), page_key=PAGE_KEY
    )
    own = _revocations(tmp_path / "ca")
    forged = _revocations(tmp_path / "ca", key=ec.generate_private_key(ec.SECP256R1()))
    with served(tmp_path, ca=ca, records=genesis(settings=settings)) as north:
        assert update(north, client_crl=own).client_crl == own

        code, _, message = refusal(lambda: update(north, client_crl=forged))

        assert code is INVALID
        assert "not signed by the CA" in message
        assert refusal(lambda: update(north, client_crl=""))[0] is INVALID


def test_an_extended_region_sends_writers_to_the_primary_and_has_what_they_set(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(
            served(tmp_path, records=genesis(region("south")))
        )
        follower = stack.enter_context(
            served(tmp_path, own="south", manager=FakeManager(primary), ca=primary.ca)
        )
        follow(primary, follower)

        code, reason, _ = refusal(lambda: update(follower, rate_limit=100_000))
        made = update(primary, rate_limit=100_000)
        before = get(follower)
        follow(primary, follower)
        after = get(follower)

        assert (code, reason) == (FAILED, "NOT_PRIMARY")
        assert before.rate_limit == 0
        assert after == made
