"""Attributes as the token wants them in memory, arrays included.

python-pkcs11 knows neither templates within templates nor lists of mechanisms; a list
of mechanisms even ends the process. What is here serves python-pkcs11 (`mapper`) and
our own binding (`hsm/cryptoki.py`) alike, so that both speak of the same tables.
"""

import ctypes
from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Final, cast

from pkcs11.attributes import AttributeMapper
from pkcs11.constants import DEFAULT, Attribute
from pkcs11.mechanisms import Mechanism

Template = Mapping[Attribute, object]
"""Attributes and their values, in the order in which the token is to take them."""

NESTED: Final = frozenset({Attribute.WRAP_TEMPLATE, Attribute.UNWRAP_TEMPLATE})
"""Attributes whose value is a template itself."""

_ULONG: Final = Struct("@L")


class CkAttribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class Packed:
    """A template in memory, for as long as this object lives."""

    def __init__(self, template: Template) -> None:
        """Lay out `template`, leaving out what is to take the token's default."""
        given = [(a, v) for a, v in template.items() if v is not DEFAULT]
        self.count: Final = len(given)
        self.array: Final = (CkAttribute * max(self.count, 1))()
        self._alive: Final[list[object]] = []
        for place, (attribute, value) in zip(self.array, given, strict=False):
            self._put(place, attribute, value)

    def _put(self, place: CkAttribute, attribute: Attribute, value: object) -> None:
        place.type = int(attribute)
        if attribute in NESTED:
            nested = Packed(cast("Template", value))
            self._alive.append(nested)
            place.value = ctypes.addressof(nested.array)
            place.length = nested.count * ctypes.sizeof(CkAttribute)
            return
        raw = pack(attribute, value)
        buffer = ctypes.create_string_buffer(raw, max(len(raw), 1))
        self._alive.append(buffer)
        place.value = ctypes.addressof(buffer)
        place.length = len(raw)


def pack(attribute: Attribute, value: object) -> bytes:
    """Return the value's bytes as the token wants them; not for NESTED attributes."""
    if isinstance(value, bytes):
        return value
    return _MAPPER.pack_attribute(attribute, value)


def unpack(attribute: Attribute, raw: bytes) -> object:
    """Read a value back; the bytes themselves where the attribute is not known."""
    if attribute not in _MAPPER.attribute_types:
        return raw
    return cast("object", _MAPPER.unpack_attributes(attribute, raw))


_kept: Final[dict[bytes, Packed]] = {}
# python-pkcs11 copies the array but not what it points to. Its templates are few and
# constant, so what they point to is kept for good, once per distinct template.
_arrays: Final[dict[tuple[tuple[int, bytes], ...], bytes]] = {}


def _pack_nested(template: Template) -> bytes:
    key = tuple((int(a), pack(a, v)) for a, v in template.items())
    if key not in _arrays:
        packed = Packed(template)
        size = packed.count * ctypes.sizeof(CkAttribute)
        _arrays[key] = ctypes.string_at(ctypes.addressof(packed.array), size)
        _kept[_arrays[key]] = packed
    return _arrays[key]


def _unpack_nested(_: bytes) -> Template:
    # Its inner pointers were never set up, so a read has already gone wrong.
    message = "python-pkcs11 cannot read a template in a template; use hsm/cryptoki.py"
    raise NotImplementedError(message)


def _pack_mechanisms(mechanisms: Iterable[Mechanism]) -> bytes:
    return b"".join(_ULONG.pack(m) for m in sorted(mechanisms))


def _unpack_mechanisms(raw: bytes) -> frozenset[int]:
    return frozenset(number for (number,) in _ULONG.iter_unpack(raw))


def mapper() -> AttributeMapper:
    """Return a mapper that knows arrays too, for `token.open(attribute_mapper=…)`."""
    known = AttributeMapper()
    known.register_handler(
        Attribute.ALLOWED_MECHANISMS, _pack_mechanisms, _unpack_mechanisms
    )
    for attribute in NESTED:
        known.register_handler(attribute, _pack_nested, _unpack_nested)
    return known


_MAPPER: Final = mapper()
