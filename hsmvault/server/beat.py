"""The sign of life of a region's process: a line down a pipe, four times a second.

Whatever the process cannot say of itself, its silence says: the supervisor ends a
process that does not beat. A process whose supervisor has ended ends too.
"""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from hsmvault.model.decoding import from_json

BEAT_SECONDS: Final = 0.25
SILENCE_SECONDS: Final = 3.0
"""Twelve beats: a busy machine skips a few."""
LINE_BYTES_MAX: Final = 4096
"""A line must be written in one piece: PIPE_BUF."""


@dataclass(frozen=True, slots=True)
class Beat:
    """How a process is."""

    serving: bool = False
    problem: str = ""
    """Why it does not serve."""
    position: str = ""
    open_keys: int = 0
    purging: bool = False
    """The region is about to end: partition servers must let go of their tokens."""

    def line(self) -> bytes:
        """Write it as one line that fits into a pipe whole."""
        fields = asdict(self)
        fields["problem"] = self.problem[: LINE_BYTES_MAX // 8]
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """Read one; None: it is not a beat."""
        try:
            fields: dict[str, Any] = from_json(line)
            return cls(**fields)
        except (ValueError, TypeError):
            return None


class Heart:
    """Beats in a thread of its own until the process ends."""

    def __init__(self, fd: int, beat: Callable[[], Beat | None]) -> None:
        """Take the pipe. `beat` answers None while the process is not to be trusted."""
        self._fd = fd
        self._beat = beat
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Beat from now on."""
        self._thread.start()

    def last(self, beat: Beat) -> None:
        """Beat once more, with what the supervisor should remember, and stop."""
        self._stopped.set()
        self._write(beat)

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            beat = self._beat()
            if beat is not None:
                self._write(beat)

    def _write(self, beat: Beat) -> None:
        try:
            os.write(self._fd, beat.line())
        except OSError:
            # Nobody supervises us any more, and nobody would restart us.
            os._exit(1)
