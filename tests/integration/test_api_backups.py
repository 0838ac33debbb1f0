"""Keys carried out and back: everything of them, into this vault, and no other."""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.api.checksums import crc32c
from hsmvault.model.backup import BACKUP_BYTES, KeyBackup
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.vault_records import PartitionCard, RegionRecord, VaultRecord
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as pb
from hsmvault.v1.resources_pb2 import Key, KeyVersion
from tests.support.fakes import FakeHsm
from tests.support.served import (
    VAULT_ID,
    FakeManager,
    Served,
    follow,
    genesis,
    make_key,
    refusal,
    region,
    served,
    signed,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TAKEN = grpc.StatusCode.ALREADY_EXISTS
Keys = dict[str, bytes]


def card(name: str, keys: Keys, **more: Any) -> RegionRecord:
    """A region's record that knows the identity of its partition."""
    identity = FakeHsm("p0", name, keys).identity_public_key
    return dataclasses.replace(
        region(name, **more),
        partitions=(PartitionCard("p0", identity),),
        partition_endpoints=(f"{name}.example:8441",),
    )


def records(keys: Keys, *others: str, vault: VaultRecord | None = None) -> list[Any]:
    """The first records of a vault whose regions are known by their identities."""
    first = genesis(*(card(name, keys) for name in others), settings=vault)
    first[2] = card("north", keys, primary=True)
    return first


@pytest.fixture
def keys() -> Keys:
    return {}


@pytest.fixture
def north(tmp_path: Path, keys: Keys) -> Iterator[Served]:
    with served(tmp_path, keys=keys, records=records(keys)) as one:
        yield one


def backup(one: Served, name: str) -> bytes:
    answer = one.uma.keys.BackupKey(pb.BackupKeyRequest(name=name))
    assert answer.backup_crc32c == crc32c(answer.backup)
    return answer.backup


def restore(one: Served, raw: bytes, **fields: Any) -> Key:
    return one.uma.keys.RestoreKey(pb.RestoreKeyRequest(backup=raw, **fields))


def delete(one: Served, name: str) -> None:
    one.uma.keys.DeleteKey(pb.DeleteKeyRequest(name=name))


def purge(one: Served, name: str) -> None:
    delete(one, name)
    one.olga.keys.PurgeKey(pb.PurgeKeyRequest(name=name))


def versions(one: Served, name: str) -> list[KeyVersion]:
    request = pb.ListKeyVersionsRequest(parent=name)
    return list(one.uma.keys.ListKeyVersions(request).key_versions)


def refused(one: Served, raw: bytes, reason: str = "BACKUP_INVALID") -> str:
    head = one.store.head()
    code, told, message = refusal(partial(restore, one, raw))
    assert (code, told) == (INVALID, reason)
    assert one.store.head() == head
    return message


def signed_anew(one: Served, backup: KeyBackup) -> bytes:
    """The backup with what was changed in it, signed by the partition itself."""
    return dataclasses.replace(
        backup, signature=one.hsm.sign_statement(backup.statement())
    ).to_bytes()


def _bare(message: Any) -> Any:
    """Without what a restoring changes."""
    copied = type(message)()
    copied.CopyFrom(message)
    for name in ("incarnation", "etag", "position", "update_time"):
        if name in copied.DESCRIPTOR.fields_by_name:
            copied.ClearField(name)
    return copied


@pytest.mark.parametrize("kind", ["EC", "oct"])
def test_a_purged_key_comes_back_as_it_was_with_all_versions(
    north: Served, kind: str
) -> None:
    made = make_key(north, "Payroll", kind, tags={"a": "b"})
    for _ in range(2):
        north.uma.keys.RotateKey(pb.RotateKeyRequest(name=made.name))
    old = versions(north, made.name)
    north.uma.keys.UpdateKeyVersion(
        pb.UpdateKeyVersionRequest(
            key_version=KeyVersion(name=old[1].name, enabled=False)
        )
    )
    before = north.uma.keys.GetKey(pb.GetKeyRequest(name=made.name))
    listed = versions(north, made.name)
    sealed = None
    if kind == "oct":
        sealed = north.uma.crypto.Encrypt(
            crypto.EncryptRequest(
                name=listed[0].name, algorithm="A256GCM", plaintext=b"x"
            )
        )
    raw = backup(north, "keys/payroll")
    purge(north, made.name)

    back = restore(north, raw)

    assert _bare(back) == _bare(before)
    assert back.incarnation != before.incarnation
    assert [_bare(v) for v in versions(north, made.name)] == [_bare(v) for v in listed]
    if sealed is None:
        signed(north.uma, listed[0].name)
        code, _, _ = refusal(partial(signed, north.uma, listed[1].name))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        return
    opened = north.uma.crypto.Decrypt(
        crypto.DecryptRequest(
            name=listed[0].name,
            algorithm="A256GCM",
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
        )
    )
    assert opened.plaintext == b"x"


def test_what_was_restored_rotates_is_deleted_and_restored_again(
    north: Served,
) -> None:
    made = make_key(north, "again")
    raw = backup(north, made.name)
    purge(north, made.name)
    restore(north, raw)
    north.uma.keys.RotateKey(pb.RotateKeyRequest(name=made.name))
    purge(north, made.name)

    back = restore(north, raw)

    assert back.current_version == made.current_version
    assert len(versions(north, made.name)) == 1


@pytest.mark.parametrize("spelled", ["again", "AGAIN"])
def test_rs_09_a_name_that_is_taken_is_never_restored_over(
    north: Served, spelled: str
) -> None:
    raw = backup(north, make_key(north, "Again").name)

    code, _, told = refusal(lambda: restore(north, raw))
    assert code is TAKEN
    assert "exists" in told
    # No backup can take the advice that is good for a new key.
    assert "another name" not in told
    assert "hsmvault key delete, then hsmvault key purge" in told
    delete(north, "keys/again")
    code, _, told = refusal(lambda: restore(north, raw))
    assert code is TAKEN
    assert "hsmvault key recover" in told
    north.olga.keys.PurgeKey(pb.PurgeKeyRequest(name="keys/again"))
    other = make_key(north, spelled)
    code, _, _ = refusal(lambda: restore(north, raw))
    assert code is TAKEN
    assert north.uma.keys.GetKey(pb.GetKeyRequest(name="keys/again")) == other


def test_rs_09_a_backup_that_is_cut_turned_or_extended_is_refused(
    north: Served,
) -> None:
    raw = backup(north, make_key(north, "cut").name)
    purge(north, "keys/cut")

    for wrong in (b"", b"\n" * 3, raw[1:], raw[:-1], raw + b"\n", b" " + raw):
        refused(north, wrong)
    for place in range(0, len(raw), 97):
        turned = bytearray(raw)
        turned[place] ^= 1
        refused(north, bytes(turned))
    for size in range(0, len(raw), 211):
        refused(north, raw[:size])

    restore(north, raw)


def test_rs_09_what_was_edited_is_refused_whatever_it_is(north: Served) -> None:
    raw = backup(north, make_key(north, "edited", deletion_protection=True).name)
    north.uma.keys.UpdateKey(
        pb.UpdateKeyRequest(
            key=Key(name="keys/edited"),
            update_mask=FieldMask(paths=["deletion_protection"]),
        )
    )
    purge(north, "keys/edited")
    good = KeyBackup.from_bytes(raw)
    record = json.loads(good.key)

    def of_key(**changed: Any) -> KeyBackup:
        edited = json.dumps(
            record | changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return dataclasses.replace(good, key=edited.encode())

    for edited in (
        of_key(name="keys/other"),
        of_key(operations=["verify"]),
        of_key(enabled=False),
        dataclasses.replace(good, versions=()),
        dataclasses.replace(good, time_ms=1),
        dataclasses.replace(good, partition="p1"),
        dataclasses.replace(good, region="west"),
        dataclasses.replace(good, signature=bytes(64)),
        dataclasses.replace(good, signature=b""),
    ):
        told = refused(north, edited.to_bytes())
        assert "not signed by a partition of this vault" in told


def test_rs_09_a_backup_of_another_vault_is_refused(
    north: Served, tmp_path: Path, keys: Keys
) -> None:
    (tmp_path / "other").mkdir()
    raw = backup(north, make_key(north, "foreign").name)
    good = KeyBackup.from_bytes(raw)
    purge(north, "keys/foreign")

    told = refused(
        north, signed_anew(north, dataclasses.replace(good, vault_id="f" * 32))
    )

    assert "of another vault" in told
    with served(
        tmp_path / "other",
        keys={},
        records=records({}, vault=VaultRecord(VAULT_ID, 1, 1, page_key=bytes(32))),
    ) as other:
        # Even under our vault's id: it does not know who signed.
        told = refused(other, raw)
        assert "not signed by" in told


def test_rs_09_what_a_stranger_signed_is_refused(north: Served) -> None:
    raw = backup(north, make_key(north, "strange").name)
    purge(north, "keys/strange")
    stranger = FakeHsm("p0", "north", {})
    good = KeyBackup.from_bytes(raw)

    told = refused(
        north,
        dataclasses.replace(
            good, signature=stranger.sign_statement(good.statement())
        ).to_bytes(),
    )

    assert "not signed by" in told


def test_signed_records_and_wrapped_keys_must_fit_together_all_the_same(
    north: Served,
) -> None:
    """By whoever holds a partition's user PIN, and can sign what they like."""
    a = KeyBackup.from_bytes(backup(north, make_key(north, "a").name))
    b = KeyBackup.from_bytes(backup(north, make_key(north, "b").name))
    oct_key = KeyBackup.from_bytes(backup(north, make_key(north, "c", "oct").name))
    for name in ("keys/a", "keys/b", "keys/c"):
        purge(north, name)
    (version,) = a.versions
    (other,) = b.versions
    id_ = json.loads(version.record)["version"]
    renamed = tuple((dataclasses.replace(w, version=id_), m) for w, m in other.wrapped)

    def exchanged(**changed: Any) -> bytes:
        return signed_anew(north, dataclasses.replace(a, **changed))

    for wrong in (
        exchanged(versions=(other,)),
        exchanged(versions=()),
        exchanged(versions=(version, version)),
        exchanged(versions=(version, other)),
        exchanged(key=oct_key.key),
        exchanged(versions=(dataclasses.replace(version, wrapped=other.wrapped),)),
        exchanged(versions=(dataclasses.replace(version, wrapped=renamed),)),
        exchanged(key=b"{}"),
    ):
        refused(north, wrong)


def test_a_deleted_key_is_not_carried_out(north: Served) -> None:
    made = make_key(north, "deleted")
    delete(north, made.name)

    code, _, _ = refusal(lambda: backup(north, made.name))

    assert code is grpc.StatusCode.NOT_FOUND


def test_restoring_again_by_the_same_request_id_gives_the_same_answer(
    north: Served,
) -> None:
    raw = backup(north, make_key(north, "twice").name)
    purge(north, "keys/twice")
    first = restore(north, raw, request_id="r1")

    assert restore(north, raw, request_id="r1") == first


def test_the_limits_on_keys_and_versions_hold_for_what_is_restored(
    tmp_path: Path, keys: Keys
) -> None:
    vault = VaultRecord(
        VAULT_ID, 1, 1, page_key=bytes(32), key_limit=2, version_limit=2
    )
    with served(tmp_path, keys=keys, records=records(keys, vault=vault)) as one:
        made = make_key(one, "first")
        one.uma.keys.RotateKey(pb.RotateKeyRequest(name=made.name))
        raw = backup(one, made.name)
        purge(one, made.name)
        make_key(one, "second")
        make_key(one, "third")

        _, reason, _ = refusal(lambda: restore(one, raw))
        assert reason == "LIMIT_REACHED"
        purge(one, "keys/third")
        restore(one, raw)


def test_a_backup_with_a_wrong_checksum_is_not_looked_at(north: Served) -> None:
    raw = backup(north, make_key(north, "summed").name)

    _, reason, _ = refusal(lambda: restore(north, raw, backup_crc32c=crc32c(raw) ^ 1))

    assert reason == "CHECKSUM_MISMATCH"


def test_only_restoring_takes_long_requests(north: Served) -> None:
    long = b"x" * (BACKUP_BYTES - 100)

    refused(north, long)
    code, reason, _ = refusal(
        lambda: north.uma.keys.ImportKey(pb.ImportKeyRequest(key_id="x", jwk=long))
    )
    assert (code, reason) == (INVALID, "TOO_LARGE")
    code, _, _ = refusal(lambda: restore(north, long + bytes(5000)))
    assert code in {INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_what_is_only_validated_is_not_restored(north: Served) -> None:
    made = make_key(north, "tried")
    raw = backup(north, made.name)
    purge(north, made.name)
    head = north.store.head()

    told = restore(north, raw, validate_only=True)

    assert told.current_version == made.current_version
    assert north.store.head() == head


@pytest.fixture
def both(tmp_path: Path, keys: Keys) -> Iterator[tuple[Served, Served]]:
    manager = FakeManager()
    with (
        served(tmp_path, keys=keys, records=records(keys, "south")) as north,
        served(tmp_path, own="south", keys=keys, ca=north.ca, manager=manager) as south,
    ):
        manager.primary = north
        follow(north, south)
        yield north, south


@pytest.mark.parametrize("author", [0, 1], ids=["primary", "extended"])
def test_either_regions_backup_is_restored_and_reaches_both(
    both: tuple[Served, Served], author: int
) -> None:
    north, south = both
    made = make_key(north, "both")
    north.uma.keys.RotateKey(pb.RotateKeyRequest(name=made.name))
    follow(north, south)
    raw = backup(both[author], made.name)
    held = [
        [w.wrapping_key for w, _ in v.wrapped]
        for v in KeyBackup.from_bytes(raw).versions
    ]
    here = both[author].hsm.region
    there = both[1 - author].hsm.region
    assert held == [[f"region/{here}", f"pair/{here}/{there}"]] * 2
    purge(north, made.name)
    follow(north, south)
    code, _, _ = refusal(partial(restore, south, raw))
    assert code is grpc.StatusCode.FAILED_PRECONDITION

    back = restore(north, raw)
    follow(north, south)

    assert back.current_version == made.current_version
    for one in both:
        signed(one.uma, made.current_version)


def test_a_region_for_which_nothing_is_wrapped_says_where_to_restore(
    both: tuple[Served, Served], keys: Keys
) -> None:
    north, south = both
    made = make_key(north, "early")
    follow(north, south)
    good = KeyBackup.from_bytes(backup(south, made.name))
    purge(north, made.name)
    follow(north, south)
    (version,) = good.versions
    early = dataclasses.replace(
        good, versions=(dataclasses.replace(version, wrapped=version.wrapped[:1]),)
    )

    code, reason, told = refusal(lambda: restore(north, signed_anew(south, early)))

    assert (code.name, reason) == ("FAILED_PRECONDITION", "REGION_NOT_READY")
    assert "south" in told


def test_a_backup_quotes_nothing_that_is_not_wrapped(north: Served) -> None:
    made = make_key(north, "plain")
    good = KeyBackup.from_bytes(backup(north, made.name))

    assert KeyRecord.from_bytes(good.key).name == made.name
    secret = north.hsm.opened.get(made.current_version[-32:])
    if isinstance(secret, ec.EllipticCurvePrivateKey):
        number = secret.private_numbers().private_value.to_bytes(32)
        assert number not in good.to_bytes()
    assert "wrapped=" not in repr(good)
