"""Records: one canonical form each, and nothing unknown is read."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.log import Kind
from hsmvault.model.record import Record, etag
from hsmvault.model.records import TYPES, read
from hsmvault.model.stored import (
    StoredRecord,
    WrappedKey,
    pair_key_name,
    region_key_name,
)
from tests.unit import strategies as some

wrapped_keys = st.builds(
    WrappedKey,
    version=some.version_ids,
    region=some.region_ids,
    wrapping_key=some.text,
    mechanism=some.text,
    wrapped=st.binary(max_size=60),
)
stored_records = st.builds(
    StoredRecord,
    kind=st.sampled_from(Kind),
    resource=some.text,
    revision=some.revisions,
    record=st.binary(max_size=60),
)


def test_every_kind_of_record_is_tried() -> None:
    assert some.RECORDS.keys() == TYPES.keys() == set(Kind)


@given(some.records)
def test_a_record_reads_back_as_it_was_written(made: tuple[Kind, Record]) -> None:
    kind, record = made

    assert read(kind, record.to_bytes()) == record


@given(some.records)
def test_a_record_has_one_form(made: tuple[Kind, Record]) -> None:
    """Read and written again it is the same bytes: MACs and chains go on fitting."""
    kind, record = made
    raw = record.to_bytes()

    assert read(kind, raw).to_bytes() == raw
    assert (
        raw
        == json.dumps(
            json.loads(raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
    )


@given(some.records)
def test_a_record_with_an_unknown_field_is_refused(made: tuple[Kind, Record]) -> None:
    """Two releases never read one record differently."""
    kind, record = made
    content = json.loads(record.to_bytes())
    content["favourite_colour"] = "blue"

    with pytest.raises(IntegrityFailure):
        read(kind, json.dumps(content).encode())


@given(some.records, st.data())
def test_a_record_without_one_of_its_first_fields_is_refused(
    made: tuple[Kind, Record], data: st.DataObject
) -> None:
    kind, record = made
    content = json.loads(record.to_bytes())
    needed = [f.name for f in fields(record) if f.default is f.default_factory]
    del content[data.draw(st.sampled_from(needed))]

    with pytest.raises(IntegrityFailure):
        read(kind, json.dumps(content).encode())


@given(st.sampled_from(sorted(TYPES)), st.binary(max_size=100))
def test_what_is_no_record_is_refused(kind: Kind, raw: bytes) -> None:
    with pytest.raises(IntegrityFailure):
        read(kind, raw)


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{}", b"1", b'"a"', b"{", b"\xff"]
)
@pytest.mark.parametrize("kind", sorted(TYPES))
def test_json_of_another_shape_is_refused(kind: Kind, raw: bytes) -> None:
    with pytest.raises(IntegrityFailure):
        read(kind, raw)


def test_a_kind_without_records_is_refused() -> None:
    with pytest.raises(IntegrityFailure):
        read(Kind.ROLE_DEFINITION, b"{}")


@given(some.RECORDS[Kind.KEY])
def test_keys_are_kept_by_their_folded_name(record: KeyRecord) -> None:
    """A name in other letters' case is the same name: it cannot be taken twice."""
    loud = replace(record, name="keys/" + record.name.removeprefix("keys/").upper())

    assert record.resource == loud.resource


@given(some.RECORDS[Kind.KEY_VERSION])
def test_versions_are_kept_below_their_key(record: VersionRecord) -> None:
    assert record.resource == f"{record.key.lower()}/versions/{record.version}"


def _with_one_field_changed(value: Any, covered: set[str]) -> list[Any]:
    def other(old: object) -> object:
        match old:
            case Kind():
                return Kind.KEY if old is not Kind.KEY else Kind.VAULT
            case bytes():
                return old + b"x"
            case str():
                return old + "x"
            case int():
                return old + 1
            case _:
                raise AssertionError(old)

    return [replace(value, **{n: other(getattr(value, n))}) for n in covered]


@given(stored_records, some.version_ids)
def test_a_records_mac_is_over_all_of_it(record: StoredRecord, vault: str) -> None:
    """Whatever a thief of the store changes, the token does not vouch for it."""
    others = _with_one_field_changed(record, {"kind", "resource", "revision", "record"})

    statements = {r.statement(vault) for r in [record, *others]}
    statements.add(record.statement(vault + "0"))

    assert len(statements) == 6


@given(wrapped_keys, some.version_ids)
def test_a_wrapped_keys_mac_is_over_all_of_it(key: WrappedKey, vault: str) -> None:
    """Swapped between keys, regions or vaults, a wrapped key does not verify."""
    others = _with_one_field_changed(key, {f.name for f in fields(key)})

    statements = {k.statement(vault) for k in [key, *others]}
    statements.add(key.statement(vault + "0"))

    assert len(statements) == len(fields(key)) + 2


@given(wrapped_keys)
def test_material_is_not_shown(key: WrappedKey) -> None:
    assert "wrapped=" not in repr(key)


@given(stored_records, wrapped_keys, some.version_ids)
def test_a_records_statement_is_no_wrapped_keys(
    record: StoredRecord, key: WrappedKey, vault: str
) -> None:
    """Both are under one key: a MAC for one must be worthless for the other."""
    assert record.statement(vault) != key.statement(vault)


@given(some.region_ids, some.region_ids, some.region_ids, some.region_ids)
def test_wrapping_keys_have_names_of_their_own(a: str, b: str, c: str, d: str) -> None:
    assert (pair_key_name(a, b) == pair_key_name(c, d)) == ((a, b) == (c, d))
    assert region_key_name(a) != pair_key_name(b, c)


@given(st.binary(max_size=50), st.binary(min_size=1, max_size=50))
def test_an_etag_changes_with_its_record(one: bytes, more: bytes) -> None:
    assert etag(one) == etag(one)
    assert len({etag(one), etag(one + more), etag(more + one + b"x")}) == 3
