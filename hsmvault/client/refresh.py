"""Keeping the client's knowledge of the vault fresh, in the background."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import grpc

from hsmvault.client.balancing import Pool
from hsmvault.client.methods import GET_TOPOLOGY
from hsmvault.client.topology import VaultMap
from hsmvault.model.errors import ConfigurationError, VaultError
from hsmvault.v1.region_service_pb2 import GetTopologyRequest, Topology

INTERVAL: Final = 15.0
"""Seconds between two looks while all is well."""

SETTLE: Final = 0.5
"""Seconds between two looks while it is not: a burst of failures asks once."""

TIMEOUT: Final = 2.0
"""Seconds that asking may take."""

LOOKS: Final = 3
"""Measurements that must agree before calls go to another region. A single round trip
tells more of what the machines just did than of the way between them."""


class Refresher:
    """A thread that asks for the topology now and then, and at once after trouble."""

    def __init__(self, pool: Pool, ask: Callable[[float], Topology]) -> None:
        self._pool = pool
        self._ask = ask
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="hsmvault-topology", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def troubled(self) -> None:
        """Look again soon. Never blocks."""
        self._wake.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(INTERVAL)
            self._wake.clear()
            if self._closing.is_set():
                return
            self._refresh()
            self._measure()
            self._closing.wait(SETTLE)

    def _refresh(self) -> None:
        self._pool.renew()
        try:
            self._pool.learn(VaultMap.of(self._ask(TIMEOUT), tokens=self._pool.tokens))
        except (VaultError, ConfigurationError):
            # Nobody we know answers. What we were given at first may still be right.
            if not self._pool.ready():
                self._pool.start_over()

    def _measure(self) -> None:
        """Take each region's shortest round trip, where there is a choice."""
        regions = self._pool.order
        if len(regions) < 2:  # noqa: PLR2004 - one region leaves no choice
            return
        shortest: dict[str, float] = {}
        for _ in range(LOOKS):
            for region in regions:
                taken = self._round_trip(region)
                if taken is not None:
                    shortest[region] = min(taken, shortest.get(region, taken))
            if not self._pool.moved_by(shortest):
                break
        self._pool.measured(shortest)

    def _round_trip(self, region: str) -> float | None:
        endpoint = self._pool.pick(region)
        if endpoint is None or self._closing.is_set():
            return None
        with contextlib.suppress(grpc.RpcError, ValueError, ConfigurationError):
            begun = time.monotonic()
            endpoint.invoke(
                GET_TOPOLOGY, GetTopologyRequest(), timeout=TIMEOUT, metadata=()
            )
            return time.monotonic() - begun
        return None

    def close(self) -> None:
        """End the thread, and wait for it."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT + 1)
