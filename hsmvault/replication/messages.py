"""Messages of the private protocol ↔ the model, both ways, and nothing else.

Whatever does not read as the model's is an IntegrityFailure: it came from a region.
"""

from collections.abc import Iterable, Sequence

from hsmvault.model.audit_records import AuditHead
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.log import (
    Entry,
    Epoch,
    Head,
    Kind,
    Position,
    RequestMark,
    SignedHead,
)
from hsmvault.model.stored import WRAPPED_BYTES_MAX, StoredRecord, WrappedKey
from hsmvault.model.vault_records import EpochRecord
from hsmvault.regions.ports import Executed
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.store.lines import RequestAt, SnapshotItem


def head_out(head: Head) -> pb.Head:
    """Write a head."""
    return pb.Head(
        epoch_number=head.position.epoch.number,
        epoch_region=head.position.epoch.region,
        index=head.position.index,
        chain=head.chain,
    )


def head_in(message: pb.Head) -> Head:
    """Read a head."""
    return Head(
        Position(Epoch(message.epoch_number, message.epoch_region), message.index),
        message.chain,
    )


def signed_head_out(signed: SignedHead) -> pb.SignedHead:
    """Write a signed head."""
    return pb.SignedHead(
        head=head_out(signed.head),
        partition=signed.partition,
        signature=signed.signature,
    )


def signed_head_in(message: pb.SignedHead) -> SignedHead:
    """Read a signed head."""
    return SignedHead(head_in(message.head), message.partition, message.signature)


def fork_out(record: EpochRecord) -> pb.Fork:
    """Write one row of the fork table."""
    return pb.Fork(
        epoch_number=record.number,
        epoch_region=record.region,
        fork_index=record.fork_index,
        fork_chain=record.fork_chain,
    )


def _mark_out(mark: RequestMark) -> pb.RequestMark:
    return pb.RequestMark(
        principal=mark.principal,
        method=mark.method,
        request_id=mark.request_id,
        digest=mark.digest,
        answer=mark.answer,
    )


def _mark_in(message: pb.RequestMark) -> RequestMark:
    return RequestMark(
        message.principal,
        message.method,
        message.request_id,
        message.digest,
        message.answer,
    )


def _kind_in(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError as error:
        raise IntegrityFailure(
            "an entry of unknown kind {kind!r} arrived; is the other region of a newer "
            "release?",
            kind=text[:50],
        ) from error


def entry_out(entry: Entry) -> pb.Entry:
    """Write an entry, its record's bytes untouched."""
    return pb.Entry(
        epoch_number=entry.position.epoch.number,
        epoch_region=entry.position.epoch.region,
        index=entry.position.index,
        time_ms=entry.time_ms,
        kind=entry.kind,
        resource=entry.resource,
        record=entry.record,
        chain=entry.chain,
        request=None if entry.request is None else _mark_out(entry.request),
    )


def entry_in(message: pb.Entry) -> Entry:
    """Read an entry."""
    return Entry(
        position=Position(
            Epoch(message.epoch_number, message.epoch_region), message.index
        ),
        time_ms=message.time_ms,
        kind=_kind_in(message.kind),
        resource=message.resource,
        record=message.record,
        chain=message.chain,
        request=_mark_in(message.request) if message.HasField("request") else None,
    )


def wrapped_out(wrapped: WrappedKey) -> pb.WrappedKey:
    """Write a wrapped key."""
    return pb.WrappedKey(
        version=wrapped.version,
        region=wrapped.region,
        wrapping_key=wrapped.wrapping_key,
        mechanism=wrapped.mechanism,
        wrapped=wrapped.wrapped,
    )


def wrapped_in(message: pb.WrappedKey) -> WrappedKey:
    """Read a wrapped key."""
    if len(message.wrapped) > WRAPPED_BYTES_MAX:
        raise IntegrityFailure(
            "a wrapped key of {size} bytes arrived; none has more than {limit}",
            size=len(message.wrapped),
            limit=WRAPPED_BYTES_MAX,
        )
    return WrappedKey(
        message.version,
        message.region,
        message.wrapping_key,
        message.mechanism,
        message.wrapped,
    )


def batch_out(
    entries: Sequence[Entry], wrapped: Iterable[WrappedKey], head: SignedHead
) -> pb.Batch:
    """Write a batch."""
    return pb.Batch(
        entries=map(entry_out, entries),
        wrapped=map(wrapped_out, wrapped),
        head=signed_head_out(head),
    )


def put_item(part: pb.SnapshotPart, item: SnapshotItem) -> int:
    """Add an item to a part of a snapshot; returns about how many bytes it took."""
    match item:
        case StoredRecord():
            row = pb.StateRow(
                kind=item.kind,
                resource=item.resource,
                revision=item.revision,
                record=item.record,
                index=item.index,
            )
            part.rows.append(row)
            return row.ByteSize()
        case WrappedKey():
            wrapped = wrapped_out(item)
            part.wrapped.append(wrapped)
            return wrapped.ByteSize()
        case RequestAt():
            request = pb.MarkedRequest(request=_mark_out(item.mark), index=item.index)
            part.requests.append(request)
            return request.ByteSize()
        case Head():
            return 0


def row_in(message: pb.StateRow) -> StoredRecord:
    """Read a row of state, without a MAC."""
    return StoredRecord(
        _kind_in(message.kind),
        message.resource,
        message.revision,
        message.record,
        index=message.index,
    )


def request_in(message: pb.MarkedRequest) -> RequestAt:
    """Read the mark of a request."""
    return RequestAt(message.index, _mark_in(message.request))


def executed_out(executed: Executed) -> pb.ForwardReply:
    """Write how a forwarded call ended."""
    return pb.ForwardReply(
        response=executed.response,
        status=executed.status,
        position=executed.position,
    )


def executed_in(message: pb.ForwardReply) -> Executed:
    """Read how a forwarded call ended."""
    return Executed(message.response, message.status, message.position)


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
