"""Regions on this machine, from outside: started, looked at, stopped."""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hsmvault import config
from hsmvault.model.errors import ConfigurationError, Unavailable
from hsmvault.regions.layout import PARTITIONS, Layout

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_SAID_BYTES: Final = 4000


def start_region(directory: Path, *, wait_seconds: float = START_SECONDS) -> int:
    """Serve a region in the background; returns its supervisor's process id.

    It goes on when this process ends. Returns once its partition servers serve, or, for
    a region that no vault has added yet, once they are up. Raises ConfigurationError
    with what the supervisor said, if it ended.
    """
    layout = config.load(directory).layout
    said = layout.logs / "serve.log"
    pid = _spawned(layout, said)
    deadline = time.monotonic() + wait_seconds
    while not _up(region_status(layout.directory), pid):
        if _reaped(pid):
            raise ConfigurationError(_problem(said))
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: _reaped(pid), STOP_SECONDS)
            raise Unavailable(
                "region {name} does not serve after {seconds:g} s; see {logs}",
                name=layout.directory.name,
                seconds=wait_seconds,
                logs=layout.logs,
            )
        time.sleep(_POLL_SECONDS)
    return pid


def _spawned(layout: Layout, said: Path) -> int:
    """Spawn the supervisor in a session of its own: Ctrl-C here is not meant for it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    command = [
        sys.executable,
        "-m",
        "hsmvault.server.supervisor",
        str(layout.directory),
    ]
    # Not Popen, which wants to see the end of what it started.
    return os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(said), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _reaped(pid: int) -> bool:
    """Tell whether our child has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _up(status: Mapping[str, Any], pid: int) -> bool:
    """Whether every process is up, and serves as far as it can."""
    if status.get("pid") != pid:
        return False
    states = {one["name"]: one["state"] for one in status["processes"]}
    return states.pop("manager") == "serving" and all(
        state in {"serving", "not serving", "needs operator"}
        for state in states.values()
    )


def _problem(said: Path) -> str:
    text = said.read_text(encoding="utf-8", errors="replace")[-_SAID_BYTES:]
    # Events are JSON; what is meant for people starts with our name.
    lines = [
        line.removeprefix("hsmvault: ")
        for line in text.splitlines()
        if line.startswith("hsmvault: ")
    ]
    return "\n".join(lines) or text.strip() or "the region's supervisor ended"


def stop_region(directory: Path, *, wait_seconds: float = STOP_SECONDS) -> bool:
    """Have a region finish its calls and end; False: it was not running."""
    layout = Layout(directory.absolute())
    pid = running_pid(directory)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    if wait_until(lambda: running_pid(layout.directory) is None, wait_seconds):
        # If it was this process that started it.
        wait_until(lambda: _reaped(pid), wait_seconds)
        return True
    raise Unavailable(
        "region {name}, process {pid}, has not ended after {seconds:g} s",
        name=layout.directory.name,
        pid=pid,
        seconds=wait_seconds,
    )


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait for something; tells whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def running_pid(directory: Path) -> int | None:
    """Return the process that holds the region's lock; None: nobody does."""
    layout = Layout(directory.absolute())
    try:
        handle = os.open(layout.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A number in a file may be another process's by now; the lock cannot be.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(handle)


def region_status(directory: Path) -> dict[str, Any]:
    """Return what the supervisor last said of its processes; {}: it is not running."""
    layout = Layout(directory.absolute())
    if running_pid(directory) is None:
        return {}
    try:
        status: dict[str, Any] = json.loads(layout.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status


def serving(directory: Path) -> bool:
    """Tell whether every partition of the region serves."""
    processes = region_status(directory).get("processes", ())
    states = {one["name"]: one["state"] for one in processes}
    return all(states.get(name) == "serving" for name in PARTITIONS)
