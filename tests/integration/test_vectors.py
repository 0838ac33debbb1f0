"""Published vectors, on a real token where a key must be in it.

IVs and padding of what is encrypted are the vault's own, so vectors of encryption serve
in the direction of decryption; those of AES-KW, which has neither, in both.
"""

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType

from hsmvault.hsm.partition import Partition
from hsmvault.hsm.templates import KWP_MECHANISM
from hsmvault.model.algorithms import Algorithm, KeySpec
from hsmvault.model.errors import CiphertextInvalid
from hsmvault.model.material import Material, Sealed
from hsmvault.model.stored import KWP, WrappedKey
from tests.support import vectors
from tests.support.partitions import Loaded, known, known_rsa
from tests.support.vectors import unhex

pytestmark = pytest.mark.softhsm

SIZES = (128, 192, 256)
RFC_3394_4_6 = (
    "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"
)


@pytest.fixture(scope="module")
def north(loaded: Loaded) -> Partition:
    return loaded.open("north", "p0", sessions=1)


def _oct(north: Partition, key: str) -> Material:
    return known(north, KeySpec.of("oct", bits=len(key) * 4), unhex(key))


def _outcome(call: Any) -> bytes | None:
    """What it answers; None where it is refused."""
    try:
        answered: bytes = call()
    except CiphertextInvalid:
        return None
    return answered


# --- AES -------------------------------------------------------------------------


@pytest.mark.parametrize("bits", SIZES)
def test_nist_gcm_decrypts_what_is_right_and_nothing_else(
    north: Partition, bits: int
) -> None:
    tried = []
    for one in vectors.records(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp", per_section=1):
        if (one["IVlen"], one["Taglen"]) != ("96", "128"):
            continue
        sealed = Sealed(unhex(one["IV"]), unhex(one["CT"]), unhex(one["Tag"]))
        material, aad = _oct(north, one["Key"]), unhex(one["AAD"])
        how = Algorithm(f"A{bits}GCM")

        answered = _outcome(lambda: north.decrypt(material, how, sealed, aad))  # noqa: B023

        assert answered == (None if "FAIL" in one else unhex(one["PT"]))
        tried.append("FAIL" in one)
    assert (tried.count(False), tried.count(True)) >= (20, 20)


@pytest.mark.parametrize("bits", SIZES)
def test_nist_kw_unwraps_what_is_right_and_nothing_else(
    north: Partition, bits: int
) -> None:
    """SP 800-38F's KW is RFC 3394's."""
    how, tried = Algorithm(f"A{bits}KW"), []
    name = f"keywrap/kwtestvectors/KW_AD_{bits}.txt"
    for one in vectors.records(name, per_section=4):
        material, wrapped = _oct(north, one["K"]), unhex(one["C"])

        answered = _outcome(lambda: north.unwrap(material, how, wrapped))  # noqa: B023

        assert answered == (None if "FAIL" in one else unhex(one["P"]))
        tried.append("FAIL" in one)
    assert {True, False} == set(tried)


@pytest.mark.parametrize("bits", SIZES)
def test_nist_kw_wraps_to_the_byte(north: Partition, bits: int) -> None:
    name = f"keywrap/kwtestvectors/KW_AE_{bits}.txt"
    for one in vectors.records(name, per_section=4):
        material = _oct(north, one["K"])

        wrapped = north.wrap(material, Algorithm(f"A{bits}KW"), unhex(one["P"]))

        assert wrapped == unhex(one["C"])


@pytest.mark.parametrize(
    ("bits", "data", "wrapped"),
    [
        (128, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"),
        (192, 16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"),
        (256, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
        (256, 32, RFC_3394_4_6),
    ],
)
def test_rfc_3394_section_4(
    north: Partition, bits: int, data: int, wrapped: str
) -> None:
    material = _oct(north, bytes(range(bits // 8)).hex())
    plain = (bytes(n * 17 for n in range(16)) + bytes(range(16)))[:data]
    how = Algorithm(f"A{bits}KW")

    assert north.wrap(material, how, plain) == unhex(wrapped)
    assert north.unwrap(material, how, unhex(wrapped)) == plain


@pytest.mark.parametrize("bits", SIZES)
def test_nist_kwp_opens_by_the_mechanism_that_wraps_our_keys(
    north: Partition, bits: int
) -> None:
    """SP 800-38F's KWP is RFC 5649's.

    A region key's bytes are nobody's to know, so this is another AES key of the same
    token, by the same mechanism.
    """
    tried = []
    name = f"keywrap/kwtestvectors/KWP_AD_{bits}.txt"
    for one in vectors.records(name, per_section=3):
        if one["PLAINTEXT LENGTH"] == "8":
            continue  # tokens make no object of one byte

        answered = north._core.run(
            lambda session: _kwp_opened(session.raw, unhex(one["K"]), unhex(one["C"]))  # noqa: B023
        )

        assert answered == (None if "FAIL" in one else unhex(one["P"]))
        tried.append("FAIL" in one)
    assert {True, False} == set(tried)


def _kwp_opened(raw: Any, key: bytes, wrapped: bytes) -> bytes | None:
    from pkcs11 import PKCS11Error

    under = raw.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: CkKeyType.AES,
            Attribute.TOKEN: False,
            Attribute.VALUE: key,
            Attribute.UNWRAP: True,
        }
    )
    try:
        made = under.unwrap_key(
            ObjectClass.SECRET_KEY,
            CkKeyType.GENERIC_SECRET,
            wrapped,
            mechanism=KWP_MECHANISM,
            template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
        )
        value = bytes(made[Attribute.VALUE])
        made.destroy()
    except PKCS11Error:
        return None
    finally:
        under.destroy()
    return value


@pytest.mark.parametrize("bits", SIZES)
def test_nist_cbc_decrypts(north: Partition, bits: int) -> None:
    for one in vectors.records(f"ciphers/AES/CBC/CBCMMT{bits}.rsp"):
        sealed = Sealed(unhex(one["IV"]), unhex(one["CIPHERTEXT"]), b"")

        answered = north.decrypt(
            _oct(north, one["KEY"]), Algorithm(f"A{bits}CBC"), sealed, b""
        )

        assert answered == unhex(one["PLAINTEXT"])


@pytest.mark.parametrize("bits", [256, 384, 512])
def test_rfc_4231_macs(north: Partition, bits: int) -> None:
    """HMAC fills short keys up with zeros (RFC 2104, 2), so they fit ours."""
    tried = 0
    for one in vectors.records(f"HMAC/rfc-4231-sha{bits}.txt"):
        key = unhex(one["Key"])
        if len(key) * 8 > bits:
            continue
        material = _oct(north, key.ljust(bits // 8, b"\0").hex())

        made = north.sign(material, Algorithm(f"HS{bits}"), unhex(one["Msg"]))

        assert made == unhex(one["MD"])
        tried += 1
    assert tried >= 4


# --- RSA -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("pkcs-1v2-1d2-vec/oaep-vect.txt", Algorithm.RSA_OAEP),
        ("oaep-custom/oaep-sha256-sha256.txt", Algorithm.RSA_OAEP_256),
        ("pkcs1v15crypt-vectors.txt", Algorithm.RSA1_5),
    ],
)
def test_rsa_laboratories_ciphertexts_decrypt(
    north: Partition, name: str, algorithm: Algorithm
) -> None:
    tried = 0
    materials: dict[rsa.RSAPrivateKey, Material] = {}
    for key, message, ciphertext in vectors.rsa_encrypted(
        f"asymmetric/RSA/{name}", bits=2048
    ):
        if key not in materials:
            materials[key] = known_rsa(north, key)
        sealed = Sealed(b"", ciphertext.rjust(256, b"\0"), b"")

        assert north.decrypt(materials[key], algorithm, sealed, b"") == message
        tried += 1
    assert tried >= 6


def _public(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> Material:
    """What verifying needs of a key; what would open is not there."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wrapped = WrappedKey("0" * 32, "north", "region/north", KWP, b"")
    return Material("0" * 32, KeySpec.of("EC"), spki, wrapped, b"")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SigVer15_186-3.rsp", "RS"), ("SigVerPSS_186-3.rsp", "PS")],
)
def test_nist_rsa_signatures_are_valid_or_not(
    north: Partition, name: str, kind: str
) -> None:
    """Those by PSS have salts of other lengths than RFC 7518, 3.5, wants: not valid."""
    outcomes, n, mod = [], 0, 0
    for one in vectors.records(f"asymmetric/RSA/FIPS_186-2/{name}"):
        n = int(one["n"], 16) if "n" in one else n
        mod = int(one["mod"])
        bits = one.get("SHAAlg", "")[3:]
        if mod < 2048 or bits not in {"256", "384", "512"}:
            continue
        key = rsa.RSAPublicNumbers(int(one["e"], 16), n).public_key()
        digest = hashlib.new(f"sha{bits}", unhex(one["Msg"])).digest()
        signature = unhex(one["S"])[-mod // 8 :]

        valid = north.verify(
            _public(key), Algorithm(f"{kind}{bits}"), digest, signature
        )

        assert valid == (kind == "RS" and one["Result"].startswith("P"))
        outcomes.append(valid)
    assert len(outcomes) >= 30
    assert (True in outcomes) == (kind == "RS")


# --- ECDSA -----------------------------------------------------------------------

CURVES: dict[str, tuple[ec.EllipticCurve, str, Algorithm]] = {
    "P-256": (ec.SECP256R1(), "256", Algorithm.ES256),
    "P-384": (ec.SECP384R1(), "384", Algorithm.ES384),
    "P-521": (ec.SECP521R1(), "512", Algorithm.ES512),
}


@pytest.mark.parametrize("curve", CURVES)
def test_nist_ecdsa_signatures_are_valid_or_not(north: Partition, curve: str) -> None:
    known_curve, bits, algorithm = CURVES[curve]
    outcomes = []
    for one in vectors.records("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp"):
        if f"{curve},SHA-{bits}" not in one:
            continue
        x, y, r, s = (int(one[name], 16) for name in ("Qx", "Qy", "R", "S"))
        key = ec.EllipticCurvePublicNumbers(x, y, known_curve).public_key()
        size = (known_curve.key_size + 7) // 8
        digest = hashlib.new(f"sha{bits}", unhex(one["Msg"])).digest()

        valid = north.verify(
            _public(key), algorithm, digest, r.to_bytes(size) + s.to_bytes(size)
        )

        assert valid == one["Result"].startswith("P")
        outcomes.append(valid)
    assert len(outcomes) == 15
    assert {True, False} == set(outcomes)


def test_rfc_6979_signatures_verify(north: Partition) -> None:
    tried = []
    for curve, sha, public_key, message, signature, good in vectors.rfc6979():
        if curve not in CURVES or sha != f"SHA{CURVES[curve][1]}":
            continue
        known_curve, bits, algorithm = CURVES[curve]
        size = (known_curve.key_size + 7) // 8
        r, s = decode_dss_signature(signature)
        wrapped = WrappedKey("0" * 32, "north", "region/north", KWP, b"")
        material = Material("0" * 32, KeySpec.of("EC"), public_key, wrapped, b"")
        digest = hashlib.new(f"sha{bits}", message).digest()

        valid = north.verify(
            material, algorithm, digest, r.to_bytes(size) + s.to_bytes(size)
        )

        assert valid is good
        tried.append((curve, good))
    assert set(tried) >= {(curve, True) for curve in CURVES}
