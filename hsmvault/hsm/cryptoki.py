"""Our own binding to a PKCS#11 module: only the calls that a ceremony needs.

python-pkcs11 logs in once per session, cannot copy an object across a change of login,
and cannot read a template within a template. Ceremonies do all three. The binding goes
through C_GetFunctionList, as the standard has it.
"""

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.attributes import NESTED, CkAttribute, Packed, Template, unpack
from hsmvault.hsm.structures import FunctionList, InitializeArgs, how_to
from hsmvault.model.errors import ConfigurationError

CKF_OS_LOCKING_OK: Final = 0x2
CKF_RW_SESSION: Final = 0x2
CKF_SERIAL_SESSION: Final = 0x4
CKF_TOKEN_INITIALIZED: Final = 0x400
CKF_USER_PIN_INITIALIZED: Final = 0x8
_UNAVAILABLE: Final = 2 ** (8 * ctypes.sizeof(ctypes.c_ulong)) - 1
_ALREADY_INITIALIZED: Final = 0x191
_TOKEN_INFO_BYTES: Final = 512
# CK_TOKEN_INFO has 208 bytes on 64-bit Linux; a larger buffer hurts nobody.
_OUTPUT_BYTES: Final = 16384
# Nothing that a ceremony receives is longer than an RSA-4096 private key in PKCS#8.


class Who(IntEnum):
    """CK_USER_TYPE."""

    OFFICER = 0
    USER = 1


_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x05: "CKR_GENERAL_ERROR",
        0x10: "CKR_ATTRIBUTE_READ_ONLY",
        0x1B: "CKR_ACTION_PROHIBITED",
        0x30: "CKR_DEVICE_ERROR",
        0x70: "CKR_MECHANISM_INVALID",
        0xA0: "CKR_PIN_INCORRECT",
        0xA1: "CKR_PIN_INVALID",
        0xA2: "CKR_PIN_LEN_RANGE",
        0xA3: "CKR_PIN_EXPIRED",
        0xA4: "CKR_PIN_LOCKED",
        0xD0: "CKR_TEMPLATE_INCOMPLETE",
        0xD1: "CKR_TEMPLATE_INCONSISTENT",
        0xE0: "CKR_TOKEN_NOT_PRESENT",
        0x102: "CKR_USER_PIN_NOT_INITIALIZED",
        0x110: "CKR_WRAPPED_KEY_INVALID",
    }
)

PIN_REFUSALS: Final = frozenset({0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102})
"""Answers to C_Login after which the same PIN must not be tried again."""


class Refused(Exception):
    """A Cryptoki function answered something other than CKR_OK."""

    def __init__(self, function: str, rv: int) -> None:
        """Remember which function said no, and how."""
        self.function: Final = function
        self.rv: Final = rv
        super().__init__(f"{function}: {_NAMES.get(rv, hex(rv))}")


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What a token says of itself without any PIN."""

    slot: int
    label: str
    serial: str
    initialized: bool
    has_user_pin: bool


class Cryptoki:
    """One PKCS#11 module in this process."""

    def __init__(self, path: str) -> None:
        """Load the module, or raise ConfigurationError. It is not initialised yet."""
        try:
            library = ctypes.CDLL(path)
            get_list = library.C_GetFunctionList
        except (OSError, AttributeError) as error:
            message = (
                f"{path} does not load as a PKCS#11 module ({error}); "
                "install it, or correct `module` in region.toml"
            )
            raise ConfigurationError(message) from error
        listed = ctypes.POINTER(FunctionList)()
        get_list.restype = ctypes.c_ulong
        rv = get_list(ctypes.byref(listed))
        if rv:
            raise Refused("C_GetFunctionList", rv)
        self._list: Final = listed.contents
        self._library: Final = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call C_`name`, or raise Refused. Integers are passed as CK_ULONG."""
        function = ctypes.CFUNCTYPE(ctypes.c_ulong)(getattr(self._list, name))
        rv = function(
            *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)
        )
        if rv:
            raise Refused(f"C_{name}", rv)

    def initialize(self) -> None:
        """Initialise the module, promising it threads. Twice is harmless."""
        args = InitializeArgs(flags=CKF_OS_LOCKING_OK)
        try:
            self.call("Initialize", ctypes.byref(args))
        except Refused as error:
            if error.rv != _ALREADY_INITIALIZED:
                raise

    def restart(self) -> None:
        """Finalise and initialise anew; every session and handle is void after it."""
        self.call("Finalize", None)
        self.initialize()

    def tokens(self) -> list[TokenInfo]:
        """Return what is in the slots, initialised or not."""
        count = ctypes.c_ulong()
        self.call("GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
        slots = (ctypes.c_ulong * count.value)()
        self.call("GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count))
        return [self._token(slot) for slot in slots[: count.value]]

    def _token(self, slot: int) -> TokenInfo:
        raw = ctypes.create_string_buffer(_TOKEN_INFO_BYTES)
        self.call("GetTokenInfo", slot, raw)
        flags = int.from_bytes(
            raw.raw[96 : 96 + ctypes.sizeof(ctypes.c_ulong)], "little"
        )
        return TokenInfo(
            slot,
            label=raw.raw[:32].decode("utf-8", "replace").rstrip(" \0"),
            serial=raw.raw[80:96].decode("utf-8", "replace").rstrip(" \0"),
            initialized=bool(flags & CKF_TOKEN_INITIALIZED),
            has_user_pin=bool(flags & CKF_USER_PIN_INITIALIZED),
        )

    def init_token(self, slot: int, so_pin: bytes, label: str) -> None:
        """Destroy everything in the token and give it a label."""
        padded = label.encode().ljust(32)
        self.call("InitToken", slot, so_pin, len(so_pin), padded)

    def open(self, slot: int) -> int:
        """Open a read-write session."""
        session = ctypes.c_ulong()
        flags = CKF_SERIAL_SESSION | CKF_RW_SESSION
        self.call("OpenSession", slot, flags, None, None, ctypes.byref(session))
        return session.value

    def close(self, session: int) -> None:
        """Close a session; its session objects are gone."""
        self.call("CloseSession", session)

    def login(self, session: int, who: Who, pin: bytes) -> None:
        """Log in. A wrong PIN counts against the token's limit."""
        self.call("Login", session, int(who), pin, len(pin))

    def logout(self, session: int) -> None:
        """Log out. Handles of private objects are void from here on."""
        self.call("Logout", session)

    def init_pin(self, session: int, pin: bytes) -> None:
        """Set the user PIN; the officer must be logged in."""
        self.call("InitPIN", session, pin, len(pin))

    def generate(self, session: int, mechanism: Mechanism, template: Template) -> int:
        """Generate a secret key."""
        packed, made = Packed(template), ctypes.c_ulong()
        how = how_to(mechanism)
        self.call(
            "GenerateKey",
            session,
            ctypes.byref(how),
            packed.array,
            packed.count,
            ctypes.byref(made),
        )
        return made.value

    def generate_pair(
        self,
        session: int,
        mechanism: Mechanism,
        *,
        public: Template,
        private: Template,
    ) -> tuple[int, int]:
        """Generate a key pair; the public half comes first."""
        halves = Packed(public), Packed(private)
        made = ctypes.c_ulong(), ctypes.c_ulong()
        how = how_to(mechanism)
        self.call(
            "GenerateKeyPair",
            session,
            ctypes.byref(how),
            halves[0].array,
            halves[0].count,
            halves[1].array,
            halves[1].count,
            ctypes.byref(made[0]),
            ctypes.byref(made[1]),
        )
        return made[0].value, made[1].value

    def create(self, session: int, template: Template) -> int:
        """Create an object from its attributes."""
        packed, made = Packed(template), ctypes.c_ulong()
        self.call(
            "CreateObject", session, packed.array, packed.count, ctypes.byref(made)
        )
        return made.value

    def copy(self, session: int, key: int, template: Template) -> int:
        """Copy an object, with `template` changed in this order."""
        packed, made = Packed(template), ctypes.c_ulong()
        self.call(
            "CopyObject", session, key, packed.array, packed.count, ctypes.byref(made)
        )
        return made.value

    def destroy(self, session: int, key: int) -> None:
        """Destroy an object."""
        self.call("DestroyObject", session, key)

    def find(self, session: int, template: Template, *, limit: int = 100) -> list[int]:
        """Return the objects that show all these attributes, at most `limit`."""
        packed = Packed(template)
        found, count = (ctypes.c_ulong * limit)(), ctypes.c_ulong()
        self.call("FindObjectsInit", session, packed.array, packed.count)
        try:
            self.call("FindObjects", session, found, limit, ctypes.byref(count))
        finally:
            self.call("FindObjectsFinal", session)
        return list(found[: count.value])

    def attributes(
        self, session: int, key: int, wanted: Iterable[Attribute]
    ) -> dict[Attribute, object]:
        """Read attributes, templates within them included; absent ones are left out."""
        shown = {a: self._attribute(session, key, a) for a in wanted}
        return {a: v for a, v in shown.items() if v is not None}

    def _attribute(self, session: int, key: int, attribute: Attribute) -> object | None:
        place = CkAttribute(int(attribute), None, 0)
        try:
            self.call("GetAttributeValue", session, key, ctypes.byref(place), 1)
        except Refused:
            return None
        if place.length == _UNAVAILABLE:
            return None
        if attribute in NESTED:
            return self._nested(session, key, attribute, place.length)
        buffer = ctypes.create_string_buffer(max(place.length, 1))
        place.value = ctypes.addressof(buffer)
        self.call("GetAttributeValue", session, key, ctypes.byref(place), 1)
        return unpack(attribute, buffer.raw[: place.length])

    def _nested(
        self, session: int, key: int, attribute: Attribute, length: int
    ) -> Template:
        # First its inner types and lengths, then, with room for them, the values.
        inner = (CkAttribute * (length // ctypes.sizeof(CkAttribute)))()
        place = CkAttribute(int(attribute), ctypes.addressof(inner), length)
        if not length:
            return {}
        self.call("GetAttributeValue", session, key, ctypes.byref(place), 1)
        buffers = [ctypes.create_string_buffer(max(a.length, 1)) for a in inner]
        for one, buffer in zip(inner, buffers, strict=True):
            one.value = ctypes.addressof(buffer)
        self.call("GetAttributeValue", session, key, ctypes.byref(place), 1)
        return {
            Attribute(one.type): unpack(Attribute(one.type), buffer.raw[: one.length])
            for one, buffer in zip(inner, buffers, strict=True)
        }

    def wrap(
        self,
        session: int,
        mechanism: Mechanism,
        *,
        under: int,
        key: int,
        parameter: bytes = b"",
    ) -> bytes:
        """Wrap `key` under another."""
        how = how_to(mechanism, parameter)
        out, length = _output()
        self.call(
            "WrapKey",
            session,
            ctypes.byref(how),
            under,
            key,
            out,
            ctypes.byref(length),
        )
        return out.raw[: length.value]

    def unwrap(
        self,
        session: int,
        mechanism: Mechanism,
        *,
        under: int,
        wrapped: bytes,
        template: Template,
        parameter: bytes = b"",
    ) -> int:
        """Unwrap into a new object."""
        how = how_to(mechanism, parameter)
        packed, made = Packed(template), ctypes.c_ulong()
        self.call(
            "UnwrapKey",
            session,
            ctypes.byref(how),
            under,
            wrapped,
            len(wrapped),
            packed.array,
            packed.count,
            ctypes.byref(made),
        )
        return made.value

    def digest_key(self, session: int, key: int) -> bytes:
        """Return SHA-256 of a secret key, computed inside the token."""
        how = how_to(Mechanism.SHA256)
        out, length = _output()
        self.call("DigestInit", session, ctypes.byref(how))
        self.call("DigestKey", session, key)
        self.call("DigestFinal", session, out, ctypes.byref(length))
        return out.raw[: length.value]

    def sign(
        self, session: int, mechanism: Mechanism, *, key: int, data: bytes
    ) -> bytes:
        """Sign `data` as it is."""
        how = how_to(mechanism)
        out, length = _output()
        self.call("SignInit", session, ctypes.byref(how), key)
        self.call("Sign", session, data, len(data), out, ctypes.byref(length))
        return out.raw[: length.value]

    def random(self, session: int, count: int) -> bytes:
        """Return `count` bytes from the token's generator."""
        out = ctypes.create_string_buffer(count)
        self.call("GenerateRandom", session, out, count)
        return out.raw


def _output() -> tuple[ctypes.Array[ctypes.c_char], ctypes.c_ulong]:
    return ctypes.create_string_buffer(_OUTPUT_BYTES), ctypes.c_ulong(_OUTPUT_BYTES)
