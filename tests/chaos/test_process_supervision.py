"""What the supervisor makes of a process that ends, hangs, or should not be tried."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsmvault.server.beat import Beat
from hsmvault.server.children import BACKOFF_FIRST, Child, State
from tests.support.regions import alive

PATIENCE_SECONDS = 60.0


@contextmanager
def watched(tmp_path: Path, deed: str) -> Iterator[Child]:
    child = Child(
        name="p0",
        module="tests.support.pretend_child",
        arguments=(deed, str(tmp_path / "been")),
        environment={},
        log=tmp_path / "p0.log",
    )
    child.start()
    try:
        yield child
    finally:
        child.terminate()
        child.kill()
        until(child, lambda: not child.running)


def until(child: Child, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, (child.state, child.last, child.log)
        child.tick()
        time.sleep(0.01)


def test_a_process_that_falls_silent_is_killed_and_started_again(
    tmp_path: Path,
) -> None:
    with watched(tmp_path, "hang") as child:
        until(child, lambda: child.state is State.SERVING)
        former = child.pid
        assert former is not None

        until(child, lambda: child.restarts == 1)

        assert not alive(former)
        assert child.pid != former


def test_a_process_that_crashes_is_started_again_more_and_more_slowly(
    tmp_path: Path,
) -> None:
    with watched(tmp_path, "crash") as child:
        until(child, lambda: child.restarts == 3)

        assert child._backoff == BACKOFF_FIRST * 8
        assert child.exit_code == 1


@pytest.mark.parametrize("deed", ["wrong_pin", "misconfigured"])
def test_what_an_operator_must_correct_is_not_tried_again(
    tmp_path: Path, deed: str
) -> None:
    with watched(tmp_path, deed) as child:
        until(child, lambda: child.state is State.NEEDS_OPERATOR)
        for _ in range(100):
            child.tick()
            time.sleep(0.005)

        assert child.restarts == 0
        assert not child.running
        assert child.shown()["problem"].startswith("the token")


def test_a_token_that_was_there_may_come_back(tmp_path: Path) -> None:
    """A partition that served is tried again, even if its token is missing for now."""
    with watched(tmp_path, "token_goes_away") as child:
        until(child, lambda: child.restarts == 2)

        assert child.last.problem in {"no token", ""}
        assert child.state is not State.NEEDS_OPERATOR


def test_a_process_that_is_told_to_end_stays_ended(tmp_path: Path) -> None:
    with watched(tmp_path, "serve") as child:
        until(child, lambda: child.state is State.SERVING)

        child.terminate()
        until(child, lambda: child.state is State.STOPPED)

        assert child.exit_code == 0
        child.tick()
        assert not child.running


def test_a_process_that_waits_to_be_restarted_can_be_stopped(tmp_path: Path) -> None:
    with watched(tmp_path, "crash") as child:
        until(child, lambda: child.state is State.WAITING)

        child.terminate()

        assert child.state is State.STOPPED
        child.tick()
        assert not child.running


def test_a_beat_survives_whatever_it_tells(tmp_path: Path) -> None:
    """A long problem must not break the line, which is written in one piece."""
    beat = Beat(problem="ü\n" * 5000, position="1.north.7", open_keys=3)

    line = beat.line()

    assert line.count(b"\n") == 1
    assert len(line) <= 4096
    read = Beat.parse(line)
    assert read is not None
    assert (read.position, read.open_keys) == ("1.north.7", 3)
    for noise in (b"", b"{", b"[]", b'{"serving": true, "more": 1}', b"\xff"):
        assert Beat.parse(noise) is None
