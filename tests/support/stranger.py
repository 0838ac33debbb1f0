"""A foreign PKCS#11 client, in a process of its own: the attacker's tool.

It shares no code with us. Our own library would stop half the attacks before they reach
the token, which proves nothing about the token; this client sends whatever it is told.
`Stranger` is the end that tests hold; `foreign_client.py` is the program behind it.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

ATTRIBUTES: Final = {
    "CLASS": 0x00,
    "TOKEN": 0x01,
    "PRIVATE": 0x02,
    "LABEL": 0x03,
    "VALUE": 0x11,
    "TRUSTED": 0x86,
    "KEY_TYPE": 0x100,
    "ID": 0x102,
    "SENSITIVE": 0x103,
    "ENCRYPT": 0x104,
    "DECRYPT": 0x105,
    "WRAP": 0x106,
    "UNWRAP": 0x107,
    "SIGN": 0x108,
    "VERIFY": 0x10A,
    "DERIVE": 0x10C,
    "MODULUS": 0x120,
    "MODULUS_BITS": 0x121,
    "PUBLIC_EXPONENT": 0x122,
    "PRIVATE_EXPONENT": 0x123,
    "VALUE_LEN": 0x161,
    "EXTRACTABLE": 0x162,
    "LOCAL": 0x163,
    "MODIFIABLE": 0x170,
    "COPYABLE": 0x171,
    "DESTROYABLE": 0x172,
    "EC_PARAMS": 0x180,
    "EC_POINT": 0x181,
    "WRAP_WITH_TRUSTED": 0x210,
    "WRAP_TEMPLATE": 0x40000211,
    "UNWRAP_TEMPLATE": 0x40000212,
    "ALLOWED_MECHANISMS": 0x40000600,
}
MECHANISMS: Final = {
    "RSA_PKCS_KEY_PAIR_GEN": 0x00,
    "RSA_PKCS": 0x01,
    "RSA_X_509": 0x03,
    "RSA_PKCS_OAEP": 0x09,
    "DES3_ECB": 0x132,
    "DES_ECB_ENCRYPT_DATA": 0x1100,
    "SHA256": 0x250,
    "SHA256_HMAC": 0x251,
    "SHA512_HMAC": 0x271,
    "GENERIC_SECRET_KEY_GEN": 0x350,
    "CONCATENATE_BASE_AND_KEY": 0x360,
    "CONCATENATE_BASE_AND_DATA": 0x362,
    "CONCATENATE_DATA_AND_BASE": 0x363,
    "XOR_BASE_AND_DATA": 0x364,
    "EXTRACT_KEY_FROM_KEY": 0x365,
    "SHA256_KEY_DERIVATION": 0x393,
    "EC_KEY_PAIR_GEN": 0x1040,
    "ECDSA": 0x1041,
    "AES_KEY_GEN": 0x1080,
    "AES_ECB": 0x1081,
    "AES_CBC": 0x1082,
    "AES_CBC_PAD": 0x1085,
    "AES_CTR": 0x1086,
    "AES_GCM": 0x1087,
    "AES_CMAC": 0x108A,
    "AES_ECB_ENCRYPT_DATA": 0x1104,
    "AES_CBC_ENCRYPT_DATA": 0x1105,
    "AES_KEY_WRAP": 0x2109,
    "AES_KEY_WRAP_PAD": 0x210A,
}
SECRET_KEY: Final = 4
PUBLIC_KEY: Final = 2
PRIVATE_KEY: Final = 3
RSA: Final = 0
EC: Final = 3
GENERIC_SECRET: Final = 0x10
DES2: Final = 0x14
DES3: Final = 0x15
AES: Final = 0x1F

_CLIENT: Final = Path(__file__).with_name("foreign_client.py")

Value = bool | int | bytes | Sequence[Any] | frozenset[int]
Pairs = Iterable[tuple[str, Value]]
"""A template as the attacker writes it: any order, any attribute twice."""


@dataclass(frozen=True)
class Reply:
    """What the token said."""

    rv: str
    handle: int = 0
    handles: tuple[int, ...] = ()
    data: bytes = b""

    @property
    def ok(self) -> bool:
        return self.rv == "CKR_OK"


class Stranger:
    """One foreign client on one token. A context manager."""

    def __init__(self, module: str, environment: Mapping[str, str], label: str) -> None:
        self._module, self._label = module, label
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_CLIENT), self._module, self._label],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _ask(self, call: str, **arguments: object) -> Reply:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([call, arguments]) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        return Reply(
            reply["rv"],
            reply.get("handle", 0),
            tuple(reply.get("handles", ())),
            bytes.fromhex(reply.get("data", "")),
        )

    def login(self, pin: str, *, officer: bool = False) -> Reply:
        return self._ask("login", pin=pin, who=0 if officer else 1)

    def logout(self) -> Reply:
        return self._ask("logout")

    def mechanisms(self) -> frozenset[int]:
        return frozenset(self._ask("mechanisms").handles)

    def find(self, *pairs: tuple[str, Value]) -> tuple[int, ...]:
        return self._ask("find", template=_wire(pairs)).handles

    def generate(self, mechanism: str, template: Pairs) -> Reply:
        return self._ask(
            "generate", mechanism=MECHANISMS[mechanism], template=_wire(template)
        )

    def generate_pair(self, mechanism: str, public: Pairs, private: Pairs) -> Reply:
        return self._ask(
            "generate_pair",
            mechanism=MECHANISMS[mechanism],
            public=_wire(public),
            private=_wire(private),
        )

    def create(self, template: Pairs) -> Reply:
        return self._ask("create", template=_wire(template))

    def copy(self, key: int, template: Pairs) -> Reply:
        return self._ask("copy", key=key, template=_wire(template))

    def set(self, key: int, *pairs: tuple[str, Value]) -> Reply:
        return self._ask("set", key=key, template=_wire(pairs))

    def get(self, key: int, attribute: str) -> Reply:
        return self._ask("get", key=key, attribute=ATTRIBUTES[attribute])

    def destroy(self, key: int) -> Reply:
        return self._ask("destroy", key=key)

    def wrap(self, mechanism: str, *, under: int, key: int, iv: bytes = b"") -> Reply:
        return self._ask(
            "wrap",
            mechanism=MECHANISMS[mechanism],
            parameter=iv.hex(),
            under=under,
            key=key,
        )

    def unwrap(
        self,
        mechanism: str,
        *,
        under: int,
        wrapped: bytes,
        template: Pairs,
        iv: bytes = b"",
    ) -> Reply:
        return self._ask(
            "unwrap",
            mechanism=MECHANISMS[mechanism],
            parameter=iv.hex(),
            under=under,
            wrapped=wrapped.hex(),
            template=_wire(template),
        )

    def derive(
        self, mechanism: str, base: int, template: Pairs, parameter: bytes = b""
    ) -> Reply:
        return self._ask(
            "derive",
            mechanism=MECHANISMS[mechanism],
            parameter=parameter.hex(),
            base=base,
            template=_wire(template),
        )

    def use(self, how: str, mechanism: str, key: int, data: bytes = b"") -> Reply:
        """`how` is Encrypt, Decrypt or Sign."""
        return self._ask(
            "use", how=how, mechanism=MECHANISMS[mechanism], key=key, data=data.hex()
        )

    def digest_key(self, key: int) -> Reply:
        return self._ask("digest_key", key=key)


def _wire(pairs: Pairs) -> list[list[object]]:
    return [[ATTRIBUTES[name], _value(value)] for name, value in pairs]


def _value(value: object) -> object:
    if isinstance(value, bool):
        return {"raw": bytes([value]).hex()}
    if isinstance(value, int):
        return {"raw": bytes(ctypes.c_ulong(value)).hex()}
    if isinstance(value, bytes):
        return {"raw": value.hex()}
    if isinstance(value, frozenset):
        return {"raw": b"".join(bytes(ctypes.c_ulong(m)) for m in value).hex()}
    assert isinstance(value, Iterable)
    return {"template": _wire(value)}
