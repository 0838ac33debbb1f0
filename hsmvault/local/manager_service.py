"""What the pool manager does for partition servers and operators."""

# ruff: noqa: N802 (gRPC looks methods up by the names of the RPCs)

from collections.abc import Iterator

import grpc

from hsmvault import tracing
from hsmvault.local import convert
from hsmvault.local.officers import LocalOfficers
from hsmvault.local.status import told
from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.local.v1 import local_service_pb2_grpc as pb_grpc
from hsmvault.model.log import Position
from hsmvault.model.orders import RemovalOrder, Terms
from hsmvault.regions.ports import ManagerDuties
from hsmvault.vault.ports import FollowerState


class ManagerService(pb_grpc.ManagerWorkServicer):
    """ManagerWork over the pool manager's duties."""

    def __init__(self, duties: ManagerDuties, officers: LocalOfficers) -> None:
        """Serve on behalf of the pool manager's process."""
        self._duties = duties
        self._officers = officers

    def Replication(
        self,
        request: pb.ReplicationRequest,  # noqa: ARG002 (it is empty)
        context: grpc.ServicerContext,
    ) -> pb.ReplicationReply:
        with told(context):
            state = self._duties.replication()
        return pb.ReplicationReply(
            primary_reachable=state.primary_reachable,
            followers=[_follower(one) for one in state.followers],
            alarms=state.alarms,
        )

    def Forward(
        self, request: pb.ForwardRequest, context: grpc.ServicerContext
    ) -> pb.ForwardReply:
        tracing.carry(context.invocation_metadata())
        with told(context):
            done = self._duties.forward(
                request.method,
                request.request,
                principal=request.principal,
                proof=request.proof,
                timeout=request.timeout_ms / 1000,
            )
        return pb.ForwardReply(
            response=done.response, status=done.status, position=done.position
        )

    def AppendAuditHead(
        self, request: pb.AuditHead, context: grpc.ServicerContext
    ) -> pb.AuditHeadAppended:
        with told(context):
            self._duties.append_audit_head(convert.audit_head_in(request))
        return pb.AuditHeadAppended()

    def AwaitWatermark(
        self, request: pb.AwaitWatermarkRequest, context: grpc.ServicerContext
    ) -> pb.AwaitWatermarkReply:
        with told(context):
            reached, behind = self._duties.await_watermark(
                Position.parse(request.position),
                regions=request.regions,
                timeout=request.timeout_ms / 1000,
            )
        return pb.AwaitWatermarkReply(reached=reached, behind=behind)

    def RequirePast(
        self, request: pb.RequirePastRequest, context: grpc.ServicerContext
    ) -> pb.RequirePastReply:
        with told(context):
            self._duties.require_past(request.date_ms)
        return pb.RequirePastReply()

    def ResumeSweeper(
        self, request: pb.ResumeSweeperRequest, context: grpc.ServicerContext
    ) -> pb.ResumeSweeperReply:
        with told(context):
            problem = self._duties.resume_sweeper(request.operator)
        return pb.ResumeSweeperReply(problem=problem)

    def AddRegion(
        self, request: pb.RegionChange, context: grpc.ServicerContext
    ) -> pb.RegionChanged:
        with told(context):
            record, position = self._duties.add_region(
                request.record,
                principal=request.principal,
                terms=_terms(request),
            )
        return pb.RegionChanged(record=record, position=str(position))

    def RemoveRegion(
        self, request: pb.RegionChange, context: grpc.ServicerContext
    ) -> pb.RegionChanged:
        order = RemovalOrder(
            region=request.region,
            time_ms=request.order_time_ms,
            certificate=request.order_certificate,
            signature=request.order_signature,
        )
        with told(context):
            record, position = self._duties.remove_region(
                order,
                force=request.force,
                principal=request.principal,
                terms=_terms(request),
            )
        return pb.RegionChanged(record=record, position=str(position))

    def AttachOfficer(
        self, request_iterator: Iterator[pb.OfficerReply], context: grpc.ServicerContext
    ) -> Iterator[pb.OfficerTask]:
        """Lend an operator's officers to the region until the call ends."""
        with told(context):
            yield from self._officers.attached(request_iterator, context.is_active)


def _terms(change: pb.RegionChange) -> Terms:
    return Terms(
        change.method,
        change.request_id,
        change.request_digest,
        validate_only=change.validate_only,
    )


def _follower(state: FollowerState) -> pb.ReplicationReply.Follower:
    return pb.ReplicationReply.Follower(
        region=state.region,
        connected=state.connected,
        watermark=state.watermark,
        lag_entries=state.lag_entries,
        lag_ms=state.lag_ms,
        last_sync_ms=state.last_sync_ms,
        migration_percent=state.migration_percent,
    )


def add_to(server: grpc.Server, duties: ManagerDuties, officers: LocalOfficers) -> None:
    """Have a server serve ManagerWork."""
    pb_grpc.add_ManagerWorkServicer_to_server(ManagerService(duties, officers), server)
