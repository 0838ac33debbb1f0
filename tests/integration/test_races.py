"""Two who act at once on one key: exactly one way it went, and nobody is told another.

The attacker times calls: many at once, through two partitions of one region.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.model.access import CRYPTO_USER
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.access_service_pb2 import DeleteRoleAssignmentRequest
from hsmvault.v1.resources_pb2 import KeyVersion
from tests.support.served import (
    Caller,
    Served,
    grant,
    make_key,
    refusal,
    served,
    signed,
)

Code = grpc.StatusCode
ROUNDS = 5


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """Two partitions of one region."""
    shared: dict[str, bytes] = {}
    with (
        served(tmp_path, keys=shared) as one,
        served(tmp_path, keys=shared, ca=one.ca, partition="p1") as other,
    ):
        yield one, other


def _outcome(call: Callable[[], object]) -> Code:
    try:
        call()
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        return error.code()
    return Code.OK


def _at_once(*calls: Callable[[], object]) -> list[Code]:
    """Make calls that begin together; their codes."""
    gate = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> Code:
        gate.wait()
        return _outcome(call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


class Signing:
    """Callers that sign without a pause; those begun after `ending` must fail."""

    def __init__(self, callers: list[Caller], name: str) -> None:
        self.callers = callers
        self.name = name
        self.done: list[tuple[float, Code]] = []
        self._stop = threading.Event()

    def _sign(self, caller: Caller) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.done.append((began, _outcome(lambda: signed(caller, self.name))))

    def until(self, ending: Callable[[], object]) -> Counter[Code]:
        """Sign while `ending` is called; what calls got that began after its answer."""
        with ThreadPoolExecutor(len(self.callers)) as pool:
            tasks = [pool.submit(self._sign, caller) for caller in self.callers]
            while Code.OK not in {code for _, code in list(self.done)}:
                time.sleep(0.001)
            ending()
            answered = time.monotonic()
            while sum(began > answered for began, _ in list(self.done)) < 20:
                time.sleep(0.001)
            self._stop.set()
            for task in tasks:
                task.result()
        return Counter(code for began, code in self.done if began > answered)


def test_rs_05_of_many_who_make_one_name_exactly_one_does(
    pair: tuple[Served, Served],
) -> None:
    codes = _at_once(*[lambda one=one: make_key(one, "same") for one in pair * 4])

    assert Counter(codes) == {Code.OK: 1, Code.ALREADY_EXISTS: 7}
    for one in pair:
        assert len(one.uma.keys.ListKeys(keys.ListKeysRequest()).keys) == 1
        assert signed(one.uma, "keys/same").signature


def test_rs_05_a_key_is_not_used_once_its_deletion_was_answered(
    pair: tuple[Served, Served],
) -> None:
    one, other = pair
    make_key(one, "k")

    after = Signing([one.uma, other.uma], "keys/k").until(
        lambda: one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/k"))
    )

    assert set(after) == {Code.FAILED_PRECONDITION}


def test_rs_05_a_recovery_and_a_purge_at_once_leave_one_of_the_two(
    pair: tuple[Served, Served],
) -> None:
    one, other = pair
    for number in range(ROUNDS):
        name = f"keys/k{number}"
        make_key(one, f"k{number}")
        one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name=name))

        recovered, purged = _at_once(
            lambda name=name: one.olga.keys.RecoverKey(  # type: ignore[misc]
                keys.RecoverKeyRequest(name=name)
            ),
            lambda name=name: other.olga.keys.PurgeKey(  # type: ignore[misc]
                keys.PurgeKeyRequest(name=name)
            ),
        )

        assert [recovered, purged].count(Code.OK) == 1
        lives = _outcome(lambda name=name: signed(other.uma, name))  # type: ignore[misc]
        assert lives is (Code.OK if recovered is Code.OK else Code.NOT_FOUND)


def test_rs_05_a_role_does_not_outlive_its_revocation_by_being_granted_meanwhile(
    pair: tuple[Served, Served],
) -> None:
    """Assign and revoke at once: a revocation that was answered is in force."""
    one, other = pair
    make_key(one, "k")
    first = grant(one, "eve", CRYPTO_USER, "/keys/k")

    def revoke() -> None:
        other.ada.access.DeleteRoleAssignment(
            DeleteRoleAssignmentRequest(name=first.name)
        )

    after = Signing([one.eve, other.eve], "keys/k").until(revoke)

    assert set(after) == {Code.PERMISSION_DENIED}
    again = _at_once(
        *[lambda: grant(one, "eve", CRYPTO_USER, "/keys/k") for _ in range(3)],
        *[lambda: grant(other, "eve", CRYPTO_USER, "/keys/k") for _ in range(3)],
    )
    assert Counter(again) == {Code.OK: 1, Code.ALREADY_EXISTS: 5}


@pytest.mark.parametrize("ending", ("disable", "disable version", "delete"))
def test_cr_16_the_next_use_is_refused_and_the_handle_is_gone(
    pair: tuple[Served, Served], ending: str
) -> None:
    """An open key must not be used from a cache, where another partition wrote."""
    one, other = pair
    key = make_key(one, "k")
    version = key.current_version.rpartition("/")[2]
    signed(other.uma, "keys/k")
    opened = version in other.hsm.opened

    if ending == "delete":
        one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/k"))
    elif ending == "disable":
        key.enabled = False
        one.uma.keys.UpdateKey(keys.UpdateKeyRequest(key=key))
    else:
        off = KeyVersion(name=key.current_version, enabled=False)
        one.uma.keys.UpdateKeyVersion(keys.UpdateKeyVersionRequest(key_version=off))

    assert opened
    assert refusal(lambda: signed(other.uma, "keys/k"))[0] is Code.FAILED_PRECONDITION
    assert version not in other.hsm.opened


def test_cr_15_a_version_that_ended_is_not_replaced_by_another(
    pair: tuple[Served, Served],
) -> None:
    """Who names a version gets that version or a refusal, whatever is current now."""
    one, other = pair
    first = make_key(one, "k").current_version
    one.uma.keys.RotateKey(keys.RotateKeyRequest(name="keys/k"))

    old = signed(other.uma, first)
    off = KeyVersion(name=first, enabled=False)
    one.uma.keys.UpdateKeyVersion(keys.UpdateKeyVersionRequest(key_version=off))
    disabled = refusal(lambda: signed(other.uma, first))
    one.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/k"))
    deleted = refusal(lambda: signed(other.uma, first))

    assert old.name == first
    assert (disabled[0], deleted[0]) == (Code.FAILED_PRECONDITION,) * 2


def test_cr_15_what_expects_a_version_that_is_current_no_more_is_refused(
    pair: tuple[Served, Served],
) -> None:
    """The caller has read which version is current; then somebody rotates the key."""
    one, other = pair
    make_key(one, "aes", "oct")
    wraps: dict[str, Any] = {
        "name": "keys/aes",
        "algorithm": "A256KW",
        "plaintext": bytes(16),
    }
    sealed: dict[str, Any] = {"name": "keys/aes", "algorithm": "A256GCM"}
    signs: dict[str, Any] = {
        "name": "keys/k",
        "algorithm": "ES256",
        "digest": bytes(32),
    }
    crypto = other.uma.crypto
    asked: dict[str, Callable[[str], Any]] = {
        "k": lambda v: crypto.Sign(pb.SignRequest(**signs, expected_version=v)),
        "aes": lambda v: crypto.Encrypt(
            pb.EncryptRequest(**sealed, expected_version=v)
        ),
        "aes ": lambda v: crypto.WrapKey(
            pb.WrapKeyRequest(**wraps, expected_version=v)
        ),
        " aes": lambda v: crypto.GenerateDataKey(
            pb.GenerateDataKeyRequest(name="keys/aes", expected_version=v)
        ),
    }
    make_key(one, "k")
    for key, ask in asked.items():
        name = f"keys/{key.strip()}"
        current = one.uma.keys.GetKey(keys.GetKeyRequest(name=name)).current_version
        before = ask(current)
        fresh = one.uma.keys.RotateKey(keys.RotateKeyRequest(name=name)).name

        told = refusal(lambda ask=ask, current=current: ask(current))  # type: ignore[misc]

        assert before.name == current
        assert told[:2] == (Code.FAILED_PRECONDITION, "VERSION_MOVED")
        assert fresh in told[2]
        assert ask(fresh).name == fresh


@pytest.mark.parametrize("expected", ("keys/x/versions/{}", "keys/k", "{}"))
def test_cr_15_an_expected_version_is_one_of_the_key_that_is_named(
    pair: tuple[Served, Served], expected: str
) -> None:
    one, _ = pair
    version = make_key(one, "k").current_version.rpartition("/")[2]

    told = refusal(
        lambda: one.uma.crypto.Sign(
            pb.SignRequest(
                name="keys/k",
                algorithm="ES256",
                digest=bytes(32),
                expected_version=expected.format(version),
            )
        )
    )

    assert told[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "ask",
    (
        lambda c, n: c.keys.ListKeyVersions(keys.ListKeyVersionsRequest(parent=n[:6])),
        lambda c, n: c.keys.GetPublicKey(keys.GetPublicKeyRequest(name=n)),
        lambda c, n: c.keys.UpdateKeyVersion(
            keys.UpdateKeyVersionRequest(key_version=KeyVersion(name=n, enabled=False))
        ),
        lambda c, n: c.keys.ActivateKeyVersion(
            keys.ActivateKeyVersionRequest(name=n, force=True)
        ),
        lambda c, n: c.keys.GetRotationPolicy(
            keys.GetRotationPolicyRequest(name=f"{n[:6]}/rotationPolicy")
        ),
        lambda c, n: c.keys.UpdateRotationPolicy(
            keys.UpdateRotationPolicyRequest(
                rotation_policy=keys.RotationPolicy(name=f"{n[:6]}/rotationPolicy")
            )
        ),
        signed,
    ),
)
def test_az_07_a_version_or_policy_of_anothers_key_is_guarded_like_the_key(
    pair: tuple[Served, Served], ask: Callable[[Caller, str], object]
) -> None:
    """The attacker is a Crypto User of another key, and knows the version's full name.

    They get the same answer for what is there and for what is not.
    """
    one, _ = pair
    version = make_key(one, "k").current_version
    make_key(one, "own")
    grant(one, "eve", CRYPTO_USER, "/keys/own")

    there = refusal(lambda: ask(one.eve, version))
    absent = refusal(lambda: ask(one.eve, version.replace("keys/k", "keys/x")))

    assert there[0] is absent[0] is Code.PERMISSION_DENIED
    assert there[2].replace("keys/k", "keys/x") == absent[2]


def test_az_07_a_version_is_not_reached_through_a_key_that_one_may_use(
    pair: tuple[Served, Served],
) -> None:
    """The attacker puts another key's version id under the name of their own key."""
    one, _ = pair
    theirs = make_key(one, "k").current_version.rpartition("/")[2]
    make_key(one, "own")
    grant(one, "eve", CRYPTO_USER, "/keys/own")
    crossed = f"keys/own/versions/{theirs}"

    for ask in (
        lambda: signed(one.eve, crossed),
        lambda: one.eve.keys.GetPublicKey(keys.GetPublicKeyRequest(name=crossed)),
        lambda: one.eve.keys.ActivateKeyVersion(
            keys.ActivateKeyVersionRequest(name=crossed, force=True)
        ),
    ):
        assert refusal(ask)[0] is Code.NOT_FOUND
