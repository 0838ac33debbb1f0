"""Events: one line of JSON each, and never a secret in one."""

import json

import pytest

from hsmvault.telemetry import LEVELS, Event, report


def test_an_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    report(Event.LINK_DOWN, subject="south", why="line one\nline two")

    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["event"] == "link.down"
    assert event["level"] == LEVELS[Event.LINK_DOWN]
    assert event["why"] == "line one\nline two"


def test_a_fact_may_have_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Facts of errors are passed on as they are; an event never fails by one."""
    facts = {"event": "x", "error": "y", "region": "south", "level": "z", "self": "s"}

    report(Event.CALL_DENIED, None, **facts)

    event = json.loads(capsys.readouterr().err)
    assert event["event"] == "call.denied"
    assert event["level"] == "warning"
    assert event["subject_region"] == "south"


def test_bytes_are_never_written(capsys: pytest.CaptureFixture[str]) -> None:
    report(Event.CALL_FAILED, plaintext=b"attack at dawn", key=bytearray(b"secret"))

    written = capsys.readouterr().err
    assert "attack" not in written
    assert "secret" not in written
    assert "<14 bytes>" in written


def test_a_traceback_shows_no_local_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(pin: str) -> None:
        raise LookupError(len(pin))

    try:
        fails("12" + "34")
    except LookupError as error:
        report(Event.CALL_FAILED, error)

    written = capsys.readouterr().err
    assert "LookupError" in written
    assert "1234" not in written


def test_events_go_to_standard_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output belongs to the officer's answers and the CLI's results."""
    report(Event.PROCESS_READY)

    assert not capsys.readouterr().out


def test_every_level_is_one_that_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for event in Event:
        report(event)

    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [e["event"] for e in written] == [event.value for event in Event]
