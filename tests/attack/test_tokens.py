"""Tokens that are nobody's: forged, borrowed, too old, or for somebody else.

The attacker may send any token to the region's token port. They know every public key,
have good tokens of issuers that the vault does not believe, tokens of its own issuer
that are for other services, and old ones; and they can keep the region from reaching
the issuer. An issuer is a process of its own, with TLS, as in life.
"""

import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hsmvault.api import jwks
from hsmvault.api.jwks import IssuerKeys
from hsmvault.api.tokens import TOKEN_BYTES_MAX, Tokens
from hsmvault.model.errors import IssuerUnavailable, Unauthenticated
from tests.support.issuer import (
    AUDIENCE,
    TestIssuer,
    encoded,
    forged,
    jwk,
    make_key,
    running_issuer,
    signed,
    spki,
)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestIssuer]:
    """Another issuer, with another CA."""
    with running_issuer(tmp_path_factory.mktemp("oidc") / "other") as one:
        yield one


@pytest.fixture
def tokens(issuer: TestIssuer) -> Tokens:
    """What a region believes: this issuer, whose keys were fetched."""
    return _believing(issuer)


def _believing(*issuers: TestIssuer, **settings: Any) -> Tokens:
    for one in issuers:
        one.fail("")
        one.rotate("k1")
    made = Tokens([one.settings(**settings) for one in issuers])
    for one in issuers:
        assert _keys(made, one).fetch()
    return made


def _keys(tokens: Tokens, issuer: TestIssuer) -> IssuerKeys:
    return tokens._issuers[issuer.issuer]


def _why(tokens: Tokens, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        tokens.verify(token)
    assert token not in str(refused.value)
    return str(refused.value)


def test_a_good_token_is_its_subjects(issuer: TestIssuer, tokens: Tokens) -> None:
    proven = tokens.verify(issuer.token("uma"))

    assert proven.principal == f"jwt:{issuer.issuer}#uma"
    assert proven.issuer == issuer.issuer


@pytest.mark.parametrize(
    ("aud", "good"),
    [
        (AUDIENCE, True),
        ([AUDIENCE], True),
        (["other", AUDIENCE], True),
        (None, False),
        ("", False),
        ([], False),
        ("other", False),
        (["other"], False),
        (AUDIENCE.upper(), False),
        (f"{AUDIENCE},other", False),
        ({AUDIENCE: 1}, False),
        ([AUDIENCE, 1], False),
        (7, False),
    ],
)
def test_az_15_a_token_must_name_this_vault_as_its_audience(
    issuer: TestIssuer, tokens: Tokens, aud: object, good: bool
) -> None:
    token = issuer.token(aud=aud)

    if good:
        assert tokens.verify(token).principal == issuer.principal()
    else:
        assert "audience" in (why := _why(tokens, token)) or "aud" in why


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "EdDSA", 1])
def test_az_15_a_token_of_another_algorithm_is_refused_before_its_signature_is_read(
    issuer: TestIssuer, tokens: Tokens, algorithm: object
) -> None:
    header = {"alg": algorithm, "kid": "k1", "typ": "JWT"}

    assert "signed by" in _why(tokens, forged(header, issuer.claims()))


@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_az_15_a_public_key_does_not_verify_an_hmac(
    issuer: TestIssuer, kind: str
) -> None:
    """CVE-2015-9235 and its kin: HS256, with the published key as the secret."""
    tokens = _believing(issuer)
    issuer.rotate("k1", kind=kind)
    assert _keys(tokens, issuer).fetch()
    secret = spki(issuer.keys["k1"])

    for algorithm in ("HS256", "RS256", "ES256"):
        token = forged({"alg": algorithm, "kid": "k1"}, issuer.claims(), secret=secret)
        _why(tokens, token)


def test_az_15_the_allow_list_is_the_regions_and_not_the_keys(
    issuer: TestIssuer,
) -> None:
    tokens = _believing(issuer, algorithms=("ES256",))
    rsa = make_key("RSA")
    issuer.publish([jwk(rsa, "k2"), jwk(issuer.keys["k1"], "k1")])
    assert _keys(tokens, issuer).fetch()
    issuer.keys["k2"] = rsa

    assert "signed by 'RS256'" in _why(tokens, issuer.token(kid="k2"))
    assert tokens.verify(issuer.token(kid="k1")).principal


def test_az_15_a_second_issuer_vouches_for_its_own_alone(
    issuer: TestIssuer, other: TestIssuer
) -> None:
    """Also where its key has the same id, and where it says that it is the first."""
    tokens = _believing(issuer, other)
    assert tokens.verify(issuer.token()).principal == issuer.principal()
    assert tokens.verify(other.token()).principal == other.principal()

    borrowed = other.token(iss=issuer.issuer)
    assert "no key of its issuer" in _why(tokens, borrowed)
    alone = _believing(issuer)
    assert "does not believe" in _why(alone, other.token())


@pytest.mark.parametrize(
    "spelled",
    ["{}/", "{}/.", "HTTPS://{host}", "https://LOCALHOST:{port}", " {}", "{}#", None],
)
def test_az_15_an_issuer_is_named_to_the_letter(
    issuer: TestIssuer, tokens: Tokens, spelled: str | None
) -> None:
    host = issuer.issuer.removeprefix("https://")
    iss = spelled and spelled.format(issuer.issuer, host=host, port=issuer.port)

    _why(tokens, issuer.token(iss=iss))


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"exp": -30}, True),
        ({"exp": -90}, False),
        ({"nbf": 30}, True),
        ({"nbf": 90}, False),
        ({"iat": 30}, True),
        ({"iat": 90}, False),
    ],
)
def test_az_15_a_tokens_time_is_taken_with_the_leeway_and_no_more(
    issuer: TestIssuer, tokens: Tokens, changes: dict[str, int], good: bool
) -> None:
    now = int(time.time())
    claims: dict[str, Any] = {name: now + by for name, by in changes.items()}
    token = issuer.token(**claims)

    if good:
        assert tokens.verify(token).principal
    else:
        _why(tokens, token)


@pytest.mark.parametrize("exp", [None, "9999999999", True, [1], {}, float("nan"), ""])
def test_az_15_a_token_that_does_not_expire_is_refused(
    issuer: TestIssuer, tokens: Tokens, exp: object
) -> None:
    _why(tokens, issuer.token(exp=exp))


def test_a_token_that_was_good_is_refused_once_it_has_expired(
    issuer: TestIssuer,
) -> None:
    tokens = _believing(issuer, leeway_seconds=1)
    token = issuer.token(exp=int(time.time()) + 2)
    assert tokens.verify(token).principal

    while _good(tokens, token):
        time.sleep(0.05)

    assert "expired" in _why(tokens, token)


def _good(tokens: Tokens, token: str) -> bool:
    try:
        return bool(tokens.verify(token).principal)
    except Unauthenticated:
        return False


def test_a_token_may_be_bounded_in_age(issuer: TestIssuer) -> None:
    tokens = _believing(issuer, token_age_seconds_max=100)
    now = int(time.time())

    assert tokens.verify(issuer.token(iat=now - 150)).principal
    for iat in (now - 170, None):
        assert "longer ago" in _why(tokens, issuer.token(iat=iat))


@pytest.mark.parametrize("sub", [None, "", 7, ["uma"], "u ma", "u#ma", "ü", "a" * 256])
def test_a_subject_that_is_no_principal_is_nobody(
    issuer: TestIssuer, tokens: Tokens, sub: Any
) -> None:
    _why(tokens, issuer.token(sub))


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"crit": ["exp"], "exp": 1}, "JWT in compact form"),
        ({"crit": []}, "JWT in compact form"),
        ({"crit": ["b64"], "b64": False}, "JWT in compact form"),
        ({"crit": ["b64"], "b64": True}, "`crit`"),
        ({"typ": "logout+jwt"}, "`typ`"),
        ({"typ": "dpop+jwt"}, "`typ`"),
        ({"typ": 1}, "`typ`"),
    ],
)
def test_az_15_what_a_header_demands_and_is_not_understood_is_refused(
    issuer: TestIssuer, tokens: Tokens, headers: dict[str, Any], why: str
) -> None:
    """Signed by the issuer's key all the same; PyJWT itself would take `b64`."""
    head = {"alg": "ES256", "kid": "k1"}
    key = issuer.keys["k1"]
    assert tokens.verify(signed(head, issuer.claims(), key)).principal

    assert why in _why(tokens, signed(head | headers, issuer.claims(), key))


def test_az_15_a_key_that_a_token_brings_itself_is_not_looked_at(
    issuer: TestIssuer, other: TestIssuer, tokens: Tokens
) -> None:
    mine = make_key()
    for headers in (
        {"jwk": jwk(mine, "k1")},
        {"jku": f"{other.issuer}/jwks"},
        {"x5u": f"{other.issuer}/jwks"},
    ):
        token = issuer.token(key=mine, headers=headers)

        assert "no key of its issuer" in _why(tokens, token)


def test_a_token_that_is_bound_to_a_key_is_no_bearer(
    issuer: TestIssuer, tokens: Tokens
) -> None:
    """Whoever shows it here may have taken it from its owner (RFC 9449, RFC 8705)."""
    assert "bound" in _why(tokens, issuer.token(cnf={"jkt": "x"}))


@pytest.mark.parametrize(
    "bend",
    [
        lambda t: t[:-4] + ("AAAA" if t[-4:] != "AAAA" else "BBBB"),
        lambda t: t + "=",
        lambda t: t + ".x",
        lambda t: t.rpartition(".")[0],
        lambda t: t.rpartition(".")[0] + ".",
        lambda t: t.replace(".", " .", 1),
        lambda t: f"{t}, {t}",
        lambda _t: "A" * (TOKEN_BYTES_MAX + 1),
        lambda _t: "." * 100,
        lambda _t: "",
        lambda t: encoded(b"[" * 2000) + "." + t.partition(".")[2],
        lambda t: t + "\u00fc",
        lambda t: t + "\udcff",
        lambda t: ".".join((t.split(".")[0], encoded(b"null"), t.split(".")[2])),
    ],
)
def test_what_is_not_whole_is_refused(
    issuer: TestIssuer, tokens: Tokens, bend: Callable[[str], str]
) -> None:
    with pytest.raises(Unauthenticated):
        tokens.verify(bend(issuer.token()))


def test_a_token_may_not_be_longer_than_any_that_is_meant(
    issuer: TestIssuer, tokens: Tokens
) -> None:
    assert "longer than" in _why(tokens, issuer.token(groups="x" * TOKEN_BYTES_MAX))


def test_without_a_key_id_every_key_of_the_type_is_tried(issuer: TestIssuer) -> None:
    tokens = _believing(issuer)
    issuer.rotate("k1", "k2", "k3")
    assert _keys(tokens, issuer).fetch()

    assert tokens.verify(issuer.token(kid=None, key=issuer.keys["k3"])).principal
    assert "no key" in _why(tokens, issuer.token(kid=None, key=make_key()))


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "ES384"},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "OKP"},
        {"crv": "P-384"},
        {"x": "AAAA"},
        {"kid": 1},
    ],
)
def test_az_15_a_key_that_is_for_something_else_signs_no_token(
    issuer: TestIssuer, changes: dict[str, Any]
) -> None:
    tokens = _believing(issuer)
    key = issuer.keys["k1"]
    issuer.publish([{**jwk(key, "k1"), **changes}, jwk(make_key(), "k2")])
    assert _keys(tokens, issuer).fetch()

    with pytest.raises((Unauthenticated, IssuerUnavailable)):
        tokens.verify(issuer.token())


# --- the issuer away ---------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["500", "redirect", "elsewhere", "endless", "silent", "slow"]
)
def test_az_15_an_issuer_that_cannot_be_asked_lets_nobody_in(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The first time, when no keys are known. `slow`: each step of it is in time."""
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.5)
    issuer.fail(how)
    tokens = Tokens([issuer.settings()])
    try:
        assert not _keys(tokens, issuer).fetch()

        with pytest.raises(IssuerUnavailable):
            tokens.verify(issuer.token())
    finally:
        issuer.fail("")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [7, {}]}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}',
        b'{"keys": [' + b"{}," * 64 + b"{}]}",
        b" " * (jwks.DOCUMENT_BYTES_MAX + 1),
        b"[" * 100_000,
    ],
)
def test_az_15_keys_that_do_not_read_are_none(issuer: TestIssuer, body: bytes) -> None:
    tokens = _believing(issuer)
    token = issuer.token()
    issuer.answer("jwks.json", body)

    assert not _keys(tokens, issuer).fetch()

    # Those from before serve on, for the time that they may.
    assert tokens.verify(token).principal


def test_az_15_keys_are_read_up_to_a_length_and_no_further(issuer: TestIssuer) -> None:
    tokens = _believing(issuer)
    good = (issuer.directory / "jwks.json").read_bytes()

    issuer.answer("jwks.json", good.ljust(jwks.DOCUMENT_BYTES_MAX))
    assert _keys(tokens, issuer).fetch()
    issuer.answer("jwks.json", good.ljust(jwks.DOCUMENT_BYTES_MAX + 1))
    assert not _keys(tokens, issuer).fetch()


def test_az_15_keys_are_read_up_to_a_number_and_no_further(issuer: TestIssuer) -> None:
    """A token without a key id has each of them tried."""
    tokens = _believing(issuer)
    keys = [jwk(make_key(), f"k{number}") for number in range(jwks.KEYS_MAX + 1)]

    issuer.publish(keys[1:])
    assert _keys(tokens, issuer).fetch()
    issuer.publish(keys)
    assert not _keys(tokens, issuer).fetch()


def test_az_15_an_issuer_whose_certificate_is_of_another_ca_is_not_believed(
    issuer: TestIssuer, other: TestIssuer
) -> None:
    tokens = Tokens([issuer.settings(ca_file=other.ca_file)])

    assert not _keys(tokens, issuer).fetch()

    with pytest.raises(IssuerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        tokens.verify(issuer.token())


def test_az_15_keys_are_not_taken_from_one_who_is_named_otherwise(
    issuer: TestIssuer,
) -> None:
    """Discovery on a shared host could be another tenant's."""
    _believing(issuer)
    tokens = Tokens([issuer.settings(issuer=f"{issuer.issuer}/tenant")])

    assert not tokens._issuers[f"{issuer.issuer}/tenant"].fetch()


def test_az_15_keys_are_never_fetched_without_tls(issuer: TestIssuer) -> None:
    """Nor after a redirect to plain HTTP (`redirect`, above)."""
    _believing(issuer)
    document = f'{{"issuer": "{issuer.issuer}", "jwks_uri": "http://localhost/jwks"}}'
    good = (issuer.directory / "configuration.json").read_bytes()
    issuer.answer("configuration.json", document.encode())
    try:
        assert not IssuerKeys(issuer.settings()).fetch()
    finally:
        issuer.answer("configuration.json", good)


def test_az_15_stale_keys_serve_for_a_while_and_then_nobody_is_let_in(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = _believing(issuer, refresh_seconds=1, stale_seconds=100)
    token = issuer.token()
    assert tokens.verify(token).principal
    issuer.fail("500")
    try:
        assert not _keys(tokens, issuer).fetch()
        assert tokens.verify(token).principal

        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + 101)

        # Also one that was verified before, and is remembered.
        with pytest.raises(IssuerUnavailable, match="answered 500"):
            tokens.verify(token)
    finally:
        issuer.fail("")


def test_az_15_a_key_that_was_withdrawn_is_good_no_more(issuer: TestIssuer) -> None:
    """Also for tokens that were verified by it before."""
    tokens = _believing(issuer)
    stolen = issuer.token()
    assert tokens.verify(stolen).principal

    issuer.rotate("k2")
    assert _keys(tokens, issuer).fetch()

    assert "no key of its issuer" in _why(tokens, stolen)
    assert tokens.verify(issuer.token()).principal


def test_a_new_key_is_fetched_when_it_is_first_used(issuer: TestIssuer) -> None:
    tokens = _believing(issuer)
    keys = _keys(tokens, issuer)
    fetching = threading.Thread(target=keys.run)
    before = keys._fetched
    fetching.start()
    try:
        while keys._fetched == before:
            time.sleep(0.01)
        issuer.rotate("k9")
        token = issuer.token()
        keys._asked -= jwks.ASK_AGAIN_SECONDS

        with pytest.raises(IssuerUnavailable, match="asked again"):
            tokens.verify(token)
        while not _good_later(tokens, token):
            time.sleep(0.01)
    finally:
        tokens.close()
        fetching.join(10)
    assert not fetching.is_alive()


def test_a_new_key_without_an_id_is_fetched_too(issuer: TestIssuer) -> None:
    tokens = _believing(issuer)
    keys = _keys(tokens, issuer)
    keys._asked -= jwks.ASK_AGAIN_SECONDS

    with pytest.raises(IssuerUnavailable, match="asked again"):
        tokens.verify(issuer.token(kid=None, key=make_key()))

    assert keys._wake.is_set()


def _good_later(tokens: Tokens, token: str) -> bool:
    try:
        return bool(tokens.verify(token).principal)
    except (IssuerUnavailable, Unauthenticated):
        return False


def test_key_ids_that_are_made_up_do_not_make_us_call_the_issuer_for_each(
    issuer: TestIssuer,
) -> None:
    tokens = _believing(issuer)
    asked = issuer.asked
    tokens.start()
    try:
        for number in range(200):
            token = issuer.token(headers={"kid": "k1"}, kid=None)
            made_up = token.replace(
                token.partition(".")[0],
                encoded(f'{{"alg":"ES256","kid":"x{number}"}}'.encode()),
            )
            with pytest.raises((Unauthenticated, IssuerUnavailable)):
                tokens.verify(made_up)
    finally:
        tokens.close()

    # One at the start, and at most one for all of them.
    assert issuer.asked - asked <= 2


def test_the_hash_of_a_good_token_is_remembered_and_not_the_token(
    issuer: TestIssuer, tokens: Tokens
) -> None:
    token = issuer.token()
    assert tokens.verify(token) is tokens.verify(token)

    remembered = repr(tokens._known)
    assert token not in remembered
    assert token.rpartition(".")[2] not in remembered


def test_a_proxy_of_the_environment_is_not_used(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor does the system's store of CAs count: only the one that was named."""
    issuer.rotate("k1")
    seen: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            seen.append(self.path)
            self.send_error(502)

    server = http.server.HTTPServer(("localhost", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{server.server_port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    try:
        assert IssuerKeys(issuer.settings()).fetch()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not seen
    assert ssl.get_default_verify_paths().cafile != str(issuer.ca_file)
