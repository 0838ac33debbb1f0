"""Who we are, whom we trust, and how a channel is kept from hanging on the dead."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import grpc
from cryptography import x509

from hsmvault.client.errors import CertificateRefused
from hsmvault.model.errors import ConfigurationError

Source = Path | str | bytes
"""A PEM file's path, or its contents as bytes."""

OPTIONS: Final[Sequence[tuple[str, int | str]]] = (
    # We retry ourselves: only what is safe, and on another partition.
    ("grpc.enable_retries", 0),
    # A sub-channel shared with another client of this process shares its backoff too.
    ("grpc.use_local_subchannel_pool", 1),
    # A partition that is stopped, or cut off, looks alive to TCP for minutes. A ping
    # after 0.3 s of silence, answered within 0.35 s, finds it in less than a second;
    # without the ping timeout each call would cost its whole deadline.
    ("grpc.keepalive_time_ms", 300),
    ("grpc.keepalive_timeout_ms", 350),
    ("grpc.http2.ping_timeout_ms", 350),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the time that one connection attempt gets: a TLS handshake on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 1500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Unlike pick_first it reconnects by itself, so that we hear of a return.
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client certificate with its key, and the CA that servers must be from."""

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes

    @classmethod
    def load(cls, *, certificate: Source, key: Source, ca: Source) -> Self:
        """Read the three; raise ConfigurationError naming the one that is missing.

        An expired certificate is refused here, by its date, because a failed handshake
        would only say that the connection was closed.
        """
        loaded = cls(
            _read(certificate, "certificate"), _read(key, "key"), _read(ca, "ca")
        )
        loaded.require_valid(dt.datetime.now(dt.UTC))
        return loaded

    def require_valid(self, now: dt.datetime) -> None:
        """Raise CertificateRefused unless the certificate is one, and of today."""
        try:
            shown = x509.load_pem_x509_certificate(self.certificate)
        except ValueError as error:
            raise ConfigurationError(
                "the client certificate is not in PEM; `hsmvault caller add` issues one"
            ) from error
        if now >= shown.not_valid_after_utc:
            raise CertificateRefused(
                "the client certificate expired on {date}; have a new one issued: "
                "hsmvault caller add",
                date=shown.not_valid_after_utc.isoformat(),
            )
        if now < shown.not_valid_before_utc:
            raise CertificateRefused(
                "the client certificate is valid only from {date}; is the clock right?",
                date=shown.not_valid_before_utc.isoformat(),
            )

    def channel(self, address: str) -> grpc.Channel:
        """Make a channel to one address. It connects on its own, and again."""
        return grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                root_certificates=self.ca,
                private_key=self.key,
                certificate_chain=self.certificate,
            ),
            options=OPTIONS,
        )


def _read(source: Source, what: str) -> bytes:
    if isinstance(source, bytes):
        return source
    path = Path(source).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the client's {what} {path}: {error.strerror}; "
            "`hsmvault caller add` writes certificate, key and CA side by side"
        ) from error
