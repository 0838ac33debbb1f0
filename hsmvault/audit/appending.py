"""A process's trail as files: where it ends, the next line, the next segment.

For one thread at a time, except that `sync` may run while a line is appended.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsmvault.audit.files import Segment, ending, path_of, segments
from hsmvault.audit.line import encode, genesis, read, seal
from hsmvault.model.errors import IntegrityFailure

SEGMENT_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """How far a trail has come."""

    segment: int
    sequence: int
    chain: bytes


def noted(event: str, resource: str, facts: Mapping[str, object]) -> str:
    """The members of a record of what happened without a caller."""
    about = f',"resource":{encode(resource)}' if resource else ""
    told = f',"facts":{encode(facts)}' if facts else ""
    return f'"event":{encode(event)}{about}{told}'


class Appender:
    """The files of one process. Every method may raise OSError."""

    def __init__(
        self,
        directory: Path,
        *,
        vault_id: str,
        region: str,
        process: str,
        segment_bytes: int = SEGMENT_BYTES,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open nothing yet."""
        self.directory = directory
        self._process = process
        self._who = f'"region":{encode(region)},"process":{encode(process)},'.encode()
        self._segment_bytes = segment_bytes
        self._clock_ns = clock_ns
        self._chain = genesis(vault_id, region, process)
        self._sequence = 0
        self._segment: Segment | None = None
        self._former: list[Segment] = []
        self._lock_fd = -1
        self._second, self._stamp = 0, b""

    @property
    def head(self) -> Head:
        """The end of what was appended."""
        number = 0 if self._segment is None else self._segment.number
        return Head(number, self._sequence, self._chain)

    def begin(self) -> None:
        """Go on after the last whole line; what a crash left of another is cut off.

        Raises OSError also when another process holds the trail, and IntegrityFailure
        when its last line is not one of a trail. Once begun, does nothing.
        """
        if self._segment is not None:
            return
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._hold()
        number, size, torn = 1, 0, 0
        known = segments(self.directory).get(self._process, [])
        for older, (one, path) in enumerate(reversed(known)):
            end = ending(path)
            if not older:
                number, size, torn = one, end.size, end.torn
            # The newest may be empty: the disk was full when it was begun.
            if end.last:
                self._take_up(path, end.last)
                break
        self._open(number, size)
        if torn:
            self.append(noted("audit.torn", "", {"bytes": torn}))

    def append(self, fragment: str) -> None:
        """Append a record, all of it or nothing."""
        # Hot: in one piece, and by bytes from the start.
        segment = self._segment
        assert segment is not None
        if segment.size >= self._segment_bytes:
            segment = self.begin_next()
        second, rest = divmod(self._clock_ns(), 1_000_000_000)
        if second != self._second:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second, self._stamp = second, stamp.encode()
        sequence = self._sequence + 1
        body = b'{"sequence":%d,"time":"%b.%06dZ",%b%b' % (
            sequence,
            self._stamp,
            rest // 1000,
            self._who,
            fragment.encode("ascii"),
        )
        line, chain = seal(self._chain, body)
        segment.append(line)
        self._sequence, self._chain = sequence, chain

    def begin_next(self) -> Segment:
        """Write to another file from now on, unless nothing is in this one."""
        segment = self._segment
        assert segment is not None
        if not segment.size:
            return segment
        fresh = self._open(segment.number + 1, 0)
        self._former.append(segment)
        self.append(noted("audit.segment", "", {"continues": segment.path.name}))
        return fresh

    def sync(self) -> None:
        """Have the disk keep everything that was appended before."""
        # Former ones first: the disk may not have what is later without what is not.
        segment = self._segment
        while self._former:
            former = self._former[0]
            former.sync()
            former.close()
            del self._former[0]
            if former is segment:
                # Another was begun meanwhile, and this one is kept.
                segment = None
        if segment is not None:
            segment.sync()

    def close(self) -> None:
        """Let go of the files."""
        for one in [*self._former, self._segment]:
            if one is not None:
                one.close()
        self._former, self._segment = [], None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _hold(self) -> None:
        """Be the one process that writes this trail; ends with the process."""
        if self._lock_fd < 0:
            path = self.directory / f"{self._process}.lock"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                problem = "another process writes it"
                raise OSError(errno.EWOULDBLOCK, problem) from error
            self._lock_fd = fd

    def _take_up(self, path: Path, last: bytes) -> None:
        try:
            line = read(last)
        except IntegrityFailure as error:
            raise IntegrityFailure(
                "the last line of {path} is not one of an audit trail, so the trail "
                "cannot go on from it. Keep {directory} as evidence: move it away, "
                "and look at it by hsmvault audit verify",
                path=path,
                directory=self.directory,
            ) from error
        self._sequence, self._chain = line.sequence, line.chain

    def _open(self, number: int, size: int) -> Segment:
        path = path_of(self.directory, self._process, number)
        self._segment = segment = Segment(path, number, size)
        return segment
