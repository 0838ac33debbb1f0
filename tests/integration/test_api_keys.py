"""The life of keys over real gRPC, mTLS and SQLite."""

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from hsmvault.model.log import Position
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1.key_service_pb2 import (
    CreateKeyRequest,
    DeleteKeyRequest,
    GetKeyRequest,
    GetPublicKeyRequest,
    ListKeysRequest,
    ListKeyVersionsRequest,
    PurgeKeyRequest,
    RecoverKeyRequest,
    RotateKeyRequest,
    UpdateKeyRequest,
    UpdateKeyVersionRequest,
)
from hsmvault.v1.resources_pb2 import Key, KeySpec, KeyVersion
from tests.support.clock import Clock
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

StatusCode = grpc.StatusCode
DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


def _delete(north: Served, name: str) -> Key:
    return north.uma.keys.DeleteKey(DeleteKeyRequest(name=name))


def test_a_key_that_was_created_signs_and_says_where(north: Served) -> None:
    key = make_key(north, "Payroll")

    answer = signed(north.uma, "keys/payroll")

    assert key.name == "keys/Payroll"
    assert answer.name == key.current_version
    assert len(answer.signature) == 64
    assert (answer.served.region, answer.served.partition) == ("north", "p0")
    assert answer.served.position == key.position


@pytest.mark.parametrize(
    ("kind", "bits", "curve", "made"),
    [
        ("EC", 0, "", "P-256"),
        ("EC", 0, "P-384", "P-384"),
        ("EC", 521, "P-521", "P-521"),
        ("EC", 256, "P-256K", "P-256K"),
        ("RSA", 2048, "", "RSA-2048"),
        ("RSA", 0, "", "RSA-3072"),
        ("oct", 128, "", "oct-128"),
        ("oct", 192, "", "oct-192"),
        ("oct", 0, "", "oct-256"),
    ],
)
def test_every_type_and_size_of_key_is_made(
    north: Served, kind: str, bits: int, curve: str, made: str
) -> None:
    key = make_key(north, "k", kind, bits=bits, curve=curve)

    spec = key.spec
    assert (spec.curve or f"{spec.type}-{spec.bits}") == made
    assert key.enabled
    assert key.state == Key.ACTIVE
    assert key.operations
    assert north.uma.keys.GetKey(GetKeyRequest(name="keys/K")) == key


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (CreateKeyRequest(), "MALFORMED_NAME"),
        (CreateKeyRequest(key_id="a.b"), "MALFORMED_NAME"),
        (CreateKeyRequest(key_id="a"), "INVALID_REQUEST"),
        (
            CreateKeyRequest(key_id="a", key=Key(spec=KeySpec(type="RSA", bits=1024))),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a", key=Key(name="keys/b", spec=KeySpec(type="EC"))
            ),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a", key=Key(spec=KeySpec(type="EC"), operations=["encrypt"])
            ),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a", key=Key(spec=KeySpec(type="EC"), operations=["fly"])
            ),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a",
                key=Key(
                    spec=KeySpec(type="EC"),
                    not_before_time=Timestamp(seconds=20),
                    expire_time=Timestamp(seconds=10),
                ),
            ),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a",
                key=Key(spec=KeySpec(type="EC"), expire_time=Timestamp(seconds=2**60)),
            ),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a",
                key=Key(spec=KeySpec(type="EC"), tags={str(n): "" for n in range(16)}),
            ),
            "INVALID_REQUEST",
        ),
        (
            CreateKeyRequest(
                key_id="a", key=Key(spec=KeySpec(type="EC")), request_id="x" * 65
            ),
            "INVALID_REQUEST",
        ),
    ],
)
def test_a_key_that_cannot_be_is_refused_and_nothing_is_made(
    north: Served, request_: CreateKeyRequest, reason: str
) -> None:
    before = north.store.head()

    told = refusal(lambda: north.uma.keys.CreateKey(request_))

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, reason)
    assert north.store.head() == before


def test_a_name_is_taken_without_regard_to_case_until_it_is_purged(
    north: Served,
) -> None:
    first = make_key(north, "Taken")

    taken = refusal(lambda: make_key(north, "tAKEN"))
    _delete(north, "keys/taken")
    deleted = refusal(lambda: make_key(north, "taken"))
    north.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/taken"))
    again = make_key(north, "taken")

    assert taken[:2] == deleted[:2] == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert "rotate" in taken[2]
    assert "recover" in deleted[2]
    assert again.incarnation != first.incarnation


def test_keys_are_listed_by_pages_that_writes_do_not_disturb(north: Served) -> None:
    for key_id in ("b", "D", "f", "h"):
        make_key(north, key_id)

    first = north.uma.keys.ListKeys(ListKeysRequest(page_size=2))
    make_key(north, "a")
    make_key(north, "e")
    _delete(north, "keys/f")
    rest = north.uma.keys.ListKeys(
        ListKeysRequest(page_size=9, page_token=first.next_page_token)
    )

    assert [key.name for key in first.keys] == ["keys/b", "keys/D"]
    assert [key.name for key in rest.keys] == ["keys/e", "keys/h"]
    assert not rest.next_page_token


def test_a_page_token_is_good_for_its_own_listing_only(north: Served) -> None:
    make_key(north, "a")
    make_key(north, "b")
    token = north.uma.keys.ListKeys(ListKeysRequest(page_size=1)).next_page_token

    for request in (
        ListKeysRequest(page_token="!"),
        ListKeysRequest(page_token=token[:-4]),
        ListKeysRequest(page_token="AAAA"),
        ListKeysRequest(page_size=-1),
    ):
        told = refusal(partial(north.uma.keys.ListKeys, request))
        assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    other = ListKeyVersionsRequest(parent="keys/a", page_token=token)
    told = refusal(lambda: north.uma.keys.ListKeyVersions(other))
    assert told[0] is StatusCode.INVALID_ARGUMENT
    hers = ListKeysRequest(page_token=token)
    told = refusal(lambda: north.tom.keys.ListKeys(hers))
    assert told[0] is StatusCode.INVALID_ARGUMENT


def test_rs_03_no_page_token_can_be_read_or_forged(north: Served) -> None:
    """By a caller who knows how tokens are made, and all but the vault's page key."""
    for key_id in ("a", "secret-project", "z"):
        make_key(north, key_id)

    token = north.uma.keys.ListKeys(ListKeysRequest(page_size=2)).next_page_token

    raw = base64.urlsafe_b64decode(token)
    assert b"secret" not in raw
    for place in range(len(raw)):
        changed = bytes([*raw[:place], raw[place] ^ 1, *raw[place + 1 :]])
        forged = base64.urlsafe_b64encode(changed).decode()
        told = refusal(
            partial(north.uma.keys.ListKeys, ListKeysRequest(page_token=forged))
        )
        assert told[0] is StatusCode.INVALID_ARGUMENT
    for page_size in (-1, -(2**31)):
        told = refusal(
            partial(north.uma.keys.ListKeys, ListKeysRequest(page_size=page_size))
        )
        assert told[0] is StatusCode.INVALID_ARGUMENT
    for page_size in (0, 2**31 - 1):
        every = north.uma.keys.ListKeys(ListKeysRequest(page_size=page_size))
        assert len(every.keys) == 3


def test_an_update_changes_what_its_mask_names(north: Served) -> None:
    key = make_key(north, "a", tags={"team": "pay"}, operations=["sign", "verify"])

    updated = north.uma.keys.UpdateKey(
        UpdateKeyRequest(
            key=Key(name="keys/a", operations=["verify"], tags={"x": "y"}),
            update_mask=FieldMask(paths=["operations"]),
        )
    )
    refused = refusal(lambda: signed(north.uma, "keys/a"))

    assert list(updated.operations) == ["verify"]
    assert dict(updated.tags) == {"team": "pay"}
    assert updated.etag != key.etag
    assert refused[:2] == (StatusCode.INVALID_ARGUMENT, "OPERATION_NOT_PERMITTED")


def test_without_a_mask_an_update_changes_what_is_set(north: Served) -> None:
    make_key(north, "a", tags={"team": "pay"}, deletion_protection=True)

    updated = north.uma.keys.UpdateKey(
        UpdateKeyRequest(key=Key(name="keys/a", enabled=False))
    )

    assert not updated.enabled
    assert updated.deletion_protection
    assert dict(updated.tags) == {"team": "pay"}


@pytest.mark.parametrize(
    ("paths", "key"),
    [
        (["name"], Key(name="keys/a")),
        (["spec.bits"], Key(name="keys/a")),
        (["enabled", "etag"], Key(name="keys/a")),
        ([], Key(name="keys/a")),
        (["operations"], Key(name="keys/a")),
    ],
)
def test_an_update_of_what_cannot_change_is_refused(
    north: Served, paths: list[str], key: Key
) -> None:
    before = make_key(north, "a")

    told = refusal(
        lambda: north.uma.keys.UpdateKey(
            UpdateKeyRequest(key=key, update_mask=FieldMask(paths=paths))
        )
    )

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert north.uma.keys.GetKey(GetKeyRequest(name="keys/a")) == before


def test_dates_bound_what_makes_and_not_what_opens(tmp_path: Path) -> None:
    clock = Clock(1_700_000_000_000)
    with served(tmp_path, clock=clock) as north:
        make_key(
            north,
            "a",
            not_before_time=Timestamp(seconds=clock.now_ms // 1000 + 60),
            expire_time=Timestamp(seconds=clock.now_ms // 1000 + 120),
        )

        early = refusal(lambda: signed(north.uma, "keys/a"))
        clock.now_ms += 60_000
        answer = signed(north.uma, "keys/a")
        clock.now_ms += 60_000
        late = refusal(lambda: signed(north.uma, "keys/a"))

    assert early[:2] == late[:2] == (StatusCode.FAILED_PRECONDITION, "KEY_NOT_ENABLED")
    assert answer.signature


def test_a_disabled_version_refuses_and_the_others_do_not(north: Served) -> None:
    old = make_key(north, "a").current_version
    new = north.uma.keys.RotateKey(RotateKeyRequest(name="keys/a"))

    disabled = north.uma.keys.UpdateKeyVersion(
        UpdateKeyVersionRequest(key_version=KeyVersion(name=old, enabled=False))
    )
    refused = refusal(lambda: signed(north.uma, old))
    answer = signed(north.uma, "keys/a")
    north.uma.keys.UpdateKeyVersion(
        UpdateKeyVersionRequest(key_version=KeyVersion(name=old, enabled=True))
    )

    assert not disabled.enabled
    assert not disabled.current
    assert refused[:2] == (StatusCode.FAILED_PRECONDITION, "KEY_NOT_ENABLED")
    assert answer.name == new.name
    assert signed(north.uma, old).name == old


def test_rotating_where_there_is_one_region_is_current_at_once(north: Served) -> None:
    key = make_key(north, "a")

    new = north.uma.keys.RotateKey(RotateKeyRequest(name="keys/a"))
    listed = north.uma.keys.ListKeyVersions(ListKeyVersionsRequest(parent="keys/A"))

    assert new.current
    assert new.state == KeyVersion.ACTIVE
    assert signed(north.uma, "keys/a").name == new.name
    assert [v.name for v in listed.key_versions] == [key.current_version, new.name]
    assert [v.current for v in listed.key_versions] == [False, True]


def test_rotating_where_there_are_more_regions_is_pending(tmp_path: Path) -> None:
    """Until `caught_up` of the pool manager sees that every region holds it."""
    records = genesis(region("south"))
    with served(tmp_path, records=records) as north:
        key = make_key(north, "a")

        new = north.uma.keys.RotateKey(RotateKeyRequest(name="keys/a"))

        assert new.state == KeyVersion.PENDING
        assert not new.current
        assert list(new.regions) == ["regions/north", "regions/south"]
        assert signed(north.uma, "keys/a").name == key.current_version
        assert signed(north.uma, new.name).name == new.name


def test_versions_are_listed_by_pages_oldest_first(north: Served) -> None:
    names = [make_key(north, "a").current_version]
    names += [
        north.uma.keys.RotateKey(RotateKeyRequest(name="keys/a")).name for _ in range(4)
    ]

    listed: list[str] = []
    token = ""
    while len(listed) < 5:
        page = north.uma.keys.ListKeyVersions(
            ListKeyVersionsRequest(parent="keys/a", page_size=2, page_token=token)
        )
        listed += [version.name for version in page.key_versions]
        token = page.next_page_token

    assert listed == names
    assert not token


def test_the_public_half_is_that_of_the_version(north: Served) -> None:
    key = make_key(north, "a")
    make_key(north, "o", "oct")

    answer = north.uma.keys.GetPublicKey(GetPublicKeyRequest(name="keys/a"))
    again = north.uma.keys.GetPublicKey(GetPublicKeyRequest(name=key.current_version))
    told = refusal(
        lambda: north.uma.keys.GetPublicKey(GetPublicKeyRequest(name="keys/o"))
    )

    assert answer == again
    assert load_pem_public_key(answer.pem.encode()) == load_der_public_key(answer.der)
    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def test_a_deleted_key_is_unusable_and_comes_back_as_it_was(north: Served) -> None:
    make_key(north, "a", tags={"x": "y"})
    before = north.uma.keys.UpdateKey(
        UpdateKeyRequest(key=Key(name="keys/a", enabled=False))
    )

    gone = _delete(north, "keys/a")
    used = refusal(lambda: signed(north.uma, "keys/a"))
    read = refusal(lambda: north.uma.keys.GetKey(GetKeyRequest(name="keys/a")))
    again = refusal(lambda: _delete(north, "keys/a"))
    back = north.olga.keys.RecoverKey(RecoverKeyRequest(name="keys/a"))

    assert gone.state == Key.DELETED
    days = (gone.purge_time.seconds - gone.delete_time.seconds) / 86400
    assert days == 90
    assert used[:2] == (StatusCode.FAILED_PRECONDITION, "KEY_NOT_ENABLED")
    assert read[0] is StatusCode.NOT_FOUND
    assert again[:2] == (StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    for output in ("update_time", "etag", "position"):
        back.ClearField(output)
        before.ClearField(output)
    assert back == before


@pytest.mark.parametrize("step", ["RecoverKey", "PurgeKey"])
def test_a_live_key_is_neither_recovered_nor_purged(north: Served, step: str) -> None:
    key = make_key(north, "a")
    request = {"RecoverKey": RecoverKeyRequest, "PurgeKey": PurgeKeyRequest}[step]

    told = refusal(lambda: getattr(north.olga.keys, step)(request(name="keys/a")))

    assert told[:2] == (StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    assert north.uma.keys.GetKey(GetKeyRequest(name="keys/a")) == key


def test_a_protected_key_is_not_deleted(north: Served) -> None:
    make_key(north, "a", deletion_protection=True)

    told = refusal(lambda: _delete(north, "keys/a"))

    assert told[:2] == (StatusCode.FAILED_PRECONDITION, "DELETION_PROTECTED")
    assert signed(north.uma, "keys/a").signature


def test_a_purged_key_is_gone_with_its_material(north: Served) -> None:
    version = make_key(north, "a").current_version.rpartition("/")[2]
    north.uma.keys.RotateKey(RotateKeyRequest(name="keys/a"))
    signed(north.uma, "keys/a")
    _delete(north, "keys/a")

    purged = north.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/a"))
    told = refusal(lambda: signed(north.uma, "keys/a"))

    assert told[0] is StatusCode.NOT_FOUND
    assert north.store.wrapped(version, "north") is None
    assert north.hsm.opened == {}
    head = north.store.head()
    assert head is not None
    assert purged.position == str(head.position)


def test_no_key_is_exportable(north: Served) -> None:
    told = refusal(lambda: make_key(north, "a", exportable=True))

    assert told[:2] == (StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED")
    assert make_key(north, "a").exportable is False


def test_purge_protection_holds_until_retention_has_ended(tmp_path: Path) -> None:
    clock = Clock(1_700_000_000_000)
    settings = VaultRecord(
        VAULT_ID, 1, 1, retention_days=7, purge_protection=True, page_key=PAGE_KEY
    )
    with served(tmp_path, records=genesis(settings=settings), clock=clock) as north:
        make_key(north, "a")
        _delete(north, "keys/a")
        purge: Callable[[], object] = lambda: north.olga.keys.PurgeKey(  # noqa: E731
            PurgeKeyRequest(name="keys/a")
        )

        early = refusal(purge)
        clock.now_ms += 7 * DAY_MS - 1
        too_early = refusal(purge)
        clock.now_ms += 1
        purge()

    assert early[:2] == (StatusCode.FAILED_PRECONDITION, "PURGE_TOO_EARLY")
    assert too_early == early
    assert "2023-11-21" in early[2]
    assert "hsmvault key recover" in early[2]


@pytest.mark.parametrize(
    "write",
    [
        lambda c, e: c.uma.keys.UpdateKey(
            UpdateKeyRequest(key=Key(name="keys/a", enabled=True, etag=e))
        ),
        lambda c, e: c.uma.keys.RotateKey(RotateKeyRequest(name="keys/a", etag=e)),
        lambda c, e: c.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a", etag=e)),
    ],
    ids=("update", "rotate", "delete"),
)
def test_a_write_with_an_old_etag_changes_nothing(
    north: Served, write: Callable[[Served, str], object]
) -> None:
    old = make_key(north, "a").etag
    key = north.uma.keys.UpdateKey(
        UpdateKeyRequest(key=Key(name="keys/a", tags={"x": "y"}))
    )
    before = north.store.head()

    told = refusal(lambda: write(north, old))

    assert told[:2] == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert north.store.head() == before
    assert write(north, key.etag)


def test_a_repeated_request_gives_the_same_answer_and_changes_nothing(
    north: Served,
) -> None:
    create = CreateKeyRequest(
        key_id="a", key=Key(spec=KeySpec(type="EC")), request_id="r-1"
    )
    key = north.uma.keys.CreateKey(create)
    rotate = RotateKeyRequest(name="keys/a", request_id="r-1")
    version = north.uma.keys.RotateKey(rotate)
    before = north.store.head()

    assert north.uma.keys.RotateKey(rotate) == version
    repeated = north.uma.keys.CreateKey(create)

    assert north.store.head() == before
    # The key has changed since, so the position is a later one; all else is as then.
    assert Position.parse(repeated.position) > Position.parse(key.position)
    repeated.ClearField("position")
    key.ClearField("position")
    assert repeated == key


def test_repeating_a_purge_answers_and_spares_the_new_key(north: Served) -> None:
    make_key(north, "a")
    _delete(north, "keys/a")
    purge = PurgeKeyRequest(name="keys/a", request_id="once")
    north.olga.keys.PurgeKey(purge)
    again = make_key(north, "a")

    north.olga.keys.PurgeKey(purge)

    assert north.uma.keys.GetKey(GetKeyRequest(name="keys/a")) == again


def test_a_request_id_is_not_taken_for_another_request(north: Served) -> None:
    make_key(north, "a")
    make_key(north, "b")
    north.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a", request_id="r"))

    told = refusal(
        lambda: north.uma.keys.DeleteKey(
            DeleteKeyRequest(name="keys/b", request_id="r")
        )
    )

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert signed(north.uma, "keys/b").signature


def test_writes_say_where_they_stand_in_the_log(north: Served) -> None:
    _, call = north.uma.keys.CreateKey.with_call(
        CreateKeyRequest(key_id="a", key=Key(spec=KeySpec(type="EC")))
    )

    head = north.store.head()
    assert head is not None
    assert dict(call.trailing_metadata() or ()) == {
        "hsmvault-region": "north",
        "hsmvault-partition": "p0",
        "hsmvault-position": str(head.position),
    }
