"""KeyService: the life of keys. Parse, call, convert; no decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization

from hsmvault.api import convert
from hsmvault.api.dispatch import Call, requested
from hsmvault.api.paging import Listing
from hsmvault.api.permissions import key_or_version
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.names import KeyName, VersionName
from hsmvault.v1 import key_service_pb2 as pb
from hsmvault.v1 import resources_pb2
from hsmvault.vault.catalogue import Catalogue, page_size, place
from hsmvault.vault.checked import Found
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.life import KeyLife
from hsmvault.vault.memory import Memory
from hsmvault.vault.rotating import KeyRotation


@dataclass(frozen=True, slots=True)
class KeyServicer:
    """One method per RPC of KeyService."""

    maker: KeyMaker
    life: KeyLife
    catalogue: Catalogue
    memory: Memory
    rotation: KeyRotation

    def create_key(self, request: pb.CreateKeyRequest, call: Call) -> resources_pb2.Key:
        name = KeyName.of_id(request.key_id)
        convert.require_named(request.key, name)
        spec = request.key.spec
        return convert.key(
            self.maker.create(
                requested(request, call),
                name,
                KeySpec.of(spec.type, bits=spec.bits, curve=spec.curve),
                convert.settings(request.key),
            )
        )

    def get_key(self, request: pb.GetKeyRequest, call: Call) -> resources_pb2.Key:
        found = self.catalogue.get(
            KeyName.parse(request.name),
            active=_sees_active(request, call),
            deleted=request.show_deleted,
        )
        key = convert.key(found)
        versions = self.rotation.pending(found.record)
        key.pending_versions.extend(f"{key.name}/versions/{v}" for v in versions)
        return key

    def list_keys(self, request: pb.ListKeysRequest, call: Call) -> pb.ListKeysResponse:
        size = page_size(request.page_size)
        listing = Listing.of(call, str(request.show_deleted))
        found = self.catalogue.keys(
            after=listing.start(request.page_token),
            limit=size + 1,
            active=_sees_active(request, call),
            deleted=request.show_deleted,
        )
        last = found[size - 1].record.resource if len(found) > size else ""
        return pb.ListKeysResponse(
            keys=[convert.key(f) for f in found[:size]],
            next_page_token=listing.token(last),
        )

    def list_key_versions(
        self, request: pb.ListKeyVersionsRequest, call: Call
    ) -> pb.ListKeyVersionsResponse:
        name = KeyName.parse(request.parent)
        size = page_size(request.page_size)
        listing = Listing.of(call, name.folded)
        key, found = self.catalogue.versions(
            name,
            after=listing.start(request.page_token),
            limit=size + 1,
        )
        last = place(found[size - 1]) if len(found) > size else ""
        return pb.ListKeyVersionsResponse(
            key_versions=self._versions(found[:size], current=key.record.current),
            next_page_token=listing.token(last),
        )

    def update_key(self, request: pb.UpdateKeyRequest, call: Call) -> resources_pb2.Key:
        return convert.key(
            self.life.update(
                requested(request, call),
                KeyName.parse(request.key.name),
                convert.patch(request.key, request.update_mask),
                etag=request.key.etag,
            )
        )

    def update_key_version(
        self, request: pb.UpdateKeyVersionRequest, call: Call
    ) -> resources_pb2.KeyVersion:
        message = request.key_version
        convert.paths(message, request.update_mask, known=["enabled"])
        found = self.life.update_version(
            requested(request, call),
            VersionName.parse(message.name),
            enabled=message.enabled,
            etag=message.etag,
        )
        return self._version(found)

    def rotate_key(
        self, request: pb.RotateKeyRequest, call: Call
    ) -> resources_pb2.KeyVersion:
        found = self.maker.rotate(
            requested(request, call), KeyName.parse(request.name), etag=request.etag
        )
        return self._version(found)

    def delete_key(self, request: pb.DeleteKeyRequest, call: Call) -> resources_pb2.Key:
        return convert.key(
            self.life.delete(
                requested(request, call), KeyName.parse(request.name), etag=request.etag
            )
        )

    def recover_key(
        self, request: pb.RecoverKeyRequest, call: Call
    ) -> resources_pb2.Key:
        return convert.key(
            self.life.recover(
                requested(request, call), KeyName.parse(request.name), etag=request.etag
            )
        )

    def purge_key(self, request: pb.PurgeKeyRequest, call: Call) -> pb.PurgeKeyResponse:
        found = self.life.purge(
            requested(request, call), KeyName.parse(request.name), etag=request.etag
        )
        return pb.PurgeKeyResponse(position=str(found.position))

    def get_public_key(
        self, request: pb.GetPublicKeyRequest, _call: Call
    ) -> pb.PublicKey:
        record = self.catalogue.public_key(*key_or_version(request.name)).found.record
        return pb.PublicKey(
            name=f"{record.key}/versions/{record.version}",
            spec=convert.spec_message(record.spec),
            pem=_pem(record.public_key),
            der=record.public_key,
        )

    def _version(self, found: Found[VersionRecord]) -> resources_pb2.KeyVersion:
        # Whether it is current is told by the key, which this write may have changed.
        self.memory.refresh()
        held = self.memory.key(found.record.key.lower())
        return convert.version(found, current=held.key.record.current if held else "")

    def _versions(
        self, found: Sequence[Found[VersionRecord]], *, current: str
    ) -> list[resources_pb2.KeyVersion]:
        return [convert.version(f, current=current) for f in found]


def _sees_active(request: Any, call: Call) -> bool:
    # With show_deleted, the right to see deleted keys let the call in; whether it
    # also sees the others is another right.
    return not request.show_deleted or call.permits(call.resource)


def _pem(der: bytes) -> str:
    return (
        serialization.load_der_public_key(der)
        .public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
        .decode("ascii")
    )
