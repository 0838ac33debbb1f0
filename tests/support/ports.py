"""Ports for regions that are served later than they are made.

Whichever is free when a region is made may be another's when it is served: of a region
that was made meanwhile, and not served either. So none is given out twice in a run, and
one after another, so that two runs on a machine rarely give out the same.
"""

import itertools
import secrets
import socket
from typing import Final

from hsmvault.regions.layout import PARTITIONS
from hsmvault.regions.listening import Ports

_FIRST: Final = 15_000
_COUNT: Final = 17_000
"""Below those that Linux gives to outgoing connections."""
_NUMBERS: Final = itertools.count(secrets.randbelow(_COUNT))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody was given."""
    while True:
        port = _FIRST + next(_NUMBERS) % _COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def region_ports() -> Ports:
    """As many as a region has, those for callers with tokens included."""
    public, private, shared = (free_port() for _ in range(3))
    partitions, tokens = (
        tuple(free_port() for _ in PARTITIONS) for _ in ("callers", "tokens")
    )
    return Ports(public, private, partitions, (shared, *tokens))
