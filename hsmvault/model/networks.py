"""Which networks callers may come from: CIDR blocks (RFC 4632, RFC 4291).

Blocks are kept as text in the one form that names each (`10.0.0.0/8`, never
`10.1.2.3/8`), so that two settings that look alike are alike. An IPv4 address that
arrives inside an IPv6 one (`::ffff:10.0.0.1`, RFC 4291, 2.5.5.2) is the IPv4 address.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from hsmvault.model.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NETWORKS_MAX: Final = 64
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_DECIDED_MAX: Final = 4096


def parse_network(text: str) -> Network:
    """Read a CIDR block, or raise InvalidRequest saying how it is to be written."""
    try:
        # A zone (`%eth0`) means something on one machine only.
        network = ipaddress.ip_network("" if "%" in text else text)
    except ValueError as error:
        raise InvalidRequest(
            "{given!r} is not a network; write one as 10.0.0.0/8 or 2001:db8::/32, "
            "without bits beyond its length",
            given=text[:64],
        ) from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        raise InvalidRequest(
            "{given!r} is of IPv4 addresses inside IPv6 ones, which count as IPv4 "
            "here; write it as an IPv4 network",
            given=text[:64],
        )
    if str(network) != text:
        raise InvalidRequest(
            "write the network {given!r} as {canonical}",
            given=text[:64],
            canonical=network,
        )
    return network


def require_networks(networks: Iterable[str]) -> tuple[str, ...]:
    """Return the blocks, sorted and each once, or raise InvalidRequest."""
    known = {text: parse_network(text) for text in networks}
    if len(known) > NETWORKS_MAX:
        raise InvalidRequest(
            "{given} networks are more than the {most} there may be; join some into "
            "larger ones",
            given=len(known),
            most=NETWORKS_MAX,
        )
    return tuple(sorted(known, key=lambda t: (known[t].version, int(known[t][0]), t)))


def address_of(peer: str) -> Address | None:
    """Read the address in gRPC's name of a peer; None where it has none.

    `ipv4:10.0.0.1:5000`, `ipv6:[2001:db8::1]:5000` (its brackets perhaps escaped);
    `unix:` and what is unknown have no address.
    """
    family, _, rest = peer.partition(":")
    if family not in {"ipv4", "ipv6"}:
        return None
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped


def site_of(peer: str) -> str:
    """Name the place that a peer's address is of: an IPv4 address, an IPv6 /64.

    Whoever has an IPv6 address usually has all of its /64 (RFC 6177).
    """
    address = address_of(peer)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


def admits(networks: tuple[str, ...], peer: str) -> bool:
    """Tell whether a peer's address lies in one of these networks.

    A peer without an address lies in none: nothing is exempt that is not listed.
    """
    # The port changes with every connection, and decides nothing.
    return _admits(networks, peer.rpartition(":")[0])


@lru_cache(_DECIDED_MAX)
def _admits(networks: tuple[str, ...], host: str) -> bool:
    address = address_of(f"{host}:0")
    return address is not None and any(
        address in ipaddress.ip_network(network) for network in networks
    )
