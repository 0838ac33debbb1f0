"""Checking what identity keys and administrators have signed."""

from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmvault.model.vault_records import RegionRecord

_RAW: Final = 64
"""An ECDSA P-256 signature as r‖s."""


def signed_by(
    region: RegionRecord, *, partition: str, statement: bytes, signature: bytes
) -> bool:
    """Tell whether that partition's identity key signed the statement."""
    identity = next(
        (p.identity for p in region.partitions if p.name == partition), None
    )
    key = _identity(identity) if identity else None
    if key is None or len(signature) != _RAW:
        return False
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        key.verify(encode_dss_signature(r, s), statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def signed_by_certificate(
    certificate: x509.Certificate, *, statement: bytes, signature: bytes
) -> bool:
    """Tell whether the certificate's key signed: ECDSA or RSA-PSS, with SHA-256."""
    key = certificate.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
            return True
        if isinstance(key, rsa.RSAPublicKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
            key.verify(signature, statement, pss, hashes.SHA256())
            return True
    except InvalidSignature:
        return False
    return False


@lru_cache(maxsize=64)
def _identity(spki: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        key = load_der_public_key(spki)
    except ValueError:
        return None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    return key if isinstance(key.curve, ec.SECP256R1) else None
