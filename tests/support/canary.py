"""Looks for secrets in all that a run of the tests wrote (CR-18, AU-05).

What counts as secret: every PIN in a file below the run's directory, and those of the
tests' tokens; private keys of certificates; and every plaintext that begins with
`CANARY`, which tests put through the API. What is searched: every file there (logs,
audit trails, metrics, traces, stores) and all that tests printed or had printed to
standard error, in the clear, in hex and in base64. Not searched, by name: token
directories, the files that are there to hold a PIN or a private key, and what a test
made to be read as a plaintext (`*.plain`).
"""

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.softhsm import SO_PIN, USER_PIN

CANARY: Final = b"planted canary"
PRINTED: Final = "printed-by-tests.txt"

_BYTES_MIN: Final = 8
"""What is shorter would be found by chance."""
_PIN_FILES: Final = ("*.pin", "*.so-pin")
_EXCLUDED: Final = (
    *(f"--exclude={name}" for name in (*_PIN_FILES, "*.key", "*.plain")),
    "--exclude-dir=tokens",
)

_printed: list[Path] = []
"""Where what tests print is kept, once the run has a directory."""


@pytest.fixture(scope="session", autouse=True)
def nothing_that_was_written_shows_a_secret(
    tmp_path_factory: pytest.TempPathFactory, no_process_outlives_the_run: None
) -> Iterator[None]:
    """CR-18, AU-05: logs, audit, metrics, traces, errors, of everything that ran."""
    directory = tmp_path_factory.getbasetemp()
    _printed.append(directory / PRINTED)

    yield

    found = leaks(directory)
    assert not found, f"a PIN, a key or a planted canary stands in {found}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test had printed, so that it is searched with everything else."""
    text = report.capstdout + report.capstderr
    if text and _printed:
        with _printed[0].open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"{report.nodeid}\n{text}\n")


def secrets(directory: Path) -> Iterator[bytes]:
    """Every secret that the tests of this run had."""
    yield from (CANARY, SO_PIN.encode(), USER_PIN.encode(), b"so-pin-12345678")
    for pattern in _PIN_FILES:
        for path in _files(directory, pattern):
            yield path.read_bytes().strip()
    for path in _files(directory, "*.key"):
        lines = path.read_bytes().splitlines()
        if len(lines) > 3 and b"PRIVATE KEY" in lines[0]:
            # A line from within: the first is the same for all keys of a kind.
            yield base64.b64decode(lines[2])


def forms(secret: bytes) -> Iterator[bytes]:
    """How bytes are usually written."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        # Within other bytes: without the characters that those have a part in.
        text = base64.b64encode(bytes(shift) + secret)
        whole = (shift + len(secret)) // 3 * 4
        yield text[-(-shift * 4 // 3) : whole]
        yield text[-(-shift * 4 // 3) : whole].translate(bytes.maketrans(b"+/", b"-_"))


def leaks(directory: Path) -> list[str]:
    """The files in which some secret is found."""
    needles = {
        form
        for secret in secrets(directory)
        if len(secret) >= _BYTES_MIN and b"\n" not in secret
        for form in forms(secret)
        if len(form) >= _BYTES_MIN and b"\n" not in form and b"\0" not in form
    }
    command = ["grep", "-r", "-l", "-a", "-F", *_EXCLUDED, "-f", "-", str(directory)]
    ended = subprocess.run(
        command,
        input=b"\n".join(sorted(needles)),
        capture_output=True,
        # Bytes are bytes.
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    return sorted(ended.stdout.decode(errors="replace").splitlines())


def _files(directory: Path, pattern: str) -> Iterator[Path]:
    for path in directory.rglob(pattern):
        if path.is_file():
            yield path
