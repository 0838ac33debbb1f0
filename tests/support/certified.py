"""Client certificates that the vault's own authority would not issue."""

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from hsmvault.regions.certificates import Authority, Certified


def certified(directory: Path, name: str, *extensions: x509.ExtensionType) -> Certified:
    """Have the CA of `directory` certify whatever is asked for."""
    now = datetime.datetime.now(datetime.UTC)
    (keys,) = directory.glob("ca-*/ca.key")
    authority: Any = load_pem_private_key(keys.read_bytes(), None)
    ca = x509.load_pem_x509_certificate(keys.with_suffix(".pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(minutes=50))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Certified(
        builder.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def nameless(ca: Authority) -> Certified:
    """A certificate of the vault's CA that names nobody."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca._certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(minutes=5))
        .sign(ca._key, hashes.SHA256())
    )
    return Certified(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
