"""Finding the keys that ceremonies installed: by all attributes, exactly one match."""

from typing import Any

from pkcs11.constants import Attribute

from hsmvault.hsm.attributes import Template
from hsmvault.hsm.cryptoki import Cryptoki
from hsmvault.hsm.templates import require_equal, searchable
from hsmvault.model.errors import TemplateViolated


def find(
    session: Any, cryptoki: Cryptoki, label: str, template: Template
) -> Any | None:
    """Return the one key of this label that is all that its table says, or None.

    A label proves nothing: anybody with the user PIN can give it to an object of their
    own. Raises TemplateViolated where only look-alikes are there, or several keys.
    """
    found = list(session.get_objects(searchable(template, label)))
    if len(found) > 1:
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
