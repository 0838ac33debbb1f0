"""Whatever bytes come, a decoder returns a value or names what is wrong with them.

By an attacker who writes files and messages at will. A decoder that let another error
out would end a process, or answer INTERNAL, at a stranger's word.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hsmvault import config
from hsmvault.api import identity, jwks, tokens
from hsmvault.audit import line
from hsmvault.client.profile import Profile
from hsmvault.hsm import public
from hsmvault.hsm.transcript import Answer, Offer
from hsmvault.model import algorithms, records
from hsmvault.model.errors import ConfigurationError, VaultError
from hsmvault.model.grants import Scope
from hsmvault.model.log import Kind, Position
from hsmvault.model.names import (
    KeyName,
    RegionName,
    RoleAssignmentName,
    RoleDefinitionName,
    VersionName,
    parse_key_or_version,
)
from hsmvault.regions import revocation
from hsmvault.regions.card import Card
from hsmvault.server.beat import Beat
from hsmvault.store import lines

NESTED: Final = "[" * 50_000
"""RS-01: deeper than any parser of JSON goes."""

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
_texts = st.one_of(
    st.text(max_size=300),
    _json.map(json.dumps),
    st.from_regex(r"(keys|regions|roleAssignments)/[ -~]{0,40}"),
    st.from_regex(r"\d{0,20}\.[a-zÀ-ɏ0-9-]{0,30}\.\d{0,20}"),
)
_bytes = st.one_of(
    st.binary(max_size=400),
    _texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
)


def _keys_of_an_issuer(value: object) -> None:
    """What an issuer answers; `fetch` takes nothing but objects, and says this."""
    with suppress(jwks._Unfit):
        jwks._keys(value if isinstance(value, dict) else {"keys": [value]})


TEXTS: Final[Mapping[str, Callable[[str], object]]] = {
    "algorithm": algorithms.parse_algorithm,
    "card": Card.parse,
    "key": KeyName.parse,
    "key or version": parse_key_or_version,
    "key version": VersionName.parse,
    "position": Position.parse,
    "region": RegionName.parse,
    "role assignment": RoleAssignmentName.parse,
    "role definition": RoleDefinitionName.parse,
    "revocation list": revocation.read,
    "scope": Scope.parse,
    "token": tokens._parts,
}
BYTES: Final[Mapping[str, Callable[[bytes], object]]] = {
    "beat of a child": Beat.parse,
    "certificate": identity.read,
    "line of a snapshot": lines.parse,
    "line of a trail": line.read,
    "public key": public.load,
    **{f"record {k}": partial(records.read, k) for k in Kind},
}
OBJECTS: Final[Mapping[str, Callable[[Any], object]]] = {
    "answer of a ceremony": Answer.read,
    "keys of an issuer": _keys_of_an_issuer,
    "offer of a ceremony": Offer.read,
}


def _decodes_or_says_why(decode: Callable[[Any], object], raw: object) -> None:
    try:
        decode(raw)
    except (VaultError, ConfigurationError) as error:
        assert str(error)


@pytest.mark.parametrize("decoder", TEXTS)
@given(text=_texts)
@example(text=NESTED)
@example(text="")
@example(text="keys/" + "a" * 1_000_000)
@example(text="\0\x1b[31m\u202e")
def test_any_text_is_decoded_or_refused(decoder: str, text: str) -> None:
    _decodes_or_says_why(TEXTS[decoder], text)


@pytest.mark.parametrize("decoder", BYTES)
@given(raw=_bytes)
@example(raw=NESTED.encode())
@example(raw=b"")
@example(raw=b"\xff" * 5000)
@example(raw=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
def test_any_bytes_are_decoded_or_refused(decoder: str, raw: bytes) -> None:
    _decodes_or_says_why(BYTES[decoder], raw)


@pytest.mark.parametrize("decoder", OBJECTS)
@given(value=_json)
@example(value={"context": {}, "wrapped": "0g", "digest": 1})
@example(value={"kty": "RSA", "n": "AA", "e": "AQAB", "use": "sig"})
@example(value={"kty": "EC", "crv": "P-256", "x": "AA", "y": {}, "kid": 1})
@example(value={"kty": ["RSA"], "n": None, "e": -1, "key_ops": ["verify"]})
def test_any_object_is_read_or_refused(decoder: str, value: object) -> None:
    _decodes_or_says_why(OBJECTS[decoder], value)


@pytest.mark.parametrize("text", ["", NESTED, "a = 1", "[region]\nname = 5", "\0"])
def test_rs_01_a_file_that_is_none_of_ours_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "region.toml").write_text(text)
    profile = tmp_path / "profile.json"
    profile.write_text(text)

    with pytest.raises(ConfigurationError, match=r"region\.toml"):
        config.load(tmp_path)
    with pytest.raises(ConfigurationError, match=r"profile\.json"):
        Profile.load(profile)
