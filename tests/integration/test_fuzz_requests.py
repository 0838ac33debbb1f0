"""Whatever is asked, by whomever: an answer or a refusal, never a bug's.

By nobody in particular, a user, and an administrator, each with a valid certificate.
INTERNAL and UNKNOWN are what a bug answers; after all of it the region serves on.
"""

from collections.abc import Iterator
from typing import Final

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsmvault.api.services import SERVICES
from hsmvault.v1.key_service_pb2 import DeleteKeyRequest
from tests.support.fuzz import messages
from tests.support.roles import define
from tests.support.served import Served, make_key, served, signed

METHODS: Final = {
    f"/{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
}
CALLERS: Final = ("nobody", "uma", "olga", "ada")
SECONDS: Final = 20.0
INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
BUGS: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
STEADY: Final = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("fuzz")) as one:
        make_key(one, "ec")
        make_key(one, "rsa", "RSA", bits=2048)
        make_key(one, "aes", "oct", bits=256)
        make_key(one, "mac", "oct", bits=512, operations=["sign", "verify"])
        make_key(one, "gone")
        define(one.ada, "Custom", "custom")
        one.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/gone"))
        yield one

        # After all of it, the region serves on.
        make_key(one, "after-all")
        assert signed(one.uma, "keys/after-all").signature


def _code(one: Served, who: str, method: MethodDescriptor, raw: bytes) -> object:
    """How a call ended; of a stream, how its beginning did."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel = getattr(one, who).channel
    try:
        if method.server_streaming:
            stream = channel.unary_stream(path, None, None)(raw, timeout=0.3)
            next(stream, None)
            stream.cancel()
        else:
            channel.unary_unary(path, None, None)(raw, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("path", METHODS)
def test_rs_06_any_message_is_answered_or_refused(
    north: Served, path: str, who: str
) -> None:
    method = METHODS[path]

    @STEADY
    @given(message=messages(method.input_type))
    def ask(message: object) -> None:
        raw = message.SerializeToString()  # type: ignore[attr-defined]

        assert _code(north, who, method, raw) not in BUGS

    ask()


def test_rs_01_a_field_that_is_not_known_is_not_overlooked(north: Served) -> None:
    """It might be the one that says to change nothing."""
    known = DeleteKeyRequest(name="keys/ec").SerializeToString()
    nested = b"\x12\x05" + b"\xfa\x3f\x02ab"  # CreateKeyRequest.key, its field 1023
    delete = METHODS["/hsmvault.v1.KeyService/DeleteKey"]
    create = METHODS["/hsmvault.v1.KeyService/CreateKey"]
    before = north.store.head()

    for field in (b"\xa8\x3f\x01", b"\xaa\x3f\x02ab"):
        assert _code(north, "uma", delete, known + field) is INVALID
    assert _code(north, "uma", create, b"\x0a\x03new" + nested) is INVALID

    assert north.store.head() == before


@pytest.mark.parametrize("path", METHODS)
def test_rs_01_any_bytes_are_answered_or_refused(north: Served, path: str) -> None:
    method = METHODS[path]

    @STEADY
    @given(raw=st.binary(max_size=200))
    def ask(raw: bytes) -> None:
        assert _code(north, "uma", method, raw) not in BUGS

    ask()
    # A group in a group, and so on: deeper than protobuf goes.
    for raw in (b"\x0b" * 10_000, b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 11):
        assert _code(north, "ada", method, raw) not in BUGS
