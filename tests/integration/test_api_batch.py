"""Many uses of keys in one call: each with an outcome of its own, as if alone."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from hsmvault.api.batch import ITEMS_MAX
from hsmvault.api.permissions import RULES
from hsmvault.model.access import CRYPTO_USER
from hsmvault.model.algorithms import Algorithm
from hsmvault.model.errors import NoFreeSession, PartitionLost, VaultError
from hsmvault.model.material import Material
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.v1.key_service_pb2 import DeleteKeyRequest
from tests.support.served import Caller, Served, grant, make_key, refusal, served

INVALID = grpc.StatusCode.INVALID_ARGUMENT
SECRET = b"planted canary: pay 5"
ALL = {
    "sign": "Sign",
    "verify": "Verify",
    "encrypt": "Encrypt",
    "decrypt": "Decrypt",
    "wrap_key": "WrapKey",
    "unwrap_key": "UnwrapKey",
}
"""Each kind of item, and the RPC that it stands for."""


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("north")) as one:
        make_key(one, "ec")
        make_key(one, "aes", "oct", bits=256)
        make_key(one, "gone")
        one.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/gone"))
        yield one


def _sign(name: str = "keys/ec", reference: str = "", size: int = 32) -> pb.BatchItem:
    request = pb.SignRequest(name=name, algorithm="ES256", digest=bytes(size))
    return pb.BatchItem(reference=reference, sign=request)


def _batch(who: Caller, *items: pb.BatchItem) -> pb.BatchResponse:
    return who.crypto.Batch(pb.BatchRequest(items=items))


def _reason(result: pb.BatchResult) -> str:
    info = ErrorInfo()
    assert any(detail.Unpack(info) for detail in result.error.details)
    return info.reason


def _one_of_each(north: Served) -> dict[str, Any]:
    """Each kind of item with input that works."""
    crypto = north.uma.crypto
    signed = crypto.Sign(_sign().sign)
    sealed = crypto.Encrypt(
        pb.EncryptRequest(name="keys/aes", algorithm="A256GCM", plaintext=SECRET)
    )
    wrapped = crypto.WrapKey(
        pb.WrapKeyRequest(name="keys/aes", algorithm="A256KW", plaintext=bytes(32))
    )
    return {
        "sign": _sign().sign,
        "verify": pb.VerifyRequest(
            name=signed.name,
            algorithm="ES256",
            digest=bytes(32),
            signature=signed.signature,
        ),
        "encrypt": pb.EncryptRequest(
            name="keys/aes", algorithm="A256GCM", plaintext=SECRET
        ),
        "decrypt": pb.DecryptRequest(
            name=sealed.name,
            algorithm="A256GCM",
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
        ),
        "wrap_key": pb.WrapKeyRequest(
            name="keys/aes", algorithm="A256KW", plaintext=bytes(16)
        ),
        "unwrap_key": pb.UnwrapKeyRequest(
            name=wrapped.name, algorithm="A256KW", wrapped=wrapped.wrapped
        ),
    }


def test_every_kind_of_item_is_an_rpc_with_a_permission() -> None:
    fields = pb.BatchItem.DESCRIPTOR.oneofs[0].fields
    kinds = {f.name: f.message_type for f in fields if f.message_type is not None}
    outcomes = {f.name for f in pb.BatchResult.DESCRIPTOR.oneofs[0].fields}

    assert kinds.keys() == ALL.keys() == outcomes - {"error"}
    for kind, rpc in ALL.items():
        assert kinds[kind].name == f"{rpc}Request"
        assert f"/hsmvault.v1.CryptoService/{rpc}" in RULES


def test_mixed_items_answer_in_their_order_as_the_rpcs_do(north: Served) -> None:
    requests = _one_of_each(north)
    order = [*requests, *reversed(requests)]
    items = [
        pb.BatchItem(reference=f"{n} {kind}", **{kind: requests[kind]})
        for n, kind in enumerate(order)
    ]

    answer = _batch(north.uma, *items)

    assert [r.reference for r in answer.results] == [i.reference for i in items]
    assert [r.WhichOneof("outcome") for r in answer.results] == order
    by_kind = {r.WhichOneof("outcome"): r for r in answer.results}
    assert by_kind["verify"].verify.valid
    assert by_kind["decrypt"].decrypt.plaintext == SECRET
    assert by_kind["unwrap_key"].unwrap_key.plaintext == bytes(32)
    check = pb.VerifyRequest(
        name=by_kind["sign"].sign.name,
        algorithm="ES256",
        digest=bytes(32),
        signature=by_kind["sign"].sign.signature,
    )
    assert north.uma.crypto.Verify(check).valid
    assert (answer.served.region, answer.served.partition) == ("north", "p0")
    assert not by_kind["sign"].sign.HasField("served")


def test_rs_04_what_fails_fails_alone_and_as_it_would_by_itself(north: Served) -> None:
    bad = [
        _sign("keys/missing"),
        _sign("keys/gone"),
        _sign("nonsense"),
        _sign("keys/aes"),
        _sign(size=31),
        pb.BatchItem(),
        pb.BatchItem(decrypt=pb.DecryptRequest(name="keys/aes", algorithm="A256GCM")),
        pb.BatchItem(reference="r" * 257, sign=_sign().sign),
    ]
    items = [item for failing in bad for item in (failing, _sign(reference="good"))]

    results = _batch(north.uma, *items).results

    assert [_reason(r) for r in results[::2]] == [
        "NOT_FOUND",
        "KEY_NOT_ENABLED",
        "MALFORMED_NAME",
        "ALGORITHM_UNSUPPORTED",
        "DIGEST_INVALID",
        "INVALID_REQUEST",
        "CIPHERTEXT_INVALID",
        "TOO_LARGE",
    ]
    assert all(r.sign.signature and r.reference == "good" for r in results[1::2])
    code, reason, message = refusal(lambda: north.uma.crypto.Sign(bad[0].sign))
    assert (results[0].error.code, results[0].error.message) == (code.value[0], message)
    assert reason == _reason(results[0])


@pytest.mark.parametrize("kind", ALL)
def test_each_item_needs_the_permission_of_its_rpc(north: Served, kind: str) -> None:
    """Who may nothing is refused item by item, in the words of the RPC itself."""
    request = _one_of_each(north)[kind]

    (result,) = _batch(north.tom, pb.BatchItem(**{kind: request})).results

    alone = refusal(lambda: getattr(north.tom.crypto, ALL[kind])(request))
    assert alone[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (result.error.code, result.error.message) == (alone[0].value[0], alone[2])


def test_rs_04_a_permission_at_one_key_is_none_at_another(
    north: Served,
) -> None:
    make_key(north, "own")
    grant(north, "kim", CRYPTO_USER, "/keys/own")
    names = ["keys/own", "keys/ec", "keys/OWN", "keys/missing", "keys/own", "keys/ec"]

    results = _batch(north.kim, *map(_sign, names)).results

    assert [r.WhichOneof("outcome") for r in results] == [
        *("sign", "error", "sign", "error", "sign", "error")
    ]
    denied = {_reason(r) for r in results if r.HasField("error")}
    assert denied == {"ACCESS_DENIED"}


def test_permission_to_sign_is_none_to_verify(north: Served) -> None:
    """What was decided for one operation is not taken for another."""
    make_key(north, "sign-only", operations=["sign"])
    verify = pb.VerifyRequest(
        name="keys/sign-only", algorithm="ES256", digest=bytes(32), signature=bytes(64)
    )

    signed, verified = _batch(
        north.uma, _sign("keys/sign-only"), pb.BatchItem(verify=verify)
    ).results

    assert signed.sign.signature
    assert _reason(verified) == "OPERATION_NOT_PERMITTED"


def test_rs_04_a_batch_has_one_to_a_thousand_items(north: Served) -> None:
    many = [_sign(reference=str(n)) for n in range(ITEMS_MAX)]

    results = _batch(north.uma, *many).results

    assert [r.reference for r in results] == [str(n) for n in range(1000)]
    assert len({r.sign.signature for r in results}) == 1000
    too_many = refusal(lambda: _batch(north.uma, *many, _sign()))
    assert too_many[:2] == (INVALID, "TOO_LARGE")
    assert refusal(lambda: _batch(north.uma))[:2] == (INVALID, "INVALID_REQUEST")


def test_rs_04_a_reference_that_stands_twice_answers_twice(north: Served) -> None:
    """References are the caller's: order tells the results apart."""
    twice = [_sign(reference="r"), _sign("keys/missing", reference="r")]

    first, second = _batch(north.uma, *twice).results

    assert (first.reference, second.reference) == ("r", "r")
    assert first.WhichOneof("outcome") == "sign"
    assert _reason(second) == "NOT_FOUND"


class Failing:
    """Fails at the third signature, once."""

    def __init__(self, north: Served, error: VaultError) -> None:
        self._sign = north.hsm.sign
        self._error = error
        self._count = 0

    def __call__(
        self, material: Material, algorithm: Algorithm, digest: bytes
    ) -> bytes:
        self._count += 1
        if self._count == 3:
            raise self._error
        return self._sign(material, algorithm, digest)


def test_a_lost_partition_fails_the_call_so_that_it_is_repeated_elsewhere(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(north.hsm, "sign", Failing(north, PartitionLost("it is gone")))

    told = refusal(lambda: _batch(north.uma, *[_sign()] * 5))

    assert told[:2] == (grpc.StatusCode.UNAVAILABLE, "PARTITION_LOST")


def test_a_busy_partition_fails_one_item(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(north.hsm, "sign", Failing(north, NoFreeSession("busy")))

    results = _batch(north.uma, *[_sign()] * 5).results

    assert [r.WhichOneof("outcome") for r in results] == [
        *("sign", "sign", "error", "sign", "sign")
    ]
    assert _reason(results[2]) == "NO_FREE_SESSION"
