"""How a process is at this moment, beside what it has counted."""

from collections.abc import Iterator

from hsmvault import metrics
from hsmvault.api.services import Services
from hsmvault.audit.trail import Trail
from hsmvault.hsm.partition import Partition
from hsmvault.metrics import Sample
from hsmvault.model.log import Position


def of_partition(
    hsm: Partition, public: Services, trail: Trail, *, serving: bool, position: str
) -> list[Sample]:
    """Everything that a partition server measures."""
    idle = hsm.idle_sessions
    return [
        *metrics.collected(),
        Sample(metrics.UP, value=serving),
        Sample(metrics.OPEN_KEYS, value=hsm.open_keys),
        Sample(metrics.HSM_SESSIONS, ("idle",), idle),
        Sample(metrics.HSM_SESSIONS, ("busy",), hsm.sessions - idle),
        *(
            Sample(metrics.POOL_PENDING, (pool,), pending)
            for pool, pending in public.pending().items()
        ),
        Sample(metrics.AUDIT_RECORDS, value=trail.records),
        Sample(metrics.AUDIT_WRITABLE, value=not trail.problem),
        *of_position(position),
    ]


def of_position(text: str) -> Iterator[Sample]:
    """How far a process has come; nothing before it has come anywhere."""
    if text:
        position = Position.parse(text)
        yield Sample(metrics.POSITION, value=position.index)
        yield Sample(metrics.EPOCH, value=position.epoch.number)
