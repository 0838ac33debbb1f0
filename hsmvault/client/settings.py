"""The vault's own settings: reading and changing them."""

from typing import Any, Unpack

from hsmvault.client import methods
from hsmvault.client.caller import Caller, Options, WriteOptions
from hsmvault.v1 import vault_service_pb2 as messages
from hsmvault.v1.resources_pb2 import Vault


class Changes(WriteOptions, total=False):
    """What an update may name. What it does not name stays as it is."""

    purge_protection: bool
    primary_down_writes: str
    region_limit: int
    client_crl: str
    legacy_algorithms: "list[str]"
    role_escalation: bool
    ecdsa_fault_guard: bool
    key_limit: int
    version_limit: int
    allowed_networks: "list[str]"
    rate_limit: int


_OPTIONS = WriteOptions.__required_keys__ | WriteOptions.__optional_keys__


class Settings:
    """`vault.settings`: what holds for the whole vault, in every region."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def get(self, **options: Unpack[Options]) -> Vault:
        """Read them, as the answering region has them."""
        return self._caller.call(
            methods.GET_VAULT, messages.GetVaultRequest(), **options
        )

    def update(
        self,
        *,
        etag: str = "",
        allow_lock_out: bool = False,
        **changes: Unpack[Changes],
    ) -> Vault:
        """Change what is named; in force on the primary's partitions when it answers.

        Networks that leave out the address you call from are refused with LockOut,
        unless you allow that.
        """
        given: dict[str, Any] = dict(changes)
        options: Any = {name: given.pop(name) for name in _OPTIONS & given.keys()}
        request = messages.UpdateVaultRequest(
            vault=Vault(etag=etag, **given), allow_lock_out=allow_lock_out
        )
        request.update_mask.paths.extend(given)
        return self._caller.call(methods.UPDATE_VAULT, request, **options)
