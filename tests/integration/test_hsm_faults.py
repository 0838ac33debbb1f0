"""A partition under faults: what the caller gets, and what becomes of the partition.

Faults are put into open keys and sessions from inside; the token itself is real.
"""

import dataclasses
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import exceptions as ck

from hsmvault.hsm.opened import Opened
from hsmvault.hsm.partition import Partition
from hsmvault.hsm.templates import Purpose
from hsmvault.model.algorithms import Algorithm, KeySpec
from hsmvault.model.errors import (
    CiphertextInvalid,
    InvalidRequest,
    NotSupported,
    Overloaded,
    PartitionLost,
    VaultError,
    WrappedKeyInvalid,
)
from hsmvault.model.material import Material
from tests.support.apart import apart
from tests.support.partitions import VAULT, Loaded, at_rest, config, fresh
from tests.support.softhsm import RegionTokens, Token

pytestmark = pytest.mark.softhsm

P256, AES, RSA = (
    KeySpec.of("EC"),
    KeySpec.of("oct"),
    KeySpec.of("RSA", bits=2048),
)
DIGEST = bytes(32)


class Broken:
    """A key that answers every call with an error, `times` times; then as `good`."""

    def __init__(
        self, error: ck.PKCS11Error, good: Any = None, *, times: int = 1 << 30
    ) -> None:
        self.error, self.good, self.left = error, good, times

    def __getattr__(self, name: str) -> Any:
        if self.left and name != "destroy":
            self.left -= 1
            return self._fail
        return getattr(self.good, name)

    def _fail(self, *_: object, **__: object) -> None:
        raise self.error

    def destroy(self) -> None:
        """Nothing is in the token."""


@pytest.fixture
def partition(loaded: Loaded) -> Partition:
    """One session, so that the test knows which."""
    partition = loaded.open("north", "p0", sessions=1)
    lost: list[str] = []
    partition._core._on_lost = lost.append  # type: ignore[misc]
    partition.problems = lost  # type: ignore[attr-defined]
    return partition


def problems(partition: Partition) -> list[str]:
    """What `on_lost` was called with."""
    found: list[str] = partition.problems  # type: ignore[attr-defined]
    return found


def break_key(
    partition: Partition, material: Material, purpose: Purpose, error: ck.PKCS11Error
) -> None:
    """Have the open key of this material answer with `error` from now on."""
    session = partition._core.sessions._all[0]
    session.opened.put(Opened(material.version, purpose, Broken(error), None))


def session_handle(partition: Partition) -> int:
    handle: int = partition._core.sessions._all[0].raw.handle
    return handle


def test_a_thousand_tampered_ciphertexts_leave_the_partition_well(
    loaded: Loaded,
) -> None:
    """SoftHSM answers CKR_GENERAL_ERROR to them, like a sick device."""
    lost: list[str] = []
    partition = loaded.open("north", "p0", sessions=4)
    partition._core._on_lost = lost.append  # type: ignore[misc]
    material = fresh(partition, AES)
    good = partition.encrypt(material, Algorithm.A256GCM, b"a secret", b"")
    bad = dataclasses.replace(good, tag=bytes(16))
    wrong: list[object] = []

    def attack() -> None:
        for _ in range(250):
            try:
                wrong.append(partition.decrypt(material, Algorithm.A256GCM, bad, b""))
            except CiphertextInvalid:
                continue
            except VaultError as error:
                wrong.append(error)

    attackers = [threading.Thread(target=attack) for _ in range(4)]
    handles = {s.raw.handle for s in partition._core.sessions._all}
    for thread in attackers:
        thread.start()
    for thread in attackers:
        thread.join()

    assert (wrong, lost) == ([], [])
    assert partition.decrypt(material, Algorithm.A256GCM, good, b"") == b"a secret"
    # Nor could the attacker make it drop its sessions, and the open keys with them.
    assert {s.raw.handle for s in partition._core.sessions._all} == handles


def test_wrapped_keys_that_do_not_open_leave_the_partition_well(
    partition: Partition,
) -> None:
    material = fresh(partition, P256)
    wrapped = dataclasses.replace(material.wrapped, wrapped=bytes(80))
    broken = at_rest(partition, P256, material.public_key, wrapped)

    for _ in range(50):
        with pytest.raises(WrappedKeyInvalid):
            partition.sign(broken, Algorithm.ES256, DIGEST)

    partition.sign(material, Algorithm.ES256, DIGEST)
    assert problems(partition) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ck.GeneralError(), CiphertextInvalid),
        (ck.FunctionFailed(), CiphertextInvalid),
        (ck.EncryptedDataInvalid(), CiphertextInvalid),
        (ck.EncryptedDataLenRange(), CiphertextInvalid),
        (ck.ArgumentsBad(), CiphertextInvalid),
        (ck.MechanismInvalid(), NotSupported),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_on_decrypting_the_canary_tells_bad_input_from_a_sick_device(
    partition: Partition, error: ck.PKCS11Error, raised: type[VaultError]
) -> None:
    material = fresh(partition, AES)
    sealed = partition.encrypt(material, Algorithm.A256GCM, b"a secret", b"")
    break_key(partition, material, Purpose.CIPHER, error)
    before = session_handle(partition)

    with pytest.raises(raised):
        partition.decrypt(material, Algorithm.A256GCM, sealed, b"")

    assert session_handle(partition) == before, "the session was at no fault"
    assert problems(partition) == []


@pytest.mark.parametrize(
    "error",
    [
        ck.GeneralError(),
        ck.FunctionFailed(),
        ck.KeyHandleInvalid(),
        ck.ObjectHandleInvalid(),
        ck.SessionHandleInvalid(),
        ck.SessionClosed(),
        ck.OperationActive(),
        ck.OperationNotInitialized(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_call_whose_session_was_at_fault_succeeds_in_a_fresh_one(
    partition: Partition, error: ck.PKCS11Error
) -> None:
    material = fresh(partition, P256)
    break_key(partition, material, Purpose.SIGN, error)
    before = session_handle(partition)

    signature = partition.sign(material, Algorithm.ES256, DIGEST)

    assert partition.verify(material, Algorithm.ES256, DIGEST, signature)
    assert session_handle(partition) != before
    assert problems(partition) == []


def test_a_session_closed_behind_our_back_is_replaced(partition: Partition) -> None:
    material = fresh(partition, P256)
    partition.sign(material, Algorithm.ES256, DIGEST)
    partition._core.sessions._all[0].raw.close()

    signature = partition.sign(material, Algorithm.ES256, DIGEST)

    assert partition.verify(material, Algorithm.ES256, DIGEST, signature)
    assert problems(partition) == []


def test_an_input_that_the_token_refuses_is_the_callers_fault(
    partition: Partition,
) -> None:
    material = fresh(partition, P256)
    break_key(partition, material, Purpose.SIGN, ck.DataLenRange())

    with pytest.raises(InvalidRequest, match="DataLenRange"):
        partition.sign(material, Algorithm.ES256, DIGEST)

    assert problems(partition) == []


@pytest.mark.parametrize(
    "error", [ck.DeviceMemory(), ck.HostMemory(), ck.SessionCount()], ids=repr
)
def test_a_full_token_sheds_and_stays(
    partition: Partition, error: ck.PKCS11Error
) -> None:
    material = fresh(partition, P256)
    break_key(partition, material, Purpose.SIGN, error)

    with pytest.raises(Overloaded):
        partition.sign(material, Algorithm.ES256, DIGEST)

    partition.sign(material, Algorithm.ES256, DIGEST)
    assert problems(partition) == []


@pytest.mark.parametrize(
    "error",
    [
        ck.DeviceError(),
        ck.DeviceRemoved(),
        ck.TokenNotPresent(),
        ck.UserNotLoggedIn(),
        ck.PKCS11Error("Unmapped error code 0x81000071"),
    ],
    ids=repr,
)
def test_a_device_fault_ends_the_partition_and_says_so_once(
    partition: Partition, error: ck.PKCS11Error
) -> None:
    material, other = fresh(partition, P256), fresh(partition, P256)
    break_key(partition, material, Purpose.SIGN, error)

    with pytest.raises(PartitionLost) as told:
        partition.sign(material, Algorithm.ES256, DIGEST)
    with pytest.raises(PartitionLost) as again:
        partition.sign(other, Algorithm.ES256, DIGEST)

    assert len(problems(partition)) == 1
    assert "p0" in problems(partition)[0]
    # What the token said is the operator's: callers are told by the same words always.
    assert type(error).__name__ in problems(partition)[0]
    assert type(error).__name__ not in f"{told.value} {told.value.facts}"
    assert str(told.value) == str(again.value)


def test_a_failing_canary_condemns_the_partition(partition: Partition) -> None:
    material = fresh(partition, AES)
    sealed = partition.encrypt(material, Algorithm.A256GCM, b"a secret", b"")
    break_key(partition, material, Purpose.CIPHER, ck.GeneralError())
    partition._core._canary_mac = bytes(32)

    with pytest.raises(PartitionLost):
        partition.decrypt(material, Algorithm.A256GCM, sealed, b"")

    assert len(problems(partition)) == 1


@pytest.mark.parametrize("algorithm", [Algorithm.PS256, Algorithm.RS256])
def test_cr_14_an_rsa_signature_that_does_not_verify_is_not_given_out(
    partition: Partition, algorithm: Algorithm
) -> None:
    """One faulty CRT signature would let anyone factor the modulus."""
    material, other = fresh(partition, RSA), fresh(partition, RSA)
    for one in (material, other):
        partition.sign(one, Algorithm.PS256, DIGEST)
    session = partition._core.sessions._all[0]
    right = session.opened.get(material.version, Purpose.SIGN)
    wrong = session.opened.get(other.version, Purpose.SIGN)
    assert right is not None
    assert wrong is not None
    session.opened.put(dataclasses.replace(right, key=wrong.key))

    with pytest.raises(WrappedKeyInvalid, match="not given out"):
        partition.sign(material, algorithm, DIGEST)

    assert problems(partition) == []


def lose_the_token(token: Token) -> tuple[str, list[str], str]:
    """Open, use, delete the token's files, use again; in a process of its own."""
    lost: list[str] = []
    partition = Partition.open(
        config(token, "north", "p0"), vault_id=VAULT, on_lost=lost.append
    )
    material = fresh(partition, P256)
    partition.sign(material, Algorithm.ES256, DIGEST)

    shutil.rmtree(Path(token.directory) / "tokens")

    try:
        partition.sign_statement(b"anything")
        partition.self_test(material)
    except VaultError as error:
        first = type(error).__name__
    else:
        first = "nothing"
    try:
        partition.sign(material, Algorithm.ES256, DIGEST)
    except VaultError as error:
        return first, lost, type(error).__name__
    return first, lost, "nothing"


def test_a_token_that_disappears_is_a_lost_partition(north: RegionTokens) -> None:
    token = north.tokens["p0"]

    first, lost, then = apart(token.environment, lose_the_token)(token)

    assert (first, then) == ("PartitionLost", "PartitionLost")
    assert len(lost) == 1
