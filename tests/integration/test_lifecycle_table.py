"""Every RPC that names a key answers as the published table of the lifecycle says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from hsmvault.model.lifecycle import ANSWERS, OK, Standing
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key, KeySpec, KeyVersion
from tests.support.clock import Clock
from tests.support.served import Caller, Served, make_key, refusal, served

NOW: Final = 1_800_000_000
DIGEST: Final = bytes(32)
EC_RPCS: Final = frozenset({"Sign", "Verify", "GetPublicKey"})


@dataclass(frozen=True, slots=True)
class Made:
    """A key as it was made, and what it had done while it could."""

    key: Key
    encrypted: crypto.EncryptResponse | None
    wrapped: bytes
    signature: bytes


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("table"), clock=Clock(NOW * 1000)) as one:
        make_key(one, "target", "oct", bits=256)
        yield one


def _make(one: Served, key_id: str, kind: str) -> Made:
    key = make_key(one, key_id, kind)
    if kind == "EC":
        done = one.uma.crypto.Sign(
            crypto.SignRequest(name=key.name, algorithm="ES256", digest=DIGEST)
        )
        return Made(key, None, b"", done.signature)
    encrypted = one.uma.crypto.Encrypt(
        crypto.EncryptRequest(name=key.name, algorithm="A256GCM", plaintext=b"x")
    )
    wrapped = one.uma.crypto.WrapKey(
        crypto.WrapKeyRequest(name=key.name, algorithm="A256KW", plaintext=DIGEST)
    )
    return Made(key, encrypted, wrapped.wrapped, b"")


def _update(one: Served, made: Made, **fields: Any) -> None:
    one.uma.keys.UpdateKey(keys.UpdateKeyRequest(key=Key(name=made.key.name, **fields)))


def _delete(one: Served, made: Made) -> None:
    one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name=made.key.name))


def _disable_version(one: Served, made: Made) -> None:
    version = KeyVersion(name=made.key.current_version, enabled=False)
    one.uma.keys.UpdateKeyVersion(keys.UpdateKeyVersionRequest(key_version=version))


def _purge(one: Served, made: Made) -> None:
    _delete(one, made)
    one.olga.keys.PurgeKey(keys.PurgeKeyRequest(name=made.key.name))


BRING: Final[Mapping[Standing, Callable[[Served, Made], None]]] = {
    # The test asks for another name.
    Standing.ABSENT: lambda _one, _made: None,
    Standing.ACTIVE: lambda _one, _made: None,
    Standing.DISABLED: lambda one, made: _update(one, made, enabled=False),
    Standing.VERSION_DISABLED: _disable_version,
    Standing.EARLY: lambda one, made: _update(
        one, made, not_before_time=Timestamp(seconds=NOW + 1)
    ),
    Standing.EXPIRED: lambda one, made: _update(
        one, made, expire_time=Timestamp(seconds=NOW)
    ),
    Standing.DELETED: _delete,
    Standing.PURGED: _purge,
}
"""What brings a key that was just made to stand so."""


def _opens(made: Made) -> dict[str, Any]:
    """What decrypts what the key encrypted."""
    sealed = made.encrypted
    assert sealed is not None
    return {
        "name": made.key.name,
        "algorithm": "A256GCM",
        "ciphertext": sealed.ciphertext,
        "iv": sealed.iv,
        "tag": sealed.tag,
    }


ASK: Final[Mapping[str, Callable[[Caller, Made], Any]]] = {
    "CreateKey": lambda c, m: c.keys.CreateKey(
        keys.CreateKeyRequest(
            key_id=m.key.name.removeprefix("keys/"),
            key=Key(spec=KeySpec(type="oct", bits=256)),
        )
    ),
    "ImportKey": lambda c, m: c.keys.ImportKey(
        keys.ImportKeyRequest(
            key_id=m.key.name.removeprefix("keys/"),
            jwk=b'{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAA"}',
        )
    ),
    "BeginImport": lambda c, m: c.keys.BeginImport(
        keys.BeginImportRequest(key_id=m.key.name.removeprefix("keys/"))
    ),
    "GetKey": lambda c, m: c.keys.GetKey(keys.GetKeyRequest(name=m.key.name)),
    "BackupKey": lambda c, m: c.keys.BackupKey(keys.BackupKeyRequest(name=m.key.name)),
    "ListKeyVersions": lambda c, m: c.keys.ListKeyVersions(
        keys.ListKeyVersionsRequest(parent=m.key.name)
    ),
    "GetPublicKey": lambda c, m: c.keys.GetPublicKey(
        keys.GetPublicKeyRequest(name=m.key.name)
    ),
    "UpdateKey": lambda c, m: c.keys.UpdateKey(
        keys.UpdateKeyRequest(key=Key(name=m.key.name, tags={"a": "b"}))
    ),
    "UpdateKeyVersion": lambda c, m: c.keys.UpdateKeyVersion(
        keys.UpdateKeyVersionRequest(
            key_version=KeyVersion(
                name=f"{m.key.name}/versions/{m.key.current_version[-32:]}",
                enabled=False,
            )
        )
    ),
    "RotateKey": lambda c, m: c.keys.RotateKey(keys.RotateKeyRequest(name=m.key.name)),
    "ActivateKeyVersion": lambda c, m: c.keys.ActivateKeyVersion(
        keys.ActivateKeyVersionRequest(
            name=f"{m.key.name}/versions/{m.key.current_version[-32:]}"
        )
    ),
    "GetRotationPolicy": lambda c, m: c.keys.GetRotationPolicy(
        keys.GetRotationPolicyRequest(name=f"{m.key.name}/rotationPolicy")
    ),
    "UpdateRotationPolicy": lambda c, m: c.keys.UpdateRotationPolicy(
        keys.UpdateRotationPolicyRequest(
            rotation_policy=keys.RotationPolicy(name=f"{m.key.name}/rotationPolicy")
        )
    ),
    "GetDeletedKey": lambda c, m: c.keys.GetDeletedKey(
        keys.GetDeletedKeyRequest(name=m.key.name)
    ),
    "DeleteKey": lambda c, m: c.keys.DeleteKey(keys.DeleteKeyRequest(name=m.key.name)),
    "RecoverKey": lambda c, m: c.keys.RecoverKey(
        keys.RecoverKeyRequest(name=m.key.name)
    ),
    "PurgeKey": lambda c, m: c.keys.PurgeKey(keys.PurgeKeyRequest(name=m.key.name)),
    "Sign": lambda c, m: c.crypto.Sign(
        crypto.SignRequest(name=m.key.name, algorithm="ES256", digest=DIGEST)
    ),
    "Verify": lambda c, m: c.crypto.Verify(
        crypto.VerifyRequest(
            name=m.key.name, algorithm="ES256", digest=DIGEST, signature=m.signature
        )
    ),
    "Encrypt": lambda c, m: c.crypto.Encrypt(
        crypto.EncryptRequest(name=m.key.name, algorithm="A256GCM", plaintext=b"x")
    ),
    "Decrypt": lambda c, m: c.crypto.Decrypt(crypto.DecryptRequest(**_opens(m))),
    "ReEncrypt": lambda c, m: c.crypto.ReEncrypt(
        crypto.ReEncryptRequest(
            **_opens(m), target_name="keys/target", target_algorithm="A256GCM"
        )
    ),
    "WrapKey": lambda c, m: c.crypto.WrapKey(
        crypto.WrapKeyRequest(name=m.key.name, algorithm="A256KW", plaintext=DIGEST)
    ),
    "UnwrapKey": lambda c, m: c.crypto.UnwrapKey(
        crypto.UnwrapKeyRequest(name=m.key.name, algorithm="A256KW", wrapped=m.wrapped)
    ),
    "GenerateDataKey": lambda c, m: c.crypto.GenerateDataKey(
        crypto.GenerateDataKeyRequest(name=m.key.name)
    ),
}
"""How a caller asks each RPC about a key."""
OFFICERS: Final = frozenset({"RecoverKey", "PurgeKey", "GetDeletedKey"})


def test_every_row_of_the_table_is_walked() -> None:
    assert set(ASK) == set(ANSWERS)


@pytest.mark.parametrize("standing", Standing, ids=lambda s: s.name)
@pytest.mark.parametrize("rpc", ANSWERS)
def test_an_rpc_answers_as_the_table_says(
    north: Served, rpc: str, standing: Standing
) -> None:
    key_id = f"{rpc}-{standing.name}".replace("_", "-")
    made = _make(north, key_id, "EC" if rpc in EC_RPCS else "oct")
    BRING[standing](north, made)
    if standing is Standing.ABSENT:
        made.key.name += "-none"
    caller = north.olga if rpc in OFFICERS else north.uma

    ask = partial(ASK[rpc], caller, made)

    expected = ANSWERS[rpc][standing]
    if expected == OK:
        ask()
    else:
        assert refusal(ask)[1] == expected


def test_what_stands_before_its_purge_stands_so_again_after_a_recovery(
    north: Served,
) -> None:
    made = _make(north, "and-back", "EC")
    _update(north, made, enabled=False, expire_time=Timestamp(seconds=NOW))
    before = north.uma.keys.GetKey(keys.GetKeyRequest(name=made.key.name))
    _delete(north, made)

    back = north.olga.keys.RecoverKey(keys.RecoverKeyRequest(name=made.key.name))

    for field in ("etag", "position", "update_time"):
        before.ClearField(field)
        back.ClearField(field)
    assert back == before
    told = refusal(
        lambda: north.uma.crypto.Verify(
            crypto.VerifyRequest(
                name=made.key.name,
                algorithm="ES256",
                digest=DIGEST,
                signature=made.signature,
            )
        )
    )
    assert told[0] is grpc.StatusCode.FAILED_PRECONDITION
