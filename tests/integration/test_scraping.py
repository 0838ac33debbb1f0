"""The metrics listener; away from the loopback address, for callers alone."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.certificates import Authority
from hsmvault.regions.files import write_public, write_secret
from hsmvault.regions.layout import Layout
from hsmvault.regions.listening import free_ports
from hsmvault.server.scraping import Scraping

EVERYWHERE = "0.0.0.0"  # noqa: S104  # what an operator may ask for
TEXT = b"hsmvault_up 1.0\n"


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca", name="vault")


@pytest.fixture
def layout(tmp_path: Path, ca: Authority) -> Layout:
    layout = Layout(tmp_path / "north")
    layout.tls.mkdir(parents=True, mode=0o700)
    server = ca.server("north", hosts=["127.0.0.1"])
    write_public(layout.server_certificate, server.certificate)
    write_secret(layout.server_key, server.key)
    write_public(layout.client_ca, ca.certificate)
    return layout


@pytest.fixture
def port(layout: Layout) -> Iterator[int]:
    port = free_ports(EVERYWHERE).public
    scraping = Scraping(EVERYWHERE, port, layout, lambda: TEXT)
    scraping.start()
    yield port
    scraping.stop()


def _as(ca: Authority, who: Authority | None, directory: Path) -> ssl.SSLContext:
    """What a caller of `who` connects by; None: without a certificate."""
    context = ssl.create_default_context(cadata=ca.certificate.decode())
    if who is not None:
        caller = who.caller("prometheus")
        shown = directory / "prometheus.pem"
        shown.write_bytes(caller.certificate + caller.key)
        context.load_cert_chain(shown)
    return context


def _scrape(port: int, context: ssl.SSLContext) -> bytes:
    return _got(
        http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    )


def _got(connection: http.client.HTTPConnection) -> bytes:
    with closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read()


def test_a_caller_of_the_vault_is_answered(
    ca: Authority, port: int, tmp_path: Path
) -> None:
    assert _scrape(port, _as(ca, ca, tmp_path)) == TEXT


@pytest.mark.parametrize("who", ["nobody", "a caller of another CA"])
def test_az_18_nobody_else_is(
    ca: Authority, port: int, tmp_path: Path, who: str
) -> None:
    other = None
    if who != "nobody":
        other = Authority.make(tmp_path / "other", name="vault")

    with pytest.raises(OSError):  # noqa: PT011  # TLS ends in one of several ways
        _scrape(port, _as(ca, other, tmp_path))


def test_az_18_without_tls_there_is_no_answer(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        said = b""
        with suppress(ConnectionResetError):
            while more := plain.recv(1024):
                said += more

    assert b"hsmvault" not in said


def test_a_port_that_is_taken_is_named_with_its_setting(layout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=r"`metrics` under \[telemetry\]"):
            Scraping("127.0.0.1", port, layout, lambda: TEXT)


def test_a_key_that_others_can_read_is_not_used(layout: Layout) -> None:
    layout.server_key.chmod(0o644)

    with pytest.raises(ConfigurationError, match="can be read by others"):
        Scraping(EVERYWHERE, 1, layout, lambda: TEXT)


def test_a_bug_while_gathering_costs_one_answer_and_is_told(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [b"", TEXT]

    def text() -> bytes:
        return answers.pop(0) or _broken()

    port = free_ports("127.0.0.1").public
    scraping = Scraping("127.0.0.1", port, layout, text)
    scraping.start()

    with pytest.raises(OSError):  # noqa: PT011  # the connection just ends
        _plain(port)
    assert _plain(port) == TEXT
    scraping.stop()
    assert '"job.failed"' in capsys.readouterr().err


def _broken() -> bytes:
    raise ZeroDivisionError


def _plain(port: int) -> bytes:
    return _got(http.client.HTTPConnection("127.0.0.1", port, timeout=10))
