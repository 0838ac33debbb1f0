"""Unix sockets between the processes of one region."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc

from hsmvault.model.errors import ConfigurationError

MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A batch of 100 wrapped keys, each at most 8 KiB, with room to spare."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A process that was restarted is found again quickly.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    # A proxy of the environment has no business here.
    ("grpc.enable_http_proxy", 0),
    # Each channel its own connection: they are closed on their own, too.
    ("grpc.use_local_subchannel_pool", 1),
)


def dial(path: Path) -> grpc.Channel:
    """Return a channel to another process of the region; it connects when used."""
    return grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)


def listen(path: Path, *, threads: int) -> grpc.Server:
    """Return a server on a socket that only this user can open; not yet started."""
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix=path.stem), options=_OPTIONS
    )
    # What an earlier process left behind; nobody listens on it.
    path.unlink(missing_ok=True)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {path}; the region's directory must be on a local file "
            "system, and writable"
        ) from error
    path.chmod(0o600)
    return server
