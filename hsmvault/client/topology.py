"""Where the vault is: its regions and the partitions' own addresses, as values."""

from dataclasses import dataclass
from typing import Final, Self

from hsmvault.model.errors import InvalidRequest
from hsmvault.model.log import Position
from hsmvault.v1 import region_service_pb2 as messages
from hsmvault.v1 import resources_pb2 as resources

_GENERAL: Final = frozenset({resources.Region.SUCCEEDED})
"""Regions that hold every key: any call may go there."""
_REACHABLE: Final = _GENERAL | {resources.Region.PROVISIONING}
"""Regions that a call may be sent to when the caller names them."""


@dataclass(frozen=True, slots=True)
class Place:
    """One address that serves the public API."""

    address: str
    region: str = ""
    """"" for an address that nobody has told us about: what the caller gave."""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class RegionMap:
    """One region, as a client needs to know it."""

    region: str
    primary: bool
    general: bool
    """Whether calls that name no region may go there."""
    address: str
    """The port that its partitions share."""
    places: tuple[Place, ...]

    @classmethod
    def of(cls, message: resources.Region, *, tokens: bool = False) -> Self:
        """Take over what the vault says of one region.

        Callers with `tokens` connect to ports of their own, if the region has them.
        """
        region = message.name.removeprefix("regions/")
        addresses = [
            (p.token_endpoint if tokens else p.endpoint, p.name)
            for p in message.partitions
        ]
        if not any(address for address, _ in addresses):
            shared = message.token_endpoint if tokens else message.endpoint
            addresses = [(shared, "")]
        places = tuple(
            Place(address, region, name) for address, name in addresses if address
        )
        return cls(
            region,
            message.primary,
            (message.state in _GENERAL or message.primary) and bool(places),
            message.endpoint,
            places,
        )


@dataclass(frozen=True, slots=True)
class VaultMap:
    """All regions that can be reached, and how new this knowledge is."""

    vault_id: str
    regions: tuple[RegionMap, ...]
    answered_by: str
    """The region that told us."""
    position: Position | None

    @classmethod
    def of(cls, message: messages.Topology, *, tokens: bool = False) -> Self:
        """Take over a vault's answer to GetTopology, for callers with `tokens`."""
        return cls(
            message.vault_id,
            tuple(
                RegionMap.of(r, tokens=tokens)
                for r in message.regions
                if r.state in _REACHABLE or r.primary
            ),
            message.region,
            position_of(message.position),
        )

    def older_than(self, other: Self) -> bool:
        """Tell whether `other` knows more: a region that lags answers old things."""
        return bool(self.position and other.position and self.position < other.position)

    def has(self, address: str) -> bool:
        """Tell whether an address is one of this vault's."""
        return any(
            address == r.address or any(p.address == address for p in r.places)
            for r in self.regions
        )

    def region(self, name: str) -> RegionMap | None:
        """Return the region of this name, if it can be reached."""
        return next((r for r in self.regions if r.region == name), None)


def position_of(text: str) -> Position | None:
    """Parse a position from an answer; None if there is none that we can read."""
    try:
        return Position.parse(text)
    except InvalidRequest:
        return None
