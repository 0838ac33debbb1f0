"""The listeners' certificate, as its files have it."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.certificates import Authority
from hsmvault.regions.files import replace_file
from hsmvault.regions.layout import Layout
from hsmvault.server.tls import ListenerTls


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "region" / "tls").mkdir(parents=True)
    return Layout(tmp_path / "region")


def _issue(layout: Layout, ca: Authority, *, days: int) -> None:
    issued = ca._issue(
        x509.Name([]), [], x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, days=days
    )
    replace_file(layout.server_key, issued.key, 0o600)
    replace_file(layout.server_certificate, issued.certificate, 0o644)
    replace_file(layout.client_ca, ca.certificate, 0o644)


def test_a_certificate_that_ends_soon_is_told_of_once_a_day(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = Authority.make(tmp_path / "ca", name="ca")
    _issue(layout, ca, days=13)
    tls = ListenerTls(layout)

    for _ in range(3):
        tls.current()
    assert capsys.readouterr().err.count("certificate.expires") == 1
    tls._warned -= datetime.timedelta(days=1)
    tls.current()
    assert capsys.readouterr().err.count("certificate.expires") == 1

    _issue(layout, ca, days=60)
    tls.current()
    tls._warned -= datetime.timedelta(days=1)
    tls.current()
    assert "certificate.expires" not in capsys.readouterr().err


def test_a_region_does_not_start_with_what_it_could_not_take_later(
    layout: Layout, tmp_path: Path
) -> None:
    ca = Authority.make(tmp_path / "ca", name="ca")
    _issue(layout, ca, days=0)

    with pytest.raises(ConfigurationError, match="expired on"):
        ListenerTls(layout)
    layout.server_certificate.unlink()
    with pytest.raises(ConfigurationError, match="must be there"):
        ListenerTls(layout)


def test_files_that_do_not_change_are_not_read_again(
    layout: Layout, tmp_path: Path
) -> None:
    """Every new connection asks."""
    _issue(layout, Authority.make(tmp_path / "ca", name="ca"), days=60)
    tls = ListenerTls(layout)

    assert tls.current() is tls.current()
