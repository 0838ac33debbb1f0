"""What every process under the supervisor does first, and how it ends."""

import argparse
import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from hsmvault.model.errors import ConfigurationError, IntegrityFailure, PinRejected
from hsmvault.server.beat import Beat, Heart
from hsmvault.telemetry import Event, report

STOPPED: Final = 0
FAILED: Final = 1
PIN_REJECTED: Final = 77
"""EX_NOPERM of sysexits.h: another try could lock the token."""
NEEDS_OPERATOR: Final = 78
"""EX_CONFIG of sysexits.h: starting again would fail again."""
PURGED: Final = 79
"""The region is gone."""

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Role:
    """Which process of which region this is."""

    directory: Path
    name: str
    beat_fd: int
    parent: int


def begin(argv: Sequence[str], *, name: str | None = None) -> Role:
    """Read the arguments, and make sure to end with the supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    if name is None:
        parser.add_argument("name")
    parser.add_argument("--beat-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args(argv)
    role = Role(given.directory, name or given.name, given.beat_fd, given.parent)
    die_with_parent(role.parent)
    # A core file would hold PINs, and keys of tokens that are software.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    # Ctrl-C reaches the whole group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return role


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        sys.exit(FAILED)
    # It may have ended before the call.
    if os.getppid() != parent:
        sys.exit(FAILED)


class Stop:
    """Set by SIGTERM, or from inside: what a process waits for while it serves."""

    def __init__(self) -> None:
        """Take SIGTERM over. Call in the main thread."""
        self._event = threading.Event()
        signal.signal(signal.SIGTERM, lambda _signal, _frame: self._event.set())

    def set(self) -> None:
        """Have the process end, from any thread."""
        self._event.set()

    def is_set(self) -> bool:
        """Tell whether the process is to end."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait; True: the process is to end."""
        return self._event.wait(seconds)


def end(heart: Heart, code: int, problem: str = "") -> NoReturn:
    """Leave at once, and tell the supervisor why. Threads of libraries stay behind."""
    heart.last(Beat(problem=problem))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def guarded(heart: Heart, name: str, run: Callable[[], str]) -> NoReturn:
    """Run a process's work, and end the process by how that ended.

    `run` answers why the process cannot go on, or nothing when it was told to end.
    """

    def crashed(_kind: object, error: BaseException, _trace: object) -> None:
        # Before the interpreter waits for threads, which would keep a failed process.
        report(Event.PROCESS_ENDED, error)
        end(heart, FAILED, f"{name}: {error}")

    def crashed_apart(args: threading.ExceptHookArgs) -> None:
        # A thread that ended silently would leave half a process: start it whole.
        if args.exc_value is not None and args.exc_type is not SystemExit:
            crashed(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = crashed
    threading.excepthook = crashed_apart
    try:
        lost = run()
    except PinRejected as error:
        end(heart, PIN_REJECTED, f"{name}: {error}")
    except (ConfigurationError, IntegrityFailure) as error:
        end(heart, NEEDS_OPERATOR, f"{name}: {error}")
    end(heart, FAILED if lost else STOPPED, lost)
