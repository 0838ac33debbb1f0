"""What a token offers and what it enforces, in a table: `hsmvault partition probe`."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import PKCS11Error
from pkcs11.constants import Attribute, MechanismFlag
from pkcs11.mechanisms import KeyType as CkKeyType
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import enforcement, module, public
from hsmvault.hsm.attributes import mapper
from hsmvault.hsm.enforcement import Kwp, Profile
from hsmvault.hsm.mechanisms import OAEP
from hsmvault.hsm.opened import destroy
from hsmvault.hsm.templates import KWP_MECHANISM
from hsmvault.model.algorithms import Algorithm

NEEDED: Final[Mapping[Mechanism, str]] = MappingProxyType(
    {
        Mechanism.RSA_PKCS_KEY_PAIR_GEN: "RSA keys",
        Mechanism.RSA_PKCS: "RS256, RS384, RS512",
        Mechanism.RSA_PKCS_PSS: "PS256, PS384, PS512",
        Mechanism.RSA_PKCS_OAEP: "RSA-OAEP",
        Mechanism.RSA_X_509: "RSA1_5, and RSA-OAEP-256 where SHA-256 is missing",
        Mechanism.EC_KEY_PAIR_GEN: "EC keys",
        Mechanism.ECDSA: "ES256, ES256K, ES384, ES512",
        Mechanism.AES_KEY_GEN: "oct keys",
        Mechanism.AES_GCM: "A128GCM, A192GCM, A256GCM",
        Mechanism.AES_CBC: "A*CBC and A*CBCPAD",
        Mechanism.AES_KEY_WRAP: "A128KW, A192KW, A256KW",
        Mechanism.SHA256_HMAC: "HS256, and MACs of the store",
        Mechanism.GENERIC_SECRET_KEY_GEN: "oct keys for HS384 and HS512",
        Mechanism.SHA384_HMAC: "HS384",
        Mechanism.SHA512_HMAC: "HS512",
    }
)
"""What the vault asks of a token, and for which of its own algorithms."""

_KWP_NUMBERS: Final = (Mechanism.AES_KEY_WRAP_PAD, Mechanism.AES_KEY_WRAP_KWP)
_EDWARDS25519: Final = b"\x13\x0cedwards25519"
# CKA_EC_PARAMS as PKCS#11 3.0, 2.3.10, has it: the curve's name, a PrintableString.
_PLAINTEXT: Final = b"hsmvault/probe/v1"


@dataclass(frozen=True, slots=True)
class Row:
    """One finding."""

    what: str
    found: str
    good: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found in one token."""

    token: str
    """Label and serial."""
    model: str
    profile: Profile
    """What it enforces."""
    rows: tuple[Row, ...]


def probe(address: module.TokenAddress) -> Report:
    """Log in with the user PIN, once, and find out. Leaves nothing in the token."""
    token, _ = module.log_in(address)
    session = token.open(rw=True, attribute_mapper=mapper())
    try:
        held = enforcement.tried(session)
        rows = [Row(w, "refused" if h else "POSSIBLE", h) for w, h in held.items()]
        rows += _mechanisms(token)
        rows += _kwp(session)
        rows += _oaep(session)
        rows.append(_ed25519(session))
    finally:
        session.close()
    return Report(
        f"{token.label} ({token.serial.decode('ascii', 'replace')})",
        f"{token.manufacturer_id} {token.model}",
        enforcement.profile(held),
        tuple(rows),
    )


def _mechanisms(token: Any) -> list[Row]:
    offered = token.slot.get_mechanisms()
    return [
        Row(
            f"{mechanism.name} for {what}",
            "offered" if mechanism in offered else "MISSING",
            mechanism in offered,
        )
        for mechanism, what in NEEDED.items()
    ]


def _kwp(session: Any) -> list[Row]:
    meant = {hex(m): enforcement.kwp(session, m) for m in _KWP_NUMBERS}
    found = "; ".join(f"{n}: {k.value}" for n, k in meant.items() if k is not Kwp.OTHER)
    return [
        Row("AES-KWP, by which all keys are wrapped", found or "MISSING", bool(found))
    ]


def _oaep(session: Any) -> list[Row]:
    half, key = session.generate_keypair(
        CkKeyType.RSA,
        2048,
        capabilities=MechanismFlag.DECRYPT,
        private_template={Attribute.EXTRACTABLE: False},
    )
    numbers = public.load(
        public.of_rsa(half[Attribute.MODULUS], half[Attribute.PUBLIC_EXPONENT])
    )
    assert isinstance(numbers, rsa.RSAPublicKey)
    rows = []
    for algorithm in OAEP:
        native = _decrypts(key, numbers, algorithm)
        around = algorithm is Algorithm.RSA_OAEP_256
        found = "in the token" if native else "padding outside" if around else "MISSING"
        rows.append(Row(f"{algorithm} decryption", found, native or around))
    return rows


def _ed25519(session: Any) -> Row:
    """Say why there are no Ed25519 keys: what cannot be wrapped cannot be held."""
    what = "Ed25519 keys (RFC 8032), which the vault does not make"
    wrapping = None
    pair: tuple[Any, ...] = ()
    try:
        wrapping = session.generate_key(
            CkKeyType.AES, 256, capabilities=MechanismFlag.WRAP
        )
        pair = session.generate_keypair(
            CkKeyType.EC_EDWARDS,
            public_template={Attribute.EC_PARAMS: _EDWARDS25519},
            private_template={Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: True},
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        )
        wrapping.wrap_key(pair[1], mechanism=KWP_MECHANISM)
    except PKCS11Error as error:
        step = "wrapped" if pair else "made"
        return Row(what, f"cannot be {step} ({type(error).__name__})", good=True)
    finally:
        for made in (wrapping, *pair):
            if made is not None:
                destroy(made)
    return Row(what, "made and wrapped", good=True)


def _decrypts(key: Any, half: rsa.RSAPublicKey, algorithm: Algorithm) -> bool:
    how = OAEP[algorithm]
    try:
        plaintext: bytes = key.decrypt(
            public.encrypt(half, how.known, _PLAINTEXT),
            mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=how.parameter,
        )
    except PKCS11Error:
        return False
    return plaintext == _PLAINTEXT
