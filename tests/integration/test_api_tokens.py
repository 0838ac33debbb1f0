"""Callers with tokens, over gRPC: who they are, what they may, and how they travel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hsmvault.model.access import (
    ADMINISTRATOR,
    CRYPTO_AUDITOR,
    CRYPTO_OFFICER,
    CRYPTO_USER,
    RoleDefinition,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.v1.access_service_pb2 import (
    CreateRoleAssignmentRequest,
    ListRoleAssignmentsRequest,
)
from hsmvault.v1.key_service_pb2 import CreateKeyRequest, DeleteKeyRequest
from hsmvault.v1.key_service_pb2 import PurgeKeyRequest as Purge
from hsmvault.v1.region_service_pb2 import GetTopologyRequest
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment
from tests.support.issuer import TestIssuer
from tests.support.served import (
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


@contextmanager
def _believing(directory: Path, issuer: TestIssuer, **given: Any) -> Iterator[Served]:
    with served(directory, issuers=[issuer.settings()], **given) as one:
        (keys,) = one.services._callers.tokens._issuers.values()
        assert keys.fetch()
        yield one


@pytest.fixture
def north(tmp_path: Path, issuer: TestIssuer) -> Iterator[Served]:
    with _believing(tmp_path, issuer) as one:
        make_key(one, "a")
        yield one


def _grant(
    one: Served, principal: str, role: RoleDefinition, scope: str = "/"
) -> RoleAssignment:
    wanted = RoleAssignment(principal=principal, role_definition=role.name, scope=scope)
    return one.ada.access.CreateRoleAssignment(
        CreateRoleAssignmentRequest(role_assignment=wanted)
    )


def test_a_caller_with_a_token_may_do_what_its_principal_is_assigned(
    north: Served, issuer: TestIssuer
) -> None:
    uma = north.bearing(issuer.token("uma"))

    assert refusal(lambda: signed(uma, "keys/a"))[1] == "ACCESS_DENIED"
    _grant(north, issuer.principal("uma"), CRYPTO_USER, "/keys/a")

    assert signed(uma, "keys/a").signature
    tom = north.bearing(issuer.token("tom"))
    assert refusal(lambda: signed(tom, "keys/a"))[0] is StatusCode.PERMISSION_DENIED


def test_a_token_is_never_taken_for_a_certificate_of_the_same_name(
    north: Served, issuer: TestIssuer
) -> None:
    """CN=uma may sign; the subject `uma`, or `CN=uma`, is somebody else."""
    for subject in ("uma", "CN=uma"):
        told = refusal(lambda: signed(north.bearing(issuer.token(subject)), "keys/a"))  # noqa: B023  (called at once)

        assert told[:2] == (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")


def test_a_certificate_and_a_token_in_one_call_are_refused(
    north: Served, issuer: TestIssuer
) -> None:
    bearer = (("authorization", f"Bearer {issuer.token('uma')}"),)

    told = refusal(lambda: signed(north.uma, "keys/a", metadata=bearer))

    assert told[0] is StatusCode.UNAUTHENTICATED
    assert "show one" in told[2]


def _headers(*values: str) -> tuple[tuple[str, str], ...]:
    return tuple(("authorization", value) for value in values)


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_authorization_header_is_wanted(
    north: Served, issuer: TestIssuer, count: int
) -> None:
    """Two: whoever stands between could not know which one we would take."""
    _grant(north, issuer.principal("uma"), CRYPTO_USER)
    nobody = _nobody(north)
    good = f"Bearer {issuer.token('uma')}"
    assert signed(nobody, "keys/a", metadata=_headers(good)).signature

    told = refusal(lambda: signed(nobody, "keys/a", metadata=_headers(*[good] * count)))

    assert told[0] is StatusCode.UNAUTHENTICATED
    assert f"{count} authorization headers" in told[2]


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token ", "Bearer"])
def test_another_scheme_than_bearer_is_refused(
    north: Served, issuer: TestIssuer, scheme: str
) -> None:
    value = f"{scheme}{issuer.token('uma')}"

    told = refusal(lambda: signed(_nobody(north), "keys/a", metadata=_headers(value)))

    assert told[0] is StatusCode.UNAUTHENTICATED
    assert "no other scheme" in told[2]


def _nobody(one: Served) -> Any:
    """Somebody on the token port, with nothing to show."""
    channel = grpc.secure_channel(
        f"localhost:{one.token_port}",
        grpc.ssl_channel_credentials(one.ca.certificate),
    )
    one._channels.append(channel)
    from tests.support.served import Caller

    return Caller(channel)


def test_the_certificates_port_takes_nobody_without_a_certificate(
    north: Served, issuer: TestIssuer
) -> None:
    channel = grpc.secure_channel(
        f"localhost:{north.port}",
        grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(north.ca.certificate),
            grpc.access_token_call_credentials(issuer.token()),
        ),
    )
    call: Any = channel.unary_unary("/hsmvault.v1.RegionService/GetTopology")

    assert refusal(lambda: call(b"", timeout=5))[0] is StatusCode.UNAVAILABLE
    channel.close()


def test_a_token_is_never_taken_without_tls(north: Served, issuer: TestIssuer) -> None:
    channel = grpc.insecure_channel(f"localhost:{north.token_port}")
    call: Any = channel.unary_unary("/hsmvault.v1.RegionService/GetTopology")
    bearer = _headers(f"Bearer {issuer.token()}")

    told = refusal(lambda: call(b"", timeout=5, metadata=bearer))

    assert told[0] is StatusCode.UNAVAILABLE
    channel.close()


def test_az_15_while_the_issuer_is_away_calls_are_told_to_come_back(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    with served(
        tmp_path, issuers=[issuer.settings(jwks_uri="https://localhost:1/jwks")]
    ) as one:
        told = refusal(
            lambda: signed(one.bearing(issuer.token()), "keys/a", timeout=30)
        )

    assert told[:2] == (StatusCode.UNAVAILABLE, "ISSUER_UNAVAILABLE")


def test_az_16_a_refused_token_tells_nothing_of_its_subject(
    north: Served, issuer: TestIssuer
) -> None:
    """Neither whether anybody of that name has a role, nor what."""
    _grant(north, issuer.principal("uma"), CRYPTO_USER)
    told = [
        refusal(lambda: signed(north.bearing(issuer.token(who, aud="x")), "keys/a"))  # noqa: B023  (called at once)
        for who in ("uma", "eve")
    ]

    assert told[0] == told[1]


@pytest.mark.parametrize("alias", ["UMA", "Uma", "uma.", "./uma", "%75ma", "uma@"])
def test_az_16_a_subject_that_is_nearly_another_is_somebody_else(
    north: Served, issuer: TestIssuer, alias: str
) -> None:
    _grant(north, issuer.principal("uma"), CRYPTO_USER)

    told = refusal(lambda: signed(north.bearing(issuer.token(alias)), "keys/a"))

    assert told[0] in {StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}


@pytest.mark.parametrize(
    "principal",
    [
        "jwt:http://issuer/x#a",
        "jwt:https://issuer#",
        "jwt:https://issuer",
        "jwt:#a",
        "jwt:https://issuer#a#b",
        "jwt:https://issuer#a b",
        "jwt:https://issuer?x#a",
        "JWT:https://issuer#a",
        " CN=uma",
        "CN= uma",
        "CN=uma ",
        "cn=uma",
    ],
)
def test_az_16_a_role_is_assigned_only_to_what_a_caller_can_be_called(
    north: Served, principal: str
) -> None:
    told = refusal(lambda: _grant(north, principal, CRYPTO_AUDITOR))

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def test_health_and_reflection_are_for_those_who_are_somebody(
    north: Served, issuer: TestIssuer
) -> None:
    """On the port that asks for no certificate, too (Cosmian 2026-007: a listener)."""
    asked = health_pb2.HealthCheckRequest()
    told = reflection_pb2.ServerReflectionRequest(list_services="")
    for bearer, code in (
        ((), StatusCode.UNAUTHENTICATED),
        (_headers("Bearer x"), StatusCode.UNAUTHENTICATED),
        (_headers(f"Bearer {issuer.token('eve')}"), None),
    ):
        channel = _nobody(north).channel
        health: Any = health_pb2_grpc.HealthStub(channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: health.Check(asked, metadata=bearer),  # noqa: B023  (called at once)
            lambda: next(health.Watch(asked, metadata=bearer)),  # noqa: B023
            lambda: next(
                reflection.ServerReflectionInfo(iter([told]), metadata=bearer)  # noqa: B023
            ),
        )
        for call in calls:
            if code is None:
                assert call()
            else:
                assert refusal(call)[0] is code


def test_a_token_is_neither_stored_nor_told(
    north: Served, issuer: TestIssuer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _grant(north, issuer.principal("uma"), CRYPTO_USER)
    told = []
    tokens = [issuer.token("uma"), issuer.token("eve"), issuer.token(aud="x")]
    for number, token in enumerate(tokens):
        ask = CreateKeyRequest(key_id=f"t{number}", request_id=f"r{number}")
        ask.key.spec.type = "EC"
        try:
            north.bearing(token).keys.CreateKey(ask)
        except grpc.RpcError as error:
            told.append(f"{error} {error.trailing_metadata()}")

    written = "".join(told) + "".join(capfd.readouterr())
    kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert issuer.principal("uma").encode() in kept
    for token in tokens:
        for part in token.split(".")[1:]:
            assert part not in written
            assert part.encode() not in kept


def test_the_topology_tells_where_callers_with_tokens_connect(tmp_path: Path) -> None:
    import dataclasses

    shown = dataclasses.replace(
        region("south"), token_endpoints=("south.example:8460",)
    )
    with served(tmp_path, records=genesis(shown)) as one:
        found = one.ada.regions.GetTopology(GetTopologyRequest())

    told = {r.name: r.token_endpoint for r in found.regions}
    assert told == {"regions/north": "", "regions/south": "south.example:8460"}


# --- in an extended region ---------------------------------------------------


@pytest.fixture
def regions(tmp_path: Path, issuer: TestIssuer) -> Iterator[tuple[Served, Served]]:
    """A primary and an extended region that believe the same issuer."""
    settings = genesis(region("south", RegionState.SUCCEEDED))
    keys: dict[str, bytes] = {}
    with _believing(tmp_path, issuer, records=settings, keys=keys) as north:
        manager = FakeManager(north)
        with _believing(
            tmp_path, issuer, own="south", ca=north.ca, manager=manager, keys=keys
        ) as south:
            _grant(north, issuer.principal("olga"), CRYPTO_OFFICER)
            _grant(north, issuer.principal("ada"), ADMINISTRATOR)
            _grant(north, issuer.principal("uma"), CRYPTO_USER)
            follow(north, south)
            manager.on_forward = lambda: follow(north, south)
            yield north, south


def test_a_forwarded_call_carries_the_token_and_the_primary_verifies_it(
    regions: tuple[Served, Served], issuer: TestIssuer
) -> None:
    north, south = regions
    uma = south.bearing(issuer.token("uma"))
    ask = CreateKeyRequest(key_id="b", key=Key(spec=KeySpec(type="EC")))

    assert uma.keys.CreateKey(ask).name == "keys/b"

    (keys,) = north.services._callers.tokens._issuers.values()
    issuer.rotate("k2")
    try:
        assert keys.fetch()
        ask.key_id = "c"
        told = refusal(lambda: uma.keys.CreateKey(ask))
        # South still believes the key; the primary does not, and it decides.
        assert told[0] is StatusCode.UNAUTHENTICATED
    finally:
        issuer.rotate("k1")


def test_what_is_redirected_for_certificates_is_forwarded_with_a_token(
    regions: tuple[Served, Served], issuer: TestIssuer
) -> None:
    _, south = regions
    grant = CreateRoleAssignmentRequest(
        role_assignment=RoleAssignment(
            principal="CN=kim", role_definition=CRYPTO_AUDITOR.name, scope="/keys"
        )
    )
    assert refusal(lambda: south.ada.access.CreateRoleAssignment(grant))[1] == (
        "NOT_PRIMARY"
    )

    ada = south.bearing(issuer.token("ada"))
    made = ada.access.CreateRoleAssignment(grant)

    listed = ada.access.ListRoleAssignments(
        ListRoleAssignmentsRequest(principal="CN=kim")
    )
    assert [one.name for one in listed.role_assignments] == [made.name]


def test_purging_is_forwarded_with_a_token(
    regions: tuple[Served, Served], issuer: TestIssuer
) -> None:
    north, south = regions
    make_key(north, "b")
    follow(north, south)
    south.bearing(issuer.token("uma")).keys.DeleteKey(DeleteKeyRequest(name="keys/b"))

    olga = south.bearing(issuer.token("olga"))

    assert olga.keys.PurgeKey(Purge(name="keys/b")).position


@pytest.mark.parametrize("principal", ["CN=ada", "jwt:https://acme#ada"])
def test_a_region_that_forwards_a_token_cannot_say_whose_it_is(
    regions: tuple[Served, Served], issuer: TestIssuer, principal: str
) -> None:
    """The attacker holds the extended region, and a user's token."""
    north, _ = regions
    grant = CreateRoleAssignmentRequest(
        role_assignment=RoleAssignment(
            principal="CN=eve", role_definition=ADMINISTRATOR.name, scope="/"
        )
    )
    method = "/hsmvault.v1.AccessService/CreateRoleAssignment"

    for proof in (issuer.token("uma").encode(), b"", b"\xff", b"x.y.z"):
        done = north.services.execute(
            method,
            grant.SerializeToString(),
            principal=principal,
            via_region="south",
            proof=proof,
        )

        assert done.status
        assert not done.response


def test_a_token_does_not_have_reads_run_elsewhere(
    regions: tuple[Served, Served], issuer: TestIssuer
) -> None:
    north, _ = regions

    done = north.services.execute(
        "/hsmvault.v1.CryptoService/Sign",
        b"",
        principal=issuer.principal("uma"),
        via_region="south",
        proof=issuer.token("uma").encode(),
    )

    assert done.status
