"""Who may come in at all: from which network, and how often.

Asked of every call before anything else is looked at. Both are settings of the vault,
in force on the call after they changed. Per partition process: buckets are not shared,
so that asking costs no more than a look into a dictionary.
"""

import time
from typing import Final

from hsmvault.api.identity import Identity
from hsmvault.api.rates import Rates
from hsmvault.model.errors import NetworkNotAllowed, RateLimited
from hsmvault.model.networks import address_of, admits, site_of
from hsmvault.vault.view import View

STRANGERS_RATE: Final = 100
"""Calls per second from one address that show no identity the vault knows, and of one
principal that holds no role: what they are refused is recorded, and takes room."""
_MS: Final = 1_000_000


class Door:
    """Lets calls in, or says why not. Safe to call from any thread."""

    def __init__(
        self, rates: Rates | None = None, strangers: Rates | None = None
    ) -> None:
        self._rates = Rates(time.monotonic_ns) if rates is None else rates
        self._strangers = Rates(time.monotonic_ns) if strangers is None else strangers

    def __call__(self, identity: Identity | None, peer: str, view: View) -> None:
        """Raise NetworkNotAllowed or RateLimited; `identity` None: nobody we know."""
        require_network(peer, view)
        if identity is None:
            self._admit_stranger(peer)
            return
        principal = identity.principal
        rate = _rate(principal, view)
        if not rate:
            return
        wait = self._rates.take(principal, rate)
        if wait:
            raise RateLimited(
                "{principal} makes more than {rate} calls per second of this "
                "partition; ask again in {retry_ms} ms, or have it raised: {how}",
                principal=principal,
                rate=rate,
                retry_ms=-(-wait // _MS),
                how="hsmvault vault set --rate-limit"
                if rate == view.vault.rate_limit
                else "hsmvault role assign, as without a role nobody gets more",
            )

    def charge(self, principal: str, count: int, view: View) -> None:
        """Count what one call did more than once, as the items of a batch."""
        rate = _rate(principal, view)
        if rate:
            self._rates.charge(principal, rate, count)

    def _admit_stranger(self, peer: str) -> None:
        wait = self._strangers.take(site_of(peer), STRANGERS_RATE)
        if wait:
            raise RateLimited(
                "too many calls without a known identity come from {address}; ask "
                "again in {retry_ms} ms, with a certificate: hsmvault caller add",
                address=address_of(peer),
                retry_ms=-(-wait // _MS),
            )


def _rate(principal: str, view: View) -> int:
    """How many calls per second a principal may make; 0: as many as it likes."""
    rate = view.vault.rate_limit
    if view.access.of(principal):
        return rate
    return min(rate, STRANGERS_RATE) if rate else STRANGERS_RATE


def require_network(peer: str, view: View) -> None:
    """Raise NetworkNotAllowed unless calls may come from there."""
    networks = view.vault.allowed_networks
    if networks and not admits(networks, peer):
        raise NetworkNotAllowed(
            "calls from {address} are not allowed: it is in none of the vault's "
            "networks; an Administrator can add it: hsmvault vault set "
            "--allowed-network",
            address=address_of(peer) or "there",
        )
