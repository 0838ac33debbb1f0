"""An OpenID provider: a process of its own, with TLS, keys, and ways to fail.

`python -m tests.support.issuer DIRECTORY` serves discovery and keys; `running_issuer`
starts it. What it answers lies in files, so that a test changes it at any moment; the
private keys stay with the test, which signs the tokens.
"""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmvault.regions.certificates import Authority
from hsmvault.regions.issuers import Issuer

AUDIENCE: Final = "hsmvault"
_START_SECONDS: Final = 30.0

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class TestIssuer:
    """One issuer that runs, seen from the test."""

    __test__ = False

    directory: Path
    port: int
    process: subprocess.Popen[str]
    path: str = ""
    keys: dict[str, PrivateKey] = field(default_factory=dict)

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}{self.path}"

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca" / "ca.pem"

    def settings(self, **changes: Any) -> Issuer:
        """What a region is told of it."""
        given: dict[str, Any] = {
            "issuer": self.issuer,
            "audience": AUDIENCE,
            "ca_file": self.ca_file,
            **changes,
        }
        return Issuer(**given)

    @property
    def toml(self) -> str:
        """The same as a section of region.toml."""
        return (
            f'\n[[issuers]]\nissuer = "{self.issuer}"\naudience = "{AUDIENCE}"\n'
            f'ca_file = "{self.ca_file}"\n'
        )

    # --- its keys ------------------------------------------------------------

    def rotate(self, *kids: str, kind: str = "EC") -> None:
        """Make new keys, and publish these alone."""
        self.keys = {kid: make_key(kind) for kid in kids}
        self.publish([jwk(key, kid) for kid, key in self.keys.items()])

    def publish(self, keys: list[dict[str, Any]]) -> None:
        """Answer this as the set of keys."""
        self.answer("jwks.json", json.dumps({"keys": keys}).encode())

    def answer(self, name: str, body: bytes) -> None:
        """Answer this for one of the documents."""
        fresh = self.directory / f"{name}.new"
        fresh.write_bytes(body)
        fresh.rename(self.directory / name)

    def fail(self, how: str) -> None:
        """Answer as `how` says: "500", "redirect", "endless", "slow"; "" is well."""
        self.answer("how", how.encode())

    @property
    def asked(self) -> int:
        """How often it was asked for its keys."""
        path = self.directory / "asked"
        return path.stat().st_size if path.exists() else 0

    # --- its tokens ----------------------------------------------------------

    def claims(self, subject: str = "uma", **changes: Any) -> dict[str, Any]:
        """The claims of a good token; None leaves one out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": subject,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
            **changes,
        }
        return {k: v for k, v in claims.items() if v is not None}

    def token(
        self,
        subject: str = "uma",
        *,
        kid: str | None = "",
        key: PrivateKey | None = None,
        algorithm: str = "",
        headers: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Sign a token; by the first key, unless told otherwise. `kid` None: no kid."""
        name = kid or next(iter(self.keys))
        key = key or self.keys[name]
        algorithm = algorithm or (
            "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        )
        head = dict(headers or {})
        if kid is not None:
            head["kid"] = name
        return jwt.encode(
            self.claims(subject, **changes), key, algorithm=algorithm, headers=head
        )

    def principal(self, subject: str = "uma") -> str:
        return f"jwt:{self.issuer}#{subject}"

    def stop(self) -> None:
        """End it: nobody listens on its port any more."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def make_key(kind: str = "EC") -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def jwk(key: PrivateKey, kid: str = "", **changes: Any) -> dict[str, Any]:
    """A public key as RFC 7517 has it."""
    public = key.public_key()
    found: dict[str, Any]
    if isinstance(public, rsa.RSAPublicKey):
        found = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    else:
        found = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    named = {"kid": kid} if kid else {}
    return {**found, "use": "sig", **named, **changes}


def spki(key: PrivateKey) -> bytes:
    """A public key in PEM: what a confused verifier would take for an HMAC's key."""
    return key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


def forged(header: Mapping[str, Any], claims: object, *, secret: bytes = b"") -> str:
    """A token that no library would make: unsigned, or with an HMAC by `secret`."""
    parts = ".".join(encoded(json.dumps(p).encode()) for p in (header, claims))
    mac = hmac.digest(secret, parts.encode(), hashlib.sha256) if secret else b""
    return f"{parts}.{encoded(mac)}"


def signed(header: Mapping[str, Any], claims: object, key: PrivateKey) -> str:
    """A token that no library would make, and whose signature is good (ES256)."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    parts = ".".join(encoded(json.dumps(p).encode()) for p in (header, claims))
    signature = jwt.algorithms.ECAlgorithm(hashes.SHA256).sign(parts.encode(), key)
    return f"{parts}.{encoded(signature)}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def running_issuer(directory: Path, *, path: str = "") -> Iterator[TestIssuer]:
    """Start an issuer with one EC key, `k1`."""
    directory.mkdir(parents=True)
    authority = Authority.make(directory / "ca", name="issuer CA")
    shown = authority.server("localhost", hosts=["localhost"])
    (directory / "tls.pem").write_bytes(shown.certificate + shown.key)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.issuer", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        issuer = TestIssuer(directory, port, process, path)
        issuer.rotate("k1")
        issuer.answer(
            "configuration.json",
            json.dumps(
                {"issuer": issuer.issuer, "jwks_uri": f"{issuer.issuer}/jwks"}
            ).encode(),
        )
        yield issuer
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# --- the process -------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    directory: Path

    def do_GET(self) -> None:
        how = self.directory / "how"
        failing = how.read_text() if how.exists() else ""
        name = "jwks.json"
        if self.path.endswith("/.well-known/openid-configuration"):
            name = "configuration.json"
        elif self.path.endswith("/jwks"):
            with (self.directory / "asked").open("ab") as asked:
                asked.write(b".")
        match failing:
            case "500":
                self.send_error(500)
            case "redirect":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:1{self.path}")
                self.end_headers()
            case "elsewhere":
                self.send_response(302)
                self.send_header("Location", "/moved/jwks")
                self.end_headers()
            case "endless":
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b" " * 65536)
            case "silent":
                time.sleep(3600)
            case _:
                body = (self.directory / name).read_bytes()
                body = body.rjust(200 + len(body)) if failing == "slow" else body
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self._write(body, 0.05 if failing == "slow" else 0)

    def _write(self, body: bytes, pause: float) -> None:
        """All at once, or a byte at a time."""
        size = 1 if pause else len(body)
        with contextlib.suppress(OSError):
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                time.sleep(pause)

    def log_message(self, *_given: object) -> None:
        """Say nothing."""


def main() -> None:
    _Handler.directory = Path(sys.argv[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_Handler.directory / "tls.pem")
    server = http.server.ThreadingHTTPServer(("localhost", 0), _Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
