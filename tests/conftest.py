"""What holds for every test: nothing is timed, and no process outlives the run."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = (
    "tests.support.softhsm",
    "tests.support.partitions",
    "tests.support.canary",
    "tests.support.issuing",
)

settings.register_profile(
    "house",
    # No assertion about time: a busy machine is no bug.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("house")

_MARK = "HSMVAULT_TEST_RUN"


@pytest.fixture(scope="session", autouse=True)
def whatever_is_started_can_be_interrupted() -> None:
    """A shell has what it starts in the background ignore SIGINT, and its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_run() -> Iterator[None]:
    """Every process that a test starts inherits a mark; at the end none is left."""
    run = uuid.uuid4().hex
    os.environ[_MARK] = run

    yield

    del os.environ[_MARK]
    # A supervisor that was killed takes its processes with it, a moment later.
    for _ in range(50):
        if not _marked(run):
            return
        time.sleep(0.1)
    left = _marked(run)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"tests left processes behind: {list(left.values())}"


def _marked(run: str) -> dict[int, str]:
    mark = f"{_MARK}={run}".encode()
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(process.name)] = command.decode(errors="replace").strip()
        except OSError:
            continue  # it ended, or is another user's
    return found
