"""Load on one server, and what it cost: calls per second, CPU per call."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

Call = Callable[[], object]
Future = Callable[[], Any]
"""Starts a call; returns its grpc.Call, which is also a grpc.Future."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one load on one server."""

    rate: float
    """Answered calls per second."""
    cpu_us: float
    """CPU of the server process per call, in microseconds."""


def cpu_ns(pid: int) -> int:
    """CPU time that all threads of a process have used, in nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def measured(pid: int, run: Callable[[], int]) -> Measured:
    """Run a load that returns how many calls it made."""
    before, start = cpu_ns(pid), time.perf_counter()
    count = run()
    elapsed = time.perf_counter() - start
    return Measured(count / elapsed, (cpu_ns(pid) - before) / count / 1000)


def unary(call: Call, seconds: float) -> int:
    """One caller, one call at a time."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()
        count += 1
    return count


def concurrent(call: Call, seconds: float, callers: int = 8) -> int:
    """Several callers on one connection, each with one call at a time."""
    counts = [0] * callers
    end = time.perf_counter() + seconds

    def caller(number: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[number] += 1

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def parallel(call: Future, seconds: float, width: int = 100) -> int:
    """One caller that always has `width` calls in flight."""
    slots = threading.Semaphore(width)
    failures: list[Any] = []

    def landed(future: Any) -> None:
        if future.code() is not grpc.StatusCode.OK:
            failures.append(future)
        slots.release()

    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end and not failures:
        slots.acquire()
        call().add_done_callback(landed)
        count += 1
    for _ in range(width):
        slots.acquire()
    if failures:
        raise failures[0]
    return count
