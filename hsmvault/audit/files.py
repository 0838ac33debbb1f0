"""The files of the trails of one region: `{process}-{number}.jsonl` in one directory.

A process writes to its newest file, begins another when that is long, and never
touches the others again.
"""

import errno
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"([a-z][a-z0-9]{0,31})-(\d{6})\.jsonl")
_BLOCK: Final = 64 * 1024


def path_of(directory: Path, process: str, number: int) -> Path:
    """Where one segment of a process's trail lies. Numbers begin at 1."""
    return directory / f"{process}-{number:06}.jsonl"


def segments(*directories: Path) -> dict[str, list[tuple[int, Path]]]:
    """Every process's segments that are there, in their order.

    What is in several directories is of the first one that has it.
    """
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for directory in directories:
        for path in directory.iterdir():
            if name := _NAME.fullmatch(path.name):
                found[name[1]].setdefault(int(name[2]), path)
    return {process: sorted(found[process].items()) for process in sorted(found)}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a file ends."""

    last: bytes
    """Its last whole line; b"" if it has none."""
    size: int
    """Of its whole lines."""
    torn: int
    """Bytes after them, which a crash left of a line."""


def ending(path: Path) -> Ending:
    """Read a file's last line, without reading the file."""
    with path.open("rb") as file:
        size = whole = file.seek(0, os.SEEK_END)
        tail, at = b"", size
        # Until the tail holds one line's beginning and its end.
        while at and tail.count(b"\n") < 2:  # noqa: PLR2004
            at = max(0, at - _BLOCK)
            file.seek(at)
            tail = file.read(size - at)
    end = tail.rfind(b"\n") + 1
    whole = size - (len(tail) - end)
    begin = tail.rfind(b"\n", 0, max(end - 1, 0)) + 1
    return Ending(tail[begin:end], whole, size - whole)


class Segment:
    """The one file that a process appends to, whole lines or nothing."""

    def __init__(self, path: Path, number: int, size: int) -> None:
        """Open it; made if it is not there. What is beyond `size` is cut off."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self.path = path
        self.number = number
        self.size = size
        self._torn = True
        if not size:
            sync_directory(path.parent)

    def append(self, line: bytes) -> None:
        """Write a line at the end, or raise OSError and leave the file as it was."""
        if self._torn:
            os.ftruncate(self._fd, self.size)
        # Until it is known to be whole: a part of it must not stand before the next.
        self._torn = True
        if os.write(self._fd, line) != len(line):
            os.ftruncate(self._fd, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(line)
        self._torn = False

    def sync(self) -> None:
        """Have the disk keep what was written."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close it; nothing may be appended after."""
        os.close(self._fd)


def sync_directory(directory: Path) -> None:
    """Have the disk keep which files there are."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
