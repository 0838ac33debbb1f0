"""What a partition server does for the pool manager and for its siblings."""

# ruff: noqa: N802 (gRPC looks methods up by the names of the RPCs)

import os
from collections.abc import Iterator

import grpc

from hsmvault import tracing
from hsmvault.local import convert, measures
from hsmvault.local.ports import PartitionDuties
from hsmvault.local.status import told
from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.local.v1 import local_service_pb2_grpc as pb_grpc
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.names import KeyName
from hsmvault.model.stored import WrappedKey
from hsmvault.vault.upkeep import Chore


class PartitionService(pb_grpc.PartitionWorkServicer):
    """PartitionWork over one partition."""

    def __init__(self, duties: PartitionDuties) -> None:
        """Serve on behalf of a partition's process."""
        self._duties = duties

    def Status(
        self,
        request: pb.StatusRequest,  # noqa: ARG002 (it is empty)
        context: grpc.ServicerContext,  # noqa: ARG002 (it cannot fail)
    ) -> pb.PartitionState:
        state = self._duties.state()
        return pb.PartitionState(
            name=state.name,
            serving=state.serving,
            problem=state.problem,
            position=state.position,
            open_keys=state.open_keys,
            pid=os.getpid(),
        )

    def Measure(
        self,
        request: pb.MeasureRequest,  # noqa: ARG002 (it is empty)
        context: grpc.ServicerContext,  # noqa: ARG002 (it cannot fail)
    ) -> pb.Measures:
        return measures.message(self._duties.samples())

    def SelfTest(
        self, request: pb.Material, context: grpc.ServicerContext
    ) -> pb.SelfTestReply:
        with told(context):
            self._duties.hsm.self_test(convert.material(request))
        return pb.SelfTestReply()

    def HoldsImport(
        self, request: pb.HoldsImportRequest, context: grpc.ServicerContext
    ) -> pb.HoldsImportReply:
        with told(context):
            holds = self._duties.hsm.holds_import(request.import_id)
        return pb.HoldsImportReply(holds=holds)

    def FinishImport(
        self, request: pb.FinishImportRequest, context: grpc.ServicerContext
    ) -> pb.Generated:
        with told(context):
            made = self._duties.hsm.finish_import(
                request.import_id,
                request.version,
                convert.blob(request),
                regions=request.regions,
            )
        return convert.generated_message(made)

    def Mac(self, request: pb.MacRequest, context: grpc.ServicerContext) -> pb.MacReply:
        with told(context):
            return pb.MacReply(macs=self._duties.hsm.mac(request.statements))

    def Rewrap(
        self, request: pb.RewrapRequest, context: grpc.ServicerContext
    ) -> pb.WrappedReply:
        with told(context):
            return self._with_macs(self._rewrapped(request))

    def _rewrapped(self, request: pb.RewrapRequest) -> Iterator[WrappedKey]:
        for message in request.materials:
            arrived = convert.material(message)
            yield self._duties.hsm.rewrap(
                arrived.spec, arrived.public_key, arrived.wrapped
            )

    def Seal(
        self, request: pb.SealRequest, context: grpc.ServicerContext
    ) -> pb.WrappedReply:
        with told(context):
            return self._with_macs(
                self._duties.hsm.seal(convert.material(message), request.region)
                for message in request.materials
            )

    def _with_macs(self, made: Iterator[WrappedKey]) -> pb.WrappedReply:
        wrapped = list(made)
        vault_id = self._duties.vault_id
        macs = self._duties.hsm.mac([one.statement(vault_id) for one in wrapped])
        return pb.WrappedReply(
            wrapped=[
                convert.wrapped_message(one, mac)
                for one, mac in zip(wrapped, macs, strict=True)
            ]
        )

    def SignStatement(
        self, request: pb.SignStatementRequest, context: grpc.ServicerContext
    ) -> pb.SignStatementReply:
        hsm = self._duties.hsm
        with told(context):
            signature = hsm.sign_statement(request.statement)
        return pb.SignStatementReply(partition=hsm.name, signature=signature)

    def PairKeys(
        self, request: pb.PairKeysRequest, context: grpc.ServicerContext
    ) -> pb.PairKeysReply:
        hsm = self._duties.hsm
        with told(context):
            dropped = hsm.drop_pair_keys(request.region) if request.drop else 0
            present = hsm.has_pair_keys(request.region)
        return pb.PairKeysReply(present=present, dropped=dropped)

    def WriteAnchor(
        self, request: pb.Head, context: grpc.ServicerContext
    ) -> pb.WriteAnchorReply:
        with told(context):
            self._duties.hsm.write_anchor(convert.head(request))
        return pb.WriteAnchorReply()

    def Execute(
        self, request: pb.ForwardRequest, context: grpc.ServicerContext
    ) -> pb.ForwardReply:
        tracing.carry(context.invocation_metadata())
        with told(context):
            done = self._duties.execute(
                request.method,
                request.request,
                principal=request.principal,
                via_region=request.via_region,
                proof=request.proof,
                timeout=request.timeout_ms / 1000,
            )
        return pb.ForwardReply(
            response=done.response, status=done.status, position=done.position
        )

    def Upkeep(
        self, request: pb.UpkeepRequest, context: grpc.ServicerContext
    ) -> pb.UpkeepReply:
        with told(context):
            position = self._duties.upkeep(
                _chore(request.chore),
                KeyName.parse(request.name),
                incarnation=request.incarnation,
            )
        return pb.UpkeepReply(position=str(position))


def _chore(name: str) -> Chore:
    try:
        return Chore(name)
    except ValueError as error:
        raise InvalidRequest("no partition does {name}", name=name) from error


def add_to(server: grpc.Server, duties: PartitionDuties) -> None:
    """Have a server serve PartitionWork."""
    pb_grpc.add_PartitionWorkServicer_to_server(PartitionService(duties), server)
