"""What KeyService is made of: who serves which of its RPCs."""

from hsmvault.api.backups import BackupServicer
from hsmvault.api.deleted import DeletedServicer
from hsmvault.api.imports import ImportServicer
from hsmvault.api.keys import KeyServicer
from hsmvault.api.ports import Manager
from hsmvault.api.rotation import RotationServicer
from hsmvault.regions.signatures import signed_by
from hsmvault.vault.backups import Backups
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.imports import Importer
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.lasting import Boot, LastingClock
from hsmvault.vault.life import KeyLife
from hsmvault.vault.rotating import KeyRotation
from hsmvault.vault.upkeep import Upkeep


def key_servicers(
    maker: KeyMaker, manager: Manager, boot: Boot
) -> tuple[tuple[object, ...], Upkeep]:
    """Return what serves KeyService, and what looks after keys by itself."""
    store, memory, writer, clock = maker.store, maker.memory, maker.writer, maker.clock
    catalogue = Catalogue(store, memory)
    lasting = LastingClock.of(store, clock, boot)
    life = KeyLife(memory, catalogue, writer, clock, manager, lasting)
    rotation = KeyRotation(store, catalogue, writer, clock)
    servicers = (
        KeyServicer(maker, life, catalogue, memory, rotation),
        RotationServicer(rotation, catalogue, memory, manager),
        DeletedServicer(catalogue),
        BackupServicer(
            Backups(store, maker.hsm, catalogue, writer, maker, clock, signed_by)
        ),
        ImportServicer(
            Importer(
                maker.hsm, maker.witness, memory, writer, maker, clock, maker.new_id
            )
        ),
    )
    return servicers, Upkeep(maker, life)
