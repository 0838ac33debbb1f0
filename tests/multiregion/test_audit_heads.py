"""Whose audit heads a primary takes into the log, and whose not (AU-06)."""

import dataclasses
from typing import Any

import pytest

from hsmvault.model.audit_records import AuditHead, AuditHeadRecord
from hsmvault.model.errors import (
    AccessDenied,
    AuditUnavailable,
    IntegrityFailure,
    InvalidRequest,
)
from hsmvault.model.log import Kind
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.audit_heads import AuditHeads
from hsmvault.regions.registry import Registry
from tests.support.nodes import VAULT, FakeNotes, TestVault, now_ms


@dataclasses.dataclass
class Primary:
    """North, taking heads on."""

    vault: TestVault
    notes: FakeNotes
    alarms: Alarms
    heads: AuditHeads

    def signed(
        self, sequence: int, *, process: str = "p0", region: str = "north"
    ) -> AuditHead:
        """A head, signed by p0 of north."""
        chain = sequence.to_bytes(32, "big")
        head = AuditHead(region, process, 1, sequence, chain, 1)
        signature = self.vault.north.workers.hsms["p0"].sign_statement(
            head.statement(VAULT)
        )
        return head.signed("p0", signature)

    def held(self) -> list[tuple[str, int, int]]:
        rows = self.vault.north.store.states(Kind.AUDIT_HEAD)
        records = [AuditHeadRecord.from_bytes(row.record) for row in rows]
        return [(r.process, r.sequence, r.revision) for r in records]


@pytest.fixture
def primary(vault: TestVault) -> Primary:
    notes, alarms, north = FakeNotes(), Alarms(), vault.north
    registry = Registry(
        north.store, north.workers, vault_id=VAULT, clock=now_ms, audit=notes
    )
    return Primary(vault, notes, alarms, AuditHeads(registry, alarms))


def test_a_head_is_logged_once_and_only_grows(primary: Primary) -> None:
    for sequence in (5, 9, 9):
        primary.heads.append(primary.signed(sequence), of="north")

    assert primary.held() == [("p0", 9, 2)]
    # Of heads there are no records: each would make another head.
    assert primary.notes.events == []


def test_any_partition_signs_for_the_processes_that_are_none(primary: Primary) -> None:
    for process in ("manager", "supervisor"):
        primary.heads.append(primary.signed(3, process=process), of="north")

    assert primary.held() == [("manager", 3, 1), ("supervisor", 3, 1)]


CHANGES: list[dict[str, Any]] = [
    {"sequence": 99},
    {"chain": bytes(32)},
    {"segment": 2},
    {"time_ms": 2},
    {"signature": bytes(64)},
    {"signature": b""},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_au_06_a_head_that_is_not_as_it_was_signed_is_refused(
    primary: Primary, change: dict[str, Any]
) -> None:
    head = dataclasses.replace(primary.signed(5), **change)

    with pytest.raises(IntegrityFailure, match="not signed"):
        primary.heads.append(head, of="north")

    assert primary.held() == []


@pytest.mark.parametrize("process", ["p1", "p9", "", "a/../b", "x" * 300, "\n"])
def test_au_06_a_partition_signs_for_no_other_process(
    primary: Primary, process: str
) -> None:
    with pytest.raises(InvalidRequest):
        primary.heads.append(primary.signed(5, process=process), of="north")


def test_au_06_a_region_brings_no_heads_of_another_one(primary: Primary) -> None:
    with pytest.raises(AccessDenied):
        primary.heads.append(primary.signed(5), of="south")


@pytest.mark.parametrize("sequence", [3, 5])
def test_au_06_a_trail_that_went_back_or_was_replaced_sounds_an_alarm(
    primary: Primary, sequence: int
) -> None:
    """A trail that began again from zero is noticed without anybody verifying it."""
    primary.heads.append(primary.signed(5), of="north")
    again = AuditHead("north", "p0", 1, sequence, bytes(32), 1)
    p0 = primary.vault.north.workers.hsms["p0"]
    signed = again.signed("p0", p0.sign_statement(again.statement(VAULT)))

    with pytest.raises(IntegrityFailure, match="cut off, replaced or begun again"):
        primary.heads.append(signed, of="north")

    assert "hsmvault audit verify" in primary.alarms.texts()[0]
    assert primary.held() == [("p0", 5, 1)]


def test_au_01_the_pool_manager_changes_nothing_that_it_could_not_record(
    primary: Primary,
) -> None:
    primary.notes.full = True

    with pytest.raises(AuditUnavailable):
        primary.heads.append(primary.signed(5), of="north")

    assert primary.held() == []
