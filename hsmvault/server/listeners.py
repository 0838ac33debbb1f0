"""The public listeners of a partition server: the region's port, and its own.

Two servers with the same handlers and threads, because leaving the shared port must not
end the own one. mTLS on both: a caller without a certificate gets no connection.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from hsmvault.api.services import Services
from hsmvault.config import RegionConfig
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.files import require_private
from hsmvault.regions.listening import address

DRAIN_SECONDS: Final = 5.0
_OPTIONS: Final = (
    # Callers that vanished are noticed, so that their connections do not pile up.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class Listeners:
    """Both public listeners of one partition server."""

    def __init__(
        self,
        settings: RegionConfig,
        partition: str,
        public: Services,
    ) -> None:
        """Bind both ports, or raise ConfigurationError; nothing is served yet."""
        self._pool = ThreadPoolExecutor(
            settings.limits.serving_threads, thread_name_prefix="serving"
        )
        credentials = _credentials(settings)
        host = settings.listen.host
        self._own, self._shared = (
            _bound(
                settings,
                public,
                self._pool,
                address=address(host, port),
                credentials=credentials,
                shared=shared,
            )
            for port, shared in (
                (settings.own_port(partition), False),
                (settings.listen.port, True),
            )
        )

    def start(self) -> None:
        """Serve on both."""
        self._own.start()
        self._shared.start()

    def stop(self, *, grace: float = DRAIN_SECONDS) -> None:
        """Take no more calls, and finish those in flight within `grace` seconds."""
        ending = [self._shared.stop(grace), self._own.stop(grace)]
        for done in ending:
            done.wait(grace + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _bound(
    settings: RegionConfig,
    public: Services,
    pool: ThreadPoolExecutor,
    *,
    address: str,
    credentials: grpc.ServerCredentials,
    shared: bool,
) -> grpc.Server:
    server = grpc.server(
        pool,
        options=[*public.options, ("grpc.so_reuseport", int(shared)), *_OPTIONS],
        maximum_concurrent_rpcs=settings.limits.concurrent_calls,
    )
    public.add_to(server)
    try:
        server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {address}: it is in use by another program; end that "
            f"one, or change [listen] in {settings.layout.config}"
        ) from error
    return server


def _credentials(settings: RegionConfig) -> grpc.ServerCredentials:
    layout = settings.layout
    require_private(layout.server_key)
    try:
        return grpc.ssl_server_credentials(
            [(layout.server_key.read_bytes(), layout.server_certificate.read_bytes())],
            root_certificates=layout.client_ca.read_bytes(),
            require_client_auth=True,
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {error.filename}: {error.strerror}; server.pem, server.key "
            "and ca.pem must be there"
        ) from error
