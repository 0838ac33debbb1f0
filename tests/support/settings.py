"""The settings of a vault that is served in this process: read, and changed."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.v1.resources_pb2 import Vault
from hsmvault.v1.vault_service_pb2 import GetVaultRequest, UpdateVaultRequest
from tests.support.served import Served


def update(one: Served, *, by: str = "ada", **settings: Any) -> Vault:
    """Have the Administrator set what is named, also to its default."""
    options = {
        name: settings.pop(name)
        for name in ("etag", "request_id", "allow_lock_out")
        if name in settings
    }
    request = UpdateVaultRequest(
        vault=Vault(etag=options.pop("etag", ""), **settings),
        update_mask=FieldMask(paths=list(settings)),
        **options,
    )
    return getattr(one, by).vault.UpdateVault(request)


def get(one: Served, *, by: str = "ada") -> Vault:
    """Have somebody read them."""
    return getattr(one, by).vault.GetVault(GetVaultRequest(name="vault"))
