"""A key that is not what its table says is refused, and the error says why."""

from types import MappingProxyType

import pytest
from pkcs11.constants import DEFAULT, Attribute
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.attributes import NESTED, Packed
from hsmvault.hsm.labels import object_id
from hsmvault.hsm.templates import (
    IDENTITY_KEY,
    INTEGRITY_KEY,
    PAIR_IN,
    PAIR_OUT,
    REGION_KEY,
    UNWRAP_TEMPLATE,
    Purpose,
    asked,
    require_equal,
    searchable,
    user_key,
)
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import TemplateViolated

ALL = (REGION_KEY, PAIR_OUT, PAIR_IN, INTEGRITY_KEY, IDENTITY_KEY)


def test_a_key_that_is_as_specified_passes() -> None:
    for template in ALL:
        require_equal(dict(template), template)


@pytest.mark.parametrize("attribute", list(REGION_KEY))
def test_every_attribute_that_is_wrong_is_named(attribute: Attribute) -> None:
    missing = {a: v for a, v in REGION_KEY.items() if a is not attribute}
    different = {**missing, attribute: object()}

    for shown in (missing, different):
        with pytest.raises(TemplateViolated, match=rf": {attribute.name};"):
            require_equal(shown, REGION_KEY, label="the region key")


def test_a_template_within_a_template_is_compared_whole() -> None:
    shorter = {a: v for a, v in UNWRAP_TEMPLATE.items() if a is not Attribute.DERIVE}
    shown = {**REGION_KEY, Attribute.UNWRAP_TEMPLATE: MappingProxyType(shorter)}

    with pytest.raises(TemplateViolated, match="UNWRAP_TEMPLATE"):
        require_equal(shown, REGION_KEY)


@pytest.mark.parametrize("template", ALL)
def test_modifiable_comes_last_because_it_closes_the_template(
    template: dict[Attribute, object],
) -> None:
    assert list(template)[-1] is Attribute.MODIFIABLE


def test_every_user_key_carries_every_fence_in_its_last_place() -> None:
    for kind in ("RSA", "EC", "oct"):
        spec = KeySpec.of(kind)
        purposes = {
            "RSA": (Purpose.SIGN, Purpose.CIPHER),
            "EC": (Purpose.SIGN,),
            "oct": (Purpose.CIPHER, Purpose.WRAP),
        }[kind]
        for purpose in (Purpose.NOTHING, *purposes):
            table = user_key(spec, purpose)

            assert dict(UNWRAP_TEMPLATE).items() <= dict(table).items()
            assert list(table)[-2:] == [Attribute.COPYABLE, Attribute.MODIFIABLE]
            wraps, opens = table.get(Attribute.WRAP), table.get(Attribute.DECRYPT)
            assert not (wraps and opens)


def test_no_infrastructure_key_mixes_roles() -> None:
    for template in ALL:
        uses = {
            a
            for a in (
                Attribute.ENCRYPT,
                Attribute.DECRYPT,
                Attribute.SIGN,
                Attribute.WRAP,
                Attribute.UNWRAP,
                Attribute.DERIVE,
            )
            if template.get(a)
        }
        assert uses in (
            {Attribute.WRAP, Attribute.UNWRAP},
            {Attribute.WRAP},
            {Attribute.UNWRAP},
            {Attribute.SIGN},
        )


def test_a_call_leaves_out_what_the_class_does_not_have() -> None:
    sent = asked(user_key(KeySpec.of("EC"), Purpose.SIGN))

    assert sent[Attribute.ENCRYPT] is DEFAULT
    assert sent[Attribute.SIGN] is True
    assert Attribute.CLASS not in sent
    assert Packed(sent).count == sum(v is not DEFAULT for v in sent.values())


def test_a_search_compares_no_arrays() -> None:
    found_by = searchable(REGION_KEY, "hsmvault:region-key:north")

    assert not NESTED & set(found_by)
    assert Attribute.ALLOWED_MECHANISMS not in found_by
    assert found_by[Attribute.TRUSTED] is True
    assert found_by[Attribute.ID] == object_id("hsmvault:region-key:north")


def test_each_infrastructure_key_allows_one_mechanism() -> None:
    assert [t[Attribute.ALLOWED_MECHANISMS] for t in ALL] == [
        frozenset({Mechanism.AES_KEY_WRAP_PAD}),
        frozenset({Mechanism.AES_KEY_WRAP_PAD}),
        frozenset({Mechanism.AES_KEY_WRAP_PAD}),
        frozenset({Mechanism.SHA256_HMAC}),
        frozenset({Mechanism.ECDSA}),
    ]
