"""Reading the trails of a region: each by itself, or merged by time, also as they grow.

Says nothing of whether they are whole: that is for `audit.verify`.
"""

import heapq
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hsmvault.audit.files import segments
from hsmvault.model.decoding import from_json

_POLL_SECONDS: Final = 0.2

Record = dict[str, Any]


def merged(directory: Path) -> Iterator[Record]:
    """Every record of every process, by time. What does not read is left out."""
    trails = (
        (record for _, path in known for record in _records(path))
        for known in segments(directory).values()
    )
    yield from heapq.merge(*trails, key=_time)


def following(directory: Path, *, poll: float = _POLL_SECONDS) -> Iterator[Record]:
    """Records as they are written from now on; never ends."""
    read = {path: path.stat().st_size for path in _paths(directory)}
    while True:
        fresh: list[Record] = []
        for path in _paths(directory):
            with path.open("rb") as file:
                file.seek(read.get(path, 0))
                lines = file.readlines()
            if lines and not lines[-1].endswith(b"\n"):
                # It is being written.
                del lines[-1]
            read[path] = read.get(path, 0) + sum(map(len, lines))
            fresh += filter(None, map(_record, lines))
        yield from sorted(fresh, key=_time)
        if not fresh:
            time.sleep(poll)


def _paths(directory: Path) -> list[Path]:
    return [path for known in segments(directory).values() for _, path in known]


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for raw in file:
            if record := _record(raw):
                yield record


def _record(raw: bytes) -> Record | None:
    try:
        record = from_json(raw)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _time(record: Record) -> str:
    return str(record.get("time", ""))
