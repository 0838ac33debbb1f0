"""The way in: `hsmvault.connect(...)` gives a Vault, to be closed when done."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hsmvault.client.balancing import Pool
from hsmvault.client.caller import Caller, Seen
from hsmvault.client.credentials import Credentials, Source, Token
from hsmvault.client.crypto import Crypto
from hsmvault.client.diagnosis import diagnosis
from hsmvault.client.failover import Failover
from hsmvault.client.keys import Keys
from hsmvault.client.methods import DEADLINE, GET_TOPOLOGY
from hsmvault.client.profile import Profile
from hsmvault.client.refresh import Refresher
from hsmvault.client.regions import Regions
from hsmvault.client.roles import Roles
from hsmvault.client.settings import Settings
from hsmvault.client.topology import VaultMap
from hsmvault.client.watching import TIMEOUT as WATCH_TIMEOUT
from hsmvault.client.watching import Watch
from hsmvault.model.errors import ConfigurationError, Unavailable
from hsmvault.model.log import Position
from hsmvault.v1.region_service_pb2 import GetTopologyRequest, Topology

_LOOK: Final = 0.1
"""Seconds between two looks at how the first connections are doing."""

_WARM: Final = 1.0
"""Seconds that connecting waits for every partition of the preferred region: the first
call should not find only one of three."""


class Vault(Crypto):
    """A connected vault: crypto calls here, `keys`, `roles`, `regions` beside them.

    `settings` are the vault's own.

    May be used by any number of threads. `at` and `session` give views of the same
    connections; only the vault that `connect` returned needs closing.
    """

    def __init__(
        self,
        pool: Pool,
        failover: Failover,
        caller: Caller,
        refresher: Refresher | None = None,
    ) -> None:
        super().__init__(caller)
        self._pool = pool
        self._failover = failover
        self._refresher = refresher
        self.keys = Keys(caller)
        self.roles = Roles(caller)
        self.regions = Regions(caller)
        self.settings = Settings(caller)

    def at(self, region: str) -> "Vault":
        """Return a view whose calls only this region answers; no failing over."""
        caller = Caller(
            self._failover,
            seen=self._caller.seen,
            region=region.removeprefix("regions/"),
        )
        return Vault(self._pool, self._failover, caller)

    def validating(self) -> "Vault":
        """Return a view whose writes are decided on and answered, but not made."""
        caller = Caller(
            self._failover,
            seen=Seen(),
            region=self._caller.region,
            validate_only=True,
        )
        return Vault(self._pool, self._failover, caller)

    def session(self, position: str = "") -> "Vault":
        """Return a view that reads its own writes, whichever region answers.

        Every call waits until the serving region has reached the last position that
        this session saw. `position` continues another session, of another process.
        """
        seen = Seen()
        if position:
            seen.observe(str(Position.parse(position)))
        caller = Caller(
            self._failover, seen=seen, region=self._caller.region, own_writes=True
        )
        return Vault(self._pool, self._failover, caller)

    def watch(
        self,
        *,
        position: str = "",
        scope: str = "/",
        kinds: Sequence[str] = (),
        timeout: float = WATCH_TIMEOUT,
    ) -> Watch:
        """Iterate over changes as they happen: after `position`, or from now.

        `kinds` are of `key`, `key_version`, `role_assignment`, `role_definition`,
        `region`, `vault`; empty: all that you may read. When a partition or region
        fails, it goes on elsewhere, and tells nothing twice. Close it when done.
        """
        return Watch(
            self._caller, position=position, scope=scope, kinds=kinds, timeout=timeout
        )

    @property
    def position(self) -> str:
        """The last position that an answer has shown; "" before the first."""
        return self._caller.seen.text

    @property
    def order(self) -> tuple[str, ...]:
        """The regions that calls go to, the preferred one first."""
        return self._pool.order

    def refresh(self) -> None:
        """Ask for the topology now, rather than within 15 seconds."""
        answer, _ = self._failover.call(
            GET_TOPOLOGY, GetTopologyRequest(), timeout=DEADLINE, region=None
        )
        self._pool.learn(VaultMap.of(answer, tokens=self._pool.tokens))

    def close(self) -> None:
        """End the background work and close every connection."""
        if self._refresher is not None:
            self._refresher.close()
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    endpoints: str | Sequence[str] = (),
    *,
    certificate: Source | None = None,
    key: Source | None = None,
    ca: Source | None = None,
    token: Token | None = None,
    profile: Path | str | None = None,
    region: str = "",
    timeout: float = DEADLINE,
    traceparent: Callable[[], str] | None = None,
) -> Vault:
    """Connect to a vault by any of its addresses, and learn the others from it.

    Give `endpoints` (host:port, any region's), a client `certificate` with its `key`,
    and the `ca` that the vault's servers are from: paths, or PEM as bytes. Or, in place
    of a certificate, a `token`: the path of a file that holds one, or what returns one
    for each call; `endpoints` are token ports then. Or give a `profile` that names
    them. Files that change come into use within 15 seconds, tokens at the next call.
    `region` is preferred while it is healthy; by default the nearest one is. Raises
    Unavailable if nobody answers within `timeout` seconds, CertificateRefused if a
    certificate is in the way, ConfigurationError for a file that is missing.

    `traceparent` is asked before each call for what to send as W3C Trace Context, ""
    for nothing: then the vault's spans belong to the trace of whoever calls.
    """
    if profile is not None:
        known = Profile.load(Path(profile))
        endpoints = endpoints or known.endpoints
        ca, region = ca or known.ca, region or known.region
        if certificate is None and key is None and token is None:
            certificate, key, token = known.certificate, known.key, known.token
        elif token is None:
            certificate, key = certificate or known.certificate, key or known.key
    seeds = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    shown = token is not None or (certificate is not None and key is not None)
    if not seeds or not shown or ca is None:
        raise ConfigurationError(
            "to connect takes endpoints, certificate, key and ca (or a token and ca), "
            "or a profile that names them; `hsmvault caller add` and `hsmvault dev up` "
            "write one"
        )
    credentials = Credentials.load(certificate=certificate, key=key, ca=ca, token=token)
    pool = Pool(credentials, seeds, region=region)
    try:
        return _opened(pool, timeout, traceparent)
    except BaseException:
        pool.close()
        raise


def _opened(pool: Pool, timeout: float, traceparent: Callable[[], str] | None) -> Vault:
    """Learn the topology from whoever answers first."""
    ends = time.monotonic() + timeout

    def ask(seconds: float) -> Topology:
        answer, _ = failover.call(
            GET_TOPOLOGY, GetTopologyRequest(), timeout=seconds, region=None
        )
        return answer

    refresher = Refresher(pool, ask)
    failover = Failover(pool, troubled=refresher.troubled, traceparent=traceparent)
    _await_somebody(pool, ends)
    answer = ask(max(ends - time.monotonic(), _LOOK))
    pool.learn(VaultMap.of(answer, tokens=pool.tokens))
    first = pool.order[0] if pool.order else None
    warm = min(time.monotonic() + _WARM, ends)
    while pool.unready(first) and time.monotonic() < warm:
        pool.wait(_LOOK)
    refresher.start()
    return Vault(pool, failover, Caller(failover, seen=Seen()), refresher)


_NOBODY: Final = (
    "nobody answers at {addresses}; is the region running? "
    "`hsmvault serve --region DIR` starts it, `hsmvault dev up` a trial"
)
_NOBODY_FOR_TOKENS: Final = (
    "nobody answers at {addresses}; tokens are taken at token ports alone (`hsmvault "
    "topology`), of regions whose region.toml names [[issuers]]; is this one, and does "
    "it run?"
)


def _await_somebody(pool: Pool, ends: float) -> None:
    """Wait for the first connection; a certificate in the way is said at once."""
    while not pool.ready():
        late = time.monotonic() > ends
        for endpoint in pool.failed():
            refusal = diagnosis(pool, endpoint, patient=late)
            if refusal is not None:
                raise refusal
        if late:
            raise Unavailable(
                _NOBODY_FOR_TOKENS if pool.tokens else _NOBODY,
                addresses=", ".join(pool.addresses()),
            )
        pool.wait(_LOOK)
