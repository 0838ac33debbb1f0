"""Who we are, whom we trust, and how a channel is kept from hanging on the dead."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

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


Token = Path | str | Callable[[], str]
"""A file that holds a token, or what returns one; asked for each call."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client certificate with its key, or a token; and the CA of the servers."""

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes
    token: Callable[[], str] | None = field(default=None, repr=False)
    sources: tuple[Source, ...] = field(default=(), repr=False)
    """Where certificate, key and CA came from."""

    @classmethod
    def load(
        cls,
        *,
        ca: Source,
        certificate: Source | None = None,
        key: Source | None = None,
        token: Token | None = None,
    ) -> Self:
        """Read them; raise ConfigurationError naming the one that is missing.

        An expired certificate is refused here, by its date, because a failed handshake
        would only say that the connection was closed.
        """
        if token is not None:
            if certificate is not None or key is not None:
                raise ConfigurationError(
                    "a certificate and a token were given, and a caller is one of "
                    "both; leave one out"
                )
            given = token if callable(token) else TokenFile(token)
            return cls(b"", b"", _read(ca, "ca"), given, (ca,))
        if certificate is None or key is None:
            raise ConfigurationError("give certificate and key, or a token")
        loaded = cls(
            _read(certificate, "certificate"),
            _read(key, "key"),
            _read(ca, "ca"),
            sources=(certificate, key, ca),
        )
        loaded.require_valid(dt.datetime.now(dt.UTC))
        return loaded

    def renewed(self) -> Self:
        """Return what the files hold now; these, if that is nothing to connect by.

        So a certificate that was issued again comes into use without a restart.
        """
        names = ("certificate", "key", "ca") if self.certificate else ("ca",)
        try:
            found: dict[str, Any] = {
                name: _read(source, name)
                for name, source in zip(names, self.sources, strict=True)
            }
            fresh = dataclasses.replace(self, **found)
            if fresh == self:
                return self
            if fresh.certificate:
                fresh.require_valid(dt.datetime.now(dt.UTC))
                fresh.require_matching()
        except (ConfigurationError, CertificateRefused):
            # Half written, perhaps: looked at again soon.
            return self
        return fresh

    def require_matching(self) -> None:
        """Raise ConfigurationError unless the key is the certificate's."""
        try:
            key = load_pem_private_key(self.key, None)
            shown = x509.load_pem_x509_certificate(self.certificate)
        except (ValueError, TypeError) as error:
            raise ConfigurationError("the client's key is not in PEM") from error
        if key.public_key() != shown.public_key():
            raise ConfigurationError("the key is not that of the client certificate")

    def authorization(self) -> tuple[tuple[str, str], ...]:
        """Return what a call shows beside the connection: the token, if it is one."""
        if self.token is None:
            return ()
        return (("authorization", f"Bearer {self.token()}"),)

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
                private_key=self.key or None,
                certificate_chain=self.certificate or None,
            ),
            options=OPTIONS,
        )


class TokenFile:
    """A file that holds a token, and is written anew before that expires.

    Read again whenever it changed, as workloads in Kubernetes get theirs.
    """

    def __init__(self, path: Path | str) -> None:
        """Read nothing yet."""
        self._path = Path(path).expanduser()
        self._known = (0, 0, "")

    def __call__(self) -> str:
        """Return the token that is in the file now, or raise ConfigurationError."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._known[:2]:
                text = self._path.read_text(encoding="ascii").strip()
                self._known = (*stamp, text)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"cannot read a token from {self._path}: it must be a file with a JWT "
                "and nothing else"
            ) from error
        if not self._known[2]:
            raise ConfigurationError(f"{self._path} is empty; it must hold a token")
        return self._known[2]


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
