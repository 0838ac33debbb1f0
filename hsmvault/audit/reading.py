"""Reading the trails of a region: each by itself, or merged by time, also as they grow.

Says nothing of whether they are whole: that is for `audit.verify`.
"""

import heapq
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hsmvault.audit.files import ending, segments
from hsmvault.model.decoding import from_json

_POLL_SECONDS: Final = 0.2

Record = dict[str, Any]
Ends = Mapping[Path, int]


def ends(directory: Path) -> Ends:
    """How far each file has whole lines now. Raises OSError where it cannot be read."""
    found = {}
    for path in _paths(directory):
        # Older files are the operator's to move away, at any moment.
        with suppress(FileNotFoundError):
            found[path] = ending(path).size
    return found


def merged(directory: Path, *, until: Ends | None = None) -> Iterator[Record]:
    """Every record of every process, by time. What does not read is left out.

    `until`: only those that were there when `ends` answered this.
    """
    trails = (
        (record for _, path in known for record in _records(path, until))
        for known in segments(directory).values()
    )
    yield from heapq.merge(*trails, key=_time)


def following(
    directory: Path, *, after: Ends, poll: float = _POLL_SECONDS
) -> Iterator[Record]:
    """Records that were written after `ends` answered this; never ends.

    Together with those `until` then, it is each record once.
    """
    read = dict(after)
    while True:
        fresh: list[Record] = []
        for path in _paths(directory):
            lines = list(_lines(path, begin=read.get(path, 0)))
            read[path] = read.get(path, 0) + sum(map(len, lines))
            fresh += filter(None, map(_record, lines))
        yield from sorted(fresh, key=_time)
        if not fresh:
            time.sleep(poll)


def _paths(directory: Path) -> list[Path]:
    return [path for known in segments(directory).values() for _, path in known]


def _records(path: Path, until: Ends | None) -> Iterator[Record]:
    end = None if until is None else until.get(path, 0)
    return filter(None, map(_record, _lines(path, end=end)))


def _lines(path: Path, *, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Whole lines between two places; none of a file that was moved away."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(begin)
        for raw in file:
            # The last one is being written, perhaps: it is read when it is whole.
            if begin == end or not raw.endswith(b"\n"):
                return
            begin += len(raw)
            yield raw


def _record(raw: bytes) -> Record | None:
    try:
        record = from_json(raw)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _time(record: Record) -> str:
    return str(record.get("time", ""))
