"""What the pool manager's work needs from partitions, officers and other regions.

`local` satisfies Workers and Officers, `replication` satisfies Peers; mypy checks it
in `server`, where they meet. Every method may raise Unavailable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hsmvault.model.log import Head, Position
from hsmvault.model.records import WrappedKey
from hsmvault.vault.ports import Material


@dataclass(frozen=True, slots=True)
class Arrived:
    """A wrapped key as it came from another region, with what its record says."""

    material: Material
    """`wrapped` is under the pair key; `mac` is empty."""


class Workers(Protocol):
    """The healthy partitions of this region. Work is spread over them, and retried
    on a sibling when one fails."""

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        """MAC each statement with the region's integrity key."""

    def rewrap(self, arrived: Sequence[Arrived]) -> list[tuple[WrappedKey, bytes]]:
        """Open under the pair key, wrap under the region key, and MAC; in order."""

    def seal(
        self, materials: Sequence[Material], region: str
    ) -> list[tuple[WrappedKey, bytes]]:
        """Wrap existing versions for another region, and MAC; in order."""

    def sign(self, statement: bytes) -> tuple[str, bytes]:
        """Sign with an identity key: the partition's name and r||s, 64 bytes."""

    def pair_keys(self, region: str) -> Mapping[str, bool]:
        """Which partitions hold both pair keys with `region`; all must answer."""

    def drop_pair_keys(self, region: str) -> None:
        """Destroy the pair keys with `region` in every partition; all must answer."""

    def write_anchor(self, head: Head) -> None:
        """Have every healthy partition remember the head."""

    def execute(
        self, method: str, request: bytes, *, principal: str, via_region: str
    ) -> "Executed":
        """Run a public RPC as `principal`, on the word of `via_region`."""


@dataclass(frozen=True, slots=True)
class Executed:
    """How a forwarded call ended: a response, or a serialised google.rpc.Status."""

    response: bytes
    status: bytes
    position: str
    """What the answering region had reached; empty when it failed."""


class Officers(Protocol):
    """The ceremony processes of this region, one per partition; there may be none."""

    def present(self) -> bool:
        """Tell whether officers can work now (a directory, or an attached one)."""

    def ask(self, partition: str, task: Mapping[str, object]) -> Mapping[str, object]:
        """Have one partition's officer do a task of hsm/officer.py.

        One officer process per partition lives from the first `ask` to `dismiss`: an
        offer's transport key dies with it. Raises what the task raised.
        """

    def dismiss(self) -> None:
        """End the officer processes."""


class Peers(Protocol):
    """The extended regions that are linked to this primary."""

    def connected(self, region: str) -> bool: ...

    def watermark(self, region: str) -> Position | None:
        """What the region last acknowledged as durable."""

    def officers(self, region: str) -> Officers:
        """The officers of a linked region, reached over its link."""

    def order_purge(self, region: str, order: Mapping[str, object]) -> None:
        """Hand a region the signed order to purge itself; returns once it has."""

    def trust_changed(self) -> None:
        """The set of regions changed: take certificates from the state again."""
