"""Authorization, by the ids of the list of attacks: AZ-01 to AZ-13, AZ-17, -19, -20.

The attackers are callers with valid certificates and small roles or none, and, where it
says so, a caller at the private listener. AZ-04 is in test_role_regions, and every RPC
for every role in test_access_matrix.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.api import services
from hsmvault.api.permissions import RULES
from hsmvault.local.v1 import local_service_pb2
from hsmvault.model.access import BUILT_IN, CRYPTO_USER, POLICY_ADMINISTRATOR
from hsmvault.replication.v1 import replication_service_pb2
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key, KeySpec, KeyVersion
from tests.support.access_matrix import EVERYBODY, ROWS, begin, rpcs
from tests.support.nodes import TestVault, two_regions
from tests.support.roles import assign, create, define, held
from tests.support.served import (
    FakeManager,
    Served,
    follow,
    genesis,
    grant,
    make_key,
    refusal,
    region,
    served,
    signed,
)

StatusCode = grpc.StatusCode
DENIED = (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
INVALID = StatusCode.INVALID_ARGUMENT


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        make_key(one, "a")
        make_key(one, "b")
        yield one


# --- what a request is about ------------------------------------------------------


def test_az_05_nothing_that_a_caller_adds_changes_who_or_what_it_is_about(
    north: Served,
) -> None:
    grant(north, "kim", CRYPTO_USER, "/keys/a")
    metadata = (
        ("principal", "CN=uma"),
        ("x-principal", "CN=uma"),
        ("x-forwarded-user", "uma"),
        ("x-forwarded-client-cert", 'Subject="CN=uma"'),
        ("via-region", "north"),
        ("hsmvault-region", "south"),
        ("name", "keys/a"),
        ("resource", "/keys/a"),
        ("scope", "/"),
    )

    told = refusal(lambda: signed(north.kim, "keys/b", metadata=metadata))

    assert told[:2] == DENIED
    assert "CN=kim" in told[2]
    # Two names in one request: the id decides, and the other is no way around it.
    for name in ("keys/a", "keys/b"):
        told = refusal(
            lambda n=name: north.kim.keys.CreateKey(  # type: ignore[misc]
                keys.CreateKeyRequest(
                    key_id="b" if n == "keys/a" else "a",
                    key=Key(name=n, spec=KeySpec(type="EC")),
                )
            )
        )
        assert told[0] in {INVALID, StatusCode.PERMISSION_DENIED}


def test_az_05_what_only_the_vault_says_is_not_taken_from_a_request(
    north: Served,
) -> None:
    role = define(
        north.ada,
        "Mine",
        permissions=["keys/*", "keys/delete"],
        built_in=True,
        author="CN=uma",
        position="9.north.9",
    )
    given = assign(
        north.ada, "CN=kim", role.name, author="CN=uma", defunct=True, position="x"
    )

    assert (list(role.permissions), role.built_in) == (["keys/sign/action"], False)
    assert (role.author, given.author, given.defunct) == ("CN=ada", "CN=ada", False)
    assert role.position != "9.north.9"
    told = refusal(
        lambda: assign(north.ada, "CN=x", role.name, name="roleAssignments/another")
    )
    assert told[0] is INVALID
    assert refusal(lambda: define(north.ada, "Other", name=role.name))[0] is INVALID


def test_az_06_an_rpc_without_a_rule_keeps_the_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {path: rule for path, rule in RULES.items() if not path.endswith("/Sign")}
    monkeypatch.setattr(services, "RULES", some)

    with pytest.raises(KeyError, match="CryptoService/Sign"), served(tmp_path):
        pass


def test_az_06_what_no_rule_is_about_does_not_run(north: Served) -> None:
    for path in ("/hsmvault.v1.KeyService/ExportKey", "/hsmvault.v1.Nothing/Sign"):
        call: Any = north.ada.channel.unary_unary(path)
        assert refusal(lambda c=call: c(b""))[0] is StatusCode.UNIMPLEMENTED  # type: ignore[misc]
    assert RULES.keys() == {f"/hsmvault.v1.{rpc}" for rpc in rpcs()}


@pytest.mark.parametrize("rpc", [rpc for rpc, row in ROWS.items() if row.of_a_key])
def test_az_07_a_role_at_one_key_reaches_no_part_of_another(
    owner: Served, rpc: str
) -> None:
    """By one who holds every role there is at key `mine`, and asks about `theirs`."""
    request = ROWS[rpc].request("theirs").SerializeToString()
    call: Any = owner.kim.channel.unary_unary(
        f"/hsmvault.v1.{rpc.split(maxsplit=1)[0]}"
    )

    told = refusal(lambda: call(request))

    assert told[:2] == DENIED
    assert "theirs" in told[2]


def test_az_07_nor_any_version_of_it(owner: Served) -> None:
    version = owner.uma.keys.GetKey(keys.GetKeyRequest(name="keys/theirs"))
    name = version.current_version
    own = f"keys/mine/versions/{name.rpartition('/')[2]}"

    for ask in (
        lambda: signed(owner.kim, name),
        lambda: owner.kim.keys.GetPublicKey(keys.GetPublicKeyRequest(name=name)),
        lambda: owner.kim.keys.UpdateKeyVersion(
            keys.UpdateKeyVersionRequest(key_version=KeyVersion(name=name))
        ),
    ):
        assert refusal(ask)[:2] == DENIED
    # Under a name of one's own it is not there.
    assert refusal(lambda: signed(owner.kim, own))[0] is StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Kim holds every built-in role at `mine`; `theirs` is a key, too."""
    with served(tmp_path_factory.mktemp("owner")) as one:
        make_key(one, "mine")
        make_key(one, "theirs")
        for role in BUILT_IN.values():
            grant(one, "kim", role, "/keys/mine")
        yield one


def test_az_08_what_uses_two_keys_needs_a_permission_on_each(north: Served) -> None:
    for key_id in ("from", "to"):
        make_key(north, key_id, "oct", bits=256)
    sealed = north.uma.crypto.Encrypt(
        crypto.EncryptRequest(name="keys/from", algorithm="A256GCM", plaintext=b"x")
    )
    request = crypto.ReEncryptRequest(
        name="keys/from",
        algorithm="A256GCM",
        ciphertext=sealed.ciphertext,
        iv=sealed.iv,
        tag=sealed.tag,
        target_name="keys/to",
        target_algorithm="A256GCM",
    )
    for who, scope in (("kim", "/keys/from"), ("lea", "/keys/to")):
        grant(north, who, CRYPTO_USER, scope)
        told = refusal(lambda w=who: getattr(north, w).crypto.ReEncrypt(request))  # type: ignore[misc]
        assert told[:2] == DENIED
        assert ("to" if who == "kim" else "from") in told[2]

    grant(north, "kim", CRYPTO_USER, "/keys/to")

    assert north.kim.crypto.ReEncrypt(request).name


def test_az_08_an_item_of_a_batch_needs_what_its_own_call_would(north: Served) -> None:
    grant(north, "kim", CRYPTO_USER, "/keys/a")
    items = [
        crypto.BatchItem(
            sign=crypto.SignRequest(name=name, algorithm="ES256", digest=bytes(32))
        )
        for name in ("keys/a", "keys/b", "keys/A", "keys/B", "keys/a")
    ]

    results = north.kim.crypto.Batch(crypto.BatchRequest(items=items)).results

    denied = StatusCode.PERMISSION_DENIED.value[0]
    assert [r.error.code for r in results] == [0, denied, 0, denied, 0]


def test_az_09_nothing_is_made_in_the_place_of_what_is_or_was_there(
    north: Served,
) -> None:
    """By one who may make keys anywhere, under names that others have or had."""
    mine = define(north.ada, "Maker", data_actions=["keys/create"])
    assign(north.ada, "CN=kim", mine.name, "/keys")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/b"))
    before = north.store.head()

    for key_id in ("a", "A", "b", "B"):
        told = refusal(lambda k=key_id: create(north.kim, k))  # type: ignore[misc]
        assert told[:2] == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")

    assert north.store.head() == before
    assert signed(north.uma, "keys/a").signature


# --- ids, time and errors ---------------------------------------------------------


def test_az_10_ids_are_no_capabilities(north: Served) -> None:
    """By one who learned another's ids: of a request, a page, an assignment."""
    grant(north, "kim", CRYPTO_USER, "/keys/x")
    make_key(north, "c")
    made = create(north.uma, "d", request_id="umas-own")
    page = north.uma.keys.ListKeys(keys.ListKeysRequest(page_size=1))
    listing = keys.ListKeysRequest(page_token=page.next_page_token)

    # What another was answered is nobody else's answer.
    assert refusal(lambda: create(north.kim, "d", request_id="umas-own"))[:2] == DENIED
    assign(north.ada, "CN=lea", CRYPTO_USER.name)
    told = refusal(lambda: create(north.lea, "d", request_id="umas-own"))
    assert told[0] is StatusCode.ALREADY_EXISTS
    assert create(north.uma, "d", request_id="umas-own") == made
    # A page goes on for whom it began.
    assert refusal(lambda: north.lea.keys.ListKeys(listing))[0] is INVALID
    assert refusal(lambda: north.kim.keys.ListKeys(listing))[:2] == DENIED
    for rpc, request in (
        ("GetRoleAssignment", access.GetRoleAssignmentRequest),
        ("DeleteRoleAssignment", access.DeleteRoleAssignmentRequest),
    ):
        told = refusal(
            lambda r=rpc, q=request: getattr(north.eve.access, r)(  # type: ignore[misc]
                q(name="roleAssignments/uma")
            )
        )
        assert told[:2] == DENIED


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """`north`, the primary, and `south`, which follows when told to."""
    shared: dict[str, bytes] = {}
    manager = FakeManager()
    with ExitStack() as stack:
        one = stack.enter_context(
            served(tmp_path, records=genesis(region("south")), keys=shared)
        )
        two = stack.enter_context(
            served(tmp_path, own="south", keys=shared, ca=one.ca, manager=manager)
        )
        manager.primary = one
        manager.on_forward = lambda: follow(one, two)
        yield one, two


def test_az_11_a_revocation_holds_wherever_its_position_is_asked_for(
    regions: tuple[Served, Served],
) -> None:
    """By the revoked one, in a region that has not heard of it yet.

    There, what is promised is the region's lag and no more; a call with the
    revocation's position is decided by what includes it, or not at all, and writes are
    the primary's to decide.
    """
    north, south = regions
    make_key(north, "a")
    given = grant(north, "kim", CRYPTO_USER, "/keys")
    follow(north, south)
    assert signed(south.kim, "keys/a").signature

    position = north.ada.access.DeleteRoleAssignment(
        access.DeleteRoleAssignmentRequest(name=given.name)
    ).position
    newer = {"metadata": (("min-position", position),), "timeout": 0.5}

    assert refusal(lambda: signed(north.kim, "keys/a"))[:2] == DENIED
    stale = signed(south.kim, "keys/a")
    assert stale.served.position != position
    told = refusal(lambda: signed(south.kim, "keys/a", **newer))
    assert told[:2] == (StatusCode.UNAVAILABLE, "REGION_BEHIND")
    assert refusal(lambda: create(south.kim, "new"))[:2] == DENIED
    follow(north, south)
    assert refusal(lambda: signed(south.kim, "keys/a"))[:2] == DENIED
    assert refusal(lambda: signed(south.kim, "keys/a", **newer))[:2] == DENIED


def test_az_11_a_deleted_role_is_revoked_in_every_region_alike(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    make_key(north, "a")
    role = define(north.ada, "Signer")
    assign(north.ada, "CN=kim", role.name)
    follow(north, south)
    assert signed(south.kim, "keys/a").signature

    north.ada.access.DeleteRoleDefinition(
        access.DeleteRoleDefinitionRequest(name=role.name)
    )
    follow(north, south)

    for one in regions:
        assert refusal(lambda o=one: signed(o.kim, "keys/a"))[:2] == DENIED  # type: ignore[misc]


@pytest.mark.parametrize("role", sorted(BUILT_IN), ids=lambda n: BUILT_IN[n].title[12:])
@pytest.mark.parametrize("who", ["olga", "pia", "kim"])
def test_az_12_who_assigns_roles_does_not_thereby_hold_more(
    climbers: Served, who: str, role: str
) -> None:
    """By all who may assign roles and are no Administrators, to themselves."""
    climber = getattr(climbers, who)
    before = held(climber)
    more = set(BUILT_IN[role].permissions) - before

    if more:
        told = refusal(lambda: assign(climber, f"CN={who}", role))
        assert told[:2] == DENIED
        told = refusal(lambda: assign(climber, "CN=accomplice", role))
        assert told[:2] == DENIED
    assert held(climber) == before
    assert held(climbers.accomplice) == set()


@pytest.fixture(scope="module")
def climbers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An officer, a policy administrator, and one with a custom role that assigns."""
    with served(tmp_path_factory.mktemp("climbers")) as one:
        grant(one, "pia", POLICY_ADMINISTRATOR)
        custom = define(
            one.ada, "Assigner", data_actions=["roleAssignments/*", "roleDefinitions/*"]
        )
        assign(one.ada, "CN=kim", custom.name)
        yield one


@pytest.mark.parametrize("rpc", ROWS)
def test_az_13_what_is_refused_has_no_effect(quiet: Served, rpc: str) -> None:
    """For every RPC and kind of caller: an error, and then nothing else happened."""
    row = ROWS[rpc]
    before, asked = quiet.store.head(), list(quiet.manager.asked)
    allowed = row.needs == (EVERYBODY,)

    for who in ("ada", "olga", "uma", "tom", "eve"):
        channel = getattr(quiet, who).channel
        for key in ("ec", "gone", "unknown"):
            raw = row.request(key).SerializeToString()
            try:
                begin(channel, rpc.split(maxsplit=1)[0], raw)
            except grpc.RpcError:
                assert quiet.store.head() == before
                assert allowed or quiet.manager.asked == asked
            else:
                asked = list(quiet.manager.asked)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("quiet")) as one:
        make_key(one, "ec")
        make_key(one, "gone")
        one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/gone"))
        yield one


def test_az_13_a_refused_request_does_not_use_up_its_id(north: Served) -> None:
    told = refusal(lambda: create(north.kim, "new", request_id="1"))
    grant(north, "kim", CRYPTO_USER)

    assert told[:2] == DENIED
    assert create(north.kim, "new", request_id="1").name == "keys/new"


# --- what is not for callers ------------------------------------------------------


def test_az_17_the_private_listener_takes_no_caller_and_no_endless_message(
    tmp_path: Path,
) -> None:
    """By nobody, by a caller of the public API, and by a region with a huge body."""
    vault = TestVault(tmp_path)
    with served(tmp_path / "public") as one, two_regions(vault) as (_, south, _):
        caller = one.ca.caller("ada")
        shown = {
            "nobody": (None, None),
            "a caller": (caller.key, caller.certificate),
            "a region": (south.private.key, south.private.certificate),
        }
        chunk = "/hsmvault.replication.v1.ReplicationService/FetchChunk"
        forward = "/hsmvault.replication.v1.ReplicationService/Forward"
        for who, (key, certificate) in shown.items():
            credentials = grpc.ssl_channel_credentials(
                vault.north.private.certificate, key, certificate
            )
            options = [
                ("grpc.ssl_target_name_override", "north.hsmvault.internal"),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", -1),
            ]
            address = f"127.0.0.1:{vault.north.port}"
            with grpc.secure_channel(address, credentials, options) as channel:
                for method, body in ((chunk, b""), (forward, bytes(17 << 20))):
                    call: Any = channel.unary_unary(method)
                    code = refusal(lambda c=call, b=body: c(b, timeout=20))[0]  # type: ignore[misc]
                    if who != "a region":
                        assert code is StatusCode.UNAVAILABLE
                    elif body:
                        assert code is StatusCode.RESOURCE_EXHAUSTED
                    else:
                        assert code is StatusCode.NOT_FOUND
        assert vault.north.workers.executed == []


def test_az_19_what_regions_and_processes_ask_each_other_no_caller_can(
    north: Served,
) -> None:
    """By an Administrator, at the public listener."""
    internal = [
        f"/{service.full_name}/{method.name}"
        for file in (local_service_pb2, replication_service_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]

    assert len(internal) > 10
    for path in internal:
        call: Any = north.ada.channel.unary_unary(path)
        assert refusal(lambda c=call: c(b""))[0] is StatusCode.UNIMPLEMENTED  # type: ignore[misc]
        assert path not in RULES
