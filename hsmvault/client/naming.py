"""How callers name keys and write dates, and what the vault is sent for it."""

import datetime as dt
from collections.abc import Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from hsmvault.v1.resources_pb2 import Key, KeySpec


def key_name(name: str) -> str:
    """Return the full name of a key or a version; what is full already stays."""
    return name if name.startswith("keys/") else f"keys/{name}"


def expected_name(name: str, version: str) -> str:
    """Return the full name of a version that is given so, or by its id alone."""
    if not version or "/" in version:
        return version
    key = key_name(name).partition("/versions/")[0]
    return f"{key}/versions/{version}"


def timestamp(when: dt.datetime) -> Timestamp:
    """Convert; a time without zone is refused, because it would mean another."""
    if when.tzinfo is None:
        raise ValueError("give dates with their time zone, e.g. datetime.UTC")
    made = Timestamp()
    made.FromDatetime(when.astimezone(dt.UTC))
    return made


def new_key(
    spec: KeySpec | None,
    *,
    operations: Sequence[str] = (),
    enabled: bool = True,
    not_before: dt.datetime | None = None,
    expire: dt.datetime | None = None,
    tags: Mapping[str, str] | None = None,
    deletion_protection: bool = False,
) -> Key:
    """Say what a key is to be like that is about to be made."""
    key = Key(
        spec=spec,
        operations=operations,
        enabled=enabled,
        tags=tags or {},
        deletion_protection=deletion_protection,
    )
    if not_before is not None:
        key.not_before_time.CopyFrom(timestamp(not_before))
    if expire is not None:
        key.expire_time.CopyFrom(timestamp(expire))
    return key
