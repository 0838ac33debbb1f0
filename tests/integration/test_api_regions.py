"""What an extended region serves, forwards and refuses; positions and durability."""

import datetime
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from hsmvault.model.access import CRYPTO_AUDITOR, CRYPTO_USER
from hsmvault.model.lifecycle import RegionState
from hsmvault.v1 import region_service_pb2 as pb
from hsmvault.v1.access_service_pb2 import DeleteRoleAssignmentRequest
from hsmvault.v1.crypto_service_pb2 import SignRequest
from hsmvault.v1.key_service_pb2 import (
    CreateKeyRequest,
    DeleteKeyRequest,
    GetKeyRequest,
    PurgeKeyRequest,
    RecoverKeyRequest,
    RotateKeyRequest,
    UpdateKeyRequest,
)
from hsmvault.v1.resources_pb2 import Durability, Key, KeySpec, Region
from hsmvault.vault.ports import Awaited
from tests.support.served import (
    FakeManager,
    Served,
    error_info,
    follow,
    genesis,
    grant,
    make_key,
    refusal,
    refusal_in_time,
    region,
    served,
    signed,
)

StatusCode = grpc.StatusCode
CREATE = CreateKeyRequest(key_id="k", key=Key(spec=KeySpec(type="EC")))


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """`north`, the primary, and `south`, which follows when told to."""
    keys: dict[str, bytes] = {}
    manager = FakeManager()
    with ExitStack() as stack:
        north = stack.enter_context(
            served(tmp_path, records=genesis(region("south")), keys=keys)
        )
        south = stack.enter_context(
            served(tmp_path, own="south", keys=keys, ca=north.ca, manager=manager)
        )
        follow(north, south)
        manager.primary = north
        manager.on_forward = lambda: follow(north, south)
        yield north, south


def _at_least(position: str) -> dict[str, Any]:
    return {"metadata": (("min-position", position),)}


def test_a_region_without_a_vault_says_so(tmp_path: Path) -> None:
    with served(tmp_path, own="south") as south:
        told = refusal(lambda: south.uma.regions.GetTopology(pb.GetTopologyRequest()))

    assert told[:2] == (StatusCode.UNAVAILABLE, "NOT_SERVING")
    assert "hsmvault region add" in told[2]


def test_a_replicated_key_is_used_and_read_in_the_extended_region(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    key = make_key(north, "a")
    follow(north, south)

    answer = signed(south.uma, "keys/a")

    assert answer.name == key.current_version
    assert answer.served.region == "south"
    assert answer.served.position == key.position
    assert south.tom.keys.GetKey(GetKeyRequest(name="keys/a")) == key


def test_a_key_whose_material_is_still_on_its_way_works_once_it_is_here(
    regions: tuple[Served, Served],
) -> None:
    """Sealing adds wrapped keys without an entry in the log."""
    north, south = regions
    make_key(north, "a")
    wrapped = follow(north, south, material=False)

    told = refusal(lambda: signed(south.uma, "keys/a"))
    south.store.put_wrapped(wrapped)

    assert told[:2] == (StatusCode.UNAVAILABLE, "REGION_BEHIND")
    assert signed(south.uma, "keys/a").signature


def test_a_key_write_is_forwarded_and_answered_once_it_is_here(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions

    key = south.uma.keys.CreateKey(CREATE)
    changed = south.uma.keys.UpdateKey(
        UpdateKeyRequest(key=Key(name="keys/k", tags={"x": "y"}))
    )
    south.uma.keys.RotateKey(RotateKeyRequest(name="keys/k"))
    south.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/k"))
    back = south.olga.keys.RecoverKey(RecoverKeyRequest(name="keys/k"))

    assert dict(changed.tags) == {"x": "y"}
    assert signed(south.uma, "keys/k").name == key.current_version
    kept = north.uma.keys.GetKey(GetKeyRequest(name="keys/k"))
    assert len(kept.pending_versions) == 1
    kept.ClearField("pending_versions")  # told by GetKey alone
    assert kept == back
    assert [asked[0] for asked in south.manager.asked] == ["forward"] * 5


def test_the_primary_decides_about_a_forwarded_write_by_its_own_copy(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    granted = grant(north, "kim", CRYPTO_USER)
    follow(north, south)
    north.services.memory.refresh()

    north.ada.access.DeleteRoleAssignment(
        DeleteRoleAssignmentRequest(name=granted.name)
    )

    told = refusal(lambda: south.kim.keys.CreateKey(CREATE))

    assert told[:2] == (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")


def test_the_primary_s_refusal_reaches_the_caller_as_it_was(
    regions: tuple[Served, Served],
) -> None:
    _, south = regions
    south.uma.keys.CreateKey(CREATE)

    told = refusal(lambda: south.uma.keys.CreateKey(CREATE))

    assert told[:2] == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert "hsmvault key rotate" in told[2]


@pytest.mark.parametrize(
    "write",
    [
        lambda s: s.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/a")),
        lambda s: grant(s, "kim", CRYPTO_AUDITOR),
        lambda s: s.ada.regions.AddRegion(
            pb.AddRegionRequest(region=Region(name="regions/x"))
        ),
        lambda s: s.ada.regions.RemoveRegion(pb.RemoveRegionRequest(name="regions/x")),
    ],
    ids=["purge", "grant", "add", "remove"],
)
def test_what_is_not_forwarded_is_redirected_to_the_primary(
    regions: tuple[Served, Served], write: Any
) -> None:
    _, south = regions

    with pytest.raises(grpc.RpcError) as raised:
        write(south)

    info = error_info(raised.value)
    assert raised.value.code() is StatusCode.FAILED_PRECONDITION
    assert info.reason == "NOT_PRIMARY"
    assert info.metadata["endpoint"] == "north.example:8440"
    assert not [a for a in south.manager.asked if a[0] != "forward"]


def test_without_its_primary_a_region_reads_and_signs_and_refuses_writes(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    make_key(north, "a")
    follow(north, south)
    south.manager.primary = None

    for write in (
        lambda: south.uma.keys.CreateKey(CREATE),
        lambda: grant(south, "kim", CRYPTO_AUDITOR),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            write()
        info = error_info(raised.value)
        assert raised.value.code() is StatusCode.FAILED_PRECONDITION
        assert info.reason == "PRIMARY_UNAVAILABLE"
        assert info.metadata["policy"] == "manual"
    assert signed(south.uma, "keys/a").signature
    topology = south.uma.regions.GetTopology(pb.GetTopologyRequest())
    assert not topology.primary_reachable


def test_only_what_may_be_forwarded_is_executed_and_only_by_the_primary(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    make_key(north, "a")

    def execute(one: Served, method: str, request: bytes, who: str) -> Status:
        done = one.services.execute(
            f"/hsmvault.v1.{method}", request, principal=who, via_region="west"
        )
        assert bool(done.response) is not bool(done.status)
        return Status.FromString(done.status)

    create = CREATE.SerializeToString()
    sign = SignRequest(name="keys/a", algorithm="ES256", digest=bytes(32))
    invalid = StatusCode.INVALID_ARGUMENT.value[0]
    for method in ("AccessService/DeleteRoleAssignment", "KeyService/PurgeKey", "X/Y"):
        assert execute(north, method, b"", "CN=ada").code == invalid
    told = execute(north, "CryptoService/Sign", sign.SerializeToString(), "CN=uma")
    assert told.code == invalid
    told = execute(north, "KeyService/CreateKey", b"\xff\xff", "CN=uma")
    assert told.code == invalid
    told = execute(north, "KeyService/CreateKey", create, "CN=ada")
    assert told.code == StatusCode.PERMISSION_DENIED.value[0]
    told = execute(south, "KeyService/CreateKey", create, "CN=uma")
    assert told.code == StatusCode.FAILED_PRECONDITION.value[0]


def test_a_call_with_a_minimal_position_waits_for_it(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    key = make_key(north, "a")
    with pytest.raises(grpc.RpcError):
        signed(south.uma, "keys/a")
    timer = threading.Timer(0.2, follow, (north, south))
    timer.start()

    answer = signed(south.uma, "keys/a", **_at_least(key.position))

    timer.join()
    assert answer.served.position == key.position


@pytest.mark.parametrize(
    ("position", "code", "reason"),
    [
        ("1.north.999", StatusCode.UNAVAILABLE, "REGION_BEHIND"),
        ("2.south.1", StatusCode.UNAVAILABLE, "REGION_BEHIND"),
        ("1.south.1", StatusCode.ABORTED, "POSITION_LOST"),
        ("north.1", StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("", StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
def test_a_position_that_is_not_reached_is_never_served_around(
    regions: tuple[Served, Served], position: str, code: Any, reason: str
) -> None:
    north, _ = regions
    make_key(north, "a")

    signing = refusal_in_time(
        lambda seconds: signed(
            north.uma, "keys/a", timeout=seconds, **_at_least(position)
        )
    )
    waiting = refusal(
        lambda: north.eve.regions.WaitForPosition(
            pb.WaitForPositionRequest(position=position, timeout=Duration(nanos=10**8))
        )
    )

    assert signing[:2] == waiting[:2] == (code, reason)


@pytest.mark.parametrize("seconds", [-1, 61])
def test_waiting_has_bounds(regions: tuple[Served, Served], seconds: int) -> None:
    told = refusal(
        lambda: regions[0].eve.regions.WaitForPosition(
            pb.WaitForPositionRequest(
                position="1.north.1", timeout=Duration(seconds=seconds)
            )
        )
    )

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def test_waiters_do_not_keep_others_from_being_served(
    regions: tuple[Served, Served],
) -> None:
    """There are four serving threads; eight calls wait."""
    north, south = regions
    key = make_key(north, "a")
    follow(north, south)
    behind = _at_least("1.north.999")
    sign = SignRequest(name="keys/a", algorithm="ES256", digest=bytes(32))
    waiting = [south.uma.crypto.Sign.future(sign, **behind) for _ in range(8)]

    answers = [signed(south.uma, "keys/a", timeout=20).name for _ in range(20)]

    assert answers == [key.current_version] * 20
    assert not any(call.done() for call in waiting)
    for call in waiting:
        call.cancel()


def test_a_write_waits_for_as_many_regions_as_it_asks_for(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    one = CreateKeyRequest(key_id="a", key=CREATE.key, durability=Durability(regions=1))
    all_ = DeleteKeyRequest(name="keys/a", durability=Durability(all_regions=True))

    made = north.uma.keys.CreateKey(one)
    gone = north.uma.keys.DeleteKey(all_)

    assert north.manager.asked == [
        ("await", made.position, 1),
        ("await", gone.position, -1),
    ]


def test_a_write_that_is_not_acknowledged_in_time_says_that_it_stands(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    north.manager.awaited = Awaited(reached=False, behind=("south",))

    told = refusal(
        lambda: north.uma.keys.CreateKey(
            CreateKeyRequest(
                key_id="a", key=CREATE.key, durability=Durability(all_regions=True)
            )
        )
    )

    assert told[:2] == (StatusCode.UNAVAILABLE, "REGION_BEHIND")
    assert "the write stands" in told[2]
    assert signed(north.uma, "keys/a").signature


@pytest.mark.parametrize(
    ("regions_", "code", "reason"),
    [
        (2, StatusCode.FAILED_PRECONDITION, "REGION_NOT_READY"),
        (-1, StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
def test_durability_that_cannot_be_had_is_refused_before_anything_is_written(
    regions: tuple[Served, Served], regions_: int, code: Any, reason: str
) -> None:
    north, _ = regions
    before = north.store.head()

    told = refusal(
        lambda: north.uma.keys.CreateKey(
            CreateKeyRequest(
                key_id="a", key=CREATE.key, durability=Durability(regions=regions_)
            )
        )
    )

    assert told[:2] == (code, reason)
    assert north.store.head() == before


def test_every_caller_learns_where_to_connect(regions: tuple[Served, Served]) -> None:
    _, south = regions

    topology = south.eve.regions.GetTopology(pb.GetTopologyRequest())

    assert topology.region == "regions/south"
    assert topology.primary_reachable
    assert {r.name: r.primary for r in topology.regions} == {
        "regions/north": True,
        "regions/south": False,
    }
    assert topology.regions[0].endpoint == "north.example:8440"


def test_removed_regions_are_listed_only_when_asked_for(tmp_path: Path) -> None:
    gone = region("west", RegionState.PURGED)
    with served(tmp_path, records=genesis(gone)) as north:
        plain = north.tom.regions.ListRegions(pb.ListRegionsRequest())
        every = north.tom.regions.ListRegions(pb.ListRegionsRequest(show_purged=True))

    assert [r.name for r in plain.regions] == ["regions/north"]
    assert [r.name for r in every.regions] == ["regions/north", "regions/west"]
    assert every.regions[1].state == Region.PURGED


def test_the_status_tells_of_regions_and_partitions(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions

    status = north.tom.regions.GetReplicationStatus(pb.GetReplicationStatusRequest())

    own, other = status.regions
    assert (own.region, own.primary, own.summary) == (
        "regions/north",
        True,
        "Synchronized 100%",
    )
    assert (other.region, other.connected) == ("regions/south", False)
    assert status.partitions[0].name == "p0"


def test_a_region_is_added_only_by_the_fingerprint_of_its_card(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    card = Region(name="regions/west", zone="eu", endpoint="e:1", private_endpoint="p")

    told = refusal(
        lambda: north.ada.regions.AddRegion(
            pb.AddRegionRequest(region=card, fingerprint="00" * 32)
        )
    )

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert north.manager.asked == []


def _removal(signer: bytes) -> pb.RemoveRegionRequest:
    now = Timestamp()
    now.FromDatetime(datetime.datetime.now(datetime.UTC))
    return pb.RemoveRegionRequest(
        name="regions/south",
        force=True,
        authorization=pb.RemoveRegionRequest.Authorization(
            time=now, certificate=signer.decode(), signature=b"s"
        ),
    )


def test_a_removal_is_passed_on_when_the_caller_signed_it(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    own = north.ca.caller("ada").certificate

    removed = north.ada.regions.RemoveRegion(_removal(own))

    assert removed.state == Region.DELETING
    assert north.manager.asked == [("remove", "south", True, "CN=ada")]


def test_a_removal_that_another_signed_is_refused(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    other = north.ca.caller("bea").certificate

    foreign = refusal(lambda: north.ada.regions.RemoveRegion(_removal(other)))
    garbage = refusal(lambda: north.ada.regions.RemoveRegion(_removal(b"-----")))

    assert foreign[:2] == (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
    assert garbage[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert north.manager.asked == []
