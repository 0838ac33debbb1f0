"""The demonstration's own acceptance: it is true, it ends, it leaves nothing behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from scripts.demonstration import secrecy
from scripts.demonstration.stage import ClaimFailed, Stage

ROOT = Path(__file__).resolve().parents[2]
STEPS = range(1, 8)


def demonstration(scratch: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.demonstration"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def served_from(directory: Path) -> list[str]:
    """Every process whose command line names the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found


@pytest.fixture
def scratch() -> Iterator[Path]:
    # Not pytest's own: Unix sockets take paths of a hundred characters, no longer.
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        yield Path(directory)
        assert not served_from(Path(directory))
        assert not list(Path(directory).iterdir())


@pytest.mark.softhsm
@pytest.mark.timeout(300)
def test_it_shows_seven_steps_and_leaves_nothing_behind(scratch: Path) -> None:
    with demonstration(scratch) as running:
        said, _ = running.communicate()

    assert running.returncode == 0, said
    assert "failed calls in all: 0" in said
    for number in STEPS:
        assert f"step {number} took" in said


@pytest.mark.softhsm
def test_interrupted_it_leaves_nothing_behind(scratch: Path) -> None:
    with demonstration(scratch) as running:
        # A region serves already, and the other is being made: the worst moment.
        while not list(scratch.glob("*/south")):
            assert running.poll() is None
            time.sleep(0.05)

        running.send_signal(signal.SIGINT)
        said, _ = running.communicate()

    assert running.returncode == 130, said


def test_a_claim_that_is_false_ends_it() -> None:
    with pytest.raises(ClaimFailed, match="bytes are equal"):
        Stage().claim("the bytes are equal", true=False)


def windows(raw: bytes) -> set[bytes]:
    return secrecy.windows_of(b"\0" * 100 + raw + b'{"name":"x"}' * 20)


@pytest.mark.parametrize("spelled", ("raw", "hex"))
def test_its_search_finds_a_private_key_that_lies_in_a_store(spelled: str) -> None:
    """A search that finds nothing proves nothing, unless it would have."""
    private = ec.generate_private_key(ec.SECP256R1())
    scalar = private.private_numbers().private_value.to_bytes(32, "big")
    public = private.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    lying = scalar if spelled == "raw" else scalar.hex().encode()

    assert secrecy.holds_ec(windows(lying), public)
    assert not secrecy.holds_ec(windows(os.urandom(200)), public)


def test_its_search_finds_a_secret_key_that_lies_in_a_store() -> None:
    key, nonce = os.urandom(32), bytes(12)
    sealed = AESGCM(key).encrypt(nonce, b"known", None)

    assert secrecy.holds_aes(windows(key), iv=nonce, sealed=sealed)
    assert not secrecy.holds_aes(windows(os.urandom(200)), iv=nonce, sealed=sealed)


def test_its_search_finds_a_prime_that_lies_in_a_store() -> None:
    private = rsa.generate_private_key(65537, 3072)
    prime = private.private_numbers().p.to_bytes(192, "big")
    public = private.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )

    assert secrecy.holds_rsa(b"\0" * 77 + prime + b"\0" * 9, public)
    assert not secrecy.holds_rsa(os.urandom(1000), public)
