"""A look at the memory that SQLite's processes share: was anything committed?

In WAL mode every commit rewrites the header of the wal-index, the file `…-shm` that
all connections map (sqlite.org/walformat.html, 2.1: two copies of 48 bytes, with a
count of changes and the checksum of the last frame). As long as its bytes are what they
were, nobody has committed. That is all that is read from them; whatever else they say
is asked of SQLite itself. A comparison in memory costs a fraction of a microsecond,
where asking costs two locks on the file.
"""

import mmap
import os
import threading
from pathlib import Path
from typing import Final

HEADER_BYTES: Final = 96
"""Both copies."""


class WalIndex:
    """One database's header, mapped to be read."""

    def __init__(self, shared: mmap.mmap) -> None:
        self._shared = shared

    @classmethod
    def of(cls, database: Path) -> "WalIndex | None":
        """Map what a connection of this process, open and used, has made; or None.

        The connection must stay open for as long as the answer is used: then the file
        is not exchanged for another one.
        """
        shared = _mapped(Path(f"{database}-shm"))
        return None if shared is None else cls(shared)

    def header(self) -> bytes:
        """Return the header as it stands.

        Equal to an earlier one only if nothing was committed in between. While it is
        being written it may be mixed, and equal to none.
        """
        return self._shared[:HEADER_BYTES]


# POSIX has a process lose all of its locks on a file when it closes *any* descriptor
# of it (fcntl(2)), and SQLite's locks are such. So a wal-index is opened once in a
# process, whoever asks, and closed only after SQLite has deleted the file, which it
# does when its last connection ends.
_held: Final[dict[tuple[int, int], tuple[int, mmap.mmap | None]]] = {}
"""By device and inode; None: it cannot be mapped, and is not tried again."""
_holding: Final = threading.Lock()


def _mapped(path: Path) -> mmap.mmap | None:
    with _holding:
        _let_go()
        try:
            found = path.stat()
            place = (found.st_dev, found.st_ino)
            if found.st_size < HEADER_BYTES:
                return None
            if place not in _held:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                _held[place] = (fd, None)
                shared = mmap.mmap(fd, HEADER_BYTES, access=mmap.ACCESS_READ)
                _held[place] = (fd, shared)
        except OSError:
            # Nothing is lost but time: SQLite is asked instead, or has made no file.
            return None
        return _held[place][1]


def _let_go() -> None:
    """Close what was deleted: nobody holds a lock on it any more."""
    for place, (fd, _) in list(_held.items()):
        if not os.fstat(fd).st_nlink:
            # The mapping ends with whoever still looks at it.
            del _held[place]
            os.close(fd)
