"""Moving the older files of trails to another disk, where they stay verifiable.

1. A file is copied under another name, and the archive's disk has it.
2. It gets its name there.
3. It is deleted here, if the two are alike.

A crash between any two steps leaves it in one place, or alike in both, and moving again
goes on. The newest file of each process that holds a record stays, and what comes after
it: from there the trail goes on, also after a restart.
"""

import filecmp
import os
import shutil
from pathlib import Path

from hsmvault.audit.files import ending, segments, sync_directory
from hsmvault.model.errors import ConfigurationError


def archive(directory: Path, target: Path) -> list[Path]:
    """Move all files that no process will look at again; returns where they are now.

    Safe while the processes run. Raises ConfigurationError when the archive holds
    another file of that name, and leaves both then.
    """
    if target.resolve() == directory.resolve():
        raise ConfigurationError(
            f"{target} is where the trails are; name a directory of another disk"
        )
    moved = []
    for known in segments(directory).values():
        for path in _older([path for _, path in known]):
            # The directory is made once there is something to put into it.
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            moved.append(_move(path, target / path.name))
    return moved


def _older(known: list[Path]) -> list[Path]:
    """Those before the newest one that has a record: it may not be the newest file."""
    for number in reversed(range(len(known))):
        if ending(known[number]).last:
            return known[:number]
    return []


def _move(path: Path, to: Path) -> Path:
    if not to.exists():
        fresh = to.with_name(f".{to.name}.new")
        fresh.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        kept = os.open(fresh, flags, 0o600)
        with os.fdopen(kept, "wb") as copy, path.open("rb") as source:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        fresh.rename(to)
        sync_directory(to.parent)
    if not filecmp.cmp(path, to, shallow=False):
        raise ConfigurationError(
            f"{to} is there already, and is not what {path} is; nothing was deleted. "
            "Name another directory for this region's archive"
        )
    path.unlink()
    sync_directory(path.parent)
    return to
