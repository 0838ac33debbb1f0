"""Every event that a process reports, by name, and the one way to report it.

An event is one line of JSON on standard error: when, how bad, which process of which
region, what happened, and its facts. No fact is ever a secret; bytes are not written
at all, so that a slip cannot show one, and tracebacks come without local variables.
"""

import sys
import threading
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import structlog

from hsmvault.metrics import EVENTS, count


class Event(StrEnum):
    """What can happen that an operator may want to know."""

    PROCESS_STARTED = "process.started"
    PROCESS_READY = "process.ready"
    PROCESS_DRAINING = "process.draining"
    PROCESS_ENDED = "process.ended"
    PROCESS_RESTARTED = "process.restarted"
    PROCESS_KILLED = "process.killed"
    """It did not answer in time, so its supervisor ended it."""
    PROCESS_NEEDS_OPERATOR = "process.needs_operator"
    """Its configuration is wrong: it is not started again by itself."""

    PARTITION_OPENED = "partition.opened"
    PARTITION_LOST = "partition.lost"

    CALL_FAILED = "call.failed"
    """A bug. The caller has the incident's id."""
    CALL_DENIED = "call.denied"
    INTEGRITY_FAILED = "integrity.failed"
    COUNTERS_LOST = "counters.lost"
    """They do not add up, or not to what the token remembers. Rotate keys here."""

    ISSUER_KEYS_CHANGED = "issuer.keys_changed"
    ISSUER_SILENT = "issuer.silent"
    """Its keys cannot be fetched; the last ones serve for a while, then none."""
    CERTIFICATE_CHANGED = "certificate.changed"
    """New connections get the new certificate, and are checked by the new CA."""
    CERTIFICATE_KEPT = "certificate.kept"
    """The files changed, but cannot be used as they are: the old ones serve on."""
    CERTIFICATE_EXPIRES = "certificate.expires"
    """The listeners' certificate ends soon; without another one nobody can connect."""
    REVOCATIONS_CHANGED = "revocations.changed"
    REVOCATIONS_OVERDUE = "revocations.overdue"
    """The revocation list says that there is a newer one by now. It is kept in use."""
    AUDIT_FAILED = "audit.failed"
    """Records cannot be written. Nothing is answered until they can."""
    AUDIT_RESUMED = "audit.resumed"

    LINK_UP = "link.up"
    LINK_DOWN = "link.down"
    LINK_STOPPED = "link.stopped"
    """What came does not verify. Nothing is overwritten; an operator decides."""
    SNAPSHOT_OFFERED = "snapshot.offered"
    SNAPSHOT_INSTALLED = "snapshot.installed"

    REGION_STATE_CHANGED = "region.state_changed"
    REGION_PURGED = "region.purged"
    CEREMONY_STEP = "ceremony.step"
    KEYS_SEALED = "keys.sealed"
    VERSION_CURRENT = "version.current"
    """A rotated key's new version became current: every region holds it."""
    KEY_ROTATED = "key.rotated"
    """By itself, because its rotation policy said so."""
    ROTATION_SKIPPED = "rotation.skipped"
    """A key is due, and does not rotate."""
    KEY_SWEPT = "key.swept"
    """Purged by itself, because its retention had ended."""
    CLOCK_DISTRUSTED = "clock.distrusted"
    """The wall clock ran away from the boot clock: nothing is purged."""
    CLOCK_TRUSTED = "clock.trusted"
    TRACES_DROPPED = "traces.dropped"
    """Spans could not be written; told once until they can be again."""
    JOB_FAILED = "job.failed"
    """A job of the pool manager failed; it is tried again."""


LEVELS: Final[Mapping[Event, str]] = MappingProxyType(
    {
        Event.AUDIT_FAILED: "critical",
        Event.CALL_DENIED: "warning",
        Event.CALL_FAILED: "error",
        Event.CLOCK_DISTRUSTED: "critical",
        Event.COUNTERS_LOST: "error",
        Event.INTEGRITY_FAILED: "critical",
        Event.CERTIFICATE_EXPIRES: "warning",
        Event.CERTIFICATE_KEPT: "error",
        Event.ISSUER_SILENT: "warning",
        Event.REVOCATIONS_OVERDUE: "warning",
        Event.JOB_FAILED: "error",
        Event.LINK_DOWN: "warning",
        Event.LINK_STOPPED: "critical",
        Event.PARTITION_LOST: "error",
        Event.PROCESS_ENDED: "error",
        Event.PROCESS_KILLED: "error",
        Event.PROCESS_NEEDS_OPERATOR: "critical",
        Event.PROCESS_RESTARTED: "warning",
        Event.ROTATION_SKIPPED: "warning",
        Event.TRACES_DROPPED: "warning",
    }
)
"""How bad an event is; those that are not named here are "info"."""

_OURS: Final = frozenset(
    {"event", "exc_info", "exception", "level", "process", "region", "timestamp"}
)
"""What an event says of itself."""

_who: dict[str, str] = {}
_writing = threading.Lock()


def identify(*, process: str, region: str = "") -> None:
    """Name this process and its region in every event from here on."""
    _who.update(process=process, region=region)


def report(
    event: Event, error: BaseException | None = None, /, **facts: object
) -> None:
    """Write one event, with the traceback of `error` if there is one.

    Facts may have any names: those that every event has are kept apart.
    """
    level = LEVELS.get(event, "info")
    count(EVENTS, event.value, level)
    log = getattr(_logger(), level)
    # In one argument: a fact could have the name of any other.
    log(event.value, facts=facts, exc_info=error)


class _StandardError:
    """Writes whole lines to whatever standard error is at that moment."""

    def msg(self, line: str) -> None:
        # One write per line: the processes of a region share the stream.
        with _writing:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    info = warning = error = critical = msg


@cache
def _logger() -> Any:
    return structlog.wrap_logger(
        _StandardError(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_facts,
            # Plain tracebacks: those with local variables would show secrets.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.BoundLogger,
    )


def _with_facts(
    _logger: object, _method: str, ours: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    facts = {
        f"subject_{name}" if name in _OURS else name: _without_bytes(fact)
        for name, fact in ours.pop("facts").items()
    }
    return {**_who, **ours, **facts}


def _without_bytes(fact: object) -> object:
    if isinstance(fact, bytes | bytearray | memoryview):
        return f"<{len(fact)} bytes>"
    return fact
