"""VaultService: the vault's own settings. Parse, call, convert; no decisions."""

from dataclasses import dataclass

from cryptography import x509

from hsmvault.api import convert_vault
from hsmvault.api.dispatch import Call, requested
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1 import vault_service_pb2 as pb
from hsmvault.v1.resources_pb2 import Vault
from hsmvault.vault.vault_keeper import VaultKeeper


@dataclass(frozen=True, slots=True)
class VaultServicer:
    """One method per RPC of VaultService."""

    keeper: VaultKeeper

    def get_vault(self, request: pb.GetVaultRequest, _call: Call) -> Vault:
        convert_vault.require_name(request.name)
        return convert_vault.vault(self.keeper.get())

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
    """Refuse a revocation list that is not one of the callers' CA."""
    if not now.client_crl or now.client_crl == was.client_crl:
        return
    try:
        revoked = x509.load_pem_x509_crl(now.client_crl.encode())
        authority = x509.load_pem_x509_certificate(now.client_ca.encode())
        sound = revoked.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            "client_crl does not read as a certificate revocation list in PEM"
        ) from error
    if not sound or revoked.issuer != authority.subject:
        raise InvalidRequest(
            "client_crl is not signed by the vault's client_ca; it is refused"
        )
