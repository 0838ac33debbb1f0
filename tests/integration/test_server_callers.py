"""Callers of a region that runs: tokens, new certificates, and revoked ones.

Nothing is restarted in here: the processes at the end are those of the beginning.
"""

import contextlib
import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509

import hsmvault
from hsmvault.cli.main import cli
from hsmvault.client.profile import Profile
from hsmvault.model.access import CRYPTO_USER
from hsmvault.model.errors import AccessDenied, CertificateRevoked, ConfigurationError
from hsmvault.regions.certificates import Authority, Certified
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1.region_service_pb2 import GetTopologyRequest
from hsmvault.v1.region_service_pb2_grpc import RegionServiceStub
from tests.support.issuer import TestIssuer
from tests.support.regions import LiveVault, running_vault

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, issuer: TestIssuer
) -> Iterator[LiveVault]:
    directory = tmp_path_factory.mktemp("callers")
    with running_vault(directory, settings=issuer.toml) as vault:
        before = _pids(vault)
        with _connected(vault) as admin:
            for principal in (issuer.principal("uma"), "CN=uma", "CN=rita"):
                admin.roles.assign(principal, CRYPTO_USER.name, scope="/")
        with _connected(vault, "uma") as uma:
            uma.keys.create("a", "EC", curve="P-256")
        yield vault
        assert _pids(vault) == before


def _pids(vault: LiveVault) -> dict[str, Any]:
    return {p["name"]: p["pid"] for p in vault.north.processes()}


def _connected(vault: LiveVault, caller: str = "admin") -> hsmvault.Vault:
    files = vault.caller(caller)
    return hsmvault.connect(
        vault.north.endpoint,
        certificate=files.certificate,
        key=files.key,
        ca=files.ca,
        timeout=30,
    )


def _token_endpoint(vault: LiveVault) -> str:
    return vault.north.card.token_endpoints[0]


# --- tokens ------------------------------------------------------------------


def test_our_client_calls_with_a_token_from_a_file_that_changes(
    live: LiveVault, issuer: TestIssuer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(issuer.token("uma") + "\n")
    with hsmvault.connect(
        _token_endpoint(live), ca=live.admin.ca, token=file, timeout=30
    ) as vault:
        served = {
            vault.sign("a", "ES256", message=b"x").served.partition for _ in "1" * 9
        }
        assert served == set(PARTITIONS)

        (tmp_path / "next").write_text(issuer.token("eve"))
        (tmp_path / "next").rename(file)
        with pytest.raises(AccessDenied):
            vault.sign("a", "ES256", message=b"x")

    with hsmvault.connect(
        _token_endpoint(live),
        ca=live.admin.ca,
        token=lambda: issuer.token("uma"),
        timeout=30,
    ) as vault:
        assert vault.sign("a", "ES256", message=b"x").signature


def test_the_command_line_takes_a_token_from_a_file(
    live: LiveVault, issuer: TestIssuer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(issuer.token("uma"))

    done = CliRunner().invoke(
        cli,
        [
            *("key", "get", "a", "--output", "json"),
            *("--endpoint", _token_endpoint(live)),
            *("--ca", str(live.admin.ca), "--token-file", str(file)),
        ],
    )

    assert done.exit_code == 0, done.output
    assert '"keys/a"' in done.stdout


def test_a_certificate_and_a_token_do_not_go_together(
    live: LiveVault, issuer: TestIssuer
) -> None:
    files = live.admin
    with pytest.raises(ConfigurationError, match="leave one out"):
        hsmvault.connect(
            live.north.endpoint,
            certificate=files.certificate,
            key=files.key,
            ca=files.ca,
            token=issuer.token,
        )


def test_every_token_port_refuses_who_shows_nothing(live: LiveVault) -> None:
    trusting = grpc.ssl_channel_credentials(live.admin.ca.read_bytes())
    for endpoint in live.north.card.token_endpoints:
        with grpc.secure_channel(endpoint, trusting) as channel:
            stub = RegionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.GetTopology(GetTopologyRequest(), timeout=10, wait_for_ready=True)
        error: Any = refused.value
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_whoever_holds_every_connection_for_tokens_holds_no_other(
    live: LiveVault, issuer: TestIssuer
) -> None:
    """The attacker has nothing to show, and reaches the port."""
    endpoint = live.north.card.token_endpoints[1]
    host, _, port = endpoint.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(live.admin.ca)
    context.set_alpn_protocols(["h2"])
    with contextlib.ExitStack() as held:
        refused = 0
        for _ in range(live.north.config.limits.token_connections + 20):
            plain = held.enter_context(socket.create_connection((host, int(port))))
            try:
                held.enter_context(context.wrap_socket(plain, server_hostname=host))
            except OSError:
                refused += 1
        assert refused >= 20

        with _connected(live, "uma") as vault:
            assert {
                vault.sign("a", "ES256", message=b"x").served.partition
                for _ in range(9)
            } == set(PARTITIONS)
    # Their end is noticed one by one; whoever comes next finds the port as it was.
    _until_answered(live, endpoint)


def _until_answered(live: LiveVault, endpoint: str) -> None:
    trusting = grpc.ssl_channel_credentials(live.admin.ca.read_bytes())
    with grpc.secure_channel(endpoint, trusting) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)


# --- certificates of the listeners -------------------------------------------


def _serials(live: LiveVault) -> set[int]:
    """The certificate that new connections see, on every port."""
    found = set()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(live.admin.ca)
    context.load_cert_chain(live.admin.certificate, live.admin.key)
    context.set_alpn_protocols(["h2"])
    card = live.north.card
    endpoints = (card.endpoint, *live.north.partition_endpoints, *card.token_endpoints)
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as shown,
        ):
            der = shown.getpeercert(binary_form=True)
        assert der is not None
        found.add(x509.load_der_x509_certificate(der).serial_number)
    return found


def _serial(certified: Certified) -> int:
    return x509.load_pem_x509_certificate(certified.certificate).serial_number


def _put(path: Path, content: bytes) -> None:
    """Write a file beside and rename it, as is asked of operators."""
    fresh = path.with_name(f"{path.name}.fresh")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    fresh.rename(path)


def test_new_connections_see_a_new_certificate_and_open_ones_go_on(
    live: LiveVault,
) -> None:
    layout = live.north.layout
    before = _serials(live)
    with contextlib.closing(live.channel(partition="p0")) as channel:
        stub = RegionServiceStub(channel)
        assert stub.GetTopology(GetTopologyRequest(), timeout=30).vault_id
        fresh = Authority.open(live.ca).server("localhost", hosts=["127.0.0.1"])

        _put(layout.server_certificate, fresh.certificate)
        # Between the two they do not belong together: the former pair serves on.
        assert _serials(live) == before
        _put(layout.server_key, fresh.key)

        assert _serials(live) == {_serial(fresh)} != before
        assert stub.GetTopology(GetTopologyRequest(), timeout=30).vault_id


def _kept(live: LiveVault) -> int:
    """How often an event said that the files could not be used."""
    logs = live.north.layout.logs.iterdir()
    return sum(path.read_text().count("certificate.kept") for path in logs)


@pytest.mark.parametrize("breaking", ["half", "key", "expired", "mode", "gone", "ca"])
def test_files_that_cannot_be_used_leave_the_former_certificate(
    live: LiveVault, tmp_path: Path, breaking: str
) -> None:
    layout = live.north.layout
    before, told = _serials(live), _kept(live)
    kept = {p: p.read_bytes() for p in layout.tls.iterdir() if p.is_file()}
    authority = Authority.open(live.ca)
    fresh = authority.server("localhost", hosts=["127.0.0.1"])
    try:
        match breaking:
            case "half":
                layout.server_certificate.write_bytes(fresh.certificate[:200])
            case "key":
                _put(layout.server_key, fresh.key)
            case "expired":
                old = authority._issue(
                    x509.Name([]),
                    [],
                    x509.oid.ExtendedKeyUsageOID.SERVER_AUTH,
                    days=0,
                )
                _put(layout.server_key, old.key)
                _put(layout.server_certificate, old.certificate)
            case "mode":
                _put(layout.server_key, fresh.key)
                _put(layout.server_certificate, fresh.certificate)
                layout.server_key.chmod(0o644)
            case "gone":
                layout.server_key.unlink()
            case _:
                _put(layout.client_ca, b"nonsense")

        assert _serials(live) == before
        assert _kept(live) > told
        assert "BEGIN" not in live.north.logs()
    finally:
        for path, content in kept.items():
            _put(path, content)
    assert _serials(live) == before


def test_a_new_ca_lets_its_callers_in_and_the_former_ones_no_more(
    live: LiveVault, tmp_path: Path
) -> None:
    """First both, in one file, as one does it; then the new one alone."""
    layout = live.north.layout
    known = layout.client_ca.read_bytes()
    other = Authority.make(tmp_path / "ca", name="another CA")
    theirs = other.caller("admin")
    try:
        assert not _let_in(live, theirs)
        _put(layout.client_ca, known + other.certificate)
        assert _let_in(live, theirs)
        _put(layout.client_ca, other.certificate)
        files = live.admin
        ours = Certified(files.certificate.read_bytes(), files.key.read_bytes())
        assert not _let_in(live, ours)
    finally:
        _put(layout.client_ca, known)
    assert not _let_in(live, theirs)


def _let_in(live: LiveVault, certified: Certified) -> bool:
    """Whether a new connection with this certificate comes about."""
    credentials = grpc.ssl_channel_credentials(
        live.admin.ca.read_bytes(), certified.key, certified.certificate
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    endpoint = live.north.partition_endpoints[0]
    with grpc.secure_channel(endpoint, credentials, options=options) as channel:
        try:
            RegionServiceStub(channel).GetTopology(GetTopologyRequest(), timeout=10)
        except grpc.RpcError as error:
            refused: Any = error
            if refused.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
        return True


def test_az_14_a_certificate_for_another_service_is_no_callers(
    live: LiveVault,
) -> None:
    """The attacker has a key of the region's directory.

    Its listener's, say, which the same CA certified, or its identity towards others.
    """
    layout = live.north.layout
    for certificate, key in (
        (layout.server_certificate, layout.server_key),
        (layout.private_certificate, layout.private_key),
    ):
        assert not _let_in(live, Certified(certificate.read_bytes(), key.read_bytes()))


# --- certificates of callers -------------------------------------------------


def _with_connection(live: LiveVault, *arguments: str) -> Any:
    files = live.admin
    profile = live.directory / "admin.json"
    Profile((live.north.endpoint,), files.certificate, files.key, files.ca).save(
        profile
    )
    return CliRunner().invoke(cli, [*arguments, "--profile", str(profile)])


def test_a_caller_is_revoked_at_once_and_goes_on_with_another_certificate(
    live: LiveVault, tmp_path: Path
) -> None:
    files = live.caller("rita")
    for path in (files.certificate, files.key):
        shutil.copy(path, tmp_path / path.name)
    certificate, key = tmp_path / files.certificate.name, tmp_path / files.key.name
    lost = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    with hsmvault.connect(
        live.north.endpoint, certificate=certificate, key=key, ca=files.ca, timeout=30
    ) as vault:
        assert vault.sign("a", "ES256", message=b"x").signature

        done = _with_connection(
            live, "caller", "revoke", str(certificate), "--ca-directory", str(live.ca)
        )
        assert done.exit_code == 0, done.output
        for _ in PARTITIONS:
            with pytest.raises(CertificateRevoked):
                vault.sign("a", "ES256", message=b"x")

        # Issued again, and put in place: the client looks, and needs no restart.
        fresh = Authority.open(live.ca).caller("rita")
        _put(certificate, fresh.certificate)
        vault._pool.renew()
        with pytest.raises(CertificateRevoked):
            vault.sign("a", "ES256", message=b"x")
        _put(key, fresh.key)
        vault._pool.renew()
        assert vault.sign("a", "ES256", message=b"x").signature

    listed = _with_connection(live, "caller", "revoked")
    assert f"{lost.serial_number:x}" in listed.stdout.split()


def test_an_unknown_certificate_is_not_revoked_by_a_ca_that_did_not_issue_it(
    live: LiveVault, tmp_path: Path
) -> None:
    stranger = Authority.make(tmp_path / "ca", name="stranger").caller("uma")
    (tmp_path / "uma.pem").write_bytes(stranger.certificate)

    done = _with_connection(
        live,
        *("caller", "revoke", str(tmp_path / "uma.pem")),
        *("--ca-directory", str(live.ca)),
    )

    assert isinstance(done.exception, ConfigurationError)


def test_a_certificate_is_shown_with_its_serial_number(live: LiveVault) -> None:
    files = live.caller("uma")
    serial = x509.load_pem_x509_certificate(files.certificate.read_bytes())

    done = CliRunner().invoke(cli, ["caller", "show", str(files.certificate)])

    assert "CN=uma" in done.stdout
    assert f"{serial.serial_number:x}" in done.stdout


def test_az_14_a_certificate_that_was_renewed_is_known_by_its_name_alone(
    live: LiveVault,
) -> None:
    """Another key changes nothing; another name is somebody else (CVE-2026-39388)."""
    authority = Authority.open(live.ca)
    for name, may in (("uma", True), ("Uma", False), ("eve", False)):
        certified = authority.caller(name)
        vault = hsmvault.connect(
            live.north.endpoint,
            certificate=certified.certificate,
            key=certified.key,
            ca=live.admin.ca,
            timeout=30,
        )
        with vault:
            if may:
                assert vault.sign("a", "ES256", message=b"x").signature
                continue
            with pytest.raises(AccessDenied):
                vault.sign("a", "ES256", message=b"x")
