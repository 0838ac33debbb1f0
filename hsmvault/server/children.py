"""One process under the supervisor: started, heard, ended, started again."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from hsmvault.server.beat import SILENCE_SECONDS, Beat
from hsmvault.server.child import NEEDS_OPERATOR, PIN_REJECTED
from hsmvault.telemetry import Event, report

BACKOFF_FIRST: Final = 0.1
BACKOFF_MAX: Final = 5.0
HEALTHY_SECONDS: Final = 10.0
"""After so long without a fault, the next fault counts as the first."""
START_SECONDS: Final = 30.0
"""To the first beat: interpreter and imports, on a machine that is busy."""
STARTING_PROBLEM: Final = "starting"
"""What a process says in its beats until it is up."""
LOG_BYTES_MAX: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 65536


class State(StrEnum):
    """How the supervisor sees a process."""

    STARTING = "starting"
    SERVING = "serving"
    NOT_SERVING = "not serving"
    WAITING = "waiting to restart"
    STOPPING = "stopping"
    STOPPED = "stopped"
    NEEDS_OPERATOR = "needs operator"


@dataclass(slots=True)
class Child:
    """A process and all that is known of it. For the supervisor's thread alone."""

    name: str
    module: str
    """What `python -m` runs."""
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    core: int | None = None
    """The one processor that it runs on; None: any."""
    state: State = State.STOPPED
    restarts: int = 0
    since: float = field(default_factory=time.time)
    last: Beat = field(default_factory=Beat)
    exit_code: int | None = None
    _process: subprocess.Popen[bytes] | None = None
    _pipe: int = -1
    _unread: bytes = b""
    _heard: float = 0.0
    _healthy_since: float = 0.0
    _backoff: float = BACKOFF_FIRST
    _again_at: float = 0.0
    _served: bool = False

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether there is a process."""
        return self._process is not None

    def start(self) -> None:
        """Spawn it. Never forked: a fork after gRPC was used would hang."""
        self._turn_log()
        read, write = os.pipe()
        os.set_blocking(read, False)
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        self.module,
                        *self.arguments,
                        "--beat-fd",
                        str(write),
                        "--parent",
                        str(os.getpid()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environment},
                    pass_fds=[write],
                )
        finally:
            os.close(write)
        if self.core is not None:
            os.sched_setaffinity(self._process.pid, {self.core})
        self._pipe, self._unread = read, b""
        self._heard = self._healthy_since = time.monotonic()
        self.last = Beat()
        self._enter(State.STARTING)
        report(Event.PROCESS_STARTED, name=self.name, pid=self._process.pid)

    def tick(self) -> None:
        """Hear what it says, see whether it lives, and do what follows."""
        if self._process is None:
            if self.state is State.WAITING and time.monotonic() >= self._again_at:
                self.restarts += 1
                self.start()
            return
        self._hear()
        code = self._process.poll()
        if code is not None:
            self._hear()
            self._ended(code)
        elif self.state is not State.STOPPING:
            self._judge()

    def terminate(self) -> None:
        """Ask it to drain and end; it is not started again."""
        if self._process is None:
            if self.state is State.WAITING:
                self._enter(State.STOPPED)
            return
        self._process.terminate()
        self._enter(State.STOPPING)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def shown(self) -> dict[str, Any]:
        """What status.json tells of it."""
        return {
            "name": self.name,
            "pid": self.pid,
            "state": str(self.state),
            "restarts": self.restarts,
            "since": round(self.since, 3),
            "problem": self.last.problem,
            "position": self.last.position,
            "open_keys": self.last.open_keys,
        }

    def _turn_log(self) -> None:
        """Set a long log aside; the one before it is dropped."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _hear(self) -> None:
        try:
            more = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return
        *lines, self._unread = (self._unread + more).split(b"\n")
        for line in lines:
            beat = Beat.parse(line)
            if beat is not None:
                self.last = beat
                self._heard = time.monotonic()
        if lines and self.state is not State.STOPPING:
            state = State.SERVING if self.last.serving else State.NOT_SERVING
            # It starts for as long as it says so. A region that no vault has added is
            # up, and not serving.
            if self.state is State.STARTING and self.last.problem == STARTING_PROBLEM:
                state = State.STARTING
            if state is not self.state:
                self._enter(state)
                if state is State.SERVING:
                    self._served = True
                    report(Event.PROCESS_READY, name=self.name, pid=self.pid)

    def _judge(self) -> None:
        now = time.monotonic()
        limit = START_SECONDS if self.last == Beat() else SILENCE_SECONDS
        if now - self._heard > limit:
            # The kernel would go on giving it connections.
            report(Event.PROCESS_KILLED, name=self.name, pid=self.pid)
            self.kill()
        elif now - self._healthy_since > HEALTHY_SECONDS:
            self._backoff = BACKOFF_FIRST

    def _ended(self, code: int) -> None:
        os.close(self._pipe)
        self._process = None
        self.exit_code = code
        problem = self.last.problem
        if self.state is State.STOPPING:
            self._enter(State.STOPPED)
            report(Event.PROCESS_ENDED, name=self.name, exit_code=code)
            return
        # What once worked with these settings may work again; a PIN is not tried twice.
        if code == PIN_REJECTED or (code == NEEDS_OPERATOR and not self._served):
            self._enter(State.NEEDS_OPERATOR)
            report(Event.PROCESS_NEEDS_OPERATOR, name=self.name, problem=problem)
            return
        self._enter(State.WAITING)
        self._again_at = time.monotonic() + self._backoff
        report(
            Event.PROCESS_RESTARTED,
            name=self.name,
            exit_code=code,
            problem=problem,
            seconds=self._backoff,
        )
        self._backoff = min(self._backoff * 2, BACKOFF_MAX)

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = time.time()
