"""Values to messages of the local protocol, and back."""

from collections.abc import Sequence

from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.model.algorithms import Curve, KeySpec, KeyType
from hsmvault.model.audit_records import AuditHead
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.material import Blob, Generated, Material
from hsmvault.model.stored import WrappedKey


def material_message(material: Material) -> pb.Material:
    """Write what a partition needs to open a key version."""
    return pb.Material(
        type=material.spec.type,
        bits=material.spec.bits,
        curve=material.spec.curve or "",
        public_key=material.public_key,
        wrapped=wrapped_message(material.wrapped, material.mac),
    )


def material(message: pb.Material) -> Material:
    """Read it back."""
    wrapped, mac = wrapped_key(message.wrapped)
    return Material(
        version=wrapped.version,
        spec=_spec(message),
        public_key=message.public_key,
        wrapped=wrapped,
        mac=mac,
    )


def _spec(message: pb.Material | pb.FinishImportRequest) -> KeySpec:
    return KeySpec(
        KeyType(message.type),
        message.bits,
        Curve(message.curve) if message.curve else None,
    )


def finish_message(
    import_id: str, version: str, blob: Blob, regions: Sequence[str]
) -> pb.FinishImportRequest:
    """Write what a partition needs to open what came under a wrapping key."""
    return pb.FinishImportRequest(
        import_id=import_id,
        version=version,
        type=blob.spec.type,
        bits=blob.spec.bits,
        curve=blob.spec.curve or "",
        public_key=blob.public_key,
        wrapped=blob.wrapped,
        regions=regions,
    )


def blob(message: pb.FinishImportRequest) -> Blob:
    """Read the blob back."""
    return Blob(_spec(message), message.public_key, message.wrapped)


def generated_message(made: Generated) -> pb.Generated:
    """Write fresh material."""
    return pb.Generated(
        wrapped=[wrapped_message(one, b"") for one in made.wrapped],
        public_key=made.public_key,
    )


def generated(message: pb.Generated) -> Generated:
    """Read it back."""
    return Generated(
        tuple(wrapped_key(one)[0] for one in message.wrapped), message.public_key
    )


def wrapped_message(wrapped: WrappedKey, mac: bytes) -> pb.WrappedKey:
    """Write a wrapped key and its MAC."""
    return pb.WrappedKey(
        version=wrapped.version,
        region=wrapped.region,
        wrapping_key=wrapped.wrapping_key,
        mechanism=wrapped.mechanism,
        wrapped=wrapped.wrapped,
        mac=mac,
    )


def wrapped_key(message: pb.WrappedKey) -> tuple[WrappedKey, bytes]:
    """Read it back."""
    return (
        WrappedKey(
            version=message.version,
            region=message.region,
            wrapping_key=message.wrapping_key,
            mechanism=message.mechanism,
            wrapped=message.wrapped,
        ),
        message.mac,
    )


def head_message(head: Head) -> pb.Head:
    """Write the end of a log."""
    epoch = head.position.epoch
    return pb.Head(
        epoch_number=epoch.number,
        epoch_region=epoch.region,
        index=head.position.index,
        chain=head.chain,
    )


def head(message: pb.Head) -> Head:
    """Read it back."""
    epoch = Epoch(message.epoch_number, message.epoch_region)
    return Head(Position(epoch, message.index), message.chain)


def audit_head_in(message: pb.AuditHead) -> AuditHead:
    """Read the end of an audit trail."""
    return AuditHead(
        message.region,
        message.process,
        message.segment,
        message.sequence,
        message.chain,
        message.time_ms,
        message.partition,
        message.signature,
    )


def audit_head_out(head: AuditHead) -> pb.AuditHead:
    """Write the end of an audit trail."""
    return pb.AuditHead(
        region=head.region,
        process=head.process,
        segment=head.segment,
        sequence=head.sequence,
        chain=head.chain,
        time_ms=head.time_ms,
        partition=head.partition,
        signature=head.signature,
    )
