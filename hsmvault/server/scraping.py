"""The listener for Prometheus: one per region, and nothing on it but GET /metrics.

On a loopback address it is plain HTTP: whoever reaches it is on this machine, and it
tells no name and no secret. On any other address it is mTLS, and wants a certificate of
the vault's CA, as the public port does.
"""

import ipaddress
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from hsmvault.api.pools import BoundedPool
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.files import require_private
from hsmvault.regions.layout import Layout
from hsmvault.regions.listening import address
from hsmvault.server.exposition import CONTENT_TYPE
from hsmvault.telemetry import Event, report

PATH: Final = "/metrics"
_THREADS: Final = 4
_PENDING_MAX: Final = 16
_SECONDS: Final = 5.0
"""For a client to go on with what it says, or hears."""
_POLL_SECONDS: Final = 0.1


class Scraping:
    """The listener. `text` makes what is answered, anew for each request."""

    def __init__(
        self, host: str, port: int, layout: Layout, text: Callable[[], bytes]
    ) -> None:
        """Bind, or raise ConfigurationError; nothing is answered yet."""
        tls = None if ipaddress.ip_address(host).is_loopback else _mutual(layout)
        try:
            self._server = _Server(host, port, tls, text)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {address(host, port)}: {error.strerror}; change "
                f"`metrics` under [telemetry] in {layout.config}"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_POLL_SECONDS,),
            name="scraping",
            daemon=True,
        )

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._server.pool.shutdown(cancel_futures=True)


def _mutual(layout: Layout) -> ssl.SSLContext:
    """TLS with the public listener's certificate, for callers of the vault alone."""
    require_private(layout.server_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(layout.server_certificate, layout.server_key)
    context.load_verify_locations(layout.client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Server(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = _PENDING_MAX

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        text: Callable[[], bytes],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.text = text
        self.pool = BoundedPool(_THREADS, name="scraping", pending_max=_PENDING_MAX)
        self._tls = tls
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.pool.full:
            self.shutdown_request(request)
            return
        self.pool.submit(self._answer, request, client_address).add_done_callback(_tell)

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        request.settimeout(_SECONDS)
        try:
            if self._tls is not None:
                # Here: a handshake must not keep others from being accepted.
                request = self._tls.wrap_socket(request, server_side=True)
            self.finish_request(request, client_address)
        except OSError:
            # Whoever asked went away, or has no certificate: its own affair.
            return
        finally:
            self.shutdown_request(request)


def _tell(ended: Future[None]) -> None:
    error = None if ended.cancelled() else ended.exception()
    if error is not None:
        report(Event.JOB_FAILED, error, job="metrics")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "hsmvault"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer what is measured; nothing else is here."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        text = self.server.text()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing: a line per scrape is no event."""
