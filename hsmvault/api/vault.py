"""VaultService: the vault's own settings. Parse, call, convert; no decisions."""

from dataclasses import dataclass

from hsmvault.api import convert_vault
from hsmvault.api.dispatch import Call, requested
from hsmvault.api.watching import Watching
from hsmvault.model.vault_records import VaultRecord
from hsmvault.regions import revocation
from hsmvault.v1 import vault_service_pb2 as pb
from hsmvault.v1.resources_pb2 import Vault
from hsmvault.vault.vault_keeper import VaultKeeper


@dataclass(frozen=True, slots=True)
class VaultServicer:
    """One method per RPC of VaultService."""

    keeper: VaultKeeper
    watching: Watching

    def get_vault(self, request: pb.GetVaultRequest, _call: Call) -> Vault:
        convert_vault.require_name(request.name)
        return convert_vault.vault(self.keeper.get())

    def watch(self, request: pb.WatchRequest, call: Call) -> pb.WatchResponse:
        stream = self.watching.open(request, call)
        call.told.rest = stream
        return pb.WatchResponse(position=stream.position)

    def update_vault(self, request: pb.UpdateVaultRequest, call: Call) -> Vault:
        convert_vault.require_name(request.vault.name)
        return convert_vault.vault(
            self.keeper.update(
                requested(request, call),
                convert_vault.patch(request.vault, request.update_mask),
                etag=request.vault.etag,
                peer=call.told.peer,
                allow_lock_out=request.allow_lock_out,
                acceptable=_require_revocations,
            )
        )


def _require_revocations(was: VaultRecord, now: VaultRecord) -> None:
    """Refuse a revocation list that is not the next one of the callers' CA."""
    if now.client_crl != was.client_crl:
        revocation.require_next(
            now.client_crl, authority=now.client_ca, former=was.client_crl
        )
