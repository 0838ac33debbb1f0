"""Ports: found free, or named in an error; and the shared ones, reserved.

With SO_REUSEPORT, two programs of one user can listen on one port without noticing, and
each gets some of the calls. So the port is first probed without it, and then kept by a
socket that never listens, for as long as the supervisor lives.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from hsmvault.config import RegionConfig
from hsmvault.model.errors import ConfigurationError

_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.1


class PortInUse(ConfigurationError):
    """Somebody else listens there."""


def require_free(settings: RegionConfig) -> None:
    """Raise PortInUse, naming the port and its setting, if one of ours is taken.

    Processes of a supervisor that was just killed may take a moment to end.
    """
    for _ in range(_TRIES - 1):
        try:
            _require_free(settings)
        except PortInUse:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    _require_free(settings)


def _require_free(settings: RegionConfig) -> None:
    listen = settings.listen
    _probe(settings, listen.port, "port")
    for port in listen.partition_ports:
        _probe(settings, port, "partition_ports")
    for port in listen.token_ports if settings.issuers else ():
        _probe(settings, port, "token_ports")
    _probe(settings, listen.private_port, "private_port")
    metrics = settings.telemetry.listener()
    if metrics is not None:
        _probe(settings, metrics[1], "metrics", host=metrics[0])


@contextmanager
def reserved(settings: RegionConfig) -> Iterator[None]:
    """Keep the shared ports. Whoever listens there must be of this user, as we are."""
    listen = settings.listen
    with ExitStack() as kept:
        kept.enter_context(_bound(settings, listen.port, "port"))
        if settings.issuers:
            shared = listen.token_ports[0]
            kept.enter_context(_bound(settings, shared, "token_ports"))
        yield


def _bound(settings: RegionConfig, port: int, setting: str) -> socket.socket:
    kept = _socket(settings.listen.host)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        kept.bind((settings.listen.host, port))
    except OSError as error:
        kept.close()
        raise _failed(settings, port, setting, error) from error
    return kept


def _probe(settings: RegionConfig, port: int, setting: str, *, host: str = "") -> None:
    host = host or settings.listen.host
    with _socket(host) as probe:
        # Connections that our predecessor left in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # Two that are bound with SO_REUSEADDR conflict only when both listen.
            probe.listen(1)
        except OSError as error:
            raise _failed(settings, port, setting, error, host=host) from error


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def _failed(
    settings: RegionConfig, port: int, setting: str, error: OSError, *, host: str = ""
) -> ConfigurationError:
    host = host or settings.listen.host
    where = f"{host}:{port}"
    section = "telemetry" if setting == "metrics" else "listen"
    change = f"`{setting}` under [{section}] in {settings.layout.config}"
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{where} is in use by another program; end that one, or change {change}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(
            f"{host} is no address of this machine; change "
            f"`{setting if section == 'telemetry' else 'host'}` under [{section}] in "
            f"{settings.layout.config}"
        )
    return ConfigurationError(f"cannot listen on {where}: {error.strerror}; {change}")
