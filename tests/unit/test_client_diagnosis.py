"""Certificates are blamed only when TLS refused one, whoever else hangs up.

The servers here are sockets that end as processes do: within the handshake, or right
after it. Real ones that refuse certificates are in test_client_connect.
"""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from hsmvault.client.balancing import Pool
from hsmvault.client.credentials import Credentials
from hsmvault.client.diagnosis import diagnosis
from hsmvault.client.errors import CertificateRefused
from hsmvault.model import errors
from tests.support.pretend_vault import PretendVault, pretend_vault

Served = Callable[[socket.socket], object]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PretendVault]:
    with pretend_vault(tmp_path_factory.mktemp("vault")) as pretended:
        yield pretended


@pytest.fixture
def tls(vault: PretendVault, tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    certificate.write_bytes(vault.served.certificate)
    key.write_bytes(vault.served.key)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context


@contextmanager
def listening(serve: Served, *, connections: int | None = None) -> Iterator[str]:
    """Serve each connection so; after some of them, listen no more."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def run() -> None:
        served = 0
        with suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                served += 1
                if served == connections:
                    stop(listener)
                with closing(accepted), suppress(OSError):
                    serve(accepted)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop(listener)
        thread.join()


def stop(listener: socket.socket) -> None:
    # Closing alone would not wake whoever waits in accept().
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def reset(connection: socket.socket) -> None:
    """End as a killed process does with what it has not read."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hello_then_end(connection: socket.socket) -> None:
    connection.recv(65536)


def hello_then_reset(connection: socket.socket) -> None:
    connection.recv(65536)
    reset(connection)


def no_tls(connection: socket.socket) -> None:
    connection.recv(9)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    "serve", (lambda _: None, reset, hello_then_end, hello_then_reset, no_tls)
)
def test_a_handshake_that_is_cut_is_nobody_there(
    vault: PretendVault, serve: Served
) -> None:
    """Seen where servers were just ending: it was put down to the certificates."""
    with (
        listening(serve) as address,
        pytest.raises(errors.Unavailable, match="hsmvault serve"),
    ):
        vault.connect(endpoints=address, timeout=0.5)


def test_a_server_that_ends_right_after_the_handshake_is_nobody_there(
    vault: PretendVault, tls: ssl.SSLContext
) -> None:
    """So does one that refuses us look; but that one is still there to refuse again."""
    shown = Credentials(
        vault.caller.certificate, vault.caller.key, vault.ca.certificate
    )

    def serve(connection: socket.socket) -> None:
        tls.wrap_socket(connection, server_side=True).close()

    with (
        listening(serve, connections=1) as address,
        Pool(shown, [address]) as pool,
    ):
        endpoint = pool.anyone(None)
        assert endpoint is not None
        endpoint.failed.wait()
        refusal = diagnosis(pool, endpoint, patient=True)

    assert refusal is None


def test_a_server_that_closes_on_us_each_time_refuses_our_certificate(
    vault: PretendVault, tls: ssl.SSLContext
) -> None:
    def serve(connection: socket.socket) -> None:
        tls.wrap_socket(connection, server_side=True).close()

    with (
        listening(serve) as address,
        pytest.raises(CertificateRefused, match="client certificate") as raised,
    ):
        vault.connect(endpoints=address, timeout=0.5)

    assert raised.value.facts["address"] == address


def test_regions_that_end_under_calls_are_unavailable(vault: PretendVault) -> None:
    """The same, asked by a call: its certificate was good a moment ago."""
    with vault.connect() as client:
        for partition in vault.partitions():
            partition.stop()
        try:
            with pytest.raises(errors.Unavailable):
                client.keys.get("payroll", timeout=0.1)
        finally:
            for partition in vault.partitions():
                partition.start()
