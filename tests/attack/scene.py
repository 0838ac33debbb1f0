"""Where attacks happen: a partition as the product makes it, and throw-away ones.

The attacker holds the user PIN and a full copy of the store, so they can re-open every
user key, and can send the token anything. `Scene` is what they have in front of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from hsmvault.hsm.attributes import Template
from hsmvault.hsm.custody import unsettled
from hsmvault.hsm.templates import (
    IDENTITY_KEY,
    KEY_BYTES,
    REGION_KEY,
    UNWRAP_TEMPLATE,
    Purpose,
    user_key,
)
from hsmvault.model.algorithms import KeySpec
from tests.support.softhsm import SO_PIN, USER_PIN
from tests.support.stranger import AES, SECRET_KEY, Reply, Stranger, Value

KWP = "AES_KEY_WRAP_PAD"
P256 = bytes.fromhex("06082a8648ce3d030107")

Pairs = list[tuple[str, Value]]


def pairs(table: Template) -> Pairs:
    """One of the product's tables, as the stranger sends it."""
    return [(a.name, _value(v)) for a, v in table.items()]


def _value(value: object) -> Value:
    if isinstance(value, Mapping):
        return pairs(value)
    assert isinstance(value, bool | int | bytes | frozenset)
    return value


def without(table: Template, *attributes: Attribute) -> dict[Attribute, object]:
    """The same table, lacking some lines."""
    return {a: v for a, v in table.items() if a not in attributes}


def fences(*lacking: str) -> Pairs:
    """What the region key's UNWRAP_TEMPLATE wants repeated, in its order."""
    return [(a, v) for a, v in pairs(UNWRAP_TEMPLATE) if a not in lacking]


def opened_as(key_type: int, *uses: str, object_class: int = SECRET_KEY) -> Pairs:
    """The head of a template by which a wrapped key is opened for some uses."""
    head: Pairs = [("CLASS", object_class), ("KEY_TYPE", key_type)]
    return head + [(use, True) for use in uses]


@dataclass(frozen=True)
class Scene:
    """A token with its keys, and wrapped user keys out of the store."""

    stranger: Stranger
    region_key: int
    wrapped_aes: bytes
    """An AES-256 user key under the region key."""
    wrapped_ec: bytes
    wrapped_rsa: bytes

    def open(self, wrapped: bytes, template: Pairs) -> Reply:
        """Re-open a user key, as anybody with PIN and store can."""
        return self.stranger.unwrap(
            KWP, under=self.region_key, wrapped=wrapped, template=template
        )

    def aes(self, *uses: str) -> int:
        """The AES user key, re-opened lawfully for some uses."""
        return must(self.open(self.wrapped_aes, opened_as(AES, *uses) + fences()))

    def named(self, label: str) -> int:
        """The secret or private key of this label; there is exactly one."""
        found = [
            key
            for key in self.stranger.find(("LABEL", label.encode()))
            if self.stranger.get(key, "CLASS").data[0] in {3, 4}
        ]
        assert len(found) == 1, label
        return found[0]


def must(reply: Reply) -> int:
    """The handle of what the token made; the set-up of an attack, not the attack."""
    assert reply.ok, reply
    return reply.handle


def look_around(stranger: Stranger, region_key: int, *lacking: Attribute) -> Scene:
    """Make user keys as the product does, and wrap them as the store holds them."""
    wrapped = {}
    for kind in ("oct", "EC", "RSA"):
        spec = KeySpec.of(kind, bits=2048 if kind == "RSA" else 0)
        table = pairs(without(user_key(spec, Purpose.NOTHING), *lacking))
        if kind == "oct":
            sized: Pairs = [("VALUE_LEN", 32), *table]
            key = must(stranger.generate("AES_KEY_GEN", sized))
        else:
            key = _private_half(stranger, kind, table)
        reply = stranger.wrap(KWP, under=region_key, key=key)
        assert reply.ok, reply
        wrapped[kind] = reply.data
        stranger.destroy(key)
    return Scene(stranger, region_key, wrapped["oct"], wrapped["EC"], wrapped["RSA"])


def _private_half(stranger: Stranger, kind: str, table: Pairs) -> int:
    public: Pairs = [("TOKEN", False), ("PRIVATE", False)]
    if kind == "EC":
        public.append(("EC_PARAMS", P256))
        reply = stranger.generate_pair("EC_KEY_PAIR_GEN", public, table)
    else:
        public += [("MODULUS_BITS", 2048), ("PUBLIC_EXPONENT", b"\x01\x00\x01")]
        reply = stranger.generate_pair("RSA_PKCS_KEY_PAIR_GEN", public, table)
    assert reply.ok, reply
    return reply.handles[1]


class ThrowAway:
    """A token for keys that lack one line of their table. Its officer is here too."""

    def __init__(self, stranger: Stranger) -> None:
        self.stranger = stranger
        self._count = 0

    def install(
        self,
        table: Template,
        *lacking: Attribute,
        changed: Mapping[Attribute, object] | None = None,
        mechanism: str = "AES_KEY_GEN",
    ) -> int:
        """Bring a key into the token as a ceremony does, but for some lines.

        `lacking` lines are not asked for at all; `changed` ones are asked for
        differently. The user is logged in afterwards.
        """
        self._count += 1
        asked = {**without(table, *lacking), **(changed or {})}
        self._login(officer=True)
        made = must(
            self.stranger.generate(
                mechanism, [("VALUE_LEN", KEY_BYTES), *pairs(unsettled(asked))]
            )
        )
        self._login(officer=False)
        label = labels.region_key(f"throwaway-{self._count}")
        late = [
            (a.name, _value(asked[a]))
            for a in (
                Attribute.TOKEN,
                Attribute.PRIVATE,
                Attribute.DESTROYABLE,
                Attribute.MODIFIABLE,
            )
            if a in asked
        ]
        named: Pairs = [("LABEL", label.encode())]
        key = must(self.stranger.copy(made, named + late))
        self.stranger.destroy(made)
        return key

    def scene(
        self, *lacking: Attribute, user_key_lacks: Iterable[Attribute] = ()
    ) -> Scene:
        """A scene around a region key that lacks some lines of its table."""
        key = self.install(REGION_KEY, *lacking)
        return look_around(self.stranger, key, *user_key_lacks)

    def scene_without_fence(self, fence: Attribute) -> Scene:
        """A scene whose UNWRAP_TEMPLATE, and whose user keys, lack one line."""
        key = self.install(
            REGION_KEY,
            changed={Attribute.UNWRAP_TEMPLATE: without(UNWRAP_TEMPLATE, fence)},
        )
        return look_around(self.stranger, key)

    def identity(self, **changed: bool) -> int:
        """An identity key, but for some lines."""
        self._login(officer=False)
        table = {
            **IDENTITY_KEY,
            **{Attribute[name]: value for name, value in changed.items()},
        }
        public: Pairs = [("TOKEN", False), ("EC_PARAMS", P256)]
        reply = self.stranger.generate_pair("EC_KEY_PAIR_GEN", public, pairs(table))
        assert reply.ok, reply
        return reply.handles[1]

    def _login(self, *, officer: bool) -> None:
        self.stranger.logout()
        pin = SO_PIN if officer else USER_PIN
        reply = self.stranger.login(pin, officer=officer)
        assert reply.ok, reply
