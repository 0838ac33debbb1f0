"""The floor server and the no-op server: our transport around nothing of ours.

Run as `python -m scripts.benchmark.floor MODE`, configured by one JSON line on
standard input; prints its port. Ends when standard input does.
"""

import json
import queue
import sys
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from hsmvault.v1 import crypto_service_pb2 as messages
from scripts.benchmark.bare import BareKeys, bare_keys

NAME = "keys/benchmark/versions/" + "0" * 32


class Floor:
    """Answers Sign and Encrypt with the bare PKCS#11 call and nothing else."""

    def __init__(self, keys: list[BareKeys]) -> None:
        """Serve with these sessions, leased one call at a time."""
        self._keys: queue.LifoQueue[BareKeys] = queue.LifoQueue()
        for session in keys:
            self._keys.put(session)

    def _with_keys(self, operation: Callable[[BareKeys], bytes]) -> bytes:
        keys = self._keys.get()
        try:
            return operation(keys)
        finally:
            self._keys.put(keys)

    def sign(
        self, request: messages.SignRequest, _: grpc.ServicerContext
    ) -> messages.SignResponse:
        """Sign by the algorithm asked for."""
        operation = (
            BareKeys.sign_p256 if request.algorithm == "ES256" else BareKeys.sign_rsa
        )
        return messages.SignResponse(
            name=NAME,
            algorithm=request.algorithm,
            signature=self._with_keys(operation),
        )

    def encrypt(
        self, request: messages.EncryptRequest, _: grpc.ServicerContext
    ) -> messages.EncryptResponse:
        """Encrypt 64 bytes."""
        return messages.EncryptResponse(
            name=NAME,
            algorithm=request.algorithm,
            ciphertext=self._with_keys(BareKeys.encrypt),
        )


class NoOp:
    """Answers Sign and Encrypt with constants."""

    def sign(
        self, request: messages.SignRequest, _: grpc.ServicerContext
    ) -> messages.SignResponse:
        """Answer 64 zero bytes."""
        return messages.SignResponse(
            name=NAME, algorithm=request.algorithm, signature=bytes(64)
        )

    def encrypt(
        self, request: messages.EncryptRequest, _: grpc.ServicerContext
    ) -> messages.EncryptResponse:
        """Answer 80 zero bytes."""
        return messages.EncryptResponse(
            name=NAME, algorithm=request.algorithm, ciphertext=bytes(80)
        )


def main() -> None:
    """Serve until standard input ends."""
    config = json.loads(sys.stdin.readline())
    if sys.argv[1] == "floor":
        keys = bare_keys(config["module"], config["label"], config["pin"], 4)
        servicer: Floor | NoOp = Floor(keys)
    else:
        servicer = NoOp()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Sign": grpc.unary_unary_rpc_method_handler(
            servicer.sign,
            request_deserializer=messages.SignRequest.FromString,
            response_serializer=messages.SignResponse.SerializeToString,
        ),
        "Encrypt": grpc.unary_unary_rpc_method_handler(
            servicer.encrypt,
            request_deserializer=messages.EncryptRequest.FromString,
            response_serializer=messages.EncryptResponse.SerializeToString,
        ),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("hsmvault.v1.CryptoService", handlers),)
    )
    credentials = grpc.ssl_server_credentials(
        [(Path(config["key"]).read_bytes(), Path(config["certificate"]).read_bytes())],
        root_certificates=Path(config["ca"]).read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
