"""The vault's own settings: read, and changed. In force at once in this region."""

from collections.abc import Callable
from dataclasses import dataclass

from hsmvault.model.errors import IntegrityFailure, LockOut
from hsmvault.model.networks import address_of, admits
from hsmvault.model.vault_records import VaultRecord
from hsmvault.vault.checked import Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Store
from hsmvault.vault.vault_settings import VaultPatch
from hsmvault.vault.view import View
from hsmvault.vault.writing import Draft, Request, Writer, require_etag


@dataclass(frozen=True, slots=True)
class VaultKeeper:
    """Reads and changes the one vault record."""

    store: Store
    memory: Memory
    writer: Writer

    def get(self) -> Found[VaultRecord]:
        """Return the vault as it is set now."""
        stored = self.store.state("vault")
        if stored is None:
            raise IntegrityFailure("the store of this region has lost its vault")
        (found,) = self.memory.check([stored], VaultRecord)
        return found

    def update(
        self,
        request: Request,
        patch: VaultPatch,
        *,
        etag: str,
        peer: str,
        allow_lock_out: bool,
        acceptable: Callable[[VaultRecord, VaultRecord], None] = lambda _was, _is: None,
    ) -> Found[VaultRecord]:
        """Change what the patch names; in force on all partitions when it answers.

        `peer` is where the caller calls from: networks that leave it out are refused,
        unless the caller says that this is meant. `acceptable` may refuse, too.
        """

        def decide(_view: View) -> Draft[VaultRecord]:
            found = self.get()
            require_etag(found, etag)
            record = patch.applied(found.record)
            if patch.allowed_networks is not None and not allow_lock_out:
                _require_admitted(record, peer)
            acceptable(found.record, record)
            return Draft((record,), record)

        return self.writer.write(request, VaultRecord, decide)


def _require_admitted(record: VaultRecord, peer: str) -> None:
    networks = record.allowed_networks
    if networks and not admits(networks, peer):
        raise LockOut(
            "none of these networks has {peer}, where you call from; nothing was "
            "changed. Add it, or say that it is meant: hsmvault vault set "
            "--allow-lock-out",
            peer=address_of(peer) or "the place",
        )
