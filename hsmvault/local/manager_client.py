"""The pool manager of this region, as partition servers and operators see it."""

from typing import Final

from hsmvault import tracing
from hsmvault.local import convert, sockets
from hsmvault.local.status import raised
from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.local.v1 import local_service_pb2_grpc as pb_grpc
from hsmvault.model.audit_records import AuditHead
from hsmvault.model.log import Position
from hsmvault.model.orders import Terms
from hsmvault.regions.layout import Layout
from hsmvault.regions.ports import Executed
from hsmvault.vault.ports import Awaited, FollowerState, RemovalOrder, ReplicationState

_WHO: Final = "the pool manager"
_STATUS_SECONDS: Final = 5.0
_CHANGE_SECONDS: Final = 30.0
"""To check a change of regions and log it; the work itself goes on afterwards."""
_GRACE_SECONDS: Final = 2.0
"""So that an answer that comes at its deadline still arrives."""


class ManagerClient:
    """The pool manager's duties, over its socket. Any thread may ask.

    Raises what the manager raised, or Unanswered.
    """

    def __init__(self, layout: Layout) -> None:
        """Connect when first used."""
        self._channel = sockets.dial(layout.manager_socket)
        self._stub = pb_grpc.ManagerWorkStub(self._channel)

    def replication(self) -> ReplicationState:
        """How this region stands to the others."""
        with raised(_WHO):
            reply = self._stub.Replication(
                pb.ReplicationRequest(), timeout=_STATUS_SECONDS
            )
        return ReplicationState(
            primary_reachable=reply.primary_reachable,
            followers=tuple(
                FollowerState(
                    region=one.region,
                    connected=one.connected,
                    watermark=one.watermark,
                    lag_entries=one.lag_entries,
                    lag_ms=one.lag_ms,
                    last_sync_ms=one.last_sync_ms,
                    migration_percent=one.migration_percent,
                )
                for one in reply.followers
            ),
            alarms=tuple(reply.alarms),
        )

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        proof: bytes = b"",
        seconds: float,
    ) -> Executed:
        """Run a write at the primary on behalf of a caller of this region."""
        message = pb.ForwardRequest(
            method=method,
            request=request,
            principal=principal,
            proof=proof,
            timeout_ms=int(seconds * 1000),
        )
        with raised(_WHO):
            done = self._stub.Forward(
                message, timeout=seconds + _GRACE_SECONDS, metadata=tracing.outgoing()
            )
        return Executed(done.response, done.status, done.position)

    def append_audit_head(self, head: AuditHead) -> None:
        """Have the signed end of a trail taken into the log."""
        with raised(_WHO):
            self._stub.AppendAuditHead(
                convert.audit_head_out(head), timeout=_STATUS_SECONDS
            )

    def await_watermark(
        self, position: Position, *, regions: int, seconds: float
    ) -> Awaited:
        """Wait until so many regions (-1: all) have it; who is behind at the end."""
        message = pb.AwaitWatermarkRequest(
            position=str(position), regions=regions, timeout_ms=int(seconds * 1000)
        )
        with raised(_WHO):
            reply = self._stub.AwaitWatermark(message, timeout=seconds + _GRACE_SECONDS)
        return Awaited(reply.reached, tuple(reply.behind))

    def require_past(self, date_ms: int) -> None:
        """Raise ClockUntrusted unless a clock that can be trusted is past the date."""
        with raised(_WHO):
            self._stub.RequirePast(
                pb.RequirePastRequest(date_ms=date_ms), timeout=_STATUS_SECONDS
            )

    def resume_sweeper(self, operator: str) -> str:
        """Trust the wall clock on an operator's word; what had spoken against it."""
        message = pb.ResumeSweeperRequest(operator=operator)
        with raised(_WHO):
            reply = self._stub.ResumeSweeper(message, timeout=_STATUS_SECONDS)
        return str(reply.problem)

    def add_region(self, record: bytes, *, principal: str, terms: Terms) -> Executed:
        """Start adding the region of a RegionRecord; the record as logged."""
        message = _change(principal, terms)
        message.record = record
        with raised(_WHO):
            reply = self._stub.AddRegion(message, timeout=_CHANGE_SECONDS)
        return Executed(reply.record, b"", reply.position)

    def remove_region(
        self, order: RemovalOrder, *, principal: str, terms: Terms
    ) -> Executed:
        """Start removing a region; its record as logged."""
        message = _change(principal, terms)
        message.region = order.region
        message.force = order.force
        message.order_time_ms = order.time_ms
        message.order_certificate = order.certificate
        message.order_signature = order.signature
        with raised(_WHO):
            reply = self._stub.RemoveRegion(message, timeout=_CHANGE_SECONDS)
        return Executed(reply.record, b"", reply.position)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _change(principal: str, terms: Terms) -> pb.RegionChange:
    return pb.RegionChange(
        principal=principal,
        method=terms.method,
        request_id=terms.request_id,
        request_digest=terms.digest,
        validate_only=terms.validate_only,
    )
