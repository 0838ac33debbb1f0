"""Page tokens: sealed, for one caller and one listing, good in every region.

A token holds the place after which a listing goes on, not a count: what is made or
deleted meanwhile neither repeats nor hides what else there is (AIP-158). It is sealed
by AES-256-GCM (NIST SP 800-38D) under the vault's page key, so a caller cannot read,
change or make one.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmvault.api.dispatch import Call
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.log import packed

TOKEN_MAX: Final = 1024
_NONCE: Final = 12


@dataclass(frozen=True, slots=True)
class Listing:
    """One listing as one caller asked for it."""

    sealing: AESGCM
    about: bytes

    @classmethod
    def of(cls, call: Call, *parameters: str) -> "Listing":
        """The listing of this RPC, by this caller, with these parameters."""
        return cls(
            AESGCM(call.view.vault.page_key),
            packed("hsmvault/page/v1", call.method, call.principal, *parameters),
        )

    def token(self, last: str) -> str:
        """Make the token that continues after `last`; empty, there is no more."""
        if not last:
            return ""
        nonce = os.urandom(_NONCE)
        sealed = nonce + self.sealing.encrypt(nonce, last.encode(), self.about)
        return base64.urlsafe_b64encode(sealed).decode("ascii")

    def start(self, token: str) -> str:
        """Return where the listing goes on, or raise InvalidRequest."""
        if not token:
            return ""
        try:
            if len(token) > TOKEN_MAX:
                raise InvalidTag
            raw = base64.b64decode(token, altchars=b"-_", validate=True)
            return self.sealing.decrypt(raw[:_NONCE], raw[_NONCE:], self.about).decode()
        except (binascii.Error, ValueError, InvalidTag) as error:
            raise InvalidRequest(
                "page_token is not one of this listing; take it, unchanged, from the "
                "answer before, and ask with the same parameters"
            ) from error
