"""Keys under a wrapping key of ours (BYOK): taken once, whatever comes of it."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.protobuf.duration_pb2 import Duration

from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import PartitionLost
from hsmvault.model.import_records import ImportRecord
from hsmvault.v1.key_service_pb2 import (
    DeleteKeyRequest,
    Import,
    ImportKeyRequest,
    PurgeKeyRequest,
)
from hsmvault.v1.resources_pb2 import Key
from hsmvault.v1.resources_pb2 import KeySpec as SpecMessage
from tests.support.clock import Clock
from tests.support.importing import (
    begun,
    brought,
    carried,
    der_of,
    refused,
    spec_of,
    used,
)
from tests.support.incoming import b64, jwk_of, outside, secret_of, wrapped
from tests.support.partitions import SPECS
from tests.support.served import (
    FakeManager,
    Served,
    Siblings,
    follow,
    genesis,
    make_key,
    refusal,
    region,
    served,
)

P256 = KeySpec.of("EC")
RSA = KeySpec.of("RSA", bits=2048)
AES = KeySpec.of("oct", bits=256)
SMALL = [spec for spec in SPECS if spec.bits <= RSA.bits]
INVALID = grpc.StatusCode.INVALID_ARGUMENT
STATE = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def north(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, clock=clock) as one:
        yield one


@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_a_blob_is_imported_as_what_it_holds(north: Served, spec: KeySpec) -> None:
    by, key = begun(north), outside(spec)
    assert by.key == "keys/carried"
    assert by.expire_time.ToMilliseconds() - by.create_time.ToMilliseconds() == 3600_000
    half = load_der_public_key(der_of(by))
    assert isinstance(half, rsa.RSAPublicKey)
    assert half.key_size == by.bits == 2048

    made = carried(north, by, spec, key)

    used(north, made.name, spec, key)


def test_azures_envelope_is_taken_off(north: Served) -> None:
    by, key = begun(north), outside(RSA)
    ciphertext = wrapped(der_of(by), secret_of(key))
    envelope = {
        "schema_version": "1.0.0",
        "header": {
            "kid": f"https://vault.example/{by.name}",
            "alg": "dir",
            "enc": "CKM_RSA_AES_KEY_WRAP",
        },
        "ciphertext": b64(ciphertext),
        "generator": "BYOK v1.0.0; a tool of ours",
    }
    changes: tuple[dict[str, Any], ...] = (
        {"schema_version": "2.0.0"},
        {"ciphertext": 7},
        {"ciphertext": "**"},
        {"header": {}},
        {"header": envelope["header"] | {"enc": "dir"}},  # type: ignore[operator]
    )
    for change in changes:
        refused(
            north,
            key_transfer_blob=json.dumps(envelope | change).encode(),
            key=Key(spec=spec_of(RSA)),
        )

    made = brought(
        north,
        "carried",
        key_transfer_blob=json.dumps(envelope).encode(),
        key=Key(spec=spec_of(RSA)),
    )

    used(north, made.name, RSA, key)


def test_a_blob_that_happens_to_begin_like_json_is_a_blob(north: Served) -> None:
    by, key = begun(north), outside(AES)
    blob = b""
    while not blob.startswith(b"{"):
        blob = wrapped(der_of(by), secret_of(key))

    used(north, carried(north, by, AES, key, key_transfer_blob=blob).name, AES, key)


def test_cr_11_a_wrapping_key_is_good_for_one_attempt_also_one_that_failed(
    north: Served,
) -> None:
    key = outside(AES)
    by = begun(north)
    carried(north, by, AES, key)
    spoilt = begun(north, "second")
    other = wrapped(der_of(begun(north, "third")), secret_of(key))
    refusal(
        lambda: carried(
            north, spoilt, AES, key, key_id="second", key_transfer_blob=other
        )
    )

    for one, key_id in ((by, "carried"), (spoilt, "second")):
        if key_id == "carried":
            north.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/carried"))
            north.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/carried"))
        code, reason, told = refusal(
            partial(carried, north, one, AES, key, key_id=key_id)
        )
        assert (code, reason) == (STATE, "IMPORT_SPENT")
        assert "was used at" in told
        assert "hsmvault key begin-import" in told


def test_that_it_was_used_is_durable_before_anything_is_opened(
    north: Served, clock: Clock
) -> None:
    by = begun(north)
    seen: list[bool] = []
    finish = north.hsm.finish_import

    def dies(*_args: Any, **_given: Any) -> Any:
        row = north.store.state(by.name)
        assert row is not None
        seen.append(json.loads(row.record)["used_ms"] == clock.now_ms)
        raise PartitionLost("gone")

    north.hsm.finish_import = dies  # type: ignore[method-assign]
    refusal(lambda: carried(north, by, AES, outside(AES)))
    north.hsm.finish_import = finish  # type: ignore[method-assign]

    assert seen == [True]
    _, reason, _ = refusal(lambda: carried(north, by, AES, outside(AES)))
    assert reason == "IMPORT_SPENT"


def test_a_request_that_cannot_succeed_uses_nothing_up(north: Served) -> None:
    by, key = begun(north), outside(P256)
    make_key(north, "taken")

    for fields in (
        {"public_key": b""},
        {"public_key": b"nonsense"},
        {"key_transfer_blob": b""},
        {"key_id": "another"},
        {"key": Key(spec=SpecMessage(type="EC", curve="P-1"))},
        {"key": Key(spec=spec_of(P256), operations=["encrypt"])},
        {"validate_only": True},
    ):
        try:
            carried(north, by, P256, key, **fields)
        except grpc.RpcError as error:
            assert error.code() is INVALID  # several, each its own

    carried(north, by, P256, key)


def test_a_wrapping_key_is_for_the_key_it_was_begun_for(north: Served) -> None:
    by = begun(north, "mine")

    code, _, told = refusal(
        lambda: carried(north, by, AES, outside(AES), key_id="yours")
    )

    assert code is INVALID
    assert "was begun for keys/mine" in told


def test_a_wrapping_key_expires_by_the_vaults_clock(
    north: Served, clock: Clock
) -> None:
    by = begun(north, lifetime=Duration(seconds=60))
    clock.now_ms += 60_000

    code, reason, told = refusal(lambda: carried(north, by, AES, outside(AES)))

    assert (code, reason) == (STATE, "IMPORT_SPENT")
    assert "expired at" in told
    begun(north, "next")
    assert by.name.removeprefix("imports/") not in north.hsm.imports


@pytest.mark.parametrize("seconds", [-1, 1, 59, 86_401, 10**12])
def test_a_lifetime_is_between_a_minute_and_a_day(north: Served, seconds: int) -> None:
    lifetime = Duration(seconds=seconds)

    assert refusal(lambda: begun(north, lifetime=lifetime))[0] is INVALID


@pytest.mark.parametrize("bits", [1, 1024, 2047, 8192])
def test_a_wrapping_key_has_a_size_of_ours(north: Served, bits: int) -> None:
    assert refusal(lambda: begun(north, bits=bits))[0] is INVALID


def test_an_unknown_import_is_not_found(north: Served) -> None:
    by = Import(name="imports/" + "0" * 32, public_key=begun(north).public_key)

    code, _, _ = refusal(lambda: carried(north, by, AES, outside(AES)))

    assert code is grpc.StatusCode.NOT_FOUND


def test_beginning_again_by_the_same_request_id_gives_the_same_wrapping_key(
    north: Served,
) -> None:
    first = begun(north, request_id="r1")

    assert begun(north, request_id="r1") == first
    assert len(north.hsm.imports) == 1


def test_repeating_an_import_of_a_blob_gives_the_same_answer(north: Served) -> None:
    by, key = begun(north), outside(AES)
    blob = wrapped(der_of(by), secret_of(key))
    first = carried(north, by, AES, key, key_transfer_blob=blob, request_id="r1")

    again = carried(north, by, AES, key, key_transfer_blob=blob, request_id="r1")

    assert again == first


# --- in another partition, in another region -----------------------------------------


def test_a_partition_has_the_one_that_holds_it_open_the_blob(
    tmp_path: Path, north: Served
) -> None:
    siblings = Siblings({"p0": north.hsm})
    with served(
        tmp_path, partition="p1", keys=north.hsm.keys, ca=north.ca, siblings=siblings
    ) as other:
        by, key = begun(north), outside(P256)

        made = carried(other, by, P256, key)

        used(other, made.name, P256, key)
        assert not north.hsm.imports
        by = begun(north, "lost")
        north.hsm.imports.clear()
        _, reason, told = refusal(lambda: carried(other, by, P256, key, key_id="lost"))
        assert reason == "IMPORT_SPENT"
        assert "ended with the process of partition p0" in told
        by = begun(north, "silent")
        siblings.others = {}
        code, _, _ = refusal(lambda: carried(other, by, P256, key, key_id="silent"))
        assert code is grpc.StatusCode.UNAVAILABLE
        siblings.others = {"p0": north.hsm}
        carried(other, by, P256, key, key_id="silent")


@pytest.fixture
def south(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """The primary, and an extended region that follows it."""
    keys: dict[str, bytes] = {}
    manager = FakeManager()
    with (
        served(tmp_path, keys=keys, records=genesis(region("south"))) as north,
        served(tmp_path, own="south", keys=keys, ca=north.ca, manager=manager) as south,
    ):
        manager.primary = north
        manager.on_forward = lambda: follow(north, south)
        follow(north, south)
        yield north, south


def test_an_extended_region_forwards_blobs_and_redirects_what_is_in_the_clear(
    south: tuple[Served, Served],
) -> None:
    _, extended = south
    jwk = jwk_of(outside(AES))

    code, reason, told = refusal(lambda: brought(extended, "clear", jwk=jwk))
    assert (code, reason) == (STATE, "NOT_PRIMARY")
    assert "north.example" in told
    by, key = begun(extended), outside(P256)
    made = carried(extended, by, P256, key)

    used(extended, made.name, P256, key)


def test_what_is_in_the_clear_is_not_taken_from_another_region(
    south: tuple[Served, Served],
) -> None:
    north, _ = south
    request = ImportKeyRequest(key_id="clear", jwk=jwk_of(outside(AES)))

    done = north.services.execute(
        "/hsmvault.v1.KeyService/ImportKey",
        request.SerializeToString(),
        principal="CN=uma",
        via_region="south",
    )

    assert b"not forwarded between regions" in done.status


def test_an_import_ends_when_its_region_is_no_longer_the_primary(
    tmp_path: Path, clock: Clock
) -> None:
    begun_there = ImportRecord(
        name="imports/" + "a" * 32,
        revision=1,
        key="keys/carried",
        bits=2048,
        public_key=b"",
        region="south",
        partition="p0",
        author="CN=uma",
        create_ms=clock.now_ms,
        expire_ms=clock.now_ms + 60_000,
    )
    with served(tmp_path, clock=clock, records=genesis(begun_there)) as one:
        by = Import(name=begun_there.name, public_key=begun(one).public_key)

        code, reason, told = refusal(lambda: carried(one, by, AES, outside(AES)))

        assert (code, reason) == (STATE, "IMPORT_SPENT")
        assert "ceased to be the primary" in told
