"""The ports of a region: given, or whichever are free."""

import errno
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.layout import PARTITIONS

_FREE_PORTS: Final = range(15_000, 32_000)
"""Below those that Linux gives to outgoing connections, which would take them."""
_PORT_TRIES: Final = 200


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a region."""

    public: int
    private: int
    partitions: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    """For callers with tokens: a shared one, then one of each partition; or none."""


def address(host: str, port: int) -> str:
    """Return host:port as gRPC wants it, with IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def free_ports(host: str) -> Ports:
    """Find ports that nobody listens on now. Somebody else may take them meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found: list[int] = []
    with ExitStack() as stack:
        for _ in range(_PORT_TRIES):
            probe = stack.enter_context(socket.socket(family))
            try:
                # Held until all are found, so that they differ.
                probe.bind((host, secrets.choice(_FREE_PORTS)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise ConfigurationError(
                        f"cannot listen on {host}: {error.strerror}; name an address "
                        "of this machine"
                    ) from error
                continue
            found.append(int(probe.getsockname()[1]))
            if len(found) == 3 + 2 * len(PARTITIONS):
                tokens = 2 + len(PARTITIONS)
                return Ports(
                    found[0], found[1], tuple(found[2:tokens]), tuple(found[tokens:])
                )
    raise ConfigurationError("found no free ports; name them")
