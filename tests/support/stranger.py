"""A foreign PKCS#11 client, in a process of its own: the attacker's tool.

It shares no code with us. Our own library would stop half the attacks before they reach
the token, which proves nothing about the token; this client sends whatever it is told.
`Stranger` is the end that tests hold; run as a program, the file is the client.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
CKR: Final = {
    0x00: "CKR_OK",
    0x05: "CKR_GENERAL_ERROR",
    0x06: "CKR_FUNCTION_FAILED",
    0x07: "CKR_ARGUMENTS_BAD",
    0x10: "CKR_ATTRIBUTE_READ_ONLY",
    0x11: "CKR_ATTRIBUTE_SENSITIVE",
    0x12: "CKR_ATTRIBUTE_TYPE_INVALID",
    0x13: "CKR_ATTRIBUTE_VALUE_INVALID",
    0x1B: "CKR_ACTION_PROHIBITED",
    0x20: "CKR_DATA_INVALID",
    0x60: "CKR_KEY_HANDLE_INVALID",
    0x62: "CKR_KEY_SIZE_RANGE",
    0x63: "CKR_KEY_TYPE_INCONSISTENT",
    0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    0x69: "CKR_KEY_NOT_WRAPPABLE",
    0x6A: "CKR_KEY_UNEXTRACTABLE",
    0x70: "CKR_MECHANISM_INVALID",
    0x71: "CKR_MECHANISM_PARAM_INVALID",
    0x82: "CKR_OBJECT_HANDLE_INVALID",
    0xA0: "CKR_PIN_INCORRECT",
    0xD0: "CKR_TEMPLATE_INCOMPLETE",
    0xD1: "CKR_TEMPLATE_INCONSISTENT",
    0xF0: "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
    0xF1: "CKR_UNWRAPPING_KEY_SIZE_RANGE",
    0xF2: "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
    0x100: "CKR_USER_ALREADY_LOGGED_IN",
    0x101: "CKR_USER_NOT_LOGGED_IN",
    0x110: "CKR_WRAPPED_KEY_INVALID",
    0x112: "CKR_WRAPPED_KEY_LEN_RANGE",
    0x113: "CKR_WRAPPING_KEY_HANDLE_INVALID",
    0x114: "CKR_WRAPPING_KEY_SIZE_RANGE",
    0x115: "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
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
            [sys.executable, "-I", __file__, self._module, self._label],
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


# ------------------------------------------------------------- from here: the client


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class _Mechanism(ctypes.Structure):
    _fields_ = (
        ("mechanism", ctypes.c_ulong),
        ("parameter", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class _Client:
    """Sends what it is told, and reports what the token answers."""

    def __init__(self, module: str, label: str) -> None:
        self._lib = ctypes.CDLL(module)
        self._kept: list[object] = []
        self._must("C_Initialize", None)
        self._slot = self._find_slot(label)
        session = ctypes.c_ulong()
        self._must("C_OpenSession", self._slot, 6, None, None, ctypes.byref(session))
        self._session = session.value

    def _call(self, name: str, *arguments: object) -> int:
        function = getattr(self._lib, name)
        function.restype = ctypes.c_ulong
        return int(
            function(
                *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)
            )
        )

    def _must(self, name: str, *arguments: object) -> None:
        rv = self._call(name, *arguments)
        if rv:
            raise SystemExit(f"{name}: {rv:#x}")

    def _find_slot(self, label: str) -> int:
        slots, count = (ctypes.c_ulong * 64)(), ctypes.c_ulong(64)
        self._must("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        for slot in slots[: count.value]:
            info = ctypes.create_string_buffer(512)
            self._must("C_GetTokenInfo", slot, info)
            if info.raw[:32].rstrip() == label.encode():
                return int(slot)
        raise SystemExit(f"no token {label}")

    def _template(self, pairs: list[list[Any]]) -> Any:
        array = (_Attribute * max(len(pairs), 1))()
        self._kept.append(array)
        for place, (kind, value) in zip(array, pairs, strict=False):
            place.type = kind
            if "template" in value:
                inner = self._template(value["template"])
                place.value = ctypes.addressof(inner)
                place.length = len(value["template"]) * ctypes.sizeof(_Attribute)
                continue
            raw = bytes.fromhex(value["raw"])
            buffer = ctypes.create_string_buffer(raw, max(len(raw), 1))
            self._kept.append(buffer)
            place.value, place.length = ctypes.addressof(buffer), len(raw)
        return array

    def _mechanism(self, number: int, parameter: str = "") -> Any:
        raw = bytes.fromhex(parameter)
        if raw[:4] == b"OAEP":
            # CK_RSA_PKCS_OAEP_PARAMS with SHA-1, the only one that this token has.
            values = (ctypes.c_ulong * 5)(0x220, 1, 1, 0, 0)
            raw = bytes(values)
        elif number in {0x1104, 0x362, 0x363, 0x364}:
            # CK_KEY_DERIVATION_STRING_DATA points to the data.
            data = ctypes.create_string_buffer(raw, len(raw))
            self._kept.append(data)
            raw = bytes((ctypes.c_ulong * 2)(ctypes.addressof(data), len(raw)))
        buffer = ctypes.create_string_buffer(raw, max(len(raw), 1))
        self._kept.append(buffer)
        pointer = ctypes.addressof(buffer) if raw else None
        return ctypes.byref(_Mechanism(number, pointer, len(raw)))

    def _made(self, name: str, *arguments: object) -> dict[str, object]:
        handle = ctypes.c_ulong()
        rv = self._call(name, self._session, *arguments, ctypes.byref(handle))
        return {"rv": rv, "handle": handle.value}

    def _output(self, name: str, *arguments: object) -> dict[str, object]:
        out, length = ctypes.create_string_buffer(16384), ctypes.c_ulong(16384)
        rv = self._call(name, self._session, *arguments, out, ctypes.byref(length))
        return {"rv": rv, "data": out.raw[: 0 if rv else length.value].hex()}

    def login(self, pin: str, who: int) -> dict[str, object]:
        raw = pin.encode()
        return {"rv": self._call("C_Login", self._session, who, raw, len(raw))}

    def logout(self) -> dict[str, object]:
        return {"rv": self._call("C_Logout", self._session)}

    def mechanisms(self) -> dict[str, object]:
        found, count = (ctypes.c_ulong * 512)(), ctypes.c_ulong(512)
        rv = self._call("C_GetMechanismList", self._slot, found, ctypes.byref(count))
        return {"rv": rv, "handles": list(found[: count.value])}

    def find(self, template: list[list[Any]]) -> dict[str, object]:
        array = self._template(template)
        self._must("C_FindObjectsInit", self._session, array, len(template))
        found, count = (ctypes.c_ulong * 500)(), ctypes.c_ulong()
        rv = self._call("C_FindObjects", self._session, found, 500, ctypes.byref(count))
        self._must("C_FindObjectsFinal", self._session)
        return {"rv": rv, "handles": list(found[: count.value])}

    def generate(self, mechanism: int, template: list[list[Any]]) -> dict[str, object]:
        return self._made(
            "C_GenerateKey",
            self._mechanism(mechanism),
            self._template(template),
            len(template),
        )

    def generate_pair(
        self, mechanism: int, public: list[list[Any]], private: list[list[Any]]
    ) -> dict[str, object]:
        halves = ctypes.c_ulong(), ctypes.c_ulong()
        rv = self._call(
            "C_GenerateKeyPair",
            self._session,
            self._mechanism(mechanism),
            self._template(public),
            len(public),
            self._template(private),
            len(private),
            ctypes.byref(halves[0]),
            ctypes.byref(halves[1]),
        )
        return {"rv": rv, "handles": [h.value for h in halves]}

    def create(self, template: list[list[Any]]) -> dict[str, object]:
        return self._made("C_CreateObject", self._template(template), len(template))

    def copy(self, key: int, template: list[list[Any]]) -> dict[str, object]:
        return self._made("C_CopyObject", key, self._template(template), len(template))

    def set(self, key: int, template: list[list[Any]]) -> dict[str, object]:
        array = self._template(template)
        rv = self._call("C_SetAttributeValue", self._session, key, array, len(template))
        return {"rv": rv}

    def get(self, key: int, attribute: int) -> dict[str, object]:
        buffer = ctypes.create_string_buffer(8192)
        place = _Attribute(attribute, ctypes.addressof(buffer), 8192)
        rv = self._call(
            "C_GetAttributeValue", self._session, key, ctypes.byref(place), 1
        )
        return {"rv": rv, "data": buffer.raw[: 0 if rv else place.length].hex()}

    def destroy(self, key: int) -> dict[str, object]:
        return {"rv": self._call("C_DestroyObject", self._session, key)}

    def wrap(
        self, mechanism: int, parameter: str, under: int, key: int
    ) -> dict[str, object]:
        how = self._mechanism(mechanism, parameter)
        return self._output("C_WrapKey", how, under, key)

    def unwrap(
        self,
        mechanism: int,
        parameter: str,
        under: int,
        wrapped: str,
        template: list[list[Any]],
    ) -> dict[str, object]:
        raw = bytes.fromhex(wrapped)
        return self._made(
            "C_UnwrapKey",
            self._mechanism(mechanism, parameter),
            under,
            raw,
            len(raw),
            self._template(template),
            len(template),
        )

    def derive(
        self, mechanism: int, parameter: str, base: int, template: list[list[Any]]
    ) -> dict[str, object]:
        return self._made(
            "C_DeriveKey",
            self._mechanism(mechanism, parameter),
            base,
            self._template(template),
            len(template),
        )

    def use(self, how: str, mechanism: int, key: int, data: str) -> dict[str, object]:
        raw = bytes.fromhex(data)
        rv = self._call(f"C_{how}Init", self._session, self._mechanism(mechanism), key)
        if rv:
            return {"rv": rv}
        return self._output(f"C_{how}", raw, len(raw))

    def digest_key(self, key: int) -> dict[str, object]:
        self._must("C_DigestInit", self._session, self._mechanism(0x250))
        rv = self._call("C_DigestKey", self._session, key)
        return self._output("C_DigestFinal") | ({"rv": rv} if rv else {})


def main() -> None:
    """Do what standard input says, one call per line, until it ends."""
    client = _Client(sys.argv[1], sys.argv[2])
    for line in sys.stdin:
        call, arguments = json.loads(line)
        reply = getattr(client, call)(**arguments)
        reply["rv"] = CKR.get(reply["rv"], hex(reply["rv"]))
        print(json.dumps(reply), flush=True)  # noqa: T201 (that is its protocol)


if __name__ == "__main__":
    main()
