"""Messages ↔ model, both ways, nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from hsmvault.model import algorithms
from hsmvault.model.algorithms import Operation
from hsmvault.model.errors import InvalidRequest, NotSupported
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.names import KeyName
from hsmvault.model.vault_records import PartitionCard, RegionRecord
from hsmvault.v1 import resources_pb2 as pb
from hsmvault.vault.checked import Found
from hsmvault.vault.settings import KeyPatch, KeySettings

REQUEST_ID_MAX: Final = 64
SECONDS_MAX: Final = 253_402_300_799
"""The last second of the year 9999, where google.protobuf.Timestamp ends."""


def timestamp(time_ms: int) -> Timestamp | None:
    """Write a time; None where it is not set."""
    if not time_ms:
        return None
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def milliseconds(time: Timestamp) -> int:
    """Read a time, or raise InvalidRequest. What is finer than ms is cut off."""
    if not 0 <= time.seconds <= SECONDS_MAX or not 0 <= time.nanos < 1e9:  # noqa: PLR2004
        raise InvalidRequest("a time must lie between 1970 and the year 9999")
    return time.seconds * 1000 + time.nanos // 1_000_000


def spec_message(spec: algorithms.KeySpec) -> pb.KeySpec:
    """Write a key's type and size."""
    return pb.KeySpec(type=spec.type, bits=spec.bits, curve=spec.curve or "")


def key(found: Found[KeyRecord]) -> pb.Key:
    """Write a key."""
    record = found.record
    return pb.Key(
        name=record.name,
        incarnation=record.incarnation,
        spec=spec_message(record.spec),
        operations=sorted(record.operations),
        current_version=f"{record.name}/versions/{record.current}",
        enabled=record.enabled,
        not_before_time=timestamp(record.not_before_ms),
        expire_time=timestamp(record.expire_ms),
        tags=dict(record.tags),
        deletion_protection=record.deletion_protection,
        state=pb.Key.State.Value(record.state),
        create_time=timestamp(record.create_ms),
        update_time=timestamp(record.update_ms),
        delete_time=timestamp(record.delete_ms),
        purge_time=timestamp(record.purge_ms),
        etag=found.etag,
        position=str(found.position),
    )


def version(found: Found[VersionRecord], *, current: str) -> pb.KeyVersion:
    """Write a version; `current` is the id of its key's current one."""
    record = found.record
    return pb.KeyVersion(
        name=f"{record.key}/versions/{record.version}",
        spec=spec_message(record.spec),
        enabled=record.enabled,
        state=pb.KeyVersion.State.Value(record.state),
        current=record.version == current,
        regions=[f"regions/{region}" for region in record.regions],
        create_time=timestamp(record.create_ms),
        update_time=timestamp(record.update_ms),
        imported=record.imported,
        etag=found.etag,
        position=str(found.position),
    )


def region(found: Found[RegionRecord]) -> pb.Region:
    """Write a region."""
    record = found.record
    shared, *own = record.token_endpoints or ("",) * (1 + len(record.partitions))
    return pb.Region(
        name=record.name,
        state=pb.Region.State.Value(record.state),
        primary=record.primary,
        zone=record.zone,
        endpoint=record.endpoint,
        partitions=[
            pb.Partition(
                name=p.name,
                endpoint=endpoint,
                identity=p.identity,
                token_endpoint=token,
            )
            for p, endpoint, token in zip(
                record.partitions, record.partition_endpoints, own, strict=True
            )
        ],
        token_endpoint=shared,
        private_endpoint=record.private_endpoint,
        certificate=record.certificate,
        problem=record.problem,
        create_time=timestamp(record.create_ms),
        update_time=timestamp(record.update_ms),
        etag=found.etag,
        position=str(found.position),
    )


def region_record(message: pb.Region, *, now_ms: int) -> RegionRecord:
    """Read a region that is to be added: all that its card says."""
    return RegionRecord(
        name=message.name,
        revision=1,
        state=RegionState.PREPROVISIONING,
        primary=False,
        zone=message.zone,
        endpoint=message.endpoint,
        partition_endpoints=tuple(p.endpoint for p in message.partitions),
        private_endpoint=message.private_endpoint,
        partitions=tuple(PartitionCard(p.name, p.identity) for p in message.partitions),
        certificate=message.certificate,
        token_endpoints=_token_endpoints(message),
        create_ms=now_ms,
        update_ms=now_ms,
    )


def _token_endpoints(message: pb.Region) -> tuple[str, ...]:
    found = (message.token_endpoint, *(p.token_endpoint for p in message.partitions))
    if not any(found):
        return ()
    if not all(found):
        raise InvalidRequest(
            "{name} has some of its token endpoints only; take its card again",
            name=message.name,
        )
    return found


def require_named(message: pb.Key, name: KeyName) -> None:
    """Raise InvalidRequest where a new key is called two names."""
    if message.name not in {"", str(name)}:
        raise InvalidRequest(
            "key.name is chosen by key_id: leave it empty, or give {name}", name=name
        )


def settings(message: pb.Key) -> KeySettings:
    """Read what a new key is to be like."""
    if message.exportable:
        raise NotSupported(
            "no key is exportable: its material leaves a partition only wrapped, for "
            "the vault's own regions. Back it up: hsmvault key backup"
        )
    return KeySettings(
        operations=operations(message.operations),
        enabled=message.enabled if message.HasField("enabled") else True,
        not_before_ms=milliseconds(message.not_before_time),
        expire_ms=milliseconds(message.expire_time),
        tags=tags(message),
        deletion_protection=message.deletion_protection,
    )


_PATCHES: Final[Mapping[str, Callable[[pb.Key], tuple[str, Any]]]] = {
    "enabled": lambda m: ("enabled", m.enabled),
    "not_before_time": lambda m: ("not_before_ms", milliseconds(m.not_before_time)),
    "expire_time": lambda m: ("expire_ms", milliseconds(m.expire_time)),
    "tags": lambda m: ("tags", tags(m)),
    "operations": lambda m: ("operations", operations(m.operations)),
    "deletion_protection": lambda m: ("deletion_protection", m.deletion_protection),
}


def patch(message: pb.Key, mask: FieldMask) -> KeyPatch:
    """Read what an update changes, or raise InvalidRequest."""
    names = paths(message, mask, known=list(_PATCHES))
    return KeyPatch(**dict(_PATCHES[name](message) for name in names))


def paths(message: Message, mask: FieldMask, *, known: Sequence[str]) -> list[str]:
    """Return the fields to change: those of the mask, or those that are set."""
    if not mask.paths:
        given = {field.name for field, _ in message.ListFields()}
        named = [name for name in known if name in given]
    else:
        named = list(dict.fromkeys(mask.paths))
    odd = [name for name in named if name not in known]
    if odd or not named:
        raise InvalidRequest(
            "update_mask names {odd}; it can name {known}",
            odd=", ".join(odd)[:200] or "nothing",
            known=", ".join(known),
        )
    return named


def operations(names: Iterable[str]) -> frozenset[Operation]:
    """Read key operations, or raise InvalidRequest."""
    try:
        return frozenset(Operation(name) for name in names)
    except ValueError as error:
        raise InvalidRequest(
            "unknown operation among {given}; known are {known}",
            given=", ".join(names)[:200],
            known=", ".join(Operation),
        ) from error


def tags(message: pb.Key) -> tuple[tuple[str, str], ...]:
    """Read tags, in the order of their names."""
    return tuple(sorted(message.tags.items()))


def request_id(given: str) -> str:
    """Check a request id, or raise InvalidRequest."""
    if len(given) > REQUEST_ID_MAX or not given.isascii() or not given.isprintable():
        raise InvalidRequest(
            "request_id is at most {most} printable ASCII characters; a UUID is best",
            most=REQUEST_ID_MAX,
        )
    return given
