"""Allowed networks: one spelling for each, and no way round them by another family."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.errors import InvalidRequest
from hsmvault.model.networks import (
    NETWORKS_MAX,
    address_of,
    admits,
    parse_network,
    require_networks,
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "any",
        "10.0.0.1",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "010.0.0.0/8",
        "10.0.0.0/8 ",
        "10.0.0.0/8\n",
        "2001:DB8::/32",
        "2001:db8:0::/32",
        "fe80::%eth0/64",
        "::ffff:10.0.0.0/104",
        "::ffff:a00:0/104",
    ],
)
def test_a_network_that_is_not_in_its_one_spelling_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_network(text)


def test_networks_are_kept_once_each_and_in_one_order() -> None:
    given_ = ["fd00::/8", "10.0.0.0/8", "9.0.0.0/8", "10.0.0.0/8"]

    assert require_networks(given_) == ("9.0.0.0/8", "10.0.0.0/8", "fd00::/8")


def test_there_are_at_most_so_many_networks() -> None:
    many = [f"10.0.{n}.0/24" for n in range(NETWORKS_MAX + 1)]

    assert len(require_networks(many[1:])) == NETWORKS_MAX
    with pytest.raises(InvalidRequest):
        require_networks(many)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:54321", "127.0.0.1"),
        ("ipv6:[::1]:54321", "::1"),
        ("ipv6:%5B::1%5D:54321", "::1"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:54321", "10.1.2.3"),
        ("ipv6:[fe80::1%25eth0]:1", "fe80::1"),
        ("unix:/run/vault.sock", None),
        ("unix:", None),
        ("ipv4:nonsense:1", None),
        ("", None),
    ],
)
def test_the_address_of_a_peer_is_read_whatever_its_family(
    peer: str, address: str | None
) -> None:
    found = address_of(peer)

    assert (found and str(found)) == address


@given(st.ip_addresses(v=4), st.integers(0, 32), st.booleans())
def test_an_address_is_admitted_exactly_by_the_networks_that_hold_it(
    address: ipaddress.IPv4Address, length: int, mapped: bool
) -> None:
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    peer = f"ipv6:[::ffff:{address}]:7" if mapped else f"ipv4:{address}:7"

    assert admits((str(network),), peer)
    assert admits(("255.255.255.255/32",), peer) == (str(address) == "255.255.255.255")


@pytest.mark.parametrize("peer", ["unix:", "unix:/run/x.sock", "", "ipv4:127.0.0.1:1"])
def test_nothing_is_exempt_that_is_not_listed(peer: str) -> None:
    assert not admits(("10.0.0.0/8", "::1/128"), peer)
