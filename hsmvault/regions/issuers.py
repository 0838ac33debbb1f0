"""The issuers of tokens that a region believes: OpenID providers, by exact settings.

Each is asked for its keys over HTTPS with a CA of its own choice; nothing is believed
for being reachable. RFC 7519 says what a token is, RFC 8725 what to beware of.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
)
"""What a token may be signed with (RFC 7518, 3.1). Never `none`, and never an HMAC: its
key would be a secret of the issuer's, or somebody's public key."""

ISSUERS_MAX: Final = 8
"""Each takes a thread, and a connection now and then."""
ISSUER: Final = re.compile(
    r"https://[a-z0-9](?:[a-z0-9.-]{0,120}[a-z0-9])?(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~-]{1,100}){0,8}/?"
)
"""An issuer's identifier, as `iss` has it: no query, no fragment (OpenID Connect Core,
2), and no capitals in the host, so that there is one way to spell each."""
ISSUER_MAX: Final = 200
"""With it and the longest subject a principal stays within its 512 characters."""
_AUDIENCE_MAX: Final = 200
_LEEWAY_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer, and what its tokens must be like."""

    issuer: str
    """Exactly what `iss` says, to the last slash."""
    audience: str
    """What `aud` must name: this vault, as the issuer knows it."""
    ca_file: Path
    """PEM of the CA that the issuer's TLS certificate is from."""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    jwks_uri: str = ""
    """Where its keys are; "" asks `{issuer}/.well-known/openid-configuration`."""
    leeway_seconds: int = 60
    """How far its clock and ours may differ."""
    token_age_seconds_max: int = 0
    """How old a token may be by its `iat`; 0: until it expires."""
    refresh_seconds: int = 300
    """How often its keys are fetched."""
    stale_seconds: int = 3600
    """How long keys are believed that cannot be fetched again. Then calls by its tokens
    are refused: a key that was withdrawn must not be good for ever."""

    def problems(self) -> list[str]:
        """Say what is wrong, each as `setting must …`; [] if nothing is."""
        found = []
        if not ISSUER.fullmatch(self.issuer) or len(self.issuer) > ISSUER_MAX:
            found.append(
                "issuer must be an https:// URL in lower case, without query or "
                f"fragment, of at most {ISSUER_MAX} characters"
            )
        if not 0 < len(self.audience) <= _AUDIENCE_MAX:
            found.append("audience must name this vault, as its tokens do")
        odd = [name for name in self.algorithms if name not in ALGORITHMS]
        if odd or not self.algorithms:
            found.append(f"algorithms must be among {', '.join(ALGORITHMS)}")
        if self.jwks_uri and not self.jwks_uri.startswith("https://"):
            found.append("jwks_uri must be an https:// URL")
        if self.leeway_seconds > _LEEWAY_MAX:
            found.append(f"leeway_seconds must be {_LEEWAY_MAX} at most")
        if self.stale_seconds < self.refresh_seconds:
            found.append("stale_seconds must not be less than refresh_seconds")
        return found


def problems(issuers: Sequence[Issuer]) -> list[str]:
    """Say what is wrong with the issuers of a region; [] if nothing is."""
    found = [
        f"number {number}: {problem}"
        for number, one in enumerate(issuers, 1)
        for problem in one.problems()
    ]
    names = [one.issuer for one in issuers]
    if len(set(names)) != len(names):
        found.append("must differ in `issuer`")
    if len(names) > ISSUERS_MAX:
        found.append(f"must be {ISSUERS_MAX} at most")
    return found
