"""The stranger's program: plain ctypes on the module, one call per line of input.

It imports nothing of ours, and runs isolated (`python -I`). It refuses nothing: what a
call is good for is for the token to judge.
"""

import ctypes
import json
import sys
from typing import Any, Final

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
