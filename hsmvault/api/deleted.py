"""KeyService: what was soft-deleted, and what may still become of it."""

from dataclasses import dataclass

from hsmvault.api import convert
from hsmvault.api.dispatch import Call
from hsmvault.api.paging import Listing
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.names import KeyName
from hsmvault.v1 import key_service_pb2 as pb
from hsmvault.v1.resources_pb2 import Key
from hsmvault.vault.catalogue import Catalogue, page_size
from hsmvault.vault.checked import Found
from hsmvault.vault.view import View


@dataclass(frozen=True, slots=True)
class DeletedServicer:
    """One method per RPC that reads deleted keys."""

    catalogue: Catalogue

    def get_deleted_key(self, request: pb.GetDeletedKeyRequest, call: Call) -> Key:
        name = KeyName.parse(request.name)
        found = self.catalogue.get(name, active=False, deleted=True)
        return _deleted(found, call.view)

    def list_deleted_keys(
        self, request: pb.ListDeletedKeysRequest, call: Call
    ) -> pb.ListDeletedKeysResponse:
        size = page_size(request.page_size)
        listing = Listing.of(call)
        found = self.catalogue.keys(
            after=listing.start(request.page_token),
            limit=size + 1,
            active=False,
            deleted=True,
        )
        last = found[size - 1].record.resource if len(found) > size else ""
        return pb.ListDeletedKeysResponse(
            keys=[_deleted(f, call.view) for f in found[:size]],
            next_page_token=listing.token(last),
        )


def _deleted(found: Found[KeyRecord], view: View) -> Key:
    """Write a key with what may still become of it."""
    key = convert.key(found)
    key.recovery_level = view.vault.recovery_level
    return key
