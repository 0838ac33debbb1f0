"""Files that matter: never half written, and never readable by the wrong people."""

import os
import stat
from pathlib import Path

from hsmvault.model.errors import ConfigurationError


def write_secret(path: Path, content: bytes) -> None:
    """Make a file that only its owner can read, from its first byte on."""
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Make a file that anybody may read."""
    _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    # O_EXCL: nothing is overwritten, and no link that lies in wait is followed.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that a crash leaves the old one, or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make what was renamed in a directory last."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_private(path: Path) -> None:
    """Raise ConfigurationError unless only its owner can read the file."""
    try:
        mode = path.stat().st_mode
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}; it must be there, and readable by "
            "the user who needs it"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):o}); it was not "
            f"used. Run chmod 600 {path}, and change the secret if somebody may have "
            "seen it"
        )
