"""Certificates of the public listeners: read again when their files change.

gRPC asks for each new connection. What is half written, does not belong together, or
has expired is not taken: the former certificate serves on, and an event says why.
Connections that are open go on as they began.
"""

import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.files import require_private
from hsmvault.regions.layout import Layout
from hsmvault.telemetry import Event, report

_DAY: Final = datetime.timedelta(days=1)
_SOON: Final = 14 * _DAY
"""Long enough to have one issued after a holiday."""

_Stamp = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Material:
    """What a listener shows, and whom it believes; it belongs together."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes
    serial: int
    not_after: datetime.datetime

    def configuration(self, *, callers: bool) -> grpc.ServerCertificateConfiguration:
        """For gRPC: with the CA of `callers`, where they are to show certificates."""
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca if callers else None,
        )


class ListenerTls:
    """The certificate of a region's listeners, as its files have it now."""

    def __init__(self, layout: Layout) -> None:
        """Read the files, or raise ConfigurationError saying what is wrong."""
        self._files = (layout.server_certificate, layout.server_key, layout.client_ca)
        self._lock = threading.Lock()
        self._told = ""
        self._warned = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        try:
            self._stamp = _stamp(self._files)
            self._material = _read(*self._files)
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {error.filename}: {error.strerror}; server.pem, "
                "server.key and ca.pem must be there"
            ) from error

    def current(self) -> Material:
        """Return what new connections get: what the files hold, if it can be used."""
        with self._lock:
            self._warn()
            try:
                stamp = _stamp(self._files)
                if stamp == self._stamp:
                    return self._material
                fresh = _read(*self._files)
                if _stamp(self._files) != stamp:
                    # Being written this moment: the next connection looks again.
                    return self._material
            except (OSError, ConfigurationError) as error:
                self._keep(error)
                return self._material
            self._stamp = stamp
            if fresh != self._material:
                report(
                    Event.CERTIFICATE_CHANGED,
                    serial=f"{fresh.serial:x}",
                    expires=fresh.not_after.isoformat(),
                )
            self._material, self._told = fresh, ""
            return fresh

    def _warn(self) -> None:
        """Say, once a day, that the certificate ends soon."""
        now = datetime.datetime.now(datetime.UTC)
        soon = self._material.not_after - now < _SOON
        if soon and now - self._warned >= _DAY:
            self._warned = now
            report(
                Event.CERTIFICATE_EXPIRES,
                serial=f"{self._material.serial:x}",
                expires=self._material.not_after.isoformat(),
            )

    def _keep(self, error: Exception) -> None:
        # Once, and not for each connection; the files may be mended any moment.
        problem = str(error)
        if problem != self._told:
            report(
                Event.CERTIFICATE_KEPT,
                problem=problem,
                serial=f"{self._material.serial:x}",
            )
        self._told = problem

    def credentials(self, *, callers: bool) -> grpc.ServerCredentials:
        """Return a server's credentials: `callers` must show a certificate, or not.

        Without, nobody is asked for one.
        """
        given = self.current()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            # Called by gRPC for every new connection; None: as before.
            found = self.current()
            if found is given:
                return None
            given = found
            return found.configuration(callers=callers)

        fetch: Callable[[], grpc.ServerCertificateConfiguration] = renewed  # type: ignore[assignment]  # None is lawful
        return grpc.dynamic_ssl_server_credentials(
            given.configuration(callers=callers),
            fetch,
            require_client_authentication=callers,
        )


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    """Return what changes whenever one of the files does."""
    found = (path.stat() for path in files)
    return tuple((s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size) for s in found)


def _read(certificate: Path, key: Path, client_ca: Path) -> Material:
    require_private(key)
    shown, secret, roots = (f.read_bytes() for f in (certificate, key, client_ca))
    try:
        first = x509.load_pem_x509_certificates(shown)[0]
        private = load_pem_private_key(secret, None)
        x509.load_pem_x509_certificates(roots)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"one of {certificate}, {key.name} and {client_ca.name} is not whole, or "
            "not in PEM; write each beside it and rename it"
        ) from error
    if first.public_key() != private.public_key():
        raise ConfigurationError(
            f"{key} is not the key of {certificate}; both belong together"
        )
    if first.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        raise ConfigurationError(
            f"{certificate} expired on {first.not_valid_after_utc.isoformat()}; have "
            "a new one issued"
        )
    return Material(
        shown, secret, roots, first.serial_number, first.not_valid_after_utc
    )
