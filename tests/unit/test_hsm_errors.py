"""The table of Cryptoki errors is complete, and classed as threats are."""

from collections.abc import Iterator

import pytest
from pkcs11 import exceptions as ck

from hsmvault.hsm.errors import FAULTS, Fault, fault


def below(kind: type[ck.PKCS11Error]) -> Iterator[type[ck.PKCS11Error]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_every_error_of_the_binding_is_somebodys_fault() -> None:
    """A new release of python-pkcs11 that knows more errors fails here first."""
    assert set(below(ck.PKCS11Error)) == FAULTS.keys()


def test_an_error_that_nobody_knows_is_the_devices() -> None:
    """Vendors use numbers of their own, for a lost connection for instance."""
    assert fault(ck.PKCS11Error("Unmapped error code 0x81000071")) is Fault.DEVICE


@pytest.mark.parametrize(
    "error", [ck.GeneralError, ck.FunctionFailed], ids=lambda e: e.__name__
)
def test_what_tokens_answer_to_tampered_input_does_not_condemn_them(
    error: type[ck.PKCS11Error],
) -> None:
    assert fault(error()) is Fault.AMBIGUOUS


def test_every_refusal_of_a_pin_is_final() -> None:
    refusals = {kind for kind in FAULTS if "Pin" in kind.__name__}

    assert {FAULTS[kind] for kind in refusals} == {Fault.PIN}
    assert ck.PinIncorrect in refusals
