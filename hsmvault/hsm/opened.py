"""The keys that one session holds open, least recently used first out.

A session is leased to one thread at a time and owns its open keys, so nobody needs a
lock here, and no key is destroyed while another thread uses it.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11 import PKCS11Error

from hsmvault.hsm.templates import Purpose


@dataclass(frozen=True, slots=True)
class Opened:
    """A key version opened for one purpose, as a session object."""

    version: str
    purpose: Purpose
    key: Any
    """python-pkcs11 makes a class of its own for every object."""
    public: RSAPublicKey | None
    """The public half of an RSA key: what it signs is verified before it leaves."""
    secrets: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    """What the key itself makes once, for as long as it is open."""


class OpenKeys:
    """Open keys of one session, by version and purpose."""

    def __init__(self) -> None:
        self._keys: Final[OrderedDict[tuple[str, Purpose], Opened]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, version: str, purpose: Purpose) -> Opened | None:
        """Return the open key and remember that it was used, or None."""
        place = (version, purpose)
        found = self._keys.get(place)
        if found is not None:
            self._keys.move_to_end(place)
        return found

    def put(self, opened: Opened) -> None:
        """Keep a key that was just opened."""
        self._keys[opened.version, opened.purpose] = opened

    def drop_oldest(self) -> None:
        """Destroy the key that was not used for longest, if there is one."""
        if self._keys:
            destroy(self._keys.popitem(last=False)[1].key)

    def drop(self, version: str) -> None:
        """Destroy what is open of this version, whatever for."""
        for purpose in Purpose:
            opened = self._keys.pop((version, purpose), None)
            if opened is not None:
                destroy(opened.key)

    def abandon(self) -> None:
        """Forget all of them: they died with their session."""
        self._keys.clear()


def destroy(key: Any) -> None:
    """Destroy a session object. That it is gone already is as good."""
    with suppress(PKCS11Error):
        # What ails its session shows at the session's next use.
        key.destroy()
