"""Bearer tokens: JWTs of the issuers that a region believes, and of nobody else.

A token is somebody's only if all of this holds: its `iss` is an issuer of ours, letter
by letter; one of that issuer's keys, of a type that fits an algorithm allowed for it,
signed it; its `aud` names this vault; and it is of now. The order matters: nothing of
a token but its issuer, its key id and its algorithm is looked at before its signature.

Tokens are never kept nor logged; what is remembered is the hash of one that was good.
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from hsmvault.api.jwks import IssuerKeys
from hsmvault.model.errors import InvalidRequest, Unauthenticated
from hsmvault.regions.issuers import Issuer
from hsmvault.vault.access import require_principal

TOKEN_BYTES_MAX: Final = 8 * 1024
KNOWN_MAX: Final = 4096
"""Tokens that are remembered, the latest: some 2 MiB."""
TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""`typ`, if it is there. Others are for other uses, by the same keys (RFC 8725, 3.11):
a logout token, say, says that somebody left, and not who calls."""

_SIGNS: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
)


@dataclass(frozen=True, slots=True)
class Proven:
    """What a token proved."""

    principal: str
    issuer: str
    not_after: float
    """Unix time in seconds, leeway included."""
    generation: int
    """Of the issuer's keys that it was verified by."""


class Tokens:
    """Verifies tokens, and remembers those that were good. For any thread."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        """Ask nobody yet."""
        self._issuers = {one.issuer: IssuerKeys(one) for one in issuers}
        self._threads = [
            threading.Thread(target=keys.run, name="issuer", daemon=True)
            for keys in self._issuers.values()
        ]
        self._known: OrderedDict[bytes, Proven] = OrderedDict()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Whether any token is believed."""
        return bool(self._issuers)

    def start(self) -> None:
        """Begin to fetch the issuers' keys."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End that."""
        for keys in self._issuers.values():
            keys.close()

    def verify(self, token: str) -> Proven:
        """Return whose token this is, or raise Unauthenticated saying why nobody's.

        Raises IssuerUnavailable while the issuer's keys are not known.
        """
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._known.get(digest)
        if known is not None:
            keys = self._issuers[known.issuer]
            keys.require_fresh()
            if known.generation == keys.generation and time.time() < known.not_after:
                return known
        proven = self._verified(token)
        with self._lock:
            self._known[digest] = proven
            self._known.move_to_end(digest)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return proven

    def _verified(self, token: str) -> Proven:
        header, claimed = _parts(token)
        keys = self._issuers.get(claimed)
        if keys is None:
            raise Unauthenticated(
                "the token is of the issuer {issuer!r}, whom this region does not "
                "believe; it believes {known}",
                issuer=claimed[:200],
                known=", ".join(self._issuers) or "none",
            )
        issuer, generation = keys.issuer, keys.generation
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
            raise Unauthenticated(
                "the token is signed by {algorithm!r}; of {issuer} this region takes "
                "{known}",
                algorithm=str(algorithm)[:50],
                issuer=issuer.issuer,
                known=", ".join(issuer.algorithms),
            )
        claims = _signed(token, keys, header.get("kid"), algorithm)
        _require_typed(claims)
        expiry = claims["exp"] + issuer.leeway_seconds
        if issuer.token_age_seconds_max:
            oldest = time.time() - issuer.token_age_seconds_max - issuer.leeway_seconds
            if claims.get("iat", 0) < oldest:
                raise _refused("it was issued longer ago than is allowed")
            age = issuer.token_age_seconds_max + issuer.leeway_seconds
            expiry = min(expiry, claims["iat"] + age)
        principal = f"jwt:{issuer.issuer}#{claims['sub']}"
        try:
            require_principal(principal)
        except InvalidRequest as error:
            raise _refused(f"its subject is no principal: {error}") from error
        return Proven(principal, issuer.issuer, expiry, generation)


def _parts(token: str) -> tuple[Mapping[str, Any], str]:
    """Return the header and the issuer that a token claims, before anything is checked.

    Refuses what nothing lawful looks like.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise _refused(f"it is longer than {TOKEN_BYTES_MAX} bytes")
    if not token.isascii() or not _SIGNS.issuperset(token.encode()):
        raise _refused("it is not a JWT in compact form")
    try:
        found = jwt.api_jws.PyJWS().decode_complete(
            token, options={"verify_signature": False}
        )
        payload = json.loads(found["payload"])
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _refused("it is not a JWT in compact form") from error
    header = found["header"]
    if "crit" in header:
        # RFC 7515, 4.1.11: what must be understood is not understood here.
        raise _refused("its header has `crit`")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise _refused("its `typ` is that of another kind of token")
    issuer = payload.get("iss") if isinstance(payload, dict) else None
    if not isinstance(issuer, str):
        raise _refused("it names no issuer")
    return header, issuer


def _signed(
    token: str, keys: IssuerKeys, kid: str | None, algorithm: str
) -> dict[str, Any]:
    """Return the claims of a token that one of the keys signed, and that is of now."""
    issuer = keys.issuer
    for one in keys.fitting(kid, algorithm):
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                one.key,
                # The one that was looked at: no second reading of the header decides.
                algorithms=[algorithm],
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.InvalidSignatureError:
            continue
        except jwt.ExpiredSignatureError as error:
            raise _refused("it has expired; get a fresh one") from error
        except jwt.PyJWTError as error:
            raise _refused(_said(error)) from error
        return claims
    if kid is None:
        # It names no key that could be missing; but a new one may have signed it.
        keys.ask_again()
    raise _refused("no key of its issuer that fits signed it")


def _require_typed(claims: Mapping[str, Any]) -> None:
    """Refuse claims of other types than RFC 7519 gives them, and bound tokens."""
    for name in ("exp", "nbf", "iat"):
        given = claims.get(name, 0)
        # True is a number to Python, and so is the text "9999999999" to PyJWT.
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise _refused(f"its `{name}` is not a number")
    if not claims["sub"]:
        raise _refused("its subject is empty")
    if "cnf" in claims:
        # RFC 7800: it is good only together with the proof of a key (DPoP, mTLS), and
        # whoever shows it alone may have stolen it.
        raise _refused("it is bound to a key (`cnf`); only plain bearers are taken")


def _said(error: jwt.PyJWTError) -> str:
    """Say what is wrong with a token, in our words: PyJWT may quote what it found."""
    known: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
        (jwt.MissingRequiredClaimError, "it lacks one of `exp`, `iss`, `aud`, `sub`"),
        (jwt.InvalidAudienceError, "it is for another audience"),
        (jwt.ImmatureSignatureError, "it is not valid yet"),
        (jwt.InvalidIssuerError, "it is of another issuer"),
    )
    return next((text for kind, text in known if isinstance(error, kind)), "malformed")


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated("the token is refused: {why}", why=why)
