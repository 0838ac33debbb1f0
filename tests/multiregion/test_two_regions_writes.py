"""Writes in two regions that run: positions, waiting for them, and who decides."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

import hsmvault
from hsmvault.model.access import CRYPTO_AUDITOR, CRYPTO_USER
from hsmvault.model.errors import AccessDenied
from hsmvault.model.log import Position
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1.crypto_service_pb2 import (
    BatchItem,
    BatchRequest,
    DecryptRequest,
    EncryptRequest,
)
from hsmvault.v1.resources_pb2 import (
    Durability,
    Key,
    KeySpec,
    KeyVersion,
    RoleAssignment,
    RoleDefinition,
)
from tests.architecture.house import HOUSE
from tests.support.callers import (
    SECONDS,
    Callers,
    create,
    grant,
    key,
    populated_vault,
    position,
    refusals,
    sign,
)
from tests.support.cut import cut_off
from tests.support.issuer import TestIssuer
from tests.support.regions import FREE, LiveRegion, region_message
from tests.support.served import Caller, error_info, refusal, refusal_in_time

pytestmark = pytest.mark.softhsm

BEHIND: Final = (grpc.StatusCode.UNAVAILABLE, "REGION_BEHIND")
DENIED: Final = (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
NOT_PRIMARY: Final = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_PRIMARY")
ALL: Final = Durability(all_regions=True)


@pytest.fixture(scope="module")
def call(
    tmp_path_factory: pytest.TempPathFactory, issuer: TestIssuer
) -> Iterator[Callers]:
    with populated_vault(
        tmp_path_factory.mktemp("writes"),
        "south",
        settings=issuer.toml,
        telemetry={"traces": "traces", "metrics": FREE},
    ) as callers:
        yield callers


@pytest.fixture(autouse=True)
def linked(call: Callers) -> None:
    """Whatever the test before has done to the link."""
    call.until_linked()


@pytest.fixture
def south(call: Callers) -> LiveRegion:
    return call.vault.region("south")


def every_write(call: Callers, key_id: str, *, region: str = "north") -> dict[str, Any]:
    """One after another, every write to a key short of its purge."""
    alice, olga = call(region=region).keys, call("olga", region=region).keys
    name = f"keys/{key_id}"
    answers: dict[str, Any] = {"CreateKey": create(call(region=region), key_id)}
    answers["UpdateKey"] = alice.UpdateKey(
        keys.UpdateKeyRequest(
            key=Key(name=name, tags={"a": "b"}), update_mask=FieldMask(paths=["tags"])
        ),
        timeout=SECONDS,
    )
    answers["UpdateKeyVersion"] = alice.UpdateKeyVersion(
        keys.UpdateKeyVersionRequest(
            key_version=KeyVersion(
                name=answers["CreateKey"].current_version, enabled=True
            ),
            update_mask=FieldMask(paths=["enabled"]),
        ),
        timeout=SECONDS,
    )
    answers["RotateKey"] = alice.RotateKey(
        keys.RotateKeyRequest(name=name), timeout=SECONDS
    )
    answers["DeleteKey"] = alice.DeleteKey(
        keys.DeleteKeyRequest(name=name), timeout=SECONDS
    )
    answers["RecoverKey"] = olga.RecoverKey(
        keys.RecoverKeyRequest(name=name), timeout=SECONDS
    )
    return answers


def assignment(who: str) -> access.CreateRoleAssignmentRequest:
    return access.CreateRoleAssignmentRequest(
        role_assignment=RoleAssignment(
            principal=f"CN={who}", role_definition=CRYPTO_USER.name, scope="/"
        )
    )


def wait_for(caller: Caller, at: str, seconds: float = SECONDS) -> str:
    timeout = Duration()
    timeout.FromMilliseconds(int(min(seconds, 60) * 1000))
    return caller.regions.WaitForPosition(
        regions.WaitForPositionRequest(position=at, timeout=timeout),
        timeout=SECONDS + 5,
    ).position


# --- positions --------------------------------------------------------------------


def test_every_write_answers_where_it_stands_and_south_comes_there(
    call: Callers,
) -> None:
    positions = [a.position for a in every_write(call, "positions").values()]
    alice, admin, olga = call().keys, call("admin").access, call("olga").keys
    alice.DeleteKey(keys.DeleteKeyRequest(name="keys/positions"), timeout=SECONDS)
    positions.append(
        olga.PurgeKey(
            keys.PurgeKeyRequest(name="keys/positions"), timeout=SECONDS
        ).position
    )
    granted = admin.CreateRoleAssignment(assignment("placed"), timeout=SECONDS)
    revoked = admin.DeleteRoleAssignment(
        access.DeleteRoleAssignmentRequest(name=granted.name), timeout=SECONDS
    )
    positions += [granted.position, revoked.position]

    places = [Position.parse(one) for one in positions]
    assert all(former < later for former, later in pairwise(places))
    assert {str(place.epoch) for place in places} == {"1.north"}
    for one, place in zip(positions, places, strict=True):
        assert Position.parse(wait_for(call(region="south"), one)) >= place
    assert position(call()) >= places[-1]


def test_a_call_that_asks_for_a_position_waits_for_it_and_never_reads_older(
    call: Callers, south: LiveRegion
) -> None:
    there = call(region="south")
    answers: list[Key] = []
    with cut_off(south):
        made = create(call(), "awaited")

        # South has it not, says so, and does not serve what it has instead.
        assert refusal(lambda: key(there, made.name))[0] is grpc.StatusCode.NOT_FOUND
        for caller in call.everywhere(region="south"):
            told = asked_too_early(caller, made)
            assert told[:2] == BEHIND
            assert made.position in told[2]
        asked = threading.Thread(
            target=lambda: answers.append(key(there, made.name, at=made.position))
        )
        asked.start()
        assert not answers

    asked.join()
    assert answers == [made]


def asked_too_early(caller: Caller, made: Key) -> tuple[grpc.StatusCode, str, str]:
    """What is said to who asks for a key at a position that will not come in time."""
    return refusal_in_time(
        lambda seconds: key(caller, made.name, at=made.position, seconds=seconds), 1.0
    )


def test_waiting_for_a_position_ends_when_it_is_reached_or_the_time_is_over(
    call: Callers, south: LiveRegion
) -> None:
    there = call(region="south")
    reached: list[str] = []
    with cut_off(south):
        made = create(call(), "waited-for")
        assert wait_for(call(), made.position) == made.position

        told = refusal(lambda: wait_for(there, made.position, 0.5))
        assert told[:2] == BEHIND
        waiting = threading.Thread(
            target=lambda: reached.append(wait_for(there, made.position))
        )
        waiting.start()
        assert not reached

    waiting.join()
    assert Position.parse(reached[0]) >= Position.parse(made.position)


def test_a_position_of_another_history_is_refused_at_once(call: Callers) -> None:
    for told in refusals(
        (call(), call(region="south")), lambda c: wait_for(c, "1.south.3")
    ):
        assert told[:2] == (grpc.StatusCode.ABORTED, "POSITION_LOST")
        assert "1.south.3" in told[2]


def test_a_write_that_waits_for_all_regions_is_everywhere_when_it_answers(
    call: Callers,
) -> None:
    for number in range(5):
        made = create(call(), f"durable-{number}", durability=ALL)

        # No min-position: it is there already.
        for caller in call.everywhere(region="south"):
            assert key(caller, made.name) == made
            assert sign(caller, made.name).name == made.current_version


def test_a_write_that_south_does_not_acknowledge_says_that_it_stands(
    call: Callers, south: LiveRegion
) -> None:
    request = keys.CreateKeyRequest(
        key_id="stands",
        key=Key(spec=KeySpec(type="EC")),
        durability=ALL,
        request_id="stands",
    )
    with cut_off(south):
        # By its id it is one write, however often it is asked for.
        code, reason, message = refusal_in_time(
            lambda seconds: call().keys.CreateKey(request, timeout=seconds), 5.0
        )

        assert (code, reason) == BEHIND
        assert "the write stands at position 1.north." in message
        assert "south" in message
        at = key(call(), "keys/stands").position
        assert at in message

    wait_for(call(region="south"), at)
    assert sign(call(region="south"), "keys/stands").served.region == "south"


# --- roles ------------------------------------------------------------------------


def test_a_role_that_north_assigns_is_in_force_in_south_until_it_is_revoked(
    call: Callers,
) -> None:
    made = create(call(), "shared", durability=ALL)
    bobs = call.everywhere("bob", region="south")
    for told in refusals(bobs, lambda bob: sign(bob, made.name)):
        assert told[:2] == DENIED

    given = call("admin").access.CreateRoleAssignment(
        access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=call.vault.caller("bob").principal,
                role_definition=CRYPTO_USER.name,
                scope=f"/{made.name}",
            )
        ),
        timeout=SECONDS,
    )
    for bob in bobs:
        assert sign(bob, made.name, at=given.position).signature
    # And no further than it was given.
    for told in refusals(bobs, lambda bob: sign(bob, "keys/other")):
        assert told[:2] == DENIED

    taken = call("admin").access.DeleteRoleAssignment(
        access.DeleteRoleAssignmentRequest(name=given.name, durability=ALL),
        timeout=SECONDS,
    )
    assert taken.position
    bobs += call.everywhere("bob")
    for told in refusals(bobs, lambda bob: sign(bob, made.name)):
        assert told[:2] == DENIED


# --- writes sent to south ---------------------------------------------------------


def test_a_key_write_sent_to_south_is_made_by_north_and_read_in_south_at_once(
    call: Callers,
) -> None:
    answers = every_write(call, "forwarded", region="south")

    places = [Position.parse(answer.position) for answer in answers.values()]
    assert all(former < later for former, later in pairwise(places))
    assert {str(place.epoch) for place in places} == {"1.north"}

    for number, there in enumerate(call.everywhere(region="south")):
        made = create(there, f"own-write-{number}")
        # Whichever partition is asked next shows it, without asking for a position.
        for caller in call.everywhere(region="south"):
            assert key(caller, made.name) == made
            assert sign(caller, made.name).served.region == "south"
        assert key(call(), made.name) == made


def test_a_forwarded_write_that_is_repeated_is_answered_and_not_made_again(
    call: Callers,
) -> None:
    first = create(call(region="south"), "once", request_id="once-only")
    before = position(call())

    again = create(call(region="south"), "once", request_id="once-only")
    at_north = create(call(), "once", request_id="once-only")

    assert first == again == at_north
    assert position(call()) == before


def test_north_decides_about_forwarded_writes_in_the_callers_own_name(
    call: Callers,
) -> None:
    made = create(call(), "not-carols", durability=ALL)
    at = grant(call("admin"), call.vault.caller("carol").principal, CRYPTO_AUDITOR.name)
    wait_for(call(region="south"), at)
    before = position(call())
    carol = call("carol", region="south").keys
    writes: list[Callable[[], object]] = [
        lambda: create(call("carol", region="south"), "carols"),
        lambda: carol.DeleteKey(keys.DeleteKeyRequest(name=made.name), timeout=SECONDS),
        lambda: carol.RotateKey(keys.RotateKeyRequest(name=made.name), timeout=SECONDS),
        lambda: carol.RecoverKey(
            keys.RecoverKeyRequest(name=made.name), timeout=SECONDS
        ),
    ]

    for write in writes:
        code, reason, message = refusal(write)
        assert (code, reason) == DENIED
        # Who asked, not who forwarded.
        assert "CN=carol" in message
    assert position(call()) == before


def test_a_role_for_south_is_judged_by_where_its_holder_connected(
    call: Callers,
) -> None:
    """Of the vault's own making, and carried to south like any other."""
    admin = call("admin").access
    role = admin.CreateRoleDefinition(
        access.CreateRoleDefinitionRequest(
            role_definition=RoleDefinition(
                title="Maker", data_actions=["keys/create", "keys/sign/action"]
            )
        ),
        timeout=SECONDS,
    )
    given = admin.CreateRoleAssignment(
        access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=call.vault.caller("erin").principal,
                role_definition=role.name,
                scope="/keys",
                regions=["regions/south"],
            )
        ),
        timeout=SECONDS,
    )
    wait_for(call(region="south"), given.position)

    # North makes it, and has the right judged by who forwarded.
    assert create(call("erin", region="south"), "erins").position
    assert sign(call("erin", region="south"), "keys/erins").served.region == "south"
    for write in (
        lambda: create(call("erin"), "erins-second"),
        lambda: sign(call("erin"), "keys/erins"),
    ):
        told = refusal(write)
        assert told[:2] == DENIED
        assert "in south only" in told[2]


def test_a_right_that_north_took_away_is_gone_for_writes_through_south_too(
    call: Callers, south: LiveRegion
) -> None:
    """South still believes in the grant: its copy is older than the revocation."""
    dora = call.vault.caller("dora").principal
    given = call("admin").access.CreateRoleAssignment(
        assignment("dora"), timeout=SECONDS
    )
    wait_for(call(region="south"), given.position)
    assert create(call("dora", region="south"), "doras").position
    with cut_off(south):
        call("admin").access.DeleteRoleAssignment(
            access.DeleteRoleAssignmentRequest(name=given.name), timeout=SECONDS
        )
        before = position(call())
        # By its own copy, south would have signed and let her write.
        assert sign(call("dora", region="south"), "keys/doras").signature

    # The moment that the link is back, whatever south has applied by then.
    told = refusal(lambda: create(call("dora", region="south"), "doras-second"))
    assert told[0] in {
        grpc.StatusCode.PERMISSION_DENIED,
        # The link was not yet back.
        grpc.StatusCode.FAILED_PRECONDITION,
    }
    wait_for(call(region="south"), str(before))
    told = refusal(lambda: create(call("dora", region="south"), "doras-third"))
    assert told[:2] == DENIED
    assert dora in told[2]
    assert position(call()) == before


def test_north_s_refusal_of_a_forwarded_write_arrives_as_it_was(call: Callers) -> None:
    create(call(), "taken", durability=ALL)

    here = refusal(lambda: create(call(), "taken"))
    there = refusal(lambda: create(call(region="south"), "taken"))

    assert here == there
    assert here[:2] == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


def test_what_is_not_forwarded_is_refused_with_the_primary_s_address(
    call: Callers, south: LiveRegion
) -> None:
    made = create(call(), "stays", durability=ALL)
    before = position(call())
    admin, olga = call("admin", region="south"), call("olga", region="south")
    card = south.card
    asked: list[Callable[[], object]] = [
        lambda: admin.access.CreateRoleAssignment(assignment("erin"), timeout=SECONDS),
        lambda: admin.access.DeleteRoleAssignment(
            access.DeleteRoleAssignmentRequest(name="roleAssignments/x"),
            timeout=SECONDS,
        ),
        lambda: admin.regions.AddRegion(
            regions.AddRegionRequest(
                region=region_message(card), fingerprint=card.fingerprint
            ),
            timeout=SECONDS,
        ),
        lambda: admin.regions.RemoveRegion(
            regions.RemoveRegionRequest(name="regions/south"), timeout=SECONDS
        ),
        lambda: olga.keys.PurgeKey(
            keys.PurgeKeyRequest(name=made.name), timeout=SECONDS
        ),
    ]

    for ask in asked:
        with pytest.raises(grpc.RpcError) as told:
            ask()
        info = error_info(told.value)
        assert (told.value.code(), info.reason) == NOT_PRIMARY
        assert info.metadata["endpoint"] == call.vault.north.endpoint
        assert call.vault.north.endpoint in str(told.value.details())
    assert position(call()) == before


def test_our_client_follows_the_redirect_to_the_primary(
    call: Callers, south: LiveRegion
) -> None:
    admin = call.vault.admin
    with hsmvault.connect(
        south.endpoint,
        certificate=admin.certificate,
        key=admin.key,
        ca=admin.ca,
        region="south",
        timeout=SECONDS,
    ) as vault:
        given = vault.roles.assign(
            "CN=frank", CRYPTO_USER.name, scope="/keys/stays", timeout=SECONDS
        )

    assert given.principal == "CN=frank"
    assert wait_for(call(region="south"), given.position)


def test_a_caller_with_a_token_writes_in_any_region_what_their_roles_allow(
    call: Callers, issuer: TestIssuer, south: LiveRegion
) -> None:
    """Their token goes with the call: the primary need not be told who it is."""
    vault = call.vault
    with hsmvault.connect(
        vault.north.endpoint,
        certificate=vault.admin.certificate,
        key=vault.admin.key,
        ca=vault.admin.ca,
    ) as admin:
        admin.roles.assign(issuer.principal("root"), "Administrator", scope="/")
        granted = admin.roles.assign(issuer.principal("ute"), "Crypto User", scope="/")
    with hsmvault.connect(
        south.card.token_endpoints[0],
        ca=vault.admin.ca,
        token=lambda: issuer.token("ute"),
        timeout=30,
    ) as ute:
        there = ute.at("south")
        there.keys.create("by-token", "EC", min_position=granted.position, timeout=60)
        signed = there.sign("by-token", "ES256", message=b"x")
        assert signed.served.region == "south"
        with pytest.raises(AccessDenied):
            there.roles.assign("CN=eve", "Crypto User", scope="/")
    with hsmvault.connect(
        south.card.token_endpoints[0],
        ca=vault.admin.ca,
        token=lambda: issuer.token("root"),
    ) as root:
        # For certificates this is redirected; with a token south has it done.
        made = root.at("south").roles.assign("CN=kim", "Crypto Auditor", scope="/keys")
        assert root.at("south").roles.get(made.name).principal == "CN=kim"


def test_a_write_that_is_forwarded_is_one_trace_through_both_regions(
    call: Callers, south: LiveRegion
) -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

    call(region="south").keys.CreateKey(
        keys.CreateKeyRequest(
            key_id="traced", key=Key(spec=KeySpec(type="EC", curve="P-256"))
        ),
        timeout=SECONDS,
        metadata=(("traceparent", f"00-{trace}-{span}-01"),),
    )

    def spans(region: LiveRegion) -> dict[str, dict[str, Any]]:
        """Those of the trace, by their names."""
        lines = [
            json.loads(line)
            for path in (region.layout.directory / "traces").glob("*.jsonl")
            for line in path.read_text().splitlines()
        ]
        scopes = [line["resourceSpans"][0]["scopeSpans"][0] for line in lines]
        found = [one for scope in scopes for one in scope["spans"]]
        return {one["name"]: one for one in found if one["traceId"] == trace}

    north = call.vault.north
    create_key = "hsmvault.v1.KeyService/CreateKey"
    for region in (north, south):
        region.wait_until(lambda: create_key in spans(region), what="spans")  # noqa: B023
    here, there = spans(south), spans(north)
    assert here[create_key]["parentSpanId"] == span
    assert here["forward"]["parentSpanId"] == here[create_key]["spanId"]
    assert there[create_key]["parentSpanId"] == here[create_key]["spanId"]
    assert there["store_commit"]["parentSpanId"] == there[create_key]["spanId"]


def test_every_series_on_the_board_exists_in_two_regions_that_were_used(
    call: Callers, south: LiveRegion
) -> None:
    """What Prometheus really takes, beside what the code says that it could."""
    alice = call(region="south")
    create(alice, "watched", "oct", bits=256)
    crypto = alice.crypto
    sealed = crypto.Encrypt(
        EncryptRequest(name="keys/watched", algorithm="A256GCM", plaintext=b"secret"),
        timeout=SECONDS,
    )
    spoilt = DecryptRequest(
        name=sealed.name,
        algorithm="A256GCM",
        ciphertext=sealed.ciphertext,
        iv=sealed.iv,
        tag=bytes(16),
    )
    crypto.Batch(BatchRequest(items=[BatchItem(decrypt=spoilt)]), timeout=SECONDS)
    refusal(lambda: crypto.Decrypt(spoilt, timeout=SECONDS))

    found = call.vault.north.scraped().keys() | south.scraped().keys()

    board = json.loads((HOUSE / "docs/grafana/hsmvault.json").read_text())
    wanted = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"\bhsmvault_[a-z_]+", target["expr"])
    }
    assert wanted
    assert wanted - found == set()
