"""Certificates that were revoked: refused at once, everywhere, and for good."""

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from hsmvault.model.errors import CertificateRevoked
from hsmvault.model.orders import RemovalOrder
from hsmvault.model.vault_records import VaultRecord
from hsmvault.regions import purge
from hsmvault.regions.certificates import Authority, Certified
from hsmvault.v1.resources_pb2 import Vault
from hsmvault.v1.vault_service_pb2 import GetVaultRequest, UpdateVaultRequest
from hsmvault.v1.vault_service_pb2_grpc import VaultServiceStub
from tests.support.served import (
    VAULT_ID,
    Caller,
    Served,
    genesis,
    make_key,
    refusal,
    served,
    signed,
)

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca", name="callers")


@pytest.fixture
def north(tmp_path: Path, ca: Authority) -> Iterator[Served]:
    settings = VaultRecord(
        VAULT_ID, 1, 1, client_ca=ca.certificate.decode(), page_key=bytes(32)
    )
    with served(tmp_path, ca=ca, records=genesis(settings=settings)) as one:
        make_key(one, "a")
        yield one


def _serial(certified: Certified) -> int:
    return x509.load_pem_x509_certificate(certified.certificate).serial_number


def _put(one: Served, crl: str) -> Vault:
    return VaultServiceStub(one.ada.channel).UpdateVault(
        UpdateVaultRequest(
            vault=Vault(client_crl=crl), update_mask=FieldMask(paths=["client_crl"])
        )
    )


def test_a_revoked_certificate_is_refused_at_once_on_a_connection_that_was_open(
    north: Served, ca: Authority
) -> None:
    lost = ca.caller("uma")
    uma = north.connect(lost)
    assert signed(uma, "keys/a").signature

    _put(north, ca.revocations("", [_serial(lost)], number=1))

    told = refusal(lambda: signed(uma, "keys/a"))
    assert told[:2] == (StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED")
    # The name is not revoked: the same caller, with another certificate.
    assert signed(north.connect(ca.caller("uma")), "keys/a").signature


def test_a_sibling_partition_refuses_it_too(
    tmp_path: Path, north: Served, ca: Authority
) -> None:
    lost = ca.caller("uma")
    with served(tmp_path, ca=ca, partition="p1", keys=north.hsm.keys) as sibling:
        there = sibling.connect(lost)
        assert signed(there, "keys/a").signature

        _put(north, ca.revocations("", [_serial(lost)], number=1))

        assert refusal(lambda: signed(there, "keys/a"))[1] == "CERTIFICATE_REVOKED"


def test_a_call_that_waits_meanwhile_is_refused(north: Served, ca: Authority) -> None:
    lost = ca.caller("uma")
    uma = north.connect(lost)
    assert signed(uma, "keys/a").signature
    head = north.store.head()
    assert head is not None
    to_come = f"1.north.{head.position.index + 1}"
    waiting: Any = uma.crypto.Sign.future(
        _sign(), metadata=(("min-position", to_come),), timeout=30
    )

    _put(north, ca.revocations("", [_serial(lost)], number=1))

    assert waiting.exception().code() is StatusCode.UNAUTHENTICATED


def test_who_was_revoked_does_not_use_up_what_the_same_caller_may_do_now(
    tmp_path: Path, ca: Authority
) -> None:
    lost = ca.caller("uma")
    settings = VaultRecord(
        VAULT_ID,
        1,
        1,
        client_ca=ca.certificate.decode(),
        client_crl=ca.revocations("", [_serial(lost)], number=1),
        page_key=bytes(32),
        rate_limit=1,
    )
    with served(tmp_path, ca=ca, records=genesis(settings=settings)) as one:
        thief = one.connect(lost)
        for _ in range(10):
            assert refusal(lambda: signed(thief, "keys/a"))[1] == "CERTIFICATE_REVOKED"

        assert refusal(lambda: signed(one.uma, "keys/a"))[1] == "NOT_FOUND"


def _sign() -> Any:
    from hsmvault.v1.crypto_service_pb2 import SignRequest

    return SignRequest(name="keys/a", algorithm="ES256", digest=bytes(32))


def _crl(
    directory: Path,
    serial: int = 7,
    *,
    number: int | None = 5,
    of: datetime.datetime = NOW,
    due: datetime.timedelta = DAY,
    extra: x509.ExtensionType | None = None,
    issuer: x509.Name | None = None,
) -> str:
    """A list as some other tool could make it."""
    ca = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    key: Any = load_pem_private_key((directory / "ca.key").read_bytes(), None)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or ca.subject)
        .last_update(of)
        .next_update(of + due)
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(of)
            .build()
        )
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if extra is not None:
        builder = builder.add_extension(extra, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"number": 4}, "make the next one"),
        ({"number": 5, "serial": 8}, "make the next one"),
        ({"number": None}, "make the next one"),
        ({"number": 6, "of": NOW + DAY}, "to come"),
        (
            {"number": 6, "issuer": x509.Name.from_rfc4514_string("CN=others")},
            "not signed by the CA",
        ),
        ({"number": 6, "extra": x509.DeltaCRLIndicator(5)}, "not understood"),
    ],
)
def test_a_list_that_is_not_the_next_one_is_refused(
    north: Served, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    """An old list would bring back who was revoked since."""
    _put(north, _crl(tmp_path / "ca"))

    told = refusal(lambda: _put(north, _crl(tmp_path / "ca", **changes)))

    assert told[0] is StatusCode.INVALID_ARGUMENT
    assert why in told[2]


def test_a_list_of_another_ca_is_refused(north: Served, tmp_path: Path) -> None:
    """Also of one that has the same name."""
    for name in ("callers", "others"):
        stranger = Authority.make(tmp_path / name / "ca", name=name)

        told = refusal(lambda: _put(north, stranger.revocations("", [1], number=1)))  # noqa: B023  (called at once)

        assert "not signed by the CA" in told[2]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
)
def test_a_list_cannot_be_taken_away(north: Served, ca: Authority, text: str) -> None:
    _put(north, ca.revocations("", [1], number=1))

    assert refusal(lambda: _put(north, text))[0] is StatusCode.INVALID_ARGUMENT


def test_a_list_without_a_number_is_ordered_by_its_date(
    north: Served, tmp_path: Path
) -> None:
    _put(north, _crl(tmp_path / "ca", number=None, of=NOW - DAY))
    _put(north, _crl(tmp_path / "ca", number=None, of=NOW))

    told = refusal(
        lambda: _put(north, _crl(tmp_path / "ca", 9, number=None, of=NOW - DAY))
    )
    assert "make the next one" in told[2]


def test_a_list_whose_next_one_is_due_stays_in_force_and_an_event_says_so(
    north: Served, tmp_path: Path, ca: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = ca.caller("uma")
    crl = _crl(tmp_path / "ca", _serial(lost), of=NOW - 2 * DAY, due=DAY)

    _put(north, crl)

    assert refusal(lambda: signed(north.connect(lost), "keys/a"))[1] == (
        "CERTIFICATE_REVOKED"
    )
    for _ in range(2):
        assert signed(north.uma, "keys/a").signature
    said = capsys.readouterr().err
    assert said.count("revocations.overdue") == 1
    assert said.count("revocations.changed") == 1


def test_the_next_list_contains_what_the_last_one_did(
    north: Served, ca: Authority
) -> None:
    first, second = ca.caller("uma"), ca.caller("uma")
    one = ca.revocations("", [_serial(first)], number=1)
    _put(north, one)
    _put(north, ca.revocations(one, [_serial(second)], number=2))

    for lost in (first, second):
        told = refusal(lambda: signed(north.connect(lost), "keys/a"))  # noqa: B023  (called at once)
        assert told[1] == "CERTIFICATE_REVOKED"
    stub = VaultServiceStub(north.ada.channel)
    assert "X509 CRL" in stub.GetVault(GetVaultRequest(name="vault")).client_crl


def test_a_revoked_administrator_orders_no_purge(ca: Authority) -> None:
    """The region that is to purge itself looks into its own copy of the list."""
    lost = ca.caller("ada")
    crl = ca.revocations("", [_serial(lost)], number=1)
    key: Any = load_pem_private_key(lost.key, None)
    from cryptography.hazmat.primitives.asymmetric import ec

    shown = lost.certificate.decode()
    # Not when this file was read: the certificate may be younger.
    time_ms = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    order = RemovalOrder("south", time_ms, shown, b"")
    signature = key.sign(order.statement(VAULT_ID), ec.ECDSA(hashes.SHA256()))
    order = dataclasses.replace(order, signature=signature)

    class Registry:
        vault_id = VAULT_ID

        def vault(self) -> VaultRecord:
            return VaultRecord(
                VAULT_ID,
                1,
                1,
                client_ca=ca.certificate.decode(),
                client_crl=crl,
                page_key=bytes(32),
            )

    registry: Any = Registry()
    with pytest.raises(CertificateRevoked):
        purge.require_administrator(order, registry, now_ms=time_ms)


def test_nobody_is_revoked_by_the_serial_number_of_another_ca(
    north: Served, ca: Authority
) -> None:
    from hsmvault.regions.revocation import read

    listed = read(ca.revocations("", [7], number=1))

    assert listed.revoke("CN=callers", 7)
    assert not listed.revoke("CN=others", 7)
    assert isinstance(north.uma, Caller)
