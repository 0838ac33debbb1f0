"""The heads of audit trails, appended to the log: kept where their author cannot edit.

Each region's primary log has the newest head of every process of every region, signed
by an identity key of the region that the trail is of; and so has every copy of the log.
"""

import re
from typing import Final

from hsmvault.model.audit_records import AuditHead, AuditHeadRecord
from hsmvault.model.errors import (
    AccessDenied,
    ChangedMeanwhile,
    IntegrityFailure,
    InvalidRequest,
)
from hsmvault.model.log import Kind
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.layout import MANAGER, SUPERVISOR
from hsmvault.regions.registry import Registry
from hsmvault.regions.signatures import signed_by
from hsmvault.telemetry import Event, report

_ATTEMPTS: Final = 5
_OTHERS: Final = frozenset({MANAGER, SUPERVISOR})
"""Processes of a region that are no partition: any of its partitions signs for them."""


class AuditHeads:
    """Takes heads on, as the primary of the present epoch."""

    def __init__(self, registry: Registry, alarms: Alarms) -> None:
        self._registry = registry
        self._alarms = alarms

    def append(self, head: AuditHead, *, of: str) -> None:
        """Append a head that the region `of` brought; nothing if the log has it.

        Raises AccessDenied for the head of another region, and IntegrityFailure, with
        an alarm, for one that is not signed, or behind the one that the log has.
        """
        self._require_theirs(head, of)
        for _ in range(_ATTEMPTS):
            known = self._known(head)
            if known is not None and known.sequence >= head.sequence:
                if (known.sequence, known.chain) == (head.sequence, head.chain):
                    return
                self._sound(head, known)
            revision = known.revision + 1 if known else 1
            record = AuditHeadRecord.of(head, revision=revision)
            change = self._registry.change(Kind.AUDIT_HEAD, record, revision=revision)
            try:
                self._registry.commit([change])
            except ChangedMeanwhile:
                continue
            return
        raise ChangedMeanwhile("{name} keeps changing", name=head.name)

    def _require_theirs(self, head: AuditHead, of: str) -> None:
        if head.region != of:
            raise AccessDenied(
                "region {of} brought an audit head of {region}",
                of=of,
                region=head.region[:50],
            )
        record = self._registry.find(of)
        partitions = {p.name for p in record.partitions} if record else set()
        own = {head.partition} == {head.process} & partitions
        if not own and head.process not in _OTHERS:
            raise InvalidRequest(
                "{process} is no process of region {region}",
                process=re.sub(r"[^a-z0-9]", "?", head.process[:50]),
                region=of,
            )
        if record is None or not signed_by(
            record,
            partition=head.partition,
            statement=head.statement(self._registry.vault_id),
            signature=head.signature,
        ):
            raise IntegrityFailure(
                "an audit head of {process} is not signed by a partition of region "
                "{region}",
                process=head.process,
                region=of,
            )

    def _known(self, head: AuditHead) -> AuditHeadRecord | None:
        row = self._registry.store.state(head.name)
        if row is None:
            return None
        return AuditHeadRecord.from_bytes(self._registry.checked([row])[0].record)

    def _sound(self, head: AuditHead, known: AuditHeadRecord) -> None:
        problem = (
            f"the audit trail of {head.process} in region {head.region} is at record "
            f"{head.sequence}, but record {known.sequence} was signed before: it was "
            "cut off, replaced or begun again. Look at it by hsmvault audit verify"
        )
        self._alarms.sound(f"audit {head.name}", problem)
        report(Event.INTEGRITY_FAILED, subject=head.name, problem=problem)
        raise IntegrityFailure(problem.replace("{", "").replace("}", ""))
