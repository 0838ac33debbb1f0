"""What the vault does to keys by itself, with a record of each in the audit trail."""

from dataclasses import dataclass

from hsmvault.audit.trail import Trail
from hsmvault.model.errors import NotDue, VaultError
from hsmvault.model.log import Position
from hsmvault.model.names import KeyName
from hsmvault.vault.upkeep import ITSELF, Chore, Upkeep


@dataclass(frozen=True, slots=True)
class AuditedUpkeep:
    """Upkeep that is refused where it could not be recorded."""

    upkeep: Upkeep
    trail: Trail

    def run(self, chore: Chore, name: KeyName, *, incarnation: str) -> Position:
        """Do a chore to a key where it is due, and record how it ended.

        That it was not due is no event: the pool manager may ask at any time. Raises
        AuditUnavailable before anything is done.
        """
        event, resource = f"upkeep.{chore}", f"/keys/{name.folded}"
        who = {"principal": ITSELF, "incarnation": incarnation}
        self.trail.require_room()
        try:
            position = self.upkeep.run(chore, name, incarnation=incarnation)
        except NotDue:
            raise
        except VaultError as error:
            self.trail.note(event, resource, **who, code=error.reason)
            raise
        self.trail.note(event, resource, **who, code="OK", position=str(position))
        return position
