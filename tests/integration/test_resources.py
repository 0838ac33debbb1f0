"""What callers can make the vault hold: bodies, headers, streams, connections, memory.

Requests of those who may nothing, or nothing more, cost little and leave nothing.
"""

import gc
import itertools
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import pytest

from hsmvault.api import watching
from hsmvault.api.services import Limits
from hsmvault.model.access import CRYPTO_USER
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1.key_service_pb2 import GetKeyRequest, ListKeysRequest
from hsmvault.v1.region_service_pb2 import WaitForPositionRequest
from hsmvault.v1.vault_service_pb2 import WatchRequest
from tests.support.certified import nameless
from tests.support.served import (
    PAGE_KEY,
    VAULT_ID,
    Served,
    genesis,
    make_key,
    refusal,
    served,
    signed,
)

StatusCode = grpc.StatusCode
EXHAUSTED: Final = StatusCode.RESOURCE_EXHAUSTED
LIMITS: Final = Limits(
    message_bytes=64 * 1024, metadata_bytes=8 * 1024, waiting_threads=4, waiting_max=32
)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, limits=LIMITS) as one:
        make_key(one, "a")
        yield one


def _still_serves(north: Served) -> bool:
    return bool(signed(north.uma, "keys/a").signature)


HALF_A_REQUEST: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # SETTINGS
    b"\x00\x10\x00\x01\x00"  # the beginning of the HEADERS of 4 KiB
)

# --- RS-02: bodies, headers, streams, connections ---------------------------------


@pytest.mark.parametrize(
    ("size", "codes"),
    [
        (LIMITS.message_bytes + 1, {StatusCode.INVALID_ARGUMENT}),
        # As much as a backup may have passes the wire, and no other RPC takes it.
        (2 * LIMITS.message_bytes + 1, {StatusCode.INVALID_ARGUMENT}),
        (16 * 1024 * 1024, {EXHAUSTED}),
    ],
    ids=["a byte too much", "twice as much", "16 MiB"],
)
def test_rs_02_a_huge_body_is_refused_and_nobody_else_notices(
    north: Served, size: int, codes: set[StatusCode]
) -> None:
    call: Any = north.eve.channel.unary_unary("/hsmvault.v1.CryptoService/Sign")

    assert refusal(lambda: call(bytes(size), timeout=30))[0] in codes
    assert _still_serves(north)


@pytest.mark.parametrize(
    "metadata",
    [
        [("x-big", "v" * 64 * 1024)],
        [(f"x-{n}", "v" * 20) for n in range(2000)],
        [("min-position", "1.north." + "9" * 60_000)],
        [("authorization", "Bearer " + "t" * 60_000)],
    ],
    ids=["one huge header", "many headers", "a huge position", "a huge token"],
)
def test_rs_02_huge_metadata_is_refused_and_nobody_else_notices(
    north: Served, metadata: list[tuple[str, str]]
) -> None:
    def ask() -> None:
        north.eve.keys.ListKeys(ListKeysRequest(), metadata=tuple(metadata), timeout=30)

    assert refusal(ask)[0] is EXHAUSTED
    assert _still_serves(north)


def test_rs_02_ten_thousand_streams_of_one_connection_take_no_serving_thread(
    north: Served,
) -> None:
    """Each would last for a minute: what does not fit is refused at once."""
    waiting = WaitForPositionRequest(position="1.north.999999")
    waiting.timeout.seconds = 60

    calls = [
        north.eve.regions.WaitForPosition.future(waiting, timeout=60)
        for _ in range(10_000)
    ]
    ended = threading.Event()
    while sum(call.done() for call in calls) < len(calls) - LIMITS.waiting_max:
        ended.wait(0.01)
    codes = {call.code() for call in calls if call.done()}
    served_meanwhile = [_still_serves(north) for _ in range(10)]
    for call in calls:
        call.cancel()

    # By us, or by gRPC beyond what one connection may have open.
    assert codes <= {EXHAUSTED, StatusCode.UNAVAILABLE}
    assert all(served_meanwhile)


def test_rs_02_streams_that_never_end_are_bounded_and_take_no_serving_thread(
    north: Served,
) -> None:
    streams = [
        north.uma.vault.Watch(WatchRequest(), timeout=60)
        for _ in range(20 * watching.PER_PRINCIPAL)
    ]
    begun, refused = 0, 0
    for stream in streams:
        try:
            next(stream)
            begun += 1
        except grpc.RpcError as error:
            refused += error.code() is EXHAUSTED
    serves = _still_serves(north)
    for stream in streams:
        stream.cancel()

    assert (begun, begun + refused) == (watching.PER_PRINCIPAL, len(streams))
    assert serves


@pytest.mark.parametrize("how", ["nothing", "half a handshake", "half a request"])
def test_rs_02_connections_that_dawdle_keep_nobody_from_being_served(
    north: Served, how: str, tmp_path: Path
) -> None:
    """Slow-loris: many connections, each saying almost nothing."""
    tls = _tls(north, tmp_path)
    with ExitStack() as stack:
        for _ in range(100):
            raw = stack.enter_context(
                socket.create_connection(("localhost", north.port), timeout=30)
            )
            if how == "half a handshake":
                # The header of a TLS record, and a promise of more.
                raw.sendall(b"\x16\x03\x01\x02\x00\x01")
            elif how == "half a request":
                wrapped = tls.wrap_socket(raw, server_hostname="localhost")
                stack.enter_context(wrapped).sendall(HALF_A_REQUEST)

        assert [_still_serves(north) for _ in range(5)] == [True] * 5
        fresh = north.connect(north.ca.caller("tom"))
        assert fresh.keys.GetKey(GetKeyRequest(name="keys/a"), timeout=30).name


def _tls(north: Served, directory: Path) -> ssl.SSLContext:
    certified, file = north.ca.caller("eve"), directory / "eve.pem"
    file.write_bytes(certified.certificate + certified.key)
    context = ssl.create_default_context(cadata=north.ca.certificate.decode())
    context.load_cert_chain(file)
    context.set_alpn_protocols(["h2"])
    return context


# --- RS-08: memory ----------------------------------------------------------------


class Peer:
    """A caller as the server's side of gRPC shows it, without the wire."""

    def __init__(self, pem: bytes, peer: str) -> None:
        self._pem, self._peer = pem, peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem]}

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> float:
        return 10.0

    def is_active(self) -> bool:
        return True

    def cancel(self) -> None:
        pass

    def set_trailing_metadata(self, _metadata: object) -> None:
        pass

    def abort(self, code: StatusCode, _message: str) -> NoReturn:
        raise Refused(code)


class Refused(Exception):
    """What `abort` ends a behaviour with."""

    def __init__(self, code: StatusCode) -> None:
        self.code = code


def _resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


Ask = Callable[[int], StatusCode]
COUNT: Final = 20_000
GROWTH: Final = 6 * 1024 * 1024
"""300 bytes for each request would be as much."""


def _asking(north: Served, pem: bytes, *, peers: bool, names: bool) -> Ask:
    guard, endpoints = north.services._guard, north.services._endpoints
    behave: Any = guard.behaviour(
        endpoints["/hsmvault.v1.KeyService/GetKey"], waits=False
    )

    def ask(number: int) -> StatusCode:
        name = f"keys/k{number}" if names else "keys/a"
        high, low = divmod(number, 250)
        host = f"10.{high // 250}.{high % 250}.{low}" if peers else "10.0.0.1"
        raw = GetKeyRequest(name=name).SerializeToString()
        try:
            behave(raw, Peer(pem, f"ipv4:{host}:5"))
        except Refused as refused:
            return refused.code
        return StatusCode.OK

    return ask


@pytest.mark.parametrize("kind", ["denied", "unknown", "limited", "outside"])
def test_rs_08_refused_requests_leave_nothing_in_memory(
    tmp_path: Path, kind: str
) -> None:
    """CVE-2023-5954: a policy check that leaked. Each name, or address, is another."""
    settings = VaultRecord(
        VAULT_ID,
        1,
        1,
        page_key=PAGE_KEY,
        rate_limit=1 if kind == "limited" else 0,
        allowed_networks=("192.0.2.0/24",) if kind == "outside" else (),
    )
    # Who holds no role at all is not let in so often.
    elsewhere = AssignmentRecord(
        "roleAssignments/eve", 1, "CN=eve", CRYPTO_USER.name, "/keys/z", 1, "CN=ada"
    )
    with served(tmp_path, records=genesis(elsewhere, settings=settings)) as north:
        eve = nameless(north.ca) if kind == "unknown" else north.ca.caller("eve")
        ask = _asking(
            north,
            eve.certificate,
            peers=kind in {"unknown", "outside"},
            names=kind == "denied",
        )
        numbers = itertools.count()
        codes = {ask(next(numbers)) for _ in range(COUNT)}
        before = _resident()

        codes |= {ask(next(numbers)) for _ in range(COUNT)}
        grown = _resident() - before

    assert (
        codes
        <= {
            "denied": {StatusCode.PERMISSION_DENIED},
            "unknown": {StatusCode.UNAUTHENTICATED},
            "limited": {StatusCode.PERMISSION_DENIED, EXHAUSTED},
            "outside": {StatusCode.PERMISSION_DENIED},
        }[kind]
    )
    assert grown < GROWTH
