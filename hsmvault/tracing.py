"""The steps of a traced call, and the trace that it belongs to.

Most calls are not traced, and then all this costs is one look at a variable of the
thread. A traced call notes its steps in its thread; `server.traces` makes spans of
them. What a step says is ours alone: nothing that a caller sent.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from hsmvault.metrics import Metric, observe

TRACEPARENT: Final = "traceparent"
"""The metadata that carries a trace (W3C Trace Context)."""
_TRACEPARENT_MAX: Final = 64
STEPS_MAX: Final = 256
"""A batch of a thousand items does not make a thousand spans."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a call did, with times in nanoseconds since 1970."""

    name: str
    how: str
    began: int
    ended: int
    failed: bool


@dataclass(slots=True)
class Trace:
    """A call that is traced, while it runs: for its own thread alone."""

    traceparent: str
    """What to send along with what is asked of others on this call's behalf."""
    steps: list[Step] = field(default_factory=list)


class _Local(threading.local):
    trace: Trace | None = None
    carried: str = ""


_local = _Local()


def enter(trace: Trace | None) -> None:
    """Have this thread work on a traced call from here on; None: on no such."""
    _local.trace = trace


def current() -> Trace | None:
    """Return the traced call that this thread works on; None: it is not traced."""
    return _local.trace


def carry(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Take note of the trace that a call arrived with, for what it asks of others."""
    _local.carried = next(
        (
            value
            for name, value in metadata
            if name == TRACEPARENT
            and isinstance(value, str)
            and len(value) <= _TRACEPARENT_MAX
        ),
        "",
    )
    return _local.carried


def carried() -> str:
    """Return the traceparent that this thread's call arrived with, or ""."""
    return _local.carried


def outgoing() -> tuple[tuple[str, str], ...]:
    """Return the metadata for a call that this thread makes on behalf of its own."""
    trace = _local.trace
    text = trace.traceparent if trace is not None else _local.carried
    return ((TRACEPARENT, text),) if text else ()


class timed:  # noqa: N801 (it reads as a statement: with timed(...))
    """Measure a step: into a histogram always, into the trace if there is one."""

    __slots__ = ("_began", "_labels", "_metric")

    def __init__(self, metric: Metric, *labels: str) -> None:
        self._metric = metric
        self._labels = labels
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.perf_counter() - self._began
        took(self._metric, seconds, *self._labels, failed=kind is not None)


def took(metric: Metric, seconds: float, *labels: str, failed: bool = False) -> None:
    """Tell how long a step took that ends now, where `timed` would cost too much."""
    observe(metric, seconds, *labels)
    trace = _local.trace
    if trace is not None and len(trace.steps) < STEPS_MAX:
        name = metric.name.removeprefix("hsmvault_").removesuffix("_seconds")
        ended = time.time_ns()
        began = ended - int(seconds * 1e9)
        trace.steps.append(Step(name, " ".join(labels), began, ended, failed))
