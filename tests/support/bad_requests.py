"""Requests that no vault takes: how each is asked, and what is to be said to it.

They are asked of a region with the keys `ec` (P-256), `rsa` (2048) and `aes` (256).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from hsmvault.model.access import CRYPTO_USER
from hsmvault.regions.card import Card
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1.resources_pb2 import (
    Durability,
    Key,
    KeySpec,
    KeyVersion,
    RoleAssignment,
)
from tests.support.callers import SECONDS, create, key, sign
from tests.support.regions import region_message
from tests.support.served import Caller

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
Ask = Callable[[Caller], object]


@dataclass(frozen=True)
class Bad:
    """A request that must be refused: how it is asked, and what is said."""

    ask: Ask
    reason: str
    words: tuple[str, ...]
    """All of them are in the message: the cause, and the way out."""
    code: grpc.StatusCode = INVALID
    who: str = "alice"


# --- names ------------------------------------------------------------------------

SHAPE: Final = "keys/{key} with 1 to 127 letters, digits and dashes"
NOT_NAMES: Final = (
    "",
    "a b",
    "ä",
    "a_b",
    "a.b",
    "../etc",
    "a/versions/b",
    "keys/a",
    "a\n",
    "a\0b",
    "x" * 128,
    "{0.__class__}",
    "'; DROP TABLE state; --",
)


def _get(name: str) -> Ask:
    return lambda caller: key(caller, name)


def _assign(**fields: str) -> Ask:
    given: dict[str, Any] = {
        "principal": "CN=x",
        "role_definition": CRYPTO_USER.name,
        "scope": "/",
    }
    return lambda caller: caller.access.CreateRoleAssignment(
        access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(**(given | fields))
        ),
        timeout=SECONDS,
    )


def _assign_as(id_: str) -> Ask:
    return lambda caller: caller.access.CreateRoleAssignment(
        access.CreateRoleAssignmentRequest(
            role_assignment_id=id_,
            role_assignment=RoleAssignment(
                principal="CN=x", role_definition=CRYPTO_USER.name, scope="/"
            ),
        ),
        timeout=SECONDS,
    )


def _wait(position: str, seconds: int = 1) -> Ask:
    return lambda caller: caller.regions.WaitForPosition(
        regions.WaitForPositionRequest(
            position=position, timeout=Duration(seconds=seconds)
        ),
        timeout=SECONDS,
    )


def _list(**fields: Any) -> Ask:
    return lambda caller: caller.keys.ListKeys(
        keys.ListKeysRequest(**fields), timeout=SECONDS
    )


NAMES: Final[Mapping[str, Bad]] = MappingProxyType(
    {
        "no name": Bad(_get(""), "MALFORMED_NAME", (SHAPE,)),
        "without its collection": Bad(_get("ec"), "MALFORMED_NAME", (SHAPE,)),
        "another collection": Bad(_get("regions/ec"), "MALFORMED_NAME", (SHAPE,)),
        "too deep": Bad(_get("keys/ec/x"), "MALFORMED_NAME", (SHAPE,)),
        "of a version, where a key is wanted": Bad(
            _get(f"keys/ec/versions/{'0' * 32}"), "MALFORMED_NAME", (SHAPE,)
        ),
        "of a version that is none": Bad(
            lambda caller: sign(caller, "keys/ec/versions/1"),
            "MALFORMED_NAME",
            ("malformed key version name", "keys/{key}/versions/{32 hex digits}"),
        ),
        "of a version in capitals": Bad(
            lambda caller: sign(caller, f"keys/ec/versions/{'A' * 32}"),
            "MALFORMED_NAME",
            ("32 hex digits",),
        ),
        "very long": Bad(_get("keys/" + "x" * 5000), "MALFORMED_NAME", (SHAPE,)),
        "assignment": Bad(
            lambda caller: caller.access.DeleteRoleAssignment(
                access.DeleteRoleAssignmentRequest(name="roleAssignments/ x"),
                timeout=SECONDS,
            ),
            "MALFORMED_NAME",
            ("roleAssignments/{role_assignment}",),
            who="admin",
        ),
        "id of an assignment": Bad(
            _assign_as("a b"),
            "MALFORMED_NAME",
            ("roleAssignments/{role_assignment}",),
            who="admin",
        ),
        "role": Bad(
            _assign(role_definition="Administrator"),
            "MALFORMED_NAME",
            ("roleDefinitions/{role_definition}",),
            who="admin",
        ),
        "unknown role": Bad(
            _assign(role_definition="roleDefinitions/x"),
            "INVALID_REQUEST",
            ("unknown roleDefinitions/x", CRYPTO_USER.name),
            who="admin",
        ),
        "scope": Bad(
            _assign(scope="keys"),
            "INVALID_REQUEST",
            ("malformed scope", "expected /, /keys or /keys/{key}"),
            who="admin",
        ),
        "principal": Bad(
            _assign(principal="alice"),
            "INVALID_REQUEST",
            ("malformed principal", "spiffe://", "CN=name"),
            who="admin",
        ),
        "region": Bad(
            lambda caller: caller.regions.RemoveRegion(
                regions.RemoveRegionRequest(name="regions/South"), timeout=SECONDS
            ),
            "MALFORMED_NAME",
            ("regions/{region} with 1 to 24 lower-case letters",),
            who="admin",
        ),
        "position": Bad(
            _wait("1.north"),
            "INVALID_REQUEST",
            ("malformed position", "epoch.region.index"),
        ),
        "minimal position": Bad(
            lambda caller: key(caller, "keys/ec", at="newest"),
            "INVALID_REQUEST",
            ("malformed position", "epoch.region.index"),
        ),
        "page token": Bad(
            _list(page_token="next"),
            "INVALID_REQUEST",
            ("page_token is not one of this listing",),
        ),
        "request id": Bad(
            lambda caller: create(caller, "x", request_id="i" * 65),
            "INVALID_REQUEST",
            ("request_id is at most 64",),
        ),
    }
)


# --- types, sizes and settings ----------------------------------------------------


def _make(kind: str = "EC", *, bits: int = 0, curve: str = "", **fields: Any) -> Ask:
    spec = KeySpec(type=kind, bits=bits, curve=curve)
    return lambda caller: caller.keys.CreateKey(
        keys.CreateKeyRequest(key_id="never", key=Key(spec=spec, **fields)),
        timeout=SECONDS,
    )


def _update(key_: Key, *paths: str) -> Ask:
    return lambda caller: caller.keys.UpdateKey(
        keys.UpdateKeyRequest(key=key_, update_mask=FieldMask(paths=paths)),
        timeout=SECONDS,
    )


RSA_SIZES: Final = "choose 2048, 3072, 4096"
CURVES: Final = "P-256, P-384, P-521, P-256K"

SETTINGS: Final[Mapping[str, Bad]] = MappingProxyType(
    {
        "no type": Bad(
            _make(""), "INVALID_REQUEST", ("unknown key type", "RSA, EC, oct")
        ),
        "unknown type": Bad(
            _make("DSA"), "INVALID_REQUEST", ("unknown key type 'DSA'", "RSA, EC, oct")
        ),
        "type in other letters": Bad(
            _make("rsa"), "INVALID_REQUEST", ("unknown key type 'rsa'",)
        ),
        "weak RSA": Bad(
            _make("RSA", bits=1024), "INVALID_REQUEST", ("1024", RSA_SIZES)
        ),
        "odd RSA": Bad(_make("RSA", bits=2049), "INVALID_REQUEST", ("2049", RSA_SIZES)),
        "huge RSA": Bad(_make("RSA", bits=2**31 - 1), "INVALID_REQUEST", (RSA_SIZES,)),
        "negative RSA": Bad(
            _make("RSA", bits=-2048), "INVALID_REQUEST", ("-2048", RSA_SIZES)
        ),
        "short AES": Bad(
            _make("oct", bits=64), "INVALID_REQUEST", ("64", "choose 128, 192, 256")
        ),
        "unknown curve": Bad(
            _make("EC", curve="P-224"), "INVALID_REQUEST", ("'P-224'", CURVES)
        ),
        "curve of another size": Bad(
            _make("EC", curve="P-256", bits=384), "INVALID_REQUEST", ("P-256 has 256",)
        ),
        "RSA on a curve": Bad(
            _make("RSA", curve="P-256"), "INVALID_REQUEST", ("RSA has no curve",)
        ),
        "unknown operation": Bad(
            _make(operations=["sing"]), "INVALID_REQUEST", ("sing", "sign, verify")
        ),
        "operation of another type": Bad(
            _make(operations=["encrypt"]),
            "INVALID_REQUEST",
            ("cannot encrypt", "it can sign, verify"),
        ),
        "never usable": Bad(
            _make(
                not_before_time=Timestamp(seconds=2_000_000_000),
                expire_time=Timestamp(seconds=1_900_000_000),
            ),
            "INVALID_REQUEST",
            ("expire_time must be later than not_before_time",),
        ),
        "before time began": Bad(
            _make(expire_time=Timestamp(seconds=-1)),
            "INVALID_REQUEST",
            ("between 1970 and the year 9999",),
        ),
        "too many tags": Bad(
            _make(tags={str(n): "" for n in range(16)}),
            "INVALID_REQUEST",
            ("16 tags are more than the 15",),
        ),
        "long tag": Bad(
            _make(tags={"a": "b" * 257}), "INVALID_REQUEST", ("at most 256", "shorten")
        ),
        "more regions than there are": Bad(
            lambda caller: create(caller, "never", durability=Durability(regions=1)),
            "REGION_NOT_READY",
            ("asks for 1 extended regions", "there are 0", "nothing was written"),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        "negative durability": Bad(
            lambda caller: create(caller, "never", durability=Durability(regions=-1)),
            "INVALID_REQUEST",
            ("0 or more, not -1",),
        ),
        "update of what is fixed": Bad(
            _update(Key(name="keys/ec", spec=KeySpec(type="RSA")), "spec"),
            "INVALID_REQUEST",
            ("update_mask names spec", "enabled"),
        ),
        "update of nothing": Bad(
            _update(Key(name="keys/ec")),
            "INVALID_REQUEST",
            ("update_mask names nothing",),
        ),
        "update to no operation": Bad(
            _update(Key(name="keys/ec"), "operations"),
            "INVALID_REQUEST",
            ("operations may not be empty", "--disable"),
        ),
        "update with an old etag": Bad(
            _update(Key(name="keys/ec", etag="old", tags={"a": "b"}), "tags"),
            "ETAG_MISMATCH",
            ("has changed since etag old", "read it again"),
            grpc.StatusCode.ABORTED,
        ),
        "version of no key": Bad(
            lambda caller: caller.keys.UpdateKeyVersion(
                keys.UpdateKeyVersionRequest(
                    key_version=KeyVersion(
                        name=f"keys/ec/versions/{'0' * 32}", enabled=False
                    )
                ),
                timeout=SECONDS,
            ),
            "NOT_FOUND",
            ("keys/ec/versions/0",),
            grpc.StatusCode.NOT_FOUND,
        ),
        "page size": Bad(_list(page_size=-1), "INVALID_REQUEST", ("page_size",)),
        "too long a wait": Bad(
            _wait("1.north.1", 61), "INVALID_REQUEST", ("0 to 60 seconds, not 61",)
        ),
    }
)


# --- sizes of messages ------------------------------------------------------------


def encrypt_many(name: str, algorithm: str, length: int, aad: int = 0) -> Ask:
    """Encrypt so many zeros."""
    request = crypto.EncryptRequest(
        name=name,
        algorithm=algorithm,
        plaintext=bytes(length),
        additional_authenticated_data=bytes(aad),
    )
    return lambda caller: caller.crypto.Encrypt(request, timeout=SECONDS)


def raw(method: str, request: bytes, seconds: float = SECONDS) -> Ask:
    """Send bytes as they are."""

    def ask(caller: Caller) -> object:
        call: Any = caller.channel.unary_unary(method)
        return call(request, timeout=seconds)

    return ask


def add_region(card: Card, fingerprint: str) -> Ask:
    """Add the region of a card."""
    request = regions.AddRegionRequest(
        region=region_message(card), fingerprint=fingerprint
    )
    return lambda caller: caller.regions.AddRegion(request, timeout=SECONDS)


LARGE: Final[Mapping[str, Bad]] = MappingProxyType(
    {
        "plaintext": Bad(
            encrypt_many("keys/aes", "A256GCM", 65_537),
            "TOO_LARGE",
            ("at most 65536 bytes, not 65537", "hsmvault crypto data-key"),
        ),
        "plaintext for RSA": Bad(
            encrypt_many("keys/rsa", "RSA-OAEP-256", 191),
            "TOO_LARGE",
            ("at most 190 bytes, not 191", "hsmvault crypto data-key"),
        ),
        "additional data": Bad(
            encrypt_many("keys/aes", "A256GCM", 1, aad=65_537),
            "TOO_LARGE",
            ("65537 bytes is more than 65536",),
        ),
        "message": Bad(
            encrypt_many("keys/aes", "A256GCM", 300_000),
            "TOO_LARGE",
            ("bytes is more than 262144",),
        ),
        "message beyond all bounds": Bad(
            encrypt_many("keys/aes", "A256GCM", 5_000_000),
            "",
            ("larger than max",),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
        "data key": Bad(
            lambda caller: caller.crypto.GenerateDataKey(
                crypto.GenerateDataKeyRequest(name="keys/aes", bytes=520),
                timeout=SECONDS,
            ),
            "INVALID_REQUEST",
            ("16 to 512 bytes, not 520",),
        ),
        "odd key to wrap": Bad(
            lambda caller: caller.crypto.WrapKey(
                crypto.WrapKeyRequest(
                    name="keys/aes", algorithm="A256KW", plaintext=bytes(17)
                ),
                timeout=SECONDS,
            ),
            "INVALID_REQUEST",
            ("multiples of 8 bytes", "not 17"),
        ),
        "random bytes": Bad(
            lambda caller: caller.crypto.GetRandomBytes(
                crypto.GetRandomBytesRequest(count=129), timeout=SECONDS
            ),
            "INVALID_REQUEST",
            ("1 to 128, not 129",),
        ),
        "no random bytes": Bad(
            lambda caller: caller.crypto.GetRandomBytes(
                crypto.GetRandomBytesRequest(count=0), timeout=SECONDS
            ),
            "INVALID_REQUEST",
            ("1 to 128, not 0",),
        ),
        "no message at all": Bad(
            raw("/hsmvault.v1.CryptoService/Sign", b"\xff\xff\xff"),
            "INVALID_REQUEST",
            ("does not read as hsmvault.v1.SignRequest",),
        ),
    }
)


def tampered(sealed: bytes) -> dict[str, bytes]:
    """A ciphertext, changed in every way that there is."""
    return {
        "first bit": bytes([sealed[0] ^ 1]) + sealed[1:],
        "last bit": sealed[:-1] + bytes([sealed[-1] ^ 1]),
        "cut": sealed[:-1],
        "longer": sealed + b"\0",
        "empty": b"",
        "zeros": bytes(len(sealed)),
    }
