"""No request makes a partition sick: whatever reaches the token, the process lives on.

By a Crypto User. SoftHSM answers CKR_GENERAL_ERROR to much of what is damaged, and
whoever took that for a broken device would let any caller end a region.
"""

from collections.abc import Iterator
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings

from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import crypto_service_pb2 as crypto
from tests.support.callers import SECONDS, Callers, create, populated_vault, sign
from tests.support.fuzz import messages

pytestmark = pytest.mark.softhsm

RPCS: Final = crypto.DESCRIPTOR.services_by_name["CryptoService"].methods_by_name
BUGS: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("tokens")) as callers:
        alice = callers()
        create(alice, "ec")
        create(alice, "rsa", "RSA", bits=2048)
        create(alice, "aes", "oct", bits=256)
        yield callers


def _processes(call: Callers) -> list[int]:
    return [call.vault.north.partition(name)["pid"] for name in PARTITIONS]


@pytest.mark.parametrize("rpc", RPCS)
def test_whatever_reaches_the_token_leaves_its_process_alive(
    call: Callers, rpc: str
) -> None:
    method = RPCS[rpc]
    before = _processes(call)
    ask: Any = call().channel.unary_unary(
        f"/hsmvault.v1.CryptoService/{rpc}", None, None
    )

    @settings(
        max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(message=messages(method.input_type))
    def send(message: Message) -> None:
        try:
            ask(message.SerializeToString(), timeout=SECONDS)
        except grpc.RpcError as error:
            assert error.code() not in BUGS  # a refusal is right, too

    send()

    assert _processes(call) == before
    for partition in PARTITIONS:
        assert sign(call(partition=partition), "keys/ec").signature


def test_cr_12_a_thousand_tampered_ciphertexts_mark_no_partition_down(
    call: Callers,
) -> None:
    alice = call()
    before = _processes(call)
    kinds = (
        ("keys/rsa", "RSA-OAEP", bytes(range(256))),
        ("keys/rsa", "RSA-OAEP-256", b"\x01" * 256),
        ("keys/aes", "A256GCM", b"\x02" * 40),
    )
    futures = [
        alice.crypto.Decrypt.future(
            crypto.DecryptRequest(
                name=name,
                algorithm=algorithm,
                ciphertext=bytes([n % 128]) + ciphertext[1:],
                iv=b"" if name == "keys/rsa" else bytes(12),
                tag=b"" if name == "keys/rsa" else bytes(16),
            ),
            timeout=SECONDS,
        )
        for n in range(334)
        for name, algorithm, ciphertext in kinds
    ]

    codes = {future.code() for future in futures}

    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    assert _processes(call) == before
    for partition in PARTITIONS:
        assert sign(call(partition=partition), "keys/ec").signature
