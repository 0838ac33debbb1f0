"""RegionService: regions, and how far each has come. Parse, call, convert."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from hsmvault.api import convert, identity
from hsmvault.api.dispatch import WAIT_SECONDS, WAIT_SECONDS_MAX, Call, requested
from hsmvault.api.forwarding import accepted
from hsmvault.api.ports import Manager, Partitions
from hsmvault.model.audit_records import AuditHead, AuditHeadRecord
from hsmvault.model.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Kind, Position
from hsmvault.model.names import RegionName
from hsmvault.model.orders import Terms
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions import revocation
from hsmvault.regions.card import Card
from hsmvault.regions.ports import Executed
from hsmvault.v1 import region_service_pb2 as pb
from hsmvault.v1.resources_pb2 import Region
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import (
    Clock,
    FollowerState,
    RemovalOrder,
    ReplicationState,
    Store,
)
from hsmvault.vault.view import View


@dataclass(frozen=True, slots=True)
class RegionServicer:
    """One method per RPC of RegionService."""

    memory: Memory
    manager: Manager
    partitions: Partitions
    clock: Clock
    store: Store

    def add_region(self, request: pb.AddRegionRequest, call: Call) -> Region:
        RegionName.parse(request.region.name)
        record = convert.region_record(request.region, now_ms=self.clock())
        own = Card.of_record(record).fingerprint
        if request.fingerprint.replace(":", "").lower() != own:
            raise InvalidRequest(
                "the fingerprint is not that of this card; have the operator of "
                "{name} read out the one in its card.json, and take the card again",
                name=record.name,
            )
        done = self.manager.add_region(
            record.to_bytes(), principal=call.principal, terms=_terms(request, call)
        )
        return _logged(done)

    def remove_region(self, request: pb.RemoveRegionRequest, call: Call) -> Region:
        name = RegionName.parse(request.name)
        order = request.authorization
        # Who signs must be who calls. That the signature holds is for the region to
        # check that purges itself.
        try:
            signer = identity.read(order.certificate.encode())
        except Unauthenticated as error:
            raise InvalidRequest(
                "authorization.certificate: {problem}", problem=error
            ) from error
        if signer.principal != call.principal:
            raise AccessDenied(
                "the authorization is signed by {signer}, but {principal} calls; sign "
                "it with your own key",
                signer=signer.principal,
                principal=call.principal,
            )
        revocation.require_unrevoked(
            call.view.vault.client_crl,
            issuer=signer.issuer,
            serial=signer.serial,
            principal=signer.principal,
        )
        if name.region not in call.view.regions:
            raise NotFound("there is no {name}", name=name)
        done = self.manager.remove_region(
            RemovalOrder(
                name.region,
                request.force,
                convert.milliseconds(order.time),
                order.certificate,
                order.signature,
            ),
            principal=call.principal,
            terms=_terms(request, call),
        )
        return _logged(done)

    def list_regions(
        self, request: pb.ListRegionsRequest, call: Call
    ) -> pb.ListRegionsResponse:
        return pb.ListRegionsResponse(
            regions=_regions(call.view, purged=request.show_purged)
        )

    def get_replication_status(
        self, _request: pb.GetReplicationStatusRequest, call: Call
    ) -> pb.ReplicationStatus:
        view = call.view
        alarms: tuple[str, ...] = ()
        try:
            known = self.manager.replication()
        except Unavailable as error:
            known = ReplicationState(primary_reachable=view.is_primary)
            alarms = (f"the pool manager does not answer: {error}",)
        followers = {f.region: f for f in known.followers}
        return pb.ReplicationStatus(
            region=f"regions/{view.region}",
            position=view.served,
            regions=[
                _status(view, found, followers.get(found.record.id))
                for _, found in sorted(view.regions.items())
                if found.record.state is not RegionState.PURGED
            ],
            alarms=[*known.alarms, *alarms],
            partitions=[
                pb.ReplicationStatus.PartitionStatus(
                    name=p.name,
                    serving=p.serving,
                    problem=p.problem,
                    open_keys=p.open_keys,
                )
                for p in self.partitions.states()
            ],
        )

    def wait_for_position(
        self, request: pb.WaitForPositionRequest, call: Call
    ) -> pb.WaitForPositionResponse:
        position = Position.parse(request.position)
        seconds = WAIT_SECONDS
        if request.HasField("timeout"):
            seconds = request.timeout.seconds + request.timeout.nanos / 1e9
        if not 0 <= seconds <= WAIT_SECONDS_MAX:
            raise InvalidRequest(
                "timeout is 0 to {most} seconds, not {given}",
                most=int(WAIT_SECONDS_MAX),
                given=seconds,
            )
        view = self.memory.wait_for(
            position, seconds=min(seconds, call.seconds), wanted=call.wanted
        )
        return pb.WaitForPositionResponse(position=view.served)

    def list_audit_heads(
        self, request: pb.ListAuditHeadsRequest, call: Call
    ) -> pb.ListAuditHeadsResponse:
        of = RegionName.parse(request.region).region if request.region else ""
        # Not compared with their MACs: who wants to know verifies the signatures.
        rows = self.store.states(Kind.AUDIT_HEAD, prefix=f"auditHeads/{of}")
        heads = [AuditHeadRecord.from_bytes(row.record).head for row in rows]
        return pb.ListAuditHeadsResponse(
            heads=[_audit_head(head) for head in heads if of in {"", head.region}],
            region=f"regions/{call.view.region}",
            position=call.view.served,
        )

    def get_topology(self, _request: pb.GetTopologyRequest, call: Call) -> pb.Topology:
        view = call.view
        reachable = view.is_primary
        if not reachable:
            try:
                reachable = self.manager.replication().primary_reachable
            except Unavailable:
                reachable = False
        return pb.Topology(
            vault_id=view.vault.vault_id,
            region=f"regions/{view.region}",
            regions=_regions(view, purged=False),
            position=view.served,
            primary_reachable=reachable,
        )


def _terms(request: Any, call: Call) -> Terms:
    asked = requested(request, call)
    return Terms(
        asked.method,
        asked.request_id,
        asked.digest,
        validate_only=asked.validate_only,
    )


def _logged(done: Executed) -> Region:
    done = accepted(done)
    record = RegionRecord.from_bytes(done.response)
    return convert.region(Found(record, done.response, Position.parse(done.position)))


def _audit_head(head: AuditHead) -> pb.AuditHead:
    return pb.AuditHead(
        region=f"regions/{head.region}",
        process=head.process,
        segment=head.segment,
        sequence=head.sequence,
        chain=head.chain,
        time=convert.timestamp(head.time_ms),
        partition=head.partition,
        signature=head.signature,
    )


def _regions(view: View, *, purged: bool) -> list[Region]:
    return [
        convert.region(found)
        for _, found in sorted(view.regions.items())
        if purged or found.record.state is not RegionState.PURGED
    ]


def _status(
    view: View, found: Found[RegionRecord], follower: FollowerState | None
) -> pb.ReplicationStatus.RegionStatus:
    record = found.record
    status = pb.ReplicationStatus.RegionStatus(
        region=record.name,
        primary=record.id == view.epoch.region,
        state=convert.region(found).state,
    )
    if record.id == view.region:
        status.connected = True
        status.watermark = view.served
    if status.primary:
        # Nothing was ever sent to where it is written.
        status.migration_percent = 100
    if follower is not None:
        status.connected = follower.connected
        status.watermark = follower.watermark
        status.lag_entries = follower.lag_entries
        status.lag.CopyFrom(
            Duration(
                seconds=follower.lag_ms // 1000,
                nanos=follower.lag_ms % 1000 * 1_000_000,
            )
        )
        status.migration_percent = follower.migration_percent
        synced = convert.timestamp(follower.last_sync_ms)
        if synced is not None:
            status.last_sync_time.CopyFrom(synced)
    status.summary = _summary(status, record, own=record.id == view.region)
    return status


def _summary(
    status: pb.ReplicationStatus.RegionStatus, record: RegionRecord, *, own: bool
) -> str:
    if own and record.state is RegionState.SUCCEEDED and status.primary:
        return "Synchronized 100%"
    if record.state is not RegionState.SUCCEEDED:
        return f"{record.state}, {status.migration_percent}%"
    if not status.connected:
        return f"Disconnected, {status.lag_entries} entries behind"
    if status.lag_entries:
        return f"{status.lag_entries} entries behind"
    return "Synchronized 100%"
