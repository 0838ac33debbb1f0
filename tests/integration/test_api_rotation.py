"""Rotation policies, pending versions and deleted keys, as callers ask for them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.model.rotation import DAY_MS
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key, KeyVersion
from hsmvault.vault.ports import FollowerState
from tests.support.clock import START_MS, Clock
from tests.support.served import (
    PAGE_KEY,
    VAULT_ID,
    Served,
    genesis,
    make_key,
    refusal,
    region,
    served,
    signed,
)

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
STATE = grpc.StatusCode.FAILED_PRECONDITION
NAME = "keys/k/rotationPolicy"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def north(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, clock=clock) as one:
        yield one


@pytest.fixture
def paired(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, records=genesis(region("south"))) as one:
        yield one


def _policy(etag: str = "", /, **days: float) -> keys.RotationPolicy:
    made = keys.RotationPolicy(name=NAME, etag=etag)
    for name, value in days.items():
        getattr(made, name).CopyFrom(Duration(seconds=int(value * 86_400)))
    return made


def _set(
    one: Served, policy: keys.RotationPolicy, *mask: str, **fields: Any
) -> keys.RotationPolicy:
    return one.uma.keys.UpdateRotationPolicy(
        keys.UpdateRotationPolicyRequest(
            rotation_policy=policy, update_mask=FieldMask(paths=mask), **fields
        )
    )


def _get(one: Served) -> keys.RotationPolicy:
    return one.uma.keys.GetRotationPolicy(keys.GetRotationPolicyRequest(name=NAME))


def _days(duration: Duration) -> float:
    return duration.seconds / 86_400


# --- policies ---------------------------------------------------------------------


def test_a_key_without_a_policy_has_an_empty_one(north: Served) -> None:
    key = make_key(north, "k")

    policy = _get(north)

    assert (policy.name, policy.etag) == (NAME, key.etag)
    assert not policy.HasField("next_rotation_time")
    assert not _days(policy.rotate_after_create)


def test_a_policy_is_replaced_whole_or_by_its_mask(north: Served) -> None:
    make_key(north, "k")

    first = _set(north, _policy(rotate_after_create=90, expire_after=120))
    masked = _set(north, _policy(rotate_after_create=60), "rotate_after_create")
    replaced = _set(north, _policy(rotate_after_create=30))

    assert _days(first.expire_after) == _days(masked.expire_after) == 120
    assert _days(masked.rotate_after_create) == 60
    assert not replaced.HasField("expire_after")
    assert _get(north) == replaced
    assert replaced.next_rotation_time.ToMilliseconds() == START_MS + 30 * DAY_MS


def test_an_empty_policy_takes_it_away(north: Served) -> None:
    made = make_key(north, "k")
    _set(north, _policy(rotate_after_create=90))

    empty = _set(north, _policy())

    assert not empty.HasField("next_rotation_time")
    assert north.uma.keys.GetKey(keys.GetKeyRequest(name="keys/k")).spec == made.spec


@pytest.mark.parametrize(
    ("days", "words"),
    (
        ({"rotate_after_create": 27.99}, "at most every 28 days"),
        ({"expire_after": 27}, "28 to 36500 days"),
        ({"expire_after": 40_000}, "28 to 36500 days"),
        ({"rotate_before_expire": 10}, "needs expire_after"),
        ({"rotate_before_expire": 10, "expire_after": 37}, "less than 28 days"),
        ({"rotate_after_create": 60, "expire_after": 60}, "must be less than"),
        (
            {"rotate_after_create": 30, "rotate_before_expire": 9, "expire_after": 90},
            "not both",
        ),
        ({"rotate_before_expire": -1, "expire_after": 90}, "not a duration"),
    ),
)
def test_a_policy_that_azure_would_refuse_is_refused(
    north: Served, days: Mapping[str, float], words: str
) -> None:
    make_key(north, "k")

    told = refusal(lambda: _set(north, _policy(**days)))

    assert told[:2] == INVALID
    assert words in told[2]
    assert not _get(north).HasField("next_rotation_time")


def test_a_policy_goes_by_the_keys_etag_and_its_name(north: Served) -> None:
    make_key(north, "k")
    stale = refusal(lambda: _set(north, _policy("old", rotate_after_create=30)))
    odd = refusal(lambda: _set(north, keys.RotationPolicy(name="keys/k")))
    masked = refusal(lambda: _set(north, _policy(), "name"))
    fresh = _set(north, _policy(_get(north).etag, rotate_after_create=30))

    assert stale[0] is grpc.StatusCode.ABORTED
    assert odd[1] == "MALFORMED_NAME"
    assert masked[:2] == INVALID
    assert fresh.etag != "old"


def test_setting_a_policy_twice_by_one_request_id_sets_it_once(north: Served) -> None:
    make_key(north, "k")
    asked = _policy(rotate_after_create=30)

    first = _set(north, asked, request_id="r")
    head = north.store.head()
    again = _set(north, asked, request_id="r")

    assert (first, north.store.head()) == (again, head)


def test_an_expiry_that_is_set_near_does_not_rotate_a_key_too_often(
    north: Served,
) -> None:
    """`keys/write` alone must not make versions as fast as it likes."""
    key = make_key(north, "k")
    _set(north, _policy(expire_after=90, rotate_before_expire=30))
    key.expire_time.FromMilliseconds(START_MS + 31 * DAY_MS)

    north.uma.keys.UpdateKey(
        keys.UpdateKeyRequest(
            key=Key(name="keys/k", expire_time=key.expire_time),
            update_mask=FieldMask(paths=["expire_time"]),
        )
    )

    due = _get(north).next_rotation_time.ToMilliseconds()
    assert due == START_MS + 28 * DAY_MS


# --- pending versions -------------------------------------------------------------


def _rotated(one: Served) -> KeyVersion:
    return one.uma.keys.RotateKey(keys.RotateKeyRequest(name="keys/k"))


def _activate(one: Served, name: str, **fields: Any) -> keys.ActivateKeyVersionResponse:
    request = keys.ActivateKeyVersionRequest(name=name, **fields)
    return one.uma.keys.ActivateKeyVersion(request)


def _south(position: str) -> tuple[FollowerState, ...]:
    state = FollowerState("south", True, position, 0, 0, 0, 100)
    return (state,)


def test_a_pending_version_is_shown_and_not_used_unless_it_is_named(
    paired: Served,
) -> None:
    key = make_key(paired, "k")

    pending = _rotated(paired)

    shown = paired.uma.keys.GetKey(keys.GetKeyRequest(name="keys/k"))
    assert list(shown.pending_versions) == [pending.name]
    assert shown.current_version == key.current_version
    assert signed(paired.uma, "keys/k").name == key.current_version
    assert signed(paired.uma, pending.name).name == pending.name


def test_a_version_that_a_region_lacks_is_made_current_only_by_force(
    paired: Served,
) -> None:
    key = make_key(paired, "k")
    pending = _rotated(paired)
    paired.manager.followers = _south(key.position)

    told = refusal(lambda: _activate(paired, pending.name))
    done = _activate(paired, pending.name, force=True, request_id="r")
    again = _activate(paired, pending.name, force=True, request_id="r")

    assert told[:2] == (STATE, "VERSIONS_PENDING")
    assert "regions/south" in told[2]
    assert "hsmvault key activate" in told[2]
    assert list(done.lacking_regions) == ["regions/south"]
    assert (done.key_version.state, done.key_version.current) == (
        KeyVersion.ACTIVE,
        True,
    )
    assert again.key_version == done.key_version
    assert signed(paired.uma, "keys/k").name == pending.name
    shown = paired.uma.keys.GetKey(keys.GetKeyRequest(name="keys/k"))
    assert not shown.pending_versions


def test_a_version_that_all_regions_hold_needs_no_force(paired: Served) -> None:
    make_key(paired, "k")
    pending = _rotated(paired)
    paired.manager.followers = _south(pending.position)

    done = _activate(paired, pending.name)

    assert not done.lacking_regions
    assert done.key_version.current


def test_a_region_nobody_knows_of_counts_as_lacking_it(paired: Served) -> None:
    make_key(paired, "k")

    told = refusal(lambda: _activate(paired, _rotated(paired).name))

    assert told[1] == "VERSIONS_PENDING"


def test_a_disabled_pending_version_is_not_made_current(paired: Served) -> None:
    make_key(paired, "k")
    pending = _rotated(paired)
    paired.uma.keys.UpdateKeyVersion(
        keys.UpdateKeyVersionRequest(
            key_version=KeyVersion(name=pending.name, enabled=False)
        )
    )

    told = refusal(lambda: _activate(paired, pending.name, force=True))

    assert told[:2] == (STATE, "KEY_NOT_ENABLED")
    assert "hsmvault version update" in told[2]


# --- deleted keys -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "protection", "level"),
    (
        (90, False, "Recoverable+Purgeable"),
        (90, True, "Recoverable"),
        (7, False, "CustomizedRecoverable+Purgeable"),
        (89, True, "CustomizedRecoverable"),
    ),
)
def test_a_deleted_key_says_when_it_is_purged_and_what_may_be_done(
    tmp_path: Path, clock: Clock, days: int, protection: bool, level: str
) -> None:
    vault = VaultRecord(
        VAULT_ID,
        1,
        1,
        retention_days=days,
        purge_protection=protection,
        page_key=PAGE_KEY,
    )
    with served(tmp_path, clock=clock, records=genesis(settings=vault)) as one:
        make_key(one, "gone")
        one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/gone"))

        key = one.olga.keys.GetDeletedKey(keys.GetDeletedKeyRequest(name="keys/GONE"))

        assert key.recovery_level == level
        assert key.delete_time.ToMilliseconds() == START_MS
        assert key.purge_time.ToMilliseconds() == START_MS + days * DAY_MS


def test_deleted_keys_are_listed_by_pages_and_live_ones_are_not(north: Served) -> None:
    for name in ("a", "b", "c", "d"):
        make_key(north, name)
    for name in ("d", "a", "c"):
        north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name=f"keys/{name}"))

    first = north.olga.keys.ListDeletedKeys(keys.ListDeletedKeysRequest(page_size=2))
    rest = north.olga.keys.ListDeletedKeys(
        keys.ListDeletedKeysRequest(page_size=2, page_token=first.next_page_token)
    )

    names = [key.name for page in (first, rest) for key in page.keys]
    assert names == ["keys/a", "keys/c", "keys/d"]
    assert not rest.next_page_token
    assert {key.recovery_level for key in rest.keys} == {"Recoverable+Purgeable"}


def test_rs_10_a_purged_key_is_not_recovered(north: Served) -> None:
    make_key(north, "k")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/k"))
    north.olga.keys.PurgeKey(keys.PurgeKeyRequest(name="keys/k"))

    told = refusal(
        lambda: north.olga.keys.RecoverKey(keys.RecoverKeyRequest(name="keys/k"))
    )

    assert told[0] is grpc.StatusCode.NOT_FOUND
