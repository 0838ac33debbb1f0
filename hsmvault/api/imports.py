"""ImportKey and BeginImport: parse, call, convert."""

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hsmvault.api import convert, jwk, pkcs8
from hsmvault.api.checksums import require_intact
from hsmvault.api.dispatch import Call, requested
from hsmvault.api.material import Read, public_half
from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.model.decoding import from_json
from hsmvault.model.errors import InvalidRequest, KeyMaterialInvalid, TooLarge
from hsmvault.model.import_records import ImportRecord
from hsmvault.model.material import Blob
from hsmvault.model.names import ImportName, KeyName
from hsmvault.v1 import key_service_pb2 as pb
from hsmvault.v1 import resources_pb2
from hsmvault.vault.checked import Found
from hsmvault.vault.imports import Importer
from hsmvault.vault.settings import KeySettings
from hsmvault.vault.writing import Request

MATERIAL_BYTES: Final = 16 * 1024
"""RSA-4096 takes 4 KiB as a JWK."""
RSA_AES: Final = "CKM_RSA_AES_KEY_WRAP"
_FORMATS: Final = (RSA_AES, "Azure key transfer blob 1.0.0")


@dataclass(frozen=True, slots=True)
class ImportServicer:
    """Those RPCs of KeyService by which keys come in."""

    importer: Importer

    def begin_import(self, request: pb.BeginImportRequest, call: Call) -> pb.Import:
        lifetime = request.lifetime
        found = self.importer.begin(
            requested(request, call),
            KeyName.of_id(request.key_id),
            bits=request.bits,
            lifetime_ms=lifetime.seconds * 1000 + lifetime.nanos // 1_000_000,
        )
        return _message(found)

    def import_key(self, request: pb.ImportKeyRequest, call: Call) -> resources_pb2.Key:
        name = KeyName.of_id(request.key_id)
        convert.require_named(request.key, name)
        which, material = _material(request)
        public_key = public_half(request.public_key) if request.public_key else b""
        settings = convert.settings(request.key)
        asked = _requested(self.importer, request, call)
        if which == "key_transfer_blob":
            import_name, blob = _blob(request, material, public_key)
            found = self.importer.finish(asked, name, import_name, blob, settings)
        else:
            read = jwk.read(material) if which == "jwk" else pkcs8.read(material)
            _require_declared(request, read, public_key)
            settings = _limited(settings, read)
            found = self.importer.bring(asked, name, read.plain, settings)
        return convert.key(found)


def _material(request: pb.ImportKeyRequest) -> tuple[str, bytes]:
    which = request.WhichOneof("material")
    if which is None:
        raise InvalidRequest("give the key as jwk, pkcs8 or key_transfer_blob")
    material: bytes = getattr(request, which)
    if len(material) > MATERIAL_BYTES:
        raise TooLarge(
            "material of {given} bytes is more than {most}",
            given=len(material),
            most=MATERIAL_BYTES,
        )
    require_intact(request, "material", material)
    return which, material


def _blob(
    request: pb.ImportKeyRequest, material: bytes, public_key: bytes
) -> tuple[ImportName, Blob]:
    wrapped, kid = _unpacked(material)
    named = request.import_name or kid
    if kid not in {"", named}:
        raise InvalidRequest("import_name and the blob's kid are not the same")
    blob = Blob(_declared(request.key), public_key, wrapped)
    _require_public(blob)
    return ImportName.parse(named), blob


def _requested(importer: Importer, request: pb.ImportKeyRequest, call: Call) -> Request:
    id_ = convert.request_id(request.request_id)
    raw = request.SerializeToString(deterministic=True) if id_ else b""
    digest = importer.digest(raw) if id_ else b""
    return Request(call.caller, call.method, digest, id_, request.validate_only)


def _declared(key: resources_pb2.Key) -> KeySpec:
    spec = key.spec
    return KeySpec.of(spec.type, bits=spec.bits, curve=spec.curve)


def _require_public(blob: Blob) -> None:
    if blob.spec.type is KeyType.EC and not blob.public_key:
        raise InvalidRequest(
            "give public_key with a blob of an EC key: a token does not tell it, and "
            "what was unwrapped is proven against it"
        )
    if blob.spec.type is KeyType.OCT and blob.public_key:
        raise InvalidRequest("an oct key has no public_key")


def _require_declared(
    request: pb.ImportKeyRequest, read: Read, public_key: bytes
) -> None:
    """Raise KeyMaterialInvalid unless the key is what the request says that it is."""
    if request.import_name:
        raise InvalidRequest("import_name goes with key_transfer_blob only")
    spec = read.plain.spec
    if request.key.HasField("spec") and _declared(request.key) != spec:
        raise KeyMaterialInvalid(
            "the material is a key of type {spec}, and key.spec says {declared}",
            spec=spec,
            declared=_declared(request.key),
        )
    if request.public_key and public_key != read.plain.public_key:
        raise KeyMaterialInvalid(
            "the key does not belong to the public key that came with it"
        )


def _limited(settings: KeySettings, read: Read) -> KeySettings:
    """Let a key do no more than it says of itself."""
    if read.operations is None:
        return settings
    if not settings.operations:
        return replace(settings, operations=read.operations)
    if not settings.operations <= read.operations:
        raise KeyMaterialInvalid(
            "key.operations go beyond what the JWK says that it is for: {said}",
            said=", ".join(sorted(read.operations)),
        )
    return settings


def _unpacked(material: bytes) -> tuple[bytes, str]:
    """Take Azure's JSON off a blob; returns the wrapping key's name, if it is there."""
    # A blob may well begin like JSON; but no blob is text throughout.
    if not material.isascii() or not material.lstrip().startswith(b"{"):
        return material, ""
    try:
        fields: dict[str, Any] = from_json(material)
        header = fields["header"]
        said = fields["schema_version"], header["alg"], header["enc"]
        text, kid = fields["ciphertext"], header["kid"]
        if not isinstance(text, str) or not isinstance(kid, str):
            raise TypeError
        ciphertext = base64.b64decode(
            text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4),
            altchars=b"-_",
            validate=True,
        )
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise KeyMaterialInvalid(
            "the key_transfer_blob is no JSON with schema_version, header (kid, alg, "
            "enc) and ciphertext in base64url"
        ) from None
    if said != ("1.0.0", "dir", RSA_AES):
        raise KeyMaterialInvalid(
            "the key_transfer_blob is not of schema 1.0.0, alg dir, enc {enc}",
            enc=RSA_AES,
        )
    # Tools write the key's name in various ways; ours is at the end of all of them.
    return ciphertext, "imports/" + kid.rpartition("/")[2] if kid else ""


def _message(found: Found[ImportRecord]) -> pb.Import:
    record = found.record
    public_key = ""
    if record.public_key:
        public_key = (
            load_der_public_key(record.public_key)
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode("ascii")
        )
    return pb.Import(
        name=record.name,
        key=record.key,
        public_key=public_key,
        bits=record.bits,
        formats=_FORMATS,
        create_time=convert.timestamp(record.create_ms),
        expire_time=convert.timestamp(record.expire_ms),
        position=str(found.position),
    )
