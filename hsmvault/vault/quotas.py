"""How many keys and versions there may be, by the vault's own limits.

Asked twice: before anything is made, and again inside the write, where no other one can
come in between; so parallel writes do not pass a limit together.
"""

from collections import Counter
from collections.abc import Iterable

from hsmvault.model.errors import LimitReached
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.record import Record
from hsmvault.model.vault_records import VaultRecord
from hsmvault.vault.ports import Store


def require_key_room(store: Store, vault: VaultRecord, *, more: int = 1) -> None:
    """Raise LimitReached if the vault may not have so many more keys."""
    most = vault.key_limit
    if not most:
        return
    held = store.key_count()
    if held + more > most:
        raise LimitReached(
            "there are {held} keys, deleted ones included, and the vault's key_limit "
            "is {most}; purge some (hsmvault key purge), or raise it: hsmvault vault "
            "set --key-limit",
            held=held,
            most=most,
        )


def require_version_room(
    store: Store, vault: VaultRecord, key: str, *, more: int = 1
) -> None:
    """Raise LimitReached if a key, by its resource, may not have more versions."""
    held = store.version_count(key)
    if held + more > vault.version_limit:
        raise LimitReached(
            "{name} has {held} versions, and the vault's version_limit is {most}; "
            "move on to a new key, or raise it: hsmvault vault set --version-limit",
            name=key,
            held=held,
            most=vault.version_limit,
        )


def require_room(store: Store, vault: VaultRecord, records: Iterable[Record]) -> None:
    """Raise LimitReached if what these records add goes beyond a limit."""
    new = [r for r in records if getattr(r, "revision", 0) == 1]
    keys = sum(isinstance(record, KeyRecord) for record in new)
    if keys:
        require_key_room(store, vault, more=keys)
    versions = Counter(
        r.resource.partition("/versions/")[0]
        for r in new
        if isinstance(r, VersionRecord)
    )
    for key, more in versions.items():
        require_version_room(store, vault, key, more=more)
