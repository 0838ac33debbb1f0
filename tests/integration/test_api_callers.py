"""Who gets in: certificates, sizes, unknown methods; health and reflection."""

import datetime
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hsmvault.api import identity
from hsmvault.api.health import REFLECTIONS_MAX, WATCHES_OF_ONE
from hsmvault.api.services import SERVICES, Limits
from hsmvault.model.access import CRYPTO_USER
from hsmvault.regions.certificates import Authority, Certified
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1.access_service_pb2 import CreateRoleAssignmentRequest
from hsmvault.v1.key_service_pb2 import GetKeyRequest
from hsmvault.v1.resources_pb2 import RoleAssignment
from tests.support.served import Caller, Served, error_info, make_key, refusal, served

StatusCode = grpc.StatusCode
NOW = datetime.datetime.now(datetime.UTC)
SPIFFE = "spiffe://acme.example/ns/pay/app"


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("north")
    with served(directory) as one:
        make_key(one, "a")
        yield one


def _certified(
    directory: Path,
    *,
    names: tuple[str, ...] = ("uma",),
    uris: tuple[str, ...] = (),
    seconds: float = 600,
) -> Certified:
    """Certify whatever is asked for, with the key of the CA in `directory`."""
    ca_key: Any = load_pem_private_key(next(directory.glob("*.key")).read_bytes(), None)
    ca = x509.load_pem_x509_certificate(next(directory.glob("*.pem")).read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in names])
        )
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(minutes=5))
        .not_valid_after(
            datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        )
    )
    if uris:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(u) for u in uris]
            ),
            critical=False,
        )
    return Certified(
        builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@pytest.fixture
def ca_directory(north: Served, tmp_path: Path) -> Path:
    # The CA's directory is not in the fixture's hands; find it by its certificate.
    base = Path(str(tmp_path)).parent
    for found in base.glob("*/ca-north-p0"):
        if Authority.open(found).certificate == north.ca.certificate:
            return found
    raise AssertionError("the CA of the fixture is not where it was made")


def _topology(caller: Caller) -> object:
    return caller.regions.GetTopology(regions.GetTopologyRequest())


def test_a_spiffe_id_is_the_principal_whatever_the_subject_says(
    north: Served, ca_directory: Path
) -> None:
    north.ada.access.CreateRoleAssignment(
        CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=SPIFFE, role_definition=CRYPTO_USER.name, scope="/"
            )
        )
    )

    app = north.connect(_certified(ca_directory, names=("tom",), uris=(SPIFFE,)))
    other = north.connect(
        _certified(ca_directory, names=("uma",), uris=(SPIFFE + "2",))
    )

    assert app.keys.GetKey(GetKeyRequest(name="keys/a")).name
    told = refusal(lambda: other.keys.GetKey(GetKeyRequest(name="keys/a")))
    assert told[0] is StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("names", "uris"),
    [
        (("uma",), (SPIFFE, SPIFFE + "2")),
        (("uma",), ("https://acme.example/app",)),
        (("uma",), ("spiffe://",)),
        ((), ()),
        (("uma", "ada"), ()),
        (("a\nb",), ()),
    ],
    ids=["two uris", "no spiffe", "empty spiffe", "no name", "two names", "control"],
)
def test_a_certificate_without_exactly_one_principal_is_refused(
    north: Served, ca_directory: Path, names: tuple[str, ...], uris: tuple[str, ...]
) -> None:
    caller = north.connect(_certified(ca_directory, names=names, uris=uris))

    told = refusal(lambda: _topology(caller))

    assert told[:2] == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_a_certificate_that_ends_while_connected_is_refused(
    north: Served, ca_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS looked when the connection was made; the vault looks on each call."""
    caller = north.connect(_certified(ca_directory))
    assert _topology(caller)

    class Later:
        @staticmethod
        def time() -> float:
            return NOW.timestamp() + 3600

    monkeypatch.setattr(identity, "time", Later)
    told = refusal(lambda: _topology(caller))

    assert told[:2] == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "hsmvault caller add" in told[2]


@pytest.mark.parametrize("kind", ["none", "foreign", "expired"])
def test_who_the_vault_s_ca_did_not_certify_gets_no_connection(
    north: Served, ca_directory: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "none":
        credentials = grpc.ssl_channel_credentials(north.ca.certificate)
    else:
        shown = (
            Authority.make(tmp_path / "other", name="other").caller("uma")
            if kind == "foreign"
            else _certified(ca_directory, seconds=-60)
        )
        credentials = grpc.ssl_channel_credentials(
            north.ca.certificate, shown.key, shown.certificate
        )

    with grpc.secure_channel(f"localhost:{north.port}", credentials) as channel:
        told = refusal(lambda: _topology(Caller(channel)))

    assert told[0] is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x03\xff\xfe\xfd"])
def test_what_does_not_read_as_a_message_is_refused(north: Served, raw: bytes) -> None:
    call: Any = north.uma.channel.unary_unary("/hsmvault.v1.CryptoService/Sign")

    told = refusal(lambda: call(raw))

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (257 * 1024, StatusCode.INVALID_ARGUMENT),
        (3 * 1024 * 1024, StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_what_is_too_large_is_refused(
    north: Served, size: int, code: grpc.StatusCode
) -> None:
    call: Any = north.uma.channel.unary_unary("/hsmvault.v1.CryptoService/Sign")

    assert refusal(lambda: call(bytes(size)))[0] is code
    assert _topology(north.uma)


@pytest.mark.parametrize(
    "method", ["/hsmvault.v1.KeyService/ExportKey", "/hsmvault.local.v1.X/Y", "/a/b"]
)
def test_an_unknown_method_is_not_implemented(north: Served, method: str) -> None:
    call: Any = north.ada.channel.unary_unary(method)

    assert refusal(lambda: call(b""))[0] is StatusCode.UNIMPLEMENTED


def test_a_bug_answers_an_incident_and_nothing_of_what_it_held(
    north: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(count: int) -> bytes:
        raise ValueError(f"hunter2 {count}")

    monkeypatch.setattr(north.hsm, "random", broken)
    from hsmvault.v1.crypto_service_pb2 import GetRandomBytesRequest

    with pytest.raises(grpc.RpcError) as raised:
        north.uma.crypto.GetRandomBytes(GetRandomBytesRequest(count=3))

    error: Any = raised.value
    incident = error_info(error).metadata["incident"]
    assert error.code() is StatusCode.INTERNAL
    assert "hunter2" not in error.details()
    assert incident in error.details()
    assert incident in capsys.readouterr().err


def test_health_tells_of_the_server_and_of_each_service(north: Served) -> None:
    stub = health_pb2_grpc.HealthStub(north.eve.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    watching = stub.Watch(health_pb2.HealthCheckRequest())

    assert next(watching).status == serving
    for name in ("", *(service.full_name for service in SERVICES)):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == serving
    north.services.set_serving(serving=False)
    try:
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        north.services.set_serving(serving=True)
        watching.cancel()


def test_a_generic_client_learns_the_services_by_reflection(north: Served) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(north.eve.channel)
    ask = reflection_pb2.ServerReflectionRequest

    listed, described = stub.ServerReflectionInfo(
        iter(
            (
                ask(list_services=""),
                ask(file_containing_symbol="hsmvault.v1.CryptoService"),
            )
        )
    )

    names = {s.name for s in listed.list_services_response.service}
    assert {service.full_name for service in SERVICES} <= names
    assert "grpc.health.v1.Health" in names
    assert described.file_descriptor_response.file_descriptor_proto


def test_open_reflection_streams_take_no_thread_from_serving(north: Served) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(north.eve.channel)
    with ThreadPoolExecutor(1) as pool:
        release = pool.submit(lambda: None)
        release.result()
        streams = []
        for _ in range(6):
            gate = _Gate()
            streams.append((gate, stub.ServerReflectionInfo(gate)))

        assert _topology(north.uma)
        assert north.uma.keys.GetKey(GetKeyRequest(name="keys/a"), timeout=10).name

        for gate, stream in streams:
            gate.open = True
            stream.cancel()


def test_reflection_streams_that_stay_open_leave_room_for_calls(
    north: Served,
) -> None:
    """A caller without a role opens as many as a connection carries."""
    stub = reflection_pb2_grpc.ServerReflectionStub(north.eve.channel)
    gate = _Gate()
    streams = [
        stub.ServerReflectionInfo(gate, timeout=20) for _ in range(REFLECTIONS_MAX + 8)
    ]

    told = refusal(lambda: next(streams[-1]))
    assert _topology(north.uma)
    gate.open = True
    for stream in streams:
        stream.cancel()

    assert told[:2] == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


def test_one_callers_watchers_of_health_are_bounded_and_no_other_callers(
    north: Served,
) -> None:
    """Without a role, and with one certificate for as many processes as they like."""
    asked = health_pb2.HealthCheckRequest()
    eve = health_pb2_grpc.HealthStub(north.eve.channel)
    uma = health_pb2_grpc.HealthStub(north.uma.channel)
    opened = [eve.Watch(asked) for _ in range(WATCHES_OF_ONE)]
    for watching in opened:
        next(watching)

    told = refusal(lambda: next(eve.Watch(asked, timeout=20)))
    others = uma.Watch(asked, timeout=20)
    shown = next(others).status
    checked = eve.Check(asked).status
    for watching in (*opened, others):
        watching.cancel()

    assert told[:2] == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert shown == checked == health_pb2.HealthCheckResponse.SERVING
    assert _watched_again(eve)


def _watched_again(stub: Any) -> bool:
    """Whether a caller whose watchers ended may watch anew, once that has arrived."""
    for _ in range(500):
        with suppress(grpc.RpcError):
            watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
            next(watching)
            watching.cancel()
            return True
        time.sleep(0.02)
    return False


def test_watching_services_that_are_none_leaves_nothing_behind(north: Served) -> None:
    """Each name that is asked for, up to a message long, must not stay in memory."""
    stub = health_pb2_grpc.HealthStub(north.eve.channel)
    before = len(north.services.attendant._health._send_response_callbacks)

    for number in range(8):
        watching = stub.Watch(
            health_pb2.HealthCheckRequest(service=f"{number}" * 10_000), timeout=20
        )
        shown = next(watching).status
        watching.cancel()
        assert shown == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

    assert len(north.services.attendant._health._send_response_callbacks) == before


class _Gate:
    """Requests that never come."""

    def __init__(self) -> None:
        self.open = False

    def __iter__(self) -> "_Gate":
        return self

    def __next__(self) -> Any:
        while not self.open:
            time.sleep(0.01)
        raise StopIteration


def test_more_waiting_calls_than_fit_are_refused(tmp_path: Path) -> None:
    limits = Limits(waiting_threads=2, waiting_max=4)
    with served(tmp_path, limits=limits) as north:
        wait = regions.WaitForPositionRequest(position="1.north.999")
        calls = [north.eve.regions.WaitForPosition.future(wait) for _ in range(4)]
        while not north.services._waiting.full:
            assert not any(call.done() for call in calls)

        told = refusal(lambda: north.uma.regions.WaitForPosition(wait))
        assert _topology(north.uma)
        for call in calls:
            call.cancel()

    assert told[:2] == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
