"""Probing a token: what it enforces is tried, and a weaker one does not serve."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import enforcement
from hsmvault.hsm.enforcement import ATTACKS, Kwp, Profile
from hsmvault.hsm.module import TokenAddress
from hsmvault.hsm.probe import NEEDED, probe
from hsmvault.model.errors import ConfigurationError
from tests.support.partitions import Loaded
from tests.support.softhsm import MODULE

pytestmark = pytest.mark.softhsm


@pytest.fixture
def session(loaded: Loaded) -> Iterator[Any]:
    session = loaded.open("north", "p0", sessions=1)._core.fresh()
    yield session
    session.close()


def test_softhsm_carries_the_hardened_profile(loaded: Loaded) -> None:
    token = loaded.tokens["north", "p0"]

    report = probe(TokenAddress(MODULE, token.label, "", token.user_pin))

    assert report.profile is Profile.HARDENED
    assert token.label in report.token
    assert [row for row in report.rows if not row.good] == []
    found = {row.what: row.found for row in report.rows}
    assert found.keys() >= ATTACKS.keys()
    assert found["RSA-OAEP decryption"] == "in the token"
    assert found["RSA-OAEP-256 decryption"] in {"in the token", "padding outside"}
    (edwards,) = (found[what] for what in found if what.startswith("Ed25519"))
    assert edwards.startswith(("cannot be", "made and wrapped"))
    assert all(m.name in " ".join(found) for m in NEEDED)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=lambda a: a.__name__)
def test_an_attack_gets_through_where_its_fence_is_down(
    session: Any, attack: Callable[..., bool]
) -> None:
    """An attack that cannot succeed would call every token hardened."""
    assert attack(session, fenced=False)


def test_one_attack_that_succeeds_makes_the_token_basic(session: Any) -> None:
    held = dict(enforcement.tried(session))
    assert enforcement.profile(held) is Profile.HARDENED

    for what in held:
        assert enforcement.profile({**held, what: False}) is Profile.BASIC


def test_a_weaker_token_than_demanded_does_not_serve(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def succeeds(_: Any, *, fenced: bool) -> bool:
        return True

    monkeypatch.setattr(
        enforcement, "ATTACKS", {**ATTACKS, "WRAP_TEMPLATE: held": succeeds}
    )

    with pytest.raises(ConfigurationError, match=r"basic profile.*WRAP_TEMPLATE: held"):
        enforcement.require_profile(session, "hardened", token="t")
    with pytest.raises(ConfigurationError, match="basic profile"):
        enforcement.require_profile(session, "officer-trusted", token="t")
    found = enforcement.require_profile(session, "basic", token="t")
    assert found is Profile.BASIC


def test_an_unknown_profile_is_refused(session: Any) -> None:
    with pytest.raises(ConfigurationError, match="hardened"):
        enforcement.require_profile(session, "harden", token="t")


def test_the_meaning_of_a_kwp_number_is_tried(session: Any) -> None:
    assert enforcement.kwp(session, Mechanism.AES_KEY_WRAP_PAD) is not Kwp.OTHER
    assert enforcement.kwp(session, Mechanism.AES_KEY_WRAP) is Kwp.OTHER
