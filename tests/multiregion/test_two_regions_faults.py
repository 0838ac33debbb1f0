"""Two regions that run, when one of them, or the link, or a whole region is gone."""

import threading
from collections.abc import Callable, Iterator
from typing import Final

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

import hsmvault
from hsmvault.model.access import CRYPTO_USER
from hsmvault.model.log import Position
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1.resources_pb2 import Durability, Key, RoleAssignment
from tests.support import outside
from tests.support.callers import (
    SECONDS,
    Callers,
    create,
    create_many,
    key,
    populated_vault,
    position,
    sign,
    topology,
)
from tests.support.membership import EXISTING, Story, lived
from tests.support.regions import LiveRegion
from tests.support.served import Caller, error_info

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(300)]

ALL: Final = Durability(all_regions=True)


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("faults"), "south") as callers:
        yield callers


@pytest.fixture(autouse=True)
def linked(call: Callers) -> None:
    """Whatever the test before has done to them."""
    call.vault.north.wait_serving(manager=True)
    call.until_linked()


@pytest.fixture
def south(call: Callers) -> LiveRegion:
    return call.vault.region("south")


@pytest.fixture
def north(call: Callers) -> LiveRegion:
    return call.vault.north


@pytest.fixture(scope="module")
def story(call: Callers) -> Story:
    return lived(call)


def until_equal(call: Callers) -> None:
    """Wait until both regions are at the same position, in the same history."""
    north, south = call.vault.north, call.vault.region("south")
    north.wait_until(
        lambda: outside.newest(north) == outside.newest(south),
        what="both regions to be at the same position",
    )
    ours, theirs = outside.chains(north), outside.chains(south)
    assert theirs
    assert all(ours[index] == chain for index, chain in theirs.items())


# --- the primary is gone ----------------------------------------------------------


def test_without_north_south_serves_and_says_by_which_policy_it_does_not_write(
    call: Callers, north: LiveRegion, south: LiveRegion
) -> None:
    made = create(call.afresh(), "goes-on", durability=ALL)
    cipher = create(call.afresh(), "goes-on-cipher", "oct", durability=ALL)
    admin = call.vault.admin
    north.kill()
    try:
        alice = call.afresh(region="south")
        south.wait_until(
            lambda: not topology(alice).primary_reachable, what="north to be missed"
        )
        before = outside.newest(south)

        # Reads and cryptography, on every partition.
        for partition in PARTITIONS:
            caller = call.afresh(region="south", partition=partition)
            assert key(caller, made.name) == made
            assert sign(caller, made.name).served.partition == partition
            assert encrypted_and_decrypted(caller, cipher.name) == b"goes on"
            listed = caller.keys.ListKeys(
                keys.ListKeysRequest(page_size=1000), timeout=SECONDS
            )
            assert {made.name, cipher.name} <= {one.name for one in listed.keys}

        # Writes, those that would be forwarded and those that would be redirected.
        for write in writes(call, made.name):
            with pytest.raises(grpc.RpcError) as refused:
                write()
            info = error_info(refused.value)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert info.reason == "PRIMARY_UNAVAILABLE"
            assert info.metadata["policy"] == "manual"
            assert "manual" in str(refused.value.details())
            assert "north" in str(refused.value.details())
        assert outside.newest(south) == before

        # Our client says the same, and does not go looking for another region.
        with (
            hsmvault.connect(
                south.endpoint,
                certificate=admin.certificate,
                key=admin.key,
                ca=admin.ca,
                timeout=SECONDS,
            ) as client,
            pytest.raises(Exception, match="manual") as told,
        ):
            client.roles.assign("CN=gail", CRYPTO_USER.name, scope="/keys")
        assert type(told.value).__name__ == "PrimaryUnavailable"
    finally:
        north.serve(manager=True)

    # It comes back, and both write and follow as before.
    call.until_linked()
    again = create(call.afresh(region="south"), "after-all")
    assert sign(call.afresh(), again.name).served.region == "north"
    until_equal(call)


def encrypted_and_decrypted(caller: Caller, name: str) -> bytes:
    sealed = caller.crypto.Encrypt(
        crypto.EncryptRequest(name=name, algorithm="A256GCM", plaintext=b"goes on"),
        timeout=SECONDS,
    )
    return caller.crypto.Decrypt(
        crypto.DecryptRequest(
            name=sealed.name,
            algorithm="A256GCM",
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
        ),
        timeout=SECONDS,
    ).plaintext


def writes(call: Callers, name: str) -> list[Callable[[], object]]:
    alice = call.afresh(region="south")
    olga = call.afresh("olga", region="south")
    admin = call.afresh("admin", region="south")
    return [
        lambda: create(alice, "never-made"),
        lambda: alice.keys.RotateKey(keys.RotateKeyRequest(name=name), timeout=SECONDS),
        lambda: alice.keys.UpdateKey(
            keys.UpdateKeyRequest(
                key=Key(name=name, enabled=False),
                update_mask=FieldMask(paths=["enabled"]),
            ),
            timeout=SECONDS,
        ),
        lambda: alice.keys.DeleteKey(keys.DeleteKeyRequest(name=name), timeout=SECONDS),
        lambda: olga.keys.RecoverKey(
            keys.RecoverKeyRequest(name=name), timeout=SECONDS
        ),
        lambda: olga.keys.PurgeKey(keys.PurgeKeyRequest(name=name), timeout=SECONDS),
        lambda: admin.access.CreateRoleAssignment(
            access.CreateRoleAssignmentRequest(
                role_assignment=RoleAssignment(
                    principal="CN=gail", role_definition=CRYPTO_USER.name, scope="/"
                )
            ),
            timeout=SECONDS,
        ),
        lambda: admin.regions.RemoveRegion(
            regions.RemoveRegionRequest(name="regions/south"), timeout=SECONDS
        ),
    ]


def test_our_client_goes_on_in_south_while_north_is_gone(
    call: Callers, north: LiveRegion
) -> None:
    made = create(call.afresh(), "client-goes-on", durability=ALL)
    alice = call.vault.caller("alice")
    with hsmvault.connect(
        north.endpoint,
        certificate=alice.certificate,
        key=alice.key,
        ca=alice.ca,
        region="north",
        timeout=SECONDS,
    ) as client:
        assert client.sign(made.name, "ES256", message=b"1").served.region == "north"
        north.kill()
        try:
            for number in range(50):
                signed = client.sign(made.name, "ES256", message=bytes([number]))
                assert signed.served.region == "south"
        finally:
            north.serve(manager=True)

        north.wait_until(
            lambda: (
                client.sign(made.name, "ES256", message=b"2").served.region == "north"
            ),
            what="the client to prefer north again",
        )


# --- the link is cut --------------------------------------------------------------


@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_after_a_cut_during_writes_both_regions_hold_the_same(
    call: Callers, south: LiveRegion, fault: str
) -> None:
    ids = [f"cut-{fault}-{number}" for number in range(100)]
    made: list[Key] = []
    caller = call.afresh()
    writer = threading.Thread(target=lambda: made.extend(create_many(caller, ids)))
    before = outside.newest(south)[0]
    former = south.partition("manager")["pid"]

    writer.start()
    south.wait_until(
        lambda: outside.newest(south)[0] > before + 20, what="some to arrive"
    )
    if fault == "killed":
        south.kill_partition("manager")
    else:
        south.pause_partition("manager")
    writer.join()

    south.wait_until(
        lambda: (
            south.partition("manager")["pid"] not in {None, former}
            and south.partition("manager")["state"] == "serving"
        ),
        what="the manager to come back",
    )
    until_equal(call)
    assert [one.name for one in made] == [f"keys/{key_id}" for key_id in ids]
    there = call.afresh(region="south")
    for one in made:
        assert sign(there, one.name).name == one.current_version


# --- regions come and go ----------------------------------------------------------


def test_a_region_that_is_added_loses_no_key_that_is_there_or_made_meanwhile(
    story: Story,
) -> None:
    assert len(story.existing) == EXISTING
    assert story.meanwhile
    assert story.missing == []
    assert story.reached is not None
    assert story.at is not None
    assert story.reached >= story.at
    assert story.wrapping_keys == {"region/east"}


def test_all_pairs_of_regions_have_pair_keys_in_all_their_tokens(story: Story) -> None:
    regions_ = ("north", "south", "east")
    for region in regions_:
        for partition in PARTITIONS:
            wanted = {
                f"hsmvault:pair:{a}:{b}"
                for a in regions_
                for b in regions_
                if a != b and region in {a, b}
            }
            found = story.labels[region, partition]
            assert {label for label in found if ":pair:" in label} == wanted


def test_a_region_that_was_removed_is_wiped_and_ends_by_itself(story: Story) -> None:
    gone = story.departure
    assert gone is not None
    assert gone.exit_code == 0
    assert "region east was purged" in gone.said
    assert gone.note
    assert gone.store == []
    assert gone.objects == []
    # Whoever had the PIN has nothing any more.
    assert gone.to_its_pin == {"0x102"}  # CKR_USER_PIN_NOT_INITIALIZED


@pytest.mark.parametrize("how", ["in order", "by force"])
def test_the_vault_forgets_a_region_that_was_removed(story: Story, how: str) -> None:
    gone = story.departure if how == "in order" else story.forced
    assert gone is not None
    assert gone.listed == {"regions/north", "regions/south"}
    assert gone.wrapped_for_it == 0
    # What the others share among themselves stays.
    for region in ("north", "south"):
        for partition in PARTITIONS:
            before = story.labels_before[region, partition]
            assert gone.labels[region, partition] == before


def test_a_fresh_region_takes_the_name_of_one_that_was_removed(story: Story) -> None:
    assert story.again == "east"
    assert story.wrapped_again == {"region/east"}
    assert len(set(story.incarnations)) == 2 * len(PARTITIONS)


def test_after_all_that_north_and_south_go_on(call: Callers, story: Story) -> None:
    assert story.forced is not None
    made = create(call.afresh(region="south"), "still", durability=ALL)

    assert sign(call.afresh(region="south"), made.name).served.region == "south"
    assert Position.parse(made.position) <= position(call.afresh())
    until_equal(call)
