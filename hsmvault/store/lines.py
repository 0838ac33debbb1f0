"""A snapshot as lines of JSON: what it is made of, written and read back.

Lines are only ever trusted under the signature over the digests of their chunks; a
line that does not read is refused all the same.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.log import Epoch, Head, Kind, Position, RequestMark
from hsmvault.model.stored import StoredRecord, WrappedKey


@dataclass(frozen=True, slots=True)
class RequestAt:
    """The mark of a request, and the index of the entry that carries it."""

    index: int
    mark: RequestMark


SnapshotItem = Head | StoredRecord | WrappedKey | RequestAt


def line(item: SnapshotItem) -> bytes:
    """Write one item as one line, newline included. A record's MAC is left out."""
    return json.dumps(_fields(item), separators=(",", ":")).encode() + b"\n"


def parse(raw: bytes) -> SnapshotItem:
    """Read one line back, or raise IntegrityFailure."""
    try:
        what, *fields = from_json(raw)
        item: SnapshotItem = _READERS[what](*fields)
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityFailure("a line of the snapshot does not read") from error
    return item


def _fields(item: SnapshotItem) -> list[object]:
    match item:
        case Head(position, chain):
            epoch = position.epoch
            return ["head", epoch.number, epoch.region, position.index, _out(chain)]
        case StoredRecord(kind, resource, revision, record):
            return ["record", kind, resource, revision, _out(record), item.index]
        case WrappedKey(version, region, wrapping_key, mechanism, wrapped):
            material = _out(wrapped)
            return ["wrapped", version, region, wrapping_key, mechanism, material]
        case RequestAt(index, m):
            who = m.principal, m.method, m.request_id
            return ["request", index, *who, _out(m.digest), _out(m.answer)]


def _out(raw: bytes) -> str:
    return b64encode(raw).decode()


def _in(text: str) -> bytes:
    return b64decode(text, validate=True)


def _head(number: int, region: str, index: int, chain: str) -> Head:
    return Head(Position(Epoch(int(number), str(region)), int(index)), _in(chain))


def _record(
    kind: str, resource: str, revision: int, record: str, index: int
) -> StoredRecord:
    return StoredRecord(
        Kind(kind), str(resource), int(revision), _in(record), index=int(index)
    )


def _wrapped(
    version: str, region: str, wrapping_key: str, mechanism: str, wrapped: str
) -> WrappedKey:
    names = str(version), str(region), str(wrapping_key), str(mechanism)
    return WrappedKey(*names, _in(wrapped))


def _request(index: int, *texts: str) -> RequestAt:
    principal, method, request_id, digest, answer = map(str, texts)
    mark = RequestMark(principal, method, request_id, _in(digest), _in(answer))
    return RequestAt(int(index), mark)


_READERS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "head": _head,
        "record": _record,
        "wrapped": _wrapped,
        "request": _request,
    }
)
