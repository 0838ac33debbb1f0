"""Whom this region believes: by its own log, and before it has one by the joined card.

Both ends of a link are pinned: a region's private certificate certifies itself, and
only the certificates in the log's region records are roots. Being linked gives no
authority; the state of the region's record decides what a peer may ask.
"""

import ssl
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import grpc

from hsmvault.model.errors import (
    AccessDenied,
    PrimaryUnknown,
    Unauthenticated,
    VaultError,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Kind
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.card import Card
from hsmvault.regions.registry import Registry

LINKABLE: Final = frozenset(
    {
        RegionState.PREPROVISIONING,
        RegionState.AWAITING_CEREMONY,
        RegionState.PROVISIONING,
        RegionState.SUCCEEDED,
        # Until it is purged it takes the order, and what it still lacks.
        RegionState.DELETING,
    }
)
"""A region in one of these states may hold a link."""

KEEPALIVE: Final = (
    # A peer that stopped answering (a black hole) is noticed within two seconds.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A batch is cut at about 1 MiB, but one entry may be larger than that."""

_SIZES: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this region is towards others."""

    card: Card
    """The region's own card."""
    vault_id: str
    certificate: bytes
    """PEM of the private certificate."""
    key: bytes = field(repr=False)
    """PEM of its key."""
    joined: Card | None = None
    """The card of the primary that an extended region was made to follow."""

    @property
    def region(self) -> str:
        """The region's bare id."""
        return self.card.region


class Trust:
    """The peers of one region, as of now."""

    def __init__(self, identity: Identity, registry: Registry) -> None:
        self.identity = identity
        self._registry = registry
        self._lock = threading.Lock()
        self._roots_index = -1

    def primary(self) -> RegionRecord:
        """The region whose log this one follows, or PrimaryUnknown."""
        known = self._registry.primary()
        if known is not None:
            return known
        joined = self.identity.joined
        if joined is None:
            raise PrimaryUnknown(
                "region {region} has neither a log nor a primary's card; set [join] "
                "card in its region.toml",
                region=self.identity.region,
            )
        return joined.record(state=RegionState.SUCCEEDED, primary=True, time_ms=0)

    def record(self, region: str) -> RegionRecord | None:
        """What this region knows of another by itself; never by a peer's word."""
        known = self._registry.find(region)
        joined = self.identity.joined
        if known is None and joined is not None and joined.region == region:
            return self.primary()
        return known

    def peer(self, certificate: str) -> RegionRecord:
        """Identify the region that presented this certificate (PEM)."""
        shown = _der(certificate)
        for record in self._registry.records().values():
            if _der(record.certificate) == shown:
                if record.state not in LINKABLE or record.primary:
                    raise AccessDenied(
                        "regions/{region} is {state}; it may not link",
                        region=record.id,
                        state=record.state,
                    )
                return record
        raise Unauthenticated("no region of this vault has this certificate")

    def endpoints(self) -> list[str]:
        """Where to dial the primary: by the log, and by the joined card."""
        known = [self.primary().private_endpoint]
        joined = self.identity.joined
        if joined is not None and joined.region == self.primary().id:
            known.append(joined.private_endpoint)
        return list(dict.fromkeys(known))

    def client_credentials(self) -> grpc.ChannelCredentials:
        """Show our certificate, and accept the primary's alone."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.primary().certificate.encode(),
            private_key=self.identity.key,
            certificate_chain=self.identity.certificate,
        )

    def client_options(self) -> list[tuple[str, str | int]]:
        """Options of a channel to the primary, whatever address it has."""
        host = f"{self.primary().id}.hsmvault.internal"
        return [
            *KEEPALIVE,
            *_SIZES,
            ("grpc.ssl_target_name_override", host),
            # Each attempt makes its own connection, with the trust of that moment.
            ("grpc.use_local_subchannel_pool", 1),
        ]

    def server_credentials(self) -> grpc.ServerCredentials:
        """Demand a peer's certificate, by the log as it is when a peer connects."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(self.identity.certificate),
            self._renewed,  # type: ignore[arg-type]  # None is lawful: as before
            require_client_authentication=True,
        )

    def trust_changed(self) -> None:
        """Take the certificates from the log again at the next connection."""
        with self._lock:
            self._roots_index = -1

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        # Called by gRPC for every new connection; None: as before.
        try:
            with self._lock:
                index = self._registry.store.last_index([Kind.REGION])
                if index == self._roots_index:
                    return None
                records = self._registry.records().values()
                peers = [
                    r.certificate
                    for r in records
                    if r.state in LINKABLE and not r.primary
                ]
                self._roots_index = index
        except VaultError:
            # Without its partitions a region cannot check whom its log names.
            return None
        # gRPC wants a root; nobody else has the key to our own certificate.
        roots = [self.identity.certificate.decode(), *peers]
        return self._configuration("\n".join(roots).encode())

    def _configuration(self, roots: bytes) -> grpc.ServerCertificateConfiguration:
        identity = self.identity
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], root_certificates=roots
        )


def server_options() -> list[tuple[str, int]]:
    """Options of the private listener."""
    return [
        *KEEPALIVE,
        *_SIZES,
        # A second listener on the port would take half of the links, silently.
        ("grpc.so_reuseport", 0),
        # Peers ping every second, also while no call is open.
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 0),
    ]


@lru_cache(maxsize=64)
def _der(pem: str) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError:
        return b""
