"""The keys of one issuer: fetched in the background, and believed for a while.

Nobody who calls waits for an issuer. A thread fetches the keys now and then, and soon
after a token names one that is not known; whoever asks meanwhile is told to come back.
While the issuer does not answer, its last keys serve for a bounded time, and after
that none do: no failure of an issuer, or of the way to it, lets anybody in.
"""

import http.client
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsmvault import telemetry
from hsmvault.model.decoding import from_json
from hsmvault.model.errors import ConfigurationError, IssuerUnavailable
from hsmvault.regions.issuers import ALGORITHMS, Issuer
from hsmvault.telemetry import Event

DOCUMENT_BYTES_MAX: Final = 256 * 1024
"""A set of 64 RSA keys with certificates is half of that."""
KEYS_MAX: Final = 64
RSA_BITS: Final = range(2048, 8193)
"""Smaller ones are weak (NIST SP 800-131A); larger ones cost us, not the issuer."""
FETCH_SECONDS: Final = 5.0
"""For all of one document. A step of it gets no longer than that either."""
ASK_AGAIN_SECONDS: Final = 5.0
"""Unknown keys have them fetched again, but not more often than this: a caller who
makes up key ids must not have us call the issuer for each."""
RETRY_SECONDS: Final = 10.0
"""After a failure."""

_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = MappingProxyType(
    {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
)


class _Unfit(Exception):
    """What an issuer answered cannot be used. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One public key that an issuer signs with."""

    id: str
    """`kid`; "" if it has none."""
    algorithms: frozenset[str]
    """What it may have signed by: its type decides, and its `alg` if it names one."""
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey = field(repr=False)


class IssuerKeys:
    """The keys of one issuer, as of the last time that it was asked."""

    def __init__(self, issuer: Issuer) -> None:
        """Fetch nothing yet; raise ConfigurationError if the CA cannot be read."""
        self.issuer = issuer
        self._tls = _trusting(issuer.ca_file)
        self._keys: tuple[IssuerKey, ...] = ()
        self._fetched = -float("inf")
        self._asked = -float("inf")
        self._problem = "they were not fetched yet"
        self._wake = threading.Event()
        self._ending = threading.Event()
        self.generation = 0
        """Counts the times that the keys changed: what was verified by earlier ones
        must be verified again."""

    # --- for those who verify ------------------------------------------------

    def require_fresh(self) -> None:
        """Raise IssuerUnavailable if the keys are too old to be believed."""
        if time.monotonic() - self._fetched > self.issuer.stale_seconds:
            raise IssuerUnavailable(
                "the keys of the issuer {issuer} are not known now: {problem}. Nobody "
                "is let in by its tokens until they can be fetched",
                issuer=self.issuer.issuer,
                problem=self._problem,
            )

    def fitting(self, kid: str | None, algorithm: str) -> Sequence[IssuerKey]:
        """Return the keys that may have signed; none: there is no such key.

        An unknown one may be new: then they are fetched again, soon, and this raises
        IssuerUnavailable, once per `ASK_AGAIN_SECONDS`.
        """
        self.require_fresh()
        found = [
            one
            for one in self._keys
            if algorithm in one.algorithms and (kid is None or one.id == kid)
        ]
        if not found:
            self.ask_again()
        return found

    def ask_again(self) -> None:
        """Have the keys fetched again, and raise IssuerUnavailable, if it is time."""
        if time.monotonic() - self._asked > ASK_AGAIN_SECONDS:
            self._wake.set()
            raise IssuerUnavailable(
                "the token's key is none that the issuer {issuer} had when it was "
                "asked last; it is being asked again, so try again",
                issuer=self.issuer.issuer,
            )

    # --- fetching ------------------------------------------------------------

    def run(self) -> None:
        """Fetch now and then, until `close`. For a thread of its own."""
        while not self._ending.is_set():
            fetched = self.fetch()
            pause = self.issuer.refresh_seconds if fetched else RETRY_SECONDS
            self._wake.wait(min(pause, self.issuer.refresh_seconds))
            self._wake.clear()
            # Whoever woke us may be the first of many.
            wait = self._asked + ASK_AGAIN_SECONDS - time.monotonic()
            self._ending.wait(max(wait, 0.0) if not self._ending.is_set() else 0.0)

    def close(self) -> None:
        """Have `run` end, after what it is fetching."""
        self._ending.set()
        self._wake.set()

    def fetch(self) -> bool:
        """Ask the issuer for its keys; tell whether it answered with some."""
        began = time.monotonic()
        try:
            uri = self.issuer.jwks_uri or self._discovered()
            keys = _keys(self._document(uri))
        except (OSError, http.client.HTTPException, _Unfit, ValueError) as error:
            self._asked = time.monotonic()
            known, self._problem = self._problem, _said(error)
            if known != self._problem:
                telemetry.report(
                    Event.ISSUER_SILENT,
                    issuer=self.issuer.issuer,
                    problem=self._problem,
                )
            return False
        if keys != self._keys:
            self._keys = keys
            self.generation += 1
            telemetry.report(
                Event.ISSUER_KEYS_CHANGED,
                issuer=self.issuer.issuer,
                keys=", ".join(one.id for one in keys)[:500],
            )
        self._problem = ""
        # By when it was asked: what it answered cannot be newer.
        self._fetched, self._asked = began, time.monotonic()
        return True

    def _discovered(self) -> str:
        """Return the jwks_uri that the issuer names (OpenID Connect Discovery, 4)."""
        base = self.issuer.issuer.rstrip("/")
        found = self._document(f"{base}/.well-known/openid-configuration")
        # Else another issuer on the same host could pass its keys for this one's.
        if found.get("issuer") != self.issuer.issuer:
            raise _Unfit(f"it calls itself {str(found.get('issuer'))[:200]!r}")
        uri = found.get("jwks_uri")
        if not isinstance(uri, str) or not uri.startswith("https://"):
            raise _Unfit("it names no jwks_uri over https")
        return uri

    def _document(self, uri: str) -> dict[str, Any]:
        """GET a JSON object: over TLS, within the time, of bounded size, right there.

        No redirect is followed and no proxy of the environment is used: the address
        is the configured one, or the one that the issuer itself names.
        """
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme != "https" or not parts.hostname:
            raise _Unfit(f"{uri[:200]} is not over https")
        path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        with self._connected(parts.hostname, parts.port) as connection:
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise _Unfit(f"{uri[:200]} answered {answer.status}")
            body = answer.read(DOCUMENT_BYTES_MAX + 1)
        if len(body) > DOCUMENT_BYTES_MAX:
            raise _Unfit(f"{uri[:200]} is longer than {DOCUMENT_BYTES_MAX} bytes")
        try:
            found = from_json(body)
        except ValueError as error:
            raise _Unfit(f"{uri[:200]} is not JSON") from error
        if not isinstance(found, dict):
            raise _Unfit(f"{uri[:200]} is not a JSON object")
        return found

    @contextmanager
    def _connected(
        self, host: str, port: int | None
    ) -> Iterator[http.client.HTTPSConnection]:
        """Connect, and be cut off in time, whatever the other end does meanwhile."""
        plain = socket.create_connection(
            (host, port or http.client.HTTPS_PORT), FETCH_SECONDS
        )
        # A timeout of sockets is one of each step; this one is of all of them. By a
        # handle of its own: the connection lets go of its socket before the answer.
        with plain, plain.dup() as handle:
            late = threading.Timer(FETCH_SECONDS, _cut, (handle,))
            late.daemon = True
            late.start()
            connection = http.client.HTTPSConnection(host, port)
            try:
                connection.sock = self._tls.wrap_socket(plain, server_hostname=host)
                yield connection
            finally:
                late.cancel()
                connection.close()


def _trusting(ca_file: Path) -> ssl.SSLContext:
    """Trust this CA and no other: not the system's, which would be hundreds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot read the issuer's CA {ca_file}: {error}; it must be PEM"
        ) from error
    return context


def _cut(handle: socket.socket) -> None:
    # Closing would not wake who reads.
    with suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)


def _said(error: Exception) -> str:
    # Never what it answered: that may be anything.
    text = str(error) if isinstance(error, _Unfit | OSError) else type(error).__name__
    return (text or type(error).__name__)[:300]


def _keys(document: Mapping[str, Any]) -> tuple[IssuerKey, ...]:
    """Read a JWK Set (RFC 7517, 5); keys that are not for this are left out."""
    given = document.get("keys")
    if not isinstance(given, list):
        raise _Unfit("it has no list of keys")
    if len(given) > KEYS_MAX:
        raise _Unfit(f"it has more than {KEYS_MAX} keys")
    read = (_key(one) for one in given if isinstance(one, dict))
    found = tuple(one for one in read if one is not None)
    if not found:
        raise _Unfit("it has no key that signs tokens")
    return found


def _key(given: Mapping[str, Any]) -> IssuerKey | None:
    """Read one key; None: it is not for signing, weak, or of a type we do not take."""
    named = {"RSA": "RS256", "EC": "ES256"}.get(str(given.get("kty")))
    operations = given.get("key_ops", ["verify"])
    if (
        named is None
        or given.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        return None
    # The public half only, whatever else stands there.
    members = ("kty", "kid", "n", "e", "crv", "x", "y")
    public = {name: given[name] for name in members if name in given}
    try:
        key = jwt.PyJWK(public, algorithm=named).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    algorithms = _fitting(key)
    if "alg" in given:
        algorithms &= {str(given["alg"])}
    kid = given.get("kid", "")
    if not algorithms or not isinstance(kid, str):
        return None
    return IssuerKey(kid, algorithms, key)


def _fitting(key: object) -> frozenset[str]:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
        return frozenset(name for name in ALGORITHMS if name[0] != "E")
    if isinstance(key, ec.EllipticCurvePublicKey):
        return frozenset(
            name for name, curve in _CURVES.items() if isinstance(key.curve, curve)
        )
    return frozenset()
