"""Every metric of a region by name, and the counters of this process.

Counting is for the hot path: each thread has counters of its own, so nothing is locked,
and a count costs less than a microsecond. Whoever collects adds them up. No label is
ever a principal, a key's name or anything else that callers choose: what may stand in a
label is a closed set, so nobody can make the series many, or read in them who did what.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Kind(StrEnum):
    """What a metric's value means (Prometheus exposition format 0.0.4)."""

    COUNTER = "counter"
    """Only grows, from 0 at the start of its process."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric. Its identity is the object: there is one of each name."""

    name: str
    kind: Kind
    says: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, says: str, *labels: str) -> Metric:
    return Metric(f"hsmvault_{name}_total", Kind.COUNTER, says, labels)


def _gauge(name: str, says: str, *labels: str) -> Metric:
    return Metric(f"hsmvault_{name}", Kind.GAUGE, says, labels)


_FAST: Final = (
    # From a MAC in software, over a network HSM, to RSA-4096 being made.
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)


def _histogram(name: str, says: str, *labels: str) -> Metric:
    name = f"hsmvault_{name}_seconds"
    return Metric(name, Kind.HISTOGRAM, says, labels, _FAST)


CALLS: Final = _counter("calls", "Calls answered, by RPC and status.", "method", "code")
CALL_SECONDS: Final = _histogram(
    "call", "From a call's arrival at a thread to its answer.", "method"
)
REFUSALS: Final = _counter(
    "refusals", "Calls refused, by google.rpc.ErrorInfo's reason.", "reason"
)
FORWARD_SECONDS: Final = _histogram(
    "forward", "Writes that the primary was asked to do for a caller of this region."
)
BATCH_ITEMS: Final = _counter(
    "batch_items", "Items of batches, by what they asked for.", "operation", "code"
)
POOL_PENDING: Final = _gauge(
    "pool_pending", "Calls that run or queue in a pool of those that wait.", "pool"
)

HSM_SECONDS: Final = _histogram(
    "hsm_operation", "Operations in the HSM, the wait for a session apart.", "doing"
)
HSM_ERRORS: Final = _counter(
    "hsm_errors", "Operations in the HSM that failed, by reason.", "reason"
)
HSM_SESSIONS: Final = _gauge("hsm_sessions", "Sessions with the token.", "state")
OPEN_KEYS: Final = _gauge("open_keys", "User keys open as session objects.")
OPEN_KEY_MISSES: Final = _counter(
    "open_key_misses", "Uses of a key that was not open in its session: it was opened."
)
KEY_MISSES: Final = _counter(
    "key_misses", "Uses of a key whose record was not in memory: it was read."
)

COMMIT_SECONDS: Final = _histogram(
    "store_commit", "Durable write transactions of the store."
)
KEYS: Final = _gauge("keys", "Keys in this region's store, by state.", "state")

AUDIT_RECORDS: Final = _counter(
    "audit_records", "Records in the audit trail of a process, older runs included."
)
AUDIT_WRITABLE: Final = _gauge(
    "audit_writable", "Whether the audit trail can be written; else nothing is served."
)

UP: Final = _gauge("up", "Whether a process of the region answers and serves.")
SERVING_SECONDS: Final = _counter(
    "serving_seconds",
    "Time that a partition served: partition-hours, the unit of usage, times 3600.",
)
RESTARTS: Final = _gauge(
    "restarts", "How often the supervisor started a process again since its own start."
)
EVENTS: Final = _counter("events", "Events logged, by name.", "event", "level")

POSITION: Final = _gauge("position_index", "Index of the newest entry that it serves.")
EPOCH: Final = _gauge("epoch", "Number of the present reign; a failover adds one.")
REIGNS: Final = _gauge("primary", "Whether this region is the primary.")
PRIMARY_REACHABLE: Final = _gauge(
    "primary_reachable", "Whether the link to the primary is up; 1 in the primary."
)
LAG_ENTRIES: Final = _gauge(
    "replication_lag_entries", "Entries that a region has not acknowledged.", "follower"
)
LAG_SECONDS: Final = _gauge(
    "replication_lag_seconds", "How old what a region lacks is at most.", "follower"
)
CONNECTED: Final = _gauge(
    "replication_connected", "Whether an extended region is linked.", "follower"
)
ALARMS: Final = _gauge("alarms", "What `hsmvault status` shows as alarms.")

METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {one.name: one for one in list(globals().values()) if isinstance(one, Metric)}
)
"""All of them. docs/observability.md says the same; a test compares."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of a metric at one moment."""

    metric: Metric
    labels: tuple[str, ...] = ()
    value: float = 0.0
    """Of a histogram: the sum of what was observed."""
    buckets: tuple[int, ...] = ()
    """Of a histogram: observations up to each bound, and beyond; not added up."""


_Place = tuple[Metric, tuple[str, ...]]


class _Cells(threading.local):
    """One thread's counters. Only that thread writes; anybody may copy."""

    def __init__(self) -> None:
        self.counts: dict[_Place, float] = {}
        self.histograms: dict[_Place, list[float]] = {}
        """Observations by bucket, then the sum of them."""
        with _sharing:
            _threads.append((threading.current_thread(), self.counts, self.histograms))


_sharing = threading.Lock()
_threads: list[
    tuple[threading.Thread, dict[_Place, float], dict[_Place, list[float]]]
] = []
_ended: tuple[dict[_Place, float], dict[_Place, list[float]]] = ({}, {})
"""What threads counted that have ended since."""
_cells = _Cells()


def count(metric: Metric, *labels: str, by: float = 1) -> None:
    """Count one more."""
    counts, place = _cells.counts, (metric, labels)
    counts[place] = counts.get(place, 0) + by


def observe(metric: Metric, seconds: float, *labels: str) -> None:
    """Count one observation of a histogram."""
    histograms, place = _cells.histograms, (metric, labels)
    cells = histograms.get(place)
    if cells is None:
        cells = histograms[place] = [0.0] * (len(metric.buckets) + 2)
    cells[bisect_left(metric.buckets, seconds)] += 1
    cells[-1] += seconds


def collected() -> list[Sample]:
    """Return what this process has counted since it started, all threads together."""
    counts, histograms = _added_up()
    return [
        *(Sample(metric, labels, value) for (metric, labels), value in counts.items()),
        *(
            Sample(metric, labels, cells[-1], tuple(int(n) for n in cells[:-1]))
            for (metric, labels), cells in histograms.items()
        ),
    ]


def _added_up() -> tuple[dict[_Place, float], dict[_Place, list[float]]]:
    with _sharing:
        for ended in [one for one in _threads if not one[0].is_alive()]:
            _add(_ended, ended[1], ended[2])
            _threads.remove(ended)
        total = dict(_ended[0]), {place: list(c) for place, c in _ended[1].items()}
        for _, counts, histograms in _threads:
            # Copied in one step of the interpreter, while the thread goes on counting.
            _add(total, counts.copy(), histograms.copy())
    return total


def _add(
    total: tuple[dict[_Place, float], dict[_Place, list[float]]],
    counts: Mapping[_Place, float],
    histograms: Mapping[_Place, Iterable[float]],
) -> None:
    for place, value in counts.items():
        total[0][place] = total[0].get(place, 0) + value
    for place, cells in histograms.items():
        known = total[1].get(place)
        total[1][place] = (
            list(cells)
            if known is None
            else [a + b for a, b in zip(known, cells, strict=True)]
        )
