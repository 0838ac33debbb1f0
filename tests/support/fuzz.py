"""Requests that nobody would send: any message of any RPC, by its descriptor.

Half of what is in them is what a vault may well hold, so that calls get past the
first check; the rest is what breaks parsers.
"""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

NAMES: Final = (
    "keys/ec",
    "KEYS/EC",
    "keys/rsa",
    "keys/aes",
    "keys/mac",
    "keys/gone",
    "keys/never",
    "keys/../ec",
    "keys/ec/versions/" + "0" * 32,
    "keys/%2e%2e",
    "keys/e\u0441",
    "keys/\u202ece",
    "roleDefinitions/21dbd100-6940-42c2-9190-5d6cb909625b",
    "roleDefinitions/custom",
    "roleAssignments/tom",
    "regions/north",
    "/keys",
    "/",
    "",
)
WORDS: Final = (
    *("ES256", "ES512", "RS256", "PS384", "HS256", "A256GCM", "A256KW", "A128CBC"),
    *("RSA-OAEP", "RSA-OAEP-256", "RSA1_5", "none", "RSA", "EC", "oct", "P-256"),
    *("encrypt", "sign", "import", "enabled", "tags", "state", "*", "CN=uma"),
    *("keys/*", "keys/sign/action", "roleAssignments/write/action", "custom"),
    *("1.north.1", "1.north.999999", "9.south.1", "0" * 32, "\0", "\x1b[2J", "a" * 300),
)
SIZES: Final = (0, 1, 11, 12, 16, 20, 27, 28, 32, 48, 63, 64, 65, 128, 256, 257, 5000)
NUMBERS: Final = (-(2**31), -1, 0, 1, 16, 128, 256, 1024, 2048, 16384, 2**31 - 1)
_DEPTH: Final = 3

_text = st.sampled_from(NAMES) | st.sampled_from(WORDS) | st.text(max_size=40)
_bytes = st.sampled_from(SIZES).flatmap(
    lambda size: st.just(bytes(size)) | st.just(b"\xff" * size)
) | st.binary(max_size=80)
_integers = st.sampled_from(NUMBERS)


_PLAIN: Final = {
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    # Numbers that this release does not know arrive from newer ones.
    FieldDescriptor.TYPE_ENUM: st.sampled_from((0, 1, 2, 99)),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_UINT32: _integers.filter(lambda number: number >= 0),
    FieldDescriptor.TYPE_UINT64: _integers.filter(lambda number: number >= 0),
}


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, depth + 1)
    return _PLAIN.get(field.type, _integers)


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _fields(descriptor: Descriptor, depth: int) -> dict[str, st.SearchStrategy[Any]]:
    known: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if field.message_type is not None and depth >= _DEPTH:
            continue
        if _is_map(field):
            known[field.name] = st.dictionaries(_text, _text, max_size=3)
        elif field.is_repeated:
            known[field.name] = st.lists(_value(field, depth), max_size=3)
        else:
            known[field.name] = _value(field, depth)
    return known


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Any message of this type; each field is there in half of them."""
    kind = GetMessageClass(descriptor)

    def made(fields: dict[str, Any]) -> Message:
        # What protobuf itself refuses to hold never travels.
        built = kind()
        for name, value in fields.items():
            try:
                built.MergeFrom(kind(**{name: value}))
            except (ValueError, TypeError):
                continue
        return built

    return st.fixed_dictionaries({}, optional=_fields(descriptor, depth)).map(made)
