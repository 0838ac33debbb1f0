"""How often a key version encrypts by GCM is counted, and it ends before IVs repeat.

NIST SP 800-38D, 8.3: with random IVs, 2^32 invocations of one key, wherever they are.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.model.errors import InvocationsExhausted
from hsmvault.model.invocations import INVOCATIONS_MAX, Count, share, statement
from hsmvault.model.names import KeyName
from hsmvault.store.counters import Counters
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.v1.key_service_pb2 import RotateKeyRequest
from hsmvault.vault.crypto import Crypto
from hsmvault.vault.invocations import Invocations
from hsmvault.vault.memory import Memory
from hsmvault.vault.plans import Plans
from tests.support.served import VAULT_ID, Served, make_key, refusal, served

BOX = KeyName.of_id("box")
NOW = 1_800_000_000_000
EXHAUSTED = (grpc.StatusCode.FAILED_PRECONDITION, "INVOCATIONS_EXHAUSTED")


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, clock=lambda: NOW) as one:
        make_key(one, "box", "oct", bits=256)
        yield one


@pytest.fixture
def counters(north: Served, tmp_path: Path) -> Iterator[Counters]:
    with closing(Counters.open("sqlite:///north.db", home=tmp_path)) as opened:
        yield opened


def _version(north: Served) -> str:
    return _encrypt(north).name.rpartition("/")[2]


def _encrypt(north: Served) -> pb.EncryptResponse:
    return north.uma.crypto.Encrypt(
        pb.EncryptRequest(name="keys/box", algorithm="A256GCM", plaintext=b"x")
    )


def _process(north: Served, counters: Counters, *, shift: int = 0) -> Crypto:
    """What another partition's process has of its own: memory, and blocks."""
    memory = Memory(north.store, north.hsm, region="north")
    memory.refresh()
    plans = Plans(memory, lambda: NOW)
    return Crypto(north.hsm, plans, Invocations(counters, memory, shift=shift))


def _used(crypto: Crypto) -> int:
    """Encrypt until it is refused; how often it was not."""
    done = 0
    while True:
        try:
            crypto.encrypt(BOX, None, "A256GCM", b"x", b"")
        except InvocationsExhausted:
            return done
        done += 1


def _taken(counters: Counters, version: str) -> int:
    row = counters.taken(version)
    return row.taken if row else 0


def test_all_shares_together_are_no_more_than_one_key_may() -> None:
    shares = [share(ordinal) for ordinal in range(50_000)]

    assert sum(shares) <= INVOCATIONS_MAX
    assert shares[:3] == [2**31, 2**32 // 6, 2**32 // 12]
    assert shares[100] > 400_000


def test_what_is_encrypted_is_counted_before_it_is(
    north: Served, counters: Counters
) -> None:
    version = _version(north)
    assert _taken(counters, version) == 256

    crypto = _process(north, counters)
    for _ in range(256 + 512 + 1):
        crypto.encrypt(BOX, None, "A256GCM", b"x", b"")

    # The other process's block, and three of this one's, each twice the last.
    assert _taken(counters, version) == 256 + 256 + 512 + 1024


@pytest.mark.parametrize(
    ("rpc", "counted"),
    [
        ("Encrypt", True),
        ("ReEncrypt", True),
        ("Batch", True),
        ("WrapKey", True),
        ("GenerateDataKey", True),
        ("Decrypt", False),
        ("wrap by KW", False),
    ],
)
def test_every_way_to_encrypt_by_gcm_is_counted(
    *, north: Served, counters: Counters, rpc: str, counted: bool
) -> None:
    """Seen by exhausting it: what counts is refused, what does not goes on."""
    sealed = _encrypt(north)
    version = sealed.name.rpartition("/")[2]
    _exhaust(north, counters, version)
    encrypt = pb.EncryptRequest(name="keys/box", algorithm="A256GCM", plaintext=b"x")
    opened: Any = {
        "name": sealed.name,
        "algorithm": "A256GCM",
        "ciphertext": sealed.ciphertext,
        "iv": sealed.iv,
        "tag": sealed.tag,
    }
    wrap = pb.WrapKeyRequest(name="keys/box", algorithm="A256GCM", plaintext=bytes(32))
    crypto = north.uma.crypto
    calls: dict[str, Callable[[], object]] = {
        "Encrypt": lambda: crypto.Encrypt(encrypt),
        "ReEncrypt": lambda: crypto.ReEncrypt(
            pb.ReEncryptRequest(
                **opened, target_name="keys/box", target_algorithm="A256GCM"
            )
        ),
        "WrapKey": lambda: crypto.WrapKey(wrap),
        "GenerateDataKey": lambda: crypto.GenerateDataKey(
            pb.GenerateDataKeyRequest(name="keys/box", algorithm="A256GCM")
        ),
        "Decrypt": lambda: crypto.Decrypt(pb.DecryptRequest(**opened)),
        "wrap by KW": lambda: crypto.GenerateDataKey(
            pb.GenerateDataKeyRequest(name="keys/box", algorithm="A256KW")
        ),
    }

    if rpc == "Batch":
        (result,) = crypto.Batch(
            pb.BatchRequest(items=[pb.BatchItem(encrypt=encrypt)])
        ).results
        assert result.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    elif counted:
        code, reason, message = refusal(calls[rpc])
        assert (code, reason) == EXHAUSTED
        assert "hsmvault key rotate" in message
    else:
        calls[rpc]()


def _exhaust(north: Served, counters: Counters, version: str) -> None:
    """Have all of north's share taken, and the serving process use up its block."""
    seen, most = counters.taken(version), share(0)
    assert seen is not None
    times = seen.times + 1
    (mac,) = north.hsm.mac([statement(VAULT_ID, "north", version, most, times)])
    assert counters.advance(version, seen.taken, Count(most, times, mac))
    for _ in range(255):
        _encrypt(north)


def test_after_rotation_a_key_encrypts_again_and_decrypts_as_ever(
    north: Served, counters: Counters
) -> None:
    sealed = _encrypt(north)
    _exhaust(north, counters, sealed.name.rpartition("/")[2])
    assert refusal(lambda: _encrypt(north))[:2] == EXHAUSTED

    north.uma.keys.RotateKey(RotateKeyRequest(name="keys/box"))

    assert _encrypt(north).name != sealed.name
    opened = north.uma.crypto.Decrypt(
        pb.DecryptRequest(
            name=sealed.name,
            algorithm="A256GCM",
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
        )
    )
    assert opened.plaintext == b"x"


def test_processes_and_threads_together_get_the_region_s_share_and_no_more(
    north: Served, counters: Counters
) -> None:
    processes = [_process(north, counters, shift=20) for _ in range(3)]
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda c=crypto: done.append(_used(c)))
        for crypto in processes
        for _ in range(2)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(done) == share(0) >> 20 == 2048


def test_a_crash_loses_invocations_and_never_gains_any(
    north: Served, counters: Counters
) -> None:
    """Each process ends after a few encryptions, as kill -9 ends it."""
    done = 0
    while True:
        crypto = _process(north, counters, shift=20)
        try:
            for _ in range(3):
                crypto.encrypt(BOX, None, "A256GCM", b"x", b"")
                done += 1
        except InvocationsExhausted:
            break

    assert 0 < done <= 2048


def test_no_encryption_but_the_first_of_a_block_asks_the_disk(
    north: Served, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypto = _process(north, counters)
    crypto.encrypt(BOX, None, "A256GCM", b"x", b"")
    for name in ("taken", "advance", "generation", "lost_ms"):
        monkeypatch.delattr(Counters, name)

    for _ in range(255):
        crypto.encrypt(BOX, None, "A256GCM", b"x", b"")

    with pytest.raises(AttributeError):
        crypto.encrypt(BOX, None, "A256GCM", b"x", b"")
