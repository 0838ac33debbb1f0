"""The first entries of a vault's log: who reigns, what it is, who administers it."""

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hsmvault.model.access import ADMINISTRATOR
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import GENESIS, Epoch, Kind, Position
from hsmvault.model.record import Record
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import EpochRecord, VaultRecord
from hsmvault.regions.card import Card
from hsmvault.vault.ports import Change

PAGE_KEY_BYTES: Final = 32
RETENTION_DAYS: Final = range(7, 91)


@dataclass(frozen=True, slots=True)
class VaultPlan:
    """What a vault is to be founded as."""

    vault_id: str
    administrator: str
    """The principal of the first administrator."""
    client_ca: str
    """PEM of the CA whose certificates identify callers."""
    retention_days: int = 90
    purge_protection: bool = False

    def require_lawful(self) -> None:
        """Raise InvalidRequest for a retention that nobody offers."""
        if self.retention_days not in RETENTION_DAYS:
            raise InvalidRequest(
                "a retention of {days} days is not offered; choose 7 to 90. It cannot "
                "be changed later",
                days=self.retention_days,
            )


class EmptyStore(Protocol):
    """A store that has no log yet."""

    def found(
        self, changes: Sequence[Change], *, time_ms: int, epoch: Epoch
    ) -> Position:
        """Write the first entries, or raise AlreadyExists."""


def fresh_vault_id() -> str:
    """Return an id that no other vault has."""
    return secrets.token_hex(16)


def found(
    plan: VaultPlan,
    card: Card,
    *,
    store: EmptyStore,
    mac: Callable[[Sequence[bytes]], list[bytes]],
    time_ms: int,
) -> Position:
    """Found the vault in the region of `card`: all first entries, or none."""
    plan.require_lawful()
    stored = [
        StoredRecord(kind, record.resource, 1, record.to_bytes())
        for kind, record in _records(plan, card, time_ms)
    ]
    macs = mac([one.statement(plan.vault_id) for one in stored])
    changes = [
        Change(dataclasses.replace(one, mac=its))
        for one, its in zip(stored, macs, strict=True)
    ]
    return store.found(changes, time_ms=time_ms, epoch=Epoch(1, card.region))


def _records(plan: VaultPlan, card: Card, time_ms: int) -> list[tuple[Kind, Record]]:
    return [
        (
            Kind.EPOCH,
            EpochRecord(
                number=1,
                region=card.region,
                revision=1,
                fork_index=0,
                fork_chain=GENESIS,
            ),
        ),
        (
            Kind.VAULT,
            VaultRecord(
                vault_id=plan.vault_id,
                revision=1,
                create_ms=time_ms,
                retention_days=plan.retention_days,
                purge_protection=plan.purge_protection,
                client_ca=plan.client_ca,
                page_key=secrets.token_bytes(PAGE_KEY_BYTES),
            ),
        ),
        (
            Kind.REGION,
            card.record(state=RegionState.SUCCEEDED, primary=True, time_ms=time_ms),
        ),
        (
            Kind.ROLE_ASSIGNMENT,
            AssignmentRecord(
                name=f"roleAssignments/{secrets.token_hex(16)}",
                revision=1,
                principal=plan.administrator,
                role_definition=ADMINISTRATOR.name,
                scope="/",
                create_ms=time_ms,
                author=plan.administrator,
            ),
        ),
    ]
