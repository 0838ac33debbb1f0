"""A process's trail against what disks do, and what is answered meanwhile."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.audit.appending import Appender
from hsmvault.audit.trail import RESERVE_BYTES, Trail
from hsmvault.model.errors import AuditUnavailable, IntegrityFailure
from hsmvault.v1 import key_service_pb2 as keys
from tests.support.nodes import until
from tests.support.served import VAULT_ID, Served, make_key, refusal, served, signed

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")


def _trail(directory: Path, process: str = "p0", **options: Any) -> Trail:
    trail = Trail(
        directory, vault_id=VAULT_ID, region="north", process=process, **options
    )
    trail.open()
    return trail


def _lines(directory: Path, process: str = "p0") -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(directory.glob(f"{process}-*.jsonl"))
        for line in path.read_text(encoding="ascii").splitlines()
    ]


def _events(directory: Path) -> list[str]:
    return [line["event"] for line in _lines(directory)]


@contextmanager
def _no_file_grows_beyond(size: int) -> Iterator[None]:
    """The kernel refuses with EFBIG. Python ignores the signal that goes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_trail_goes_on_where_it_ended(tmp_path: Path) -> None:
    for number in range(3):
        with closing(_trail(tmp_path)) as trail:
            trail.note("test.ran", number=number)

    lines = _lines(tmp_path)
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"p0-000001.jsonl"}


def test_a_trail_goes_on_in_another_file_when_one_is_long(tmp_path: Path) -> None:
    with closing(_trail(tmp_path, segment_bytes=1000)) as trail:
        for number in range(10):
            trail.note("test.ran", number=number)

    paths = sorted(tmp_path.glob("*.jsonl"))
    assert len(paths) > 2
    assert [line["sequence"] for line in _lines(tmp_path)] == list(
        range(1, 11 + len(paths))
    )
    assert all(path.stat().st_size < 1500 for path in paths)


def test_a_file_that_is_left_while_the_disk_keeps_it_is_no_failure(
    tmp_path: Path,
) -> None:
    """Two files are begun while one before them is being kept."""
    files = Appender(tmp_path, vault_id=VAULT_ID, region="north", process="p0")
    files.begin()
    files.append('"event":"test.ran"')
    first = files._segment
    assert first is not None
    files.begin_next()
    keep = first.sync

    def slowly() -> None:
        keep()
        files.begin_next()

    first.sync = slowly  # type: ignore[method-assign]
    files.sync()
    files.append('"event":"test.ran"')
    files.sync()
    files.close()

    assert [line["sequence"] for line in _lines(tmp_path)] == [1, 2, 3, 4]


def test_two_processes_have_two_files_and_one_trail_has_one_writer(
    tmp_path: Path,
) -> None:
    """AU-06: two writers of one file would break its chain."""
    with closing(_trail(tmp_path)) as first, closing(_trail(tmp_path, "p1")) as other:
        with closing(_trail(tmp_path)) as second:
            assert second.problem == "another process writes it"
            with pytest.raises(AuditUnavailable):
                second.note("test.ran")
        first.note("test.ran")
        other.note("test.ran")

    assert _events(tmp_path) == ["audit.started", "test.ran"]
    assert len(_lines(tmp_path, "p1")) == 2


def test_what_a_crash_left_of_a_line_is_cut_off_and_said(tmp_path: Path) -> None:
    with closing(_trail(tmp_path)) as trail:
        trail.note("test.ran")
    path = tmp_path / "p0-000001.jsonl"
    with path.open("ab") as file:
        file.write(b'{"sequence":3,"ti')

    with closing(_trail(tmp_path)) as trail:
        trail.note("test.ran")

    assert _events(tmp_path) == [
        "audit.started",
        "test.ran",
        "audit.torn",
        "audit.started",
        "test.ran",
    ]
    assert _lines(tmp_path)[2]["facts"] == {"bytes": 17}


def test_a_trail_does_not_go_on_from_a_line_that_is_none(tmp_path: Path) -> None:
    with closing(_trail(tmp_path)):
        pass
    with (tmp_path / "p0-000001.jsonl").open("ab") as file:
        file.write(b"nothing\n")

    with pytest.raises(IntegrityFailure, match="hsmvault audit verify"):
        _trail(tmp_path)


KILLED = """
import sys, pathlib
from hsmvault.audit.trail import Trail
trail = Trail(pathlib.Path(sys.argv[1]), vault_id=sys.argv[2], region="north",
              process="p0")
trail.open()
for number in range(10**9):
    trail.note("test.ran", number=number)
    print(number, flush=True)
"""


def test_a_process_that_is_killed_loses_no_record_that_it_wrote(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), VAULT_ID], stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(500)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout if line.endswith(b"\n")]

    with closing(_trail(tmp_path)):
        pass

    facts = [line.get("facts", {}).get("number") for line in _lines(tmp_path)]
    assert set(said) <= set(facts)
    sequences = [line["sequence"] for line in _lines(tmp_path)]
    assert sequences == list(range(1, len(sequences) + 1))


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        make_key(one, "ec")
        signed(one.uma, "keys/ec")
        yield one


def _audit(one: Served) -> list[dict[str, Any]]:
    return _lines(one.trail.directory)


def test_au_01_a_file_that_may_not_grow_refuses_operations_until_it_may(
    north: Served,
) -> None:
    """The kernel takes a part of a line, and no more. The part is cut off again."""
    path = next(north.trail.directory.glob("*.jsonl"))
    before = len(_audit(north))
    # Any other file that grows meanwhile is a short one, or not there yet.
    with path.open("ab") as file:
        size = file.tell()

    with _no_file_grows_beyond(size + 100):
        refused = [refusal(lambda: signed(north.uma, "keys/ec"))[:2] for _ in range(3)]

    assert refused == [UNAVAILABLE] * 3
    until(lambda: not north.trail.problem)
    assert signed(north.uma, "keys/ec").signature
    after = _audit(north)[before:]
    assert [line["event"] for line in after if line["event"] != "audit.segment"] == [
        "audit.resumed",
        "call",
    ]
    resumed = next(line for line in after if line["event"] == "audit.resumed")
    assert resumed["facts"]["refused"] == 3
    assert resumed["facts"]["problem"] == "No space left on device"


def test_au_01_a_file_that_fails_is_left_for_another_one(north: Served) -> None:
    """EFBIG from the kernel, and not for want of room: the trail goes on beside it."""
    path = next(north.trail.directory.glob("*.jsonl"))
    before = len(_audit(north))

    with _no_file_grows_beyond(path.stat().st_size):
        refused = refusal(lambda: signed(north.uma, "keys/ec"))
        until(lambda: not north.trail.problem)
        signed(north.uma, "keys/ec")

    assert refused[:2] == UNAVAILABLE
    assert "File too large" in refused[2]
    assert [line["event"] for line in _audit(north)[before:]] == [
        "audit.segment",
        "audit.resumed",
        "call",
    ]


def test_au_01_a_full_disk_refuses_and_is_said_and_service_resumes(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full: a write to it is ENOSPC, as of a disk without room."""
    segment = north.trail._files._segment
    assert segment is not None
    full, own = os.open("/dev/full", os.O_WRONLY), segment._fd
    before = len(_audit(north))
    # It can be neither synced nor cut off, as a file on a full disk can: what was to be
    # kept is kept before, and nobody tries again meanwhile.
    north.trail.sync()
    monkeypatch.setattr("hsmvault.audit.trail._RESUME_SECONDS", 3600)

    segment._fd = full
    refused = refusal(lambda: signed(north.uma, "keys/ec"))
    segment._fd = own
    os.close(full)
    monkeypatch.undo()

    assert refused[:2] == UNAVAILABLE
    assert "No space left on device" in refused[2]
    assert "make room in" in refused[2]
    until(lambda: not north.trail.problem)
    signed(north.uma, "keys/ec")
    assert [line["event"] for line in _audit(north)[before:]] == [
        "audit.resumed",
        "call",
    ]


def test_au_01_a_change_is_not_begun_that_could_not_be_recorded(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads still find room where changes do not: what is free is kept for records."""
    usage = "hsmvault.audit.trail.shutil.disk_usage"
    monkeypatch.setattr(usage, lambda _path: _Usage(RESERVE_BYTES - 1))

    refused = refusal(lambda: make_key(north, "more"))

    assert refused[:2] == UNAVAILABLE
    monkeypatch.undo()
    missing = refusal(
        lambda: north.uma.keys.GetKey(keys.GetKeyRequest(name="keys/more"))
    )
    assert missing[0] is grpc.StatusCode.NOT_FOUND
    assert make_key(north, "more").name == "keys/more"


@dataclass
class _Usage:
    free: int


def test_au_01_a_disk_that_hangs_keeps_no_call_waiting_for_long(
    north: Served,
) -> None:
    """A pipe that nobody reads takes no byte more, and says nothing either."""
    segment = north.trail._files._segment
    assert segment is not None
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    # A pipe cannot be synced: what was to be kept is kept before.
    north.trail.sync()
    own, segment._fd = segment._fd, writing
    codes: list[grpc.StatusCode] = []

    def call() -> None:
        codes.append(refusal(lambda: signed(north.uma, "keys/ec", timeout=60))[0])

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    still = refusal(lambda: signed(north.uma, "keys/ec", timeout=60))[:2]

    # The one whose record the disk kept is ended; all others are told.
    assert sorted(code.name for code in codes) == ["CANCELLED"] + ["UNAVAILABLE"] * 5
    assert still == UNAVAILABLE
    segment._fd = own
    os.close(reading)
    until(lambda: not north.trail.problem)
    os.close(writing)
    assert signed(north.uma, "keys/ec").signature
