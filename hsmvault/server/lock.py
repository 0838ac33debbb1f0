"""One supervisor, or one founder, per region: a lock on its directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hsmvault.model.errors import ConfigurationError, WrongState
from hsmvault.regions.layout import Layout


@contextmanager
def held(layout: Layout) -> Iterator[None]:
    """Hold the region's lock, or raise WrongState naming the process that does.

    It ends with the process, however that ends; the file stays and means nothing.
    """
    try:
        layout.run.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {layout.lock}: {error.strerror}; the region's directory "
            "must belong to the user who serves it"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            raise WrongState(
                "the region in {directory} is being served already, by process {pid}; "
                "stop that one first: kill {pid}",
                directory=layout.directory,
                pid=pid or "unknown",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
