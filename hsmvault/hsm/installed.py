"""Finding the keys that ceremonies installed: by all attributes, exactly one match."""

from typing import Any

from pkcs11.constants import Attribute

from hsmvault.hsm.attributes import Template
from hsmvault.hsm.cryptoki import Cryptoki, Refused
from hsmvault.hsm.templates import require_equal, searchable
from hsmvault.model.errors import TemplateViolated


def find(
    session: Any, cryptoki: Cryptoki, label: str, template: Template
) -> Any | None:
    """Return the one key of this label that is all that its table says, or None.

    A label proves nothing: anybody with the user PIN can give it to an object of their
    own. Raises TemplateViolated where only look-alikes are there, or several keys.
    Copies of one key are that key: they cannot be destroyed, and must not end service.
    """
    found = list(session.get_objects(searchable(template, label)))
    if len(found) > 1 and not _copies(session, cryptoki, found):
        raise TemplateViolated(
            "{count} keys in the token are called {label}, one is expected; destroy "
            "those that no ceremony installed",
            count=len(found),
            label=label,
        )
    if not found:
        kind = {Attribute.CLASS: template[Attribute.CLASS]}
        found = list(session.get_objects(searchable(kind, label)))[:1]
    if not found:
        return None
    key: Any = found[0]
    read = cryptoki.attributes(session.handle, key.handle, template)
    require_equal(read, template, label=label)
    return key


def _copies(session: Any, cryptoki: Cryptoki, keys: list[Any]) -> bool:
    """Tell whether these are one secret key, by the token's own digest of each."""
    try:
        digests = {cryptoki.digest_key(session.handle, key.handle) for key in keys}
    except Refused:
        # Private keys have no digest, and some tokens none at all.
        return False
    return len(digests) == 1
