"""Errors: what callers read as text and what their programs read as facts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model import errors
from hsmvault.model.errors import InvalidRequest, NotPrimary, VaultError


def _all(kind: type[VaultError]) -> list[type[VaultError]]:
    return [kind] + [below for sub in kind.__subclasses__() for below in _all(sub)]


OURS = [kind for kind in _all(VaultError) if kind.__module__ == errors.__name__]


def test_a_reason_is_the_name_of_its_class() -> None:
    assert NotPrimary.reason == "NOT_PRIMARY"


def test_no_two_errors_have_one_reason() -> None:
    assert len({kind.reason for kind in OURS}) == len(OURS)


@given(st.text(), st.integers())
def test_everything_dynamic_in_a_message_is_a_fact(region: str, index: int) -> None:
    error = InvalidRequest("{region} is at {index}", region=region, index=index)

    assert str(error) == f"{region} is at {index}"
    assert error.facts == {"region": region, "index": str(index)}


@pytest.mark.parametrize("kind", OURS, ids=lambda k: k.__name__)
def test_every_error_says_when_it_is_raised(kind: type[VaultError]) -> None:
    assert kind.__doc__
