"""Tables are complete: no RPC without a permission, no error without a code."""

import importlib
import pkgutil
import re

import pytest
from google.protobuf.descriptor import ServiceDescriptor

import hsmvault.v1
from hsmvault.api.facts import FACTS
from hsmvault.api.permissions import RULES, Write
from hsmvault.api.status import CODES
from hsmvault.hsm.mechanisms import KW, MACS, RSA, SIGNING
from hsmvault.model.access import BUILT_IN, FOR_EVERYONE, Permission
from hsmvault.model.algorithms import CBC, CBC_PAD, GCM, USES, Algorithm
from hsmvault.model.errors import VaultError
from hsmvault.model.lifecycle import ANSWERS, Standing
from hsmvault.telemetry import LEVELS, Event
from tests.architecture.house import HOUSE, PACKAGE

# PKCS#11's table, the other border, has its own test beside hsm's.


def _services() -> list[ServiceDescriptor]:
    files = [
        importlib.import_module(f"hsmvault.v1.{module.name}").DESCRIPTOR
        for module in pkgutil.iter_modules(hsmvault.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    return [s for file in files for s in file.services_by_name.values()]


def test_every_rpc_names_the_permission_it_needs() -> None:
    """An RPC without a permission cannot run; one without an RPC is a lie."""
    rpcs = {f"/{s.full_name}/{m.name}" for s in _services() for m in s.methods}

    assert rpcs
    assert rpcs == RULES.keys()


def test_every_rpc_that_names_a_key_stands_in_the_table_of_the_lifecycle() -> None:
    """tests/integration/test_lifecycle_table.py walks it: add how to ask there."""
    naming = {
        method.name
        for service in _services()
        if service.name in {"KeyService", "CryptoService"}
        for method in service.methods
        if {"name", "parent", "key", "key_id", "key_version", "rotation_policy"}
        & set(method.input_type.fields_by_name)
    }

    assert naming == set(ANSWERS)
    assert all(set(row) == set(Standing) for row in ANSWERS.values())


def test_every_write_can_be_repeated_and_can_be_validated_only() -> None:
    writes = [
        (service.name, method.input_type)
        for service in _services()
        for method in service.methods
        if RULES[f"/{service.full_name}/{method.name}"].write is not Write.NONE
    ]

    assert writes
    for service, request in writes:
        wanted = {"request_id", "validate_only"}
        if service != "RegionService":
            # A region that is added or removed is not waited for by a position.
            wanted.add("durability")
        assert wanted <= set(request.fields_by_name), request.name


def test_every_rpc_says_what_is_told_of_its_requests() -> None:
    """Somebody decided for each RPC what the audit trail may know; () is an answer."""
    rpcs = {f"{s.name}/{m.name}" for s in _services() for m in s.methods}

    assert rpcs == FACTS.keys()


def test_every_permission_is_asked_for_by_some_rpc() -> None:
    """A permission that nothing asks for would be granted for nothing."""
    asked = {p for rule in RULES.values() for p in rule.permissions}

    assert set(Permission) - asked == set()


def test_every_permission_is_granted_by_some_role() -> None:
    granted = FOR_EVERYONE.union(*(role.permissions for role in BUILT_IN.values()))

    assert granted == set(Permission)


def test_every_group_of_errors_has_a_status_code() -> None:
    """Callers act on the code, so no group may fall back to UNKNOWN."""
    assert set(VaultError.__subclasses__()) == CODES.keys()


def test_no_two_groups_of_errors_share_a_code() -> None:
    """Groups are made by what the caller does next, and that is the code."""
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("service", _services(), ids=lambda s: s.name)
def test_every_message_of_an_rpc_is_of_the_public_package(
    service: ServiceDescriptor,
) -> None:
    for method in service.methods:
        for message in (method.input_type, method.output_type):
            assert message.full_name.startswith("hsmvault.v1."), method.full_name


def test_every_event_that_has_a_name_is_reported_somewhere() -> None:
    """An event that nobody reports is one that an operator waits for in vain."""
    text = "".join(p.read_text() for p in PACKAGE if p.name != "telemetry.py")

    assert not [event for event in Event if f"Event.{event.name}" not in text]


def test_what_needs_an_operator_is_reported_as_critical() -> None:
    for event in (
        Event.INTEGRITY_FAILED,
        Event.LINK_STOPPED,
        Event.PROCESS_NEEDS_OPERATOR,
    ):
        assert LEVELS[event] == "critical"


def test_no_algorithm_is_missing_from_any_table() -> None:
    """Of the partition: each is asked of the token in some way, and in one only."""
    ways = [SIGNING.keys(), MACS.keys(), RSA, KW, GCM, CBC, CBC_PAD]

    assert sorted(a for way in ways for a in way) == sorted(Algorithm)
    assert USES.keys() == set(Algorithm)


def test_every_algorithm_is_in_the_readme() -> None:
    text = (HOUSE / "README.md").read_text().replace("\\", "")

    for algorithm in Algorithm:
        family = re.sub(r"^A(128|192|256)", "A*", algorithm.value)
        assert family in text, algorithm
