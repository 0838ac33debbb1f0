"""What the local services need from the process around them."""

from collections.abc import Sequence
from typing import Protocol

from hsmvault.metrics import Sample
from hsmvault.model.log import Position
from hsmvault.model.names import KeyName
from hsmvault.regions.ports import Executed
from hsmvault.vault.ports import Hsm, PartitionState, PoolHsm
from hsmvault.vault.upkeep import Chore


class WorkingHsm(Hsm, PoolHsm, Protocol):
    """A partition with all that it can do."""


class PartitionDuties(Protocol):
    """What a partition server does for the other processes of its region."""

    @property
    def hsm(self) -> WorkingHsm: ...

    @property
    def vault_id(self) -> str: ...

    def state(self) -> PartitionState: ...

    def upkeep(self, chore: Chore, name: KeyName, *, incarnation: str) -> Position:
        """Do a chore to a key as the vault itself, where it is due, or raise NotDue."""

    def samples(self) -> Sequence[Sample]:
        """Everything that this process measures, at this moment."""

    def execute(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        via_region: str,
        proof: bytes = b"",
        timeout: float,
    ) -> Executed:
        """Run a public RPC for a caller of another region; never raises VaultError."""
