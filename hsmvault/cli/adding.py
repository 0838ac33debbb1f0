"""Adding and removing a region: what an administrator sends, and what is watched."""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf.timestamp_pb2 import Timestamp

from hsmvault.client.connect import Vault
from hsmvault.model.errors import ConfigurationError, InvalidRequest
from hsmvault.model.orders import removal_statement
from hsmvault.regions.card import Card
from hsmvault.regions.layout import Layout
from hsmvault.v1.region_service_pb2 import RemoveRegionRequest
from hsmvault.v1.resources_pb2 import Partition, Region

Authorization = RemoveRegionRequest.Authorization

ADDING_SECONDS = 600.0
"""Existing keys are sealed and sent meanwhile; a ceremony may need people."""

Watching = Callable[[Region, int], None]
"""Told where the region stands, and its percentage."""


def read_card(path: Path) -> Card:
    """Read a region's card, from the file or from the region's directory."""
    file = Layout(path).card if path.is_dir() else path
    try:
        return Card.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the card {file}: {error.strerror}; `hsmvault region init` "
            "writes card.json into the region's directory"
        ) from error


def described(card: Card) -> Region:
    """Return what AddRegion takes."""
    shared, *own = card.token_endpoints or ("",) * (1 + len(card.partitions))
    return Region(
        name=f"regions/{card.region}",
        zone=card.zone,
        endpoint=card.endpoint,
        private_endpoint=card.private_endpoint,
        certificate=card.certificate,
        token_endpoint=shared,
        partitions=[
            Partition(
                name=p.name,
                endpoint=p.endpoint,
                identity=p.identity,
                token_endpoint=token,
            )
            for p, token in zip(card.partitions, own, strict=True)
        ],
    )


def add(
    vault: Vault,
    card: Card,
    *,
    fingerprint: str,
    watching: Watching,
    seconds: float = ADDING_SECONDS,
) -> Region:
    """Add a region and wait until it has everything. Returns it as it then is."""
    region = vault.regions.add(described(card), fingerprint)
    for shown, percent in vault.regions.watch(card.region, seconds=seconds):
        region = shown
        watching(shown, percent)
    # Calls may go there from now on.
    vault.refresh()
    return region


def remove(
    vault: Vault,
    name: str,
    *,
    certificate: Path,
    key: Path,
    force: bool,
    watching: Watching,
    seconds: float = ADDING_SECONDS,
) -> Region:
    """Remove a region and wait until it is purged. Returns it as it then is."""
    vault_id = vault.regions.topology().vault_id
    order = authorization(vault_id, name, certificate=certificate, key=key)
    region = vault.regions.remove(name, order, force=force)
    for shown, percent in vault.regions.watch(name, seconds=seconds):
        region = shown
        watching(shown, percent)
    vault.refresh()
    return region


def authorization(
    vault_id: str, name: str, *, certificate: Path, key: Path
) -> Authorization:
    """Sign the order to remove a region with the caller's own key."""
    time_ms = time.time_ns() // 1_000_000
    statement = removal_statement(vault_id, name.removeprefix("regions/"), time_ms)
    when = Timestamp()
    when.FromMilliseconds(time_ms)
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"removing a region is signed with your own key, and {key} with "
            f"{certificate} cannot be used for it: {error}"
        ) from error
    if private.public_key() != shown.public_key():
        raise ConfigurationError(f"{key} is not the key of {certificate}")
    if isinstance(private, ec.EllipticCurvePrivateKey):
        signature = private.sign(statement, ec.ECDSA(hashes.SHA256()))
    elif isinstance(private, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
        signature = private.sign(statement, pss, hashes.SHA256())
    else:
        raise InvalidRequest("removing a region takes an EC or RSA certificate")
    return Authorization(
        time=when, certificate=certificate.read_text(), signature=signature
    )
