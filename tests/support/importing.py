"""Importing into a region that is served in this process, as a Crypto User."""

import hmac
from functools import partial
from typing import Any

import grpc
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from hsmvault.model.algorithms import KeySpec
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1.key_service_pb2 import (
    BeginImportRequest,
    GetPublicKeyRequest,
    Import,
    ImportKeyRequest,
)
from hsmvault.v1.resources_pb2 import Key
from hsmvault.v1.resources_pb2 import KeySpec as SpecMessage
from tests.support.incoming import Outside, public_of, secret_of, wrapped
from tests.support.served import Served, refusal

AES_BITS = {128, 192, 256}
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def brought(one: Served, key_id: str, **fields: Any) -> Key:
    return one.uma.keys.ImportKey(ImportKeyRequest(key_id=key_id, **fields))


def refused(one: Served, **fields: Any) -> str:
    """Import what must be refused, for its material; the message."""
    code, reason, message = refusal(partial(brought, one, "refused", **fields))
    assert (code, reason) == (INVALID, "KEY_MATERIAL_INVALID")
    return message


def spec_of(spec: KeySpec) -> SpecMessage:
    return SpecMessage(type=spec.type, bits=spec.bits, curve=spec.curve or "")


def begun(one: Served, key_id: str = "carried", **fields: Any) -> Import:
    return one.uma.keys.BeginImport(BeginImportRequest(key_id=key_id, **fields))


def der_of(message: Import) -> bytes:
    return load_pem_public_key(message.public_key.encode()).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def carried(
    one: Served,
    by: Import,
    spec: KeySpec,
    material: Outside,
    /,
    *,
    key_id: str = "carried",
    **fields: Any,
) -> Key:
    """Import the key under a wrapping key."""
    given = {
        "key": Key(spec=spec_of(spec)),
        "import_name": by.name,
        "public_key": public_of(material),
        "key_transfer_blob": wrapped(der_of(by), secret_of(material)),
    }
    return brought(one, key_id, **(given | fields))


def used(one: Served, name: str, spec: KeySpec, key: Outside) -> None:
    """Use the key in the vault, and see by the key outside that it is the same."""
    if not isinstance(key, bytes):
        found = one.uma.keys.GetPublicKey(GetPublicKeyRequest(name=name))
        assert found.der == public_of(key)
    elif spec.bits in AES_BITS:
        made = one.uma.crypto.WrapKey(
            crypto.WrapKeyRequest(
                name=name, algorithm=f"A{spec.bits}KW", plaintext=bytes(32)
            )
        )
        assert aes_key_unwrap(key, made.wrapped) == bytes(32)
    else:
        signed = one.uma.crypto.Sign(
            crypto.SignRequest(name=name, algorithm=f"HS{spec.bits}", data=b"x")
        )
        assert signed.signature == hmac.digest(key, b"x", f"sha{spec.bits}")
