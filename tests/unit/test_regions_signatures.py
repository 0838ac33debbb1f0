"""Signatures of identity keys and of administrators: only the whole truth passes."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from hsmvault.model.lifecycle import RegionState
from hsmvault.model.orders import RemovalOrder, removal_statement
from hsmvault.model.vault_records import PartitionCard, RegionRecord
from hsmvault.regions.signatures import signed_by, signed_by_certificate
from tests.support.fakes import FakeHsm

STATEMENT = b"what was said"


def north(**identities: bytes) -> RegionRecord:
    return RegionRecord(
        name="regions/north",
        revision=1,
        state=RegionState.SUCCEEDED,
        primary=True,
        zone="eu",
        endpoint="",
        partition_endpoints=(),
        private_endpoint="",
        partitions=tuple(PartitionCard(n, i) for n, i in identities.items()),
        certificate="",
        create_ms=1,
        update_ms=1,
    )


def test_a_partition_is_believed_by_its_own_key_alone() -> None:
    hsm, other = FakeHsm("p0"), FakeHsm("p1")
    region = north(p0=hsm.identity_public_key, p1=other.identity_public_key)
    signature = hsm.sign_statement(STATEMENT)

    def believed(partition: str, statement: bytes, shown: bytes) -> bool:
        return signed_by(
            region, partition=partition, statement=statement, signature=shown
        )

    assert believed("p0", STATEMENT, signature)
    assert not believed("p1", STATEMENT, signature)
    assert not believed("p9", STATEMENT, signature)
    assert not believed("p0", STATEMENT + b"!", signature)
    assert not believed("p0", STATEMENT, signature[:-1])
    assert not believed("p0", STATEMENT, signature + b"\0")
    assert not believed("p0", STATEMENT, bytes(64))
    assert not believed("p0", STATEMENT, b"")


def test_a_key_that_is_none_signs_nothing() -> None:
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    other = p384.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    for identity in (b"", b"no key", other):
        assert not signed_by(
            north(p0=identity), partition="p0", statement=b"", signature=bytes(64)
        )


def certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def test_administrators_sign_with_ec_or_rsa_pss_and_nothing_weaker() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    big = rsa.generate_private_key(65537, 2048)
    sha256 = hashes.SHA256()
    pss = padding.PSS(padding.MGF1(sha256), 32)

    def believed(
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, signature: bytes
    ) -> bool:
        return signed_by_certificate(
            certificate(key), statement=STATEMENT, signature=signature
        )

    assert believed(curve, curve.sign(STATEMENT, ec.ECDSA(sha256)))
    assert believed(big, big.sign(STATEMENT, pss, sha256))
    assert not believed(big, big.sign(STATEMENT, padding.PKCS1v15(), sha256))
    assert not believed(curve, curve.sign(STATEMENT, ec.ECDSA(hashes.SHA512())))
    assert not believed(curve, big.sign(STATEMENT, pss, sha256))
    assert not believed(curve, b"")


@pytest.mark.parametrize(
    "other", [("w", "south", 7), ("v", "sout", 7), ("v", "south", 8)], ids=str
)
def test_an_order_is_for_one_vault_one_region_and_one_time(
    other: tuple[str, str, int],
) -> None:
    order = RemovalOrder("south", 7, "certificate", b"signature")

    assert order.statement("v") == removal_statement("v", "south", 7)
    assert order.statement("v") != removal_statement(*other)
    assert "signature" not in repr(order)
