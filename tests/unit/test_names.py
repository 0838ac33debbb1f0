"""Names are parsed once, at the edge, and nothing that is not one gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.errors import MalformedName
from hsmvault.model.names import (
    KeyName,
    RegionName,
    RoleAssignmentName,
    RoleDefinitionName,
    VersionName,
    parse_key_or_version,
)
from tests.unit import strategies as some


@given(some.key_names)
def test_a_key_name_reads_back_as_it_was_written(name: KeyName) -> None:
    assert KeyName.parse(str(name)) == name
    assert parse_key_or_version(str(name)) == (name, None)


@given(some.key_names, some.version_ids)
def test_a_version_name_reads_back_as_it_was_written(
    key: KeyName, version: str
) -> None:
    name = key.version(version)

    assert VersionName.parse(str(name)) == name
    assert parse_key_or_version(str(name)) == (key, version)


@given(some.region_ids)
def test_a_region_name_reads_back_as_it_was_written(region: str) -> None:
    name = RegionName.of_id(region)

    assert RegionName.parse(str(name)) == name


@given(some.ids)
def test_names_of_roles_and_assignments_read_back(identifier: str) -> None:
    role = RoleDefinitionName(identifier)
    assignment = RoleAssignmentName(identifier)

    assert RoleDefinitionName.parse(str(role)) == role
    assert RoleAssignmentName.parse(str(assignment)) == assignment


@given(some.key_ids)
def test_names_that_differ_in_case_only_fold_to_one(key: str) -> None:
    assert KeyName(key.upper()).folded == KeyName(key.lower()).folded


@given(some.text)
def test_what_parses_is_exactly_what_was_given(text: str) -> None:
    """No trimming, no normalising: two spellings never become one name silently."""
    for parse in (
        KeyName.parse,
        VersionName.parse,
        RegionName.parse,
        RoleDefinitionName.parse,
        RoleAssignmentName.parse,
    ):
        try:
            name = parse(text)
        except MalformedName:
            continue
        assert str(name) == text


@pytest.mark.parametrize(
    "name",
    [
        "",
        "keys/",
        "keys/a/",
        "keys//a",
        "keys/a b",
        "keys/a.b",
        "keys/a_b",
        "keys/ä",
        "keys/a\n",
        "keys/a\0",
        "keys/..",
        "keys/%61",
        "/keys/a",
        "Keys/a",
        "keys/a/versions/",
        "keys/" + "a" * 128,
        # Letters and digits of other scripts, which look alike.
        "keys/\N{CYRILLIC SMALL LETTER A}",
        "keys/\N{ARABIC-INDIC DIGIT ONE}",
        "keys/\N{FULLWIDTH LATIN SMALL LETTER A}",
    ],
)
def test_what_is_no_key_name_is_refused(name: str) -> None:
    with pytest.raises(MalformedName):
        KeyName.parse(name)


@pytest.mark.parametrize(
    "version",
    ["", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 31 + "\n", "current"],
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(MalformedName):
        VersionName.parse(f"keys/a/versions/{version}")


@pytest.mark.parametrize(
    "region",
    ["", "North", "1north", "-north", "north-", "no.rth", "n" * 25, "nörd", "north\n"],
)
def test_what_is_no_region_is_refused(region: str) -> None:
    """A region's id stands in positions, labels and host names: no dots, no case."""
    with pytest.raises(MalformedName):
        RegionName.of_id(region)


def test_a_malformed_name_is_echoed_short() -> None:
    """An answer is never larger than what was asked for it."""
    with pytest.raises(MalformedName) as refused:
        KeyName.parse("keys/" + "!" * 1_000_000)

    assert len(str(refused.value)) < 1_000


@given(st.text(max_size=50))
def test_braces_in_a_name_do_not_break_its_refusal(text: str) -> None:
    with pytest.raises(MalformedName) as refused:
        KeyName.parse("keys/{" + text + "}")

    assert refused.value.facts["name"].startswith("keys/{")
