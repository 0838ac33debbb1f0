"""The public listeners of a partition server: the region's port, and its own.

Servers with the same handlers and threads, because leaving the shared port must not end
the own one. mTLS on both: a caller without a certificate gets no connection. Where the
region believes issuers of tokens there are two more, which ask for no certificate: gRPC
in Python can demand one or not ask at all, and nothing in between.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from hsmvault.api.services import Services
from hsmvault.config import RegionConfig
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.listening import address
from hsmvault.server.tls import ListenerTls

DRAIN_SECONDS: Final = 5.0
_OPTIONS: Final = (
    # Callers that vanished are noticed, so that their connections do not pile up.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Whoever connects says at once who they are: 120 s by default.
    ("grpc.server_handshake_timeout_ms", 10_000),
)
_IDLE_MS: Final = 300_000
"""How long somebody without a certificate may hold a connection and call nothing."""


class Listeners:
    """The public listeners of one partition server."""

    def __init__(
        self,
        settings: RegionConfig,
        partition: str,
        public: Services,
    ) -> None:
        """Bind the ports, or raise ConfigurationError; nothing is served yet."""
        self._pool = ThreadPoolExecutor(
            settings.limits.serving_threads, thread_name_prefix="serving"
        )
        tls = ListenerTls(settings.layout)
        ports = [
            (settings.listen.port, True, True),
            (settings.own_port(partition), False, True),
        ]
        tokens = settings.token_ports(partition)
        if tokens is not None:
            ports += [(tokens[0], True, False), (tokens[1], False, False)]
        self._servers = [
            _bound(
                settings,
                public,
                self._pool,
                address=address(settings.listen.host, port),
                # Its own: each remembers what it was given last.
                credentials=tls.credentials(callers=callers),
                options=[
                    ("grpc.so_reuseport", int(shared)),
                    *([] if callers else _for_anybody(settings)),
                ],
            )
            for port, shared, callers in ports
        ]

    def start(self) -> None:
        """Serve on all of them; on those that are shared last."""
        for server in reversed(self._servers):
            server.start()

    def stop(self, *, grace: float = DRAIN_SECONDS) -> None:
        """Take no more calls, and finish those in flight within `grace` seconds."""
        for done in [server.stop(grace) for server in self._servers]:
            done.wait(grace + 1)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _for_anybody(settings: RegionConfig) -> list[tuple[str, int]]:
    """Bound what those can hold who have shown nothing yet."""
    return [
        (
            "grpc.max_allowed_incoming_connections",
            settings.limits.token_connections,
        ),
        ("grpc.max_connection_idle_ms", _IDLE_MS),
    ]


def _bound(
    settings: RegionConfig,
    public: Services,
    pool: ThreadPoolExecutor,
    *,
    address: str,
    credentials: grpc.ServerCredentials,
    options: Sequence[tuple[str, int]],
) -> grpc.Server:
    server = grpc.server(
        pool,
        options=[*public.options, *options, *_OPTIONS],
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
