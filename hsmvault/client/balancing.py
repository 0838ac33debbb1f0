"""Which partition gets the next call.

All partitions of the preferred region take turns; another region is asked when none of
them is usable. The order of regions is: the one the caller named, then the nearest.
Who is preferred stays so until another is nearer by more than chance makes it.
"""

import itertools
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Final, Self

import grpc

from hsmvault.client.credentials import Credentials
from hsmvault.client.endpoint import Endpoint
from hsmvault.client.topology import Place, VaultMap

NEAR: Final = 0.010
"""A region whose round trip is shorter by less than this, in seconds, is not nearer
than the one that is preferred."""

Group = tuple[Endpoint, ...]


class Pool:
    """Every endpoint of the vault, connected, in the order in which to ask them."""

    def __init__(
        self, credentials: Credentials, seeds: Collection[str], *, region: str = ""
    ) -> None:
        self._credentials = credentials
        self._seeds = tuple(Place(address) for address in dict.fromkeys(seeds))
        self._wanted = region
        self._turn = itertools.count()
        self._changes = threading.Condition()
        self._retired: list[Endpoint] = []
        self._closed = False
        self._distances: Mapping[str, float] = {}
        self.map: VaultMap | None = None
        # Replaced as a whole and never changed, so that picking needs no lock.
        self._groups: Mapping[str, Group] = MappingProxyType({})
        self._order: tuple[str, ...] = ()
        with self._changes:
            self._set({"": self._seeds}, order=("",))

    def pick(
        self, region: str | None, avoid: Collection[object] = ()
    ) -> Endpoint | None:
        """Return the next endpoint to ask, or None: nobody usable is left.

        `region` None means any, in order. `avoid` holds endpoints and region names.
        """
        now = time.monotonic()
        groups = self._groups
        for name in self._order if region is None else (region,):
            if name in avoid:
                continue
            usable = [
                e for e in groups.get(name, ()) if e not in avoid and e.usable(now)
            ]
            if usable:
                return usable[next(self._turn) % len(usable)]
        return None

    def wait(self, seconds: float) -> None:
        """Wait until a connection comes or goes, but no longer than this."""
        with self._changes:
            if not self._closed:
                self._changes.wait(seconds)

    def channel(self, place: Place) -> grpc.Channel:
        """Return a new channel to one address, for the caller to close.

        It remembers nothing of attempts that failed, and takes no part in picking.
        """
        return self._credentials.channel(place.address)

    def anyone(self, region: str | None) -> Endpoint | None:
        """Return some endpoint, usable or not: to learn why it is not."""
        names = self._order if region is None else (region,)
        return next((e for n in names for e in self._groups.get(n, ())), None)

    def ready(self, region: str | None = None) -> int:
        """Count the endpoints that are connected."""
        names = self._groups if region is None else (region,)
        return sum(e.ready for n in names for e in self._groups.get(n, ()))

    def unready(self, region: str | None) -> int:
        """Count the endpoints of a region that are not connected yet."""
        return sum(not e.ready for e in self._groups.get(region or "", ()))

    def failed(self) -> list[Endpoint]:
        """Return the endpoints that cannot connect."""
        groups = self._groups.values()
        return [e for group in groups for e in group if e.failed.is_set()]

    def addresses(self) -> list[str]:
        """Return every address that this client dials."""
        return [e.place.address for group in self._groups.values() for e in group]

    @property
    def order(self) -> tuple[str, ...]:
        """The regions that general calls go to, the preferred one first."""
        return self._order

    def learn(self, learned: VaultMap) -> None:
        """Connect to what is new and drop what is gone. Older knowledge is ignored."""
        with self._changes:
            if self._closed or (self.map and learned.older_than(self.map)):
                return
            self.map = learned
            self._set(
                {r.region: r.places for r in learned.regions},
                order=self._ordered(learned, self._distances),
            )

    @property
    def tokens(self) -> bool:
        """Whether calls show tokens: these go to ports of their own."""
        return self._credentials.token is not None

    def renew(self) -> None:
        """Connect anew where certificate, key or CA changed in their files.

        The former connections take no more calls, and end at the next look: calls in
        flight have until then.
        """
        with self._changes:
            if self._closed:
                return
            _close(self._retired)
            self._retired = []
            fresh = self._credentials.renewed()
            if fresh is self._credentials:
                return
            self._credentials = fresh
            self._retired = [e for group in self._groups.values() for e in group]
            self._groups = MappingProxyType(
                {
                    name: tuple(self._connect(e.place) for e in group)
                    for name, group in self._groups.items()
                }
            )
            self._changes.notify_all()

    def measured(self, distances: Mapping[str, float]) -> None:
        """Take note of how far regions are, in seconds of a round trip.

        Those that are not among them stay where they were.
        """
        with self._changes:
            self._distances = {**self._distances, **distances}
            if self.map:
                self._order = self._ordered(self.map, self._distances)

    def moved_by(self, distances: Mapping[str, float]) -> bool:
        """Tell whether another region would be preferred after such a measurement."""
        with self._changes:
            if not self.map:
                return False
            return (
                self._ordered(self.map, {**self._distances, **distances})[:1]
                != self._order[:1]
            )

    def start_over(self) -> None:
        """Ask the addresses that the caller gave, beside those we know."""
        with self._changes:
            if not self._closed:
                known = {
                    name: tuple(e.place for e in group)
                    for name, group in self._groups.items()
                }
                self._set({**known, "": self._seeds}, order=(*self._order, ""))

    def _ordered(
        self, learned: VaultMap, distances: Mapping[str, float]
    ) -> tuple[str, ...]:
        general = [r.region for r in learned.regions if r.general]
        known = [distances[name] for name in general if name in distances]
        # Of whom nothing is known, nobody may say that it is near.
        farthest, nearest = max(known, default=0.0), min(known, default=0.0)

        def rank(region: str) -> tuple[bool, bool, int, str]:
            distance = distances.get(region, farthest)
            # Whoever answered first was near enough.
            stays = region == first and distance - nearest < NEAR
            return region != self._wanted, not stays, round(distance / NEAR), region

        first = self._first(learned)
        return tuple(sorted(general, key=rank))

    def _first(self, learned: VaultMap) -> str:
        kept = self._order[0] if self._order else ""
        return kept or learned.answered_by

    def _set(
        self, wanted: Mapping[str, tuple[Place, ...]], *, order: tuple[str, ...]
    ) -> None:
        old = {e.place.address: e for group in self._groups.values() for e in group}
        kept: set[str] = set()
        groups: dict[str, Group] = {}
        for name, places in wanted.items():
            group = []
            for place in places:
                known = old.get(place.address)
                if known is None:
                    known = self._connect(place)
                known.place = place
                kept.add(place.address)
                group.append(known)
            groups[name] = tuple(group)
        self._groups = MappingProxyType(groups)
        self._order = order
        _close([endpoint for address, endpoint in old.items() if address not in kept])
        self._changes.notify_all()

    def _connect(self, place: Place) -> Endpoint:
        shown = self._credentials
        return Endpoint(
            place,
            shown.channel(place.address),
            changed=self._notify,
            authorization=shown.authorization if shown.token else None,
        )

    def _notify(self) -> None:
        with self._changes:
            self._changes.notify_all()

    def close(self) -> None:
        """Close every channel."""
        with self._changes:
            self._closed = True
            groups, self._groups = self._groups, MappingProxyType({})
            self._changes.notify_all()
        closing = _close([e for g in (*groups.values(), self._retired) for e in g])
        for thread in closing:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close(endpoints: Sequence[Endpoint]) -> list[threading.Thread]:
    """Close beside each other: each waits 0.2 s for the watch on its channel."""
    closing = [threading.Thread(target=e.close, daemon=True) for e in endpoints]
    for thread in closing:
        thread.start()
    return closing
