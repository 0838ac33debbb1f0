"""What the vault does to keys by itself, when the pool manager says that it is time.

The pool manager decides when to ask; whether it is so is decided here, on the record,
inside the write. So asking twice changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hsmvault.model.access import Permission
from hsmvault.model.log import Position
from hsmvault.model.names import KeyName
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.life import KeyLife
from hsmvault.vault.view import Caller
from hsmvault.vault.writing import Request

ITSELF: Final = "vault"
"""The vault as a principal. No certificate and no assignment can bear this name."""


class Chore(StrEnum):
    """What is done by itself."""

    ROTATE = "rotate"
    """Make a new version of a key, because its rotation policy says so."""
    PURGE = "purge"
    """End a deleted key, because its retention has ended."""


_PERMISSIONS: Final = {
    Chore.ROTATE: Permission.KEYS_ROTATE,
    Chore.PURGE: Permission.DELETED_KEYS_PURGE,
}


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Rotates and purges as the vault itself."""

    maker: KeyMaker
    life: KeyLife

    def run(self, chore: Chore, name: KeyName, *, incarnation: str) -> Position:
        """Do it where it is due; returns where it stands in the log.

        Raises NotDue where it is not, as after it was done.
        """
        caller = Caller(
            ITSELF, _PERMISSIONS[chore], f"/keys/{name.folded}", itself=True
        )
        request = Request(caller, f"upkeep/{chore}")
        if chore is Chore.ROTATE:
            return self.maker.rotate_due(
                request, name, incarnation=incarnation
            ).position
        return self.life.purge_due(request, name, incarnation=incarnation).position
