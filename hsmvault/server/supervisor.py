"""`hsmvault serve`: starts the processes of a region, watches them, restarts them.

It holds no key and no connection, and knows nothing of gRPC: what it does is small
enough not to fail. Everything under it may crash at any time.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from hsmvault import config
from hsmvault.config import RegionConfig
from hsmvault.model.errors import (
    AuditUnavailable,
    ConfigurationError,
    IntegrityFailure,
    WrongState,
)
from hsmvault.regions.layout import PARTITIONS, SUPERVISOR
from hsmvault.server import sockets
from hsmvault.server.child import FAILED, NEEDS_OPERATOR, PURGED, STOPPED
from hsmvault.server.children import Child, State
from hsmvault.server.lock import held
from hsmvault.server.secrets import require_startable
from hsmvault.server.trails import open_trail
from hsmvault.telemetry import Event, identify, report

MANAGER: Final = "manager"
TICK_SECONDS: Final = 0.05
STATUS_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 10.0
"""Servers finish calls for up to 5 s, then anchor the head."""
MANAGER_SECONDS: Final = 5.0
"""The pool manager starts after the servers are up, or have taken so long."""
CORES_MIN: Final = 4
"""Below that, partition servers pinned to cores would starve the others."""

_GRPC: Final = {"GRPC_VERBOSITY": "ERROR"}
"""Connections that fail are their callers' affair; logs are lines of JSON."""


def serve(directory: Path) -> int:
    """Serve the region until SIGTERM or SIGINT; returns the process's exit code.

    Whatever prevents it is one line on standard error, and nothing was changed.
    """
    # It looks into the PIN files; a core file could hold what it saw.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        settings = config.load(directory)
        identify(process="supervisor", region=settings.region.name)
        with ExitStack() as stack:
            stack.enter_context(held(settings.layout))
            require_startable(settings)
            sockets.require_free(settings)
            stack.enter_context(sockets.reserved(settings))
            return Supervisor(settings).run()
    except WrongState as error:
        return _refused(error, FAILED)
    except sockets.PortInUse as error:
        return _refused(error, FAILED)
    except (ConfigurationError, IntegrityFailure) as error:
        return _refused(error, NEEDS_OPERATOR)


def _refused(error: Exception, code: int) -> int:
    sys.stderr.write(f"hsmvault: {error}\n")
    return code


class Supervisor:
    """The loop over a region's processes. One thread, and no call that waits long."""

    def __init__(self, settings: RegionConfig) -> None:
        """Plan the processes; none is started yet."""
        layout = settings.layout
        self._settings = settings
        self._partitions = [
            Child(
                name=name,
                module="hsmvault.server.partition",
                arguments=(str(layout.directory), name),
                environment={**_GRPC, **settings.environment(name)},
                log=layout.logs / f"{name}.log",
                core=_core(number),
            )
            for number, name in enumerate(PARTITIONS)
        ]
        self._manager = Child(
            name=MANAGER,
            module="hsmvault.server.manager",
            arguments=(str(layout.directory),),
            environment=_GRPC,
            log=layout.logs / f"{MANAGER}.log",
        )
        self._children = [*self._partitions, self._manager]
        self._began = time.monotonic()
        self._managed = False
        self._stopping = False
        self._shown: list[dict[str, Any]] = []
        self._shown_at = 0.0

    def run(self) -> int:
        """Start everything, and keep it going until told to stop."""
        self._trail = open_trail(self._settings, SUPERVISOR)
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            for child in self._partitions:
                child.start()
            code = self._watch()
        finally:
            for child in self._children:
                child.kill()
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._settings.layout.status.unlink(missing_ok=True)
            self._trail.close()
        return code

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _watch(self) -> int:
        while not self._stopping:
            self._tick()
            if self._manager.exit_code == PURGED:
                return self._purged()
            if self._manager.last.purging:
                self._let_go()
            stuck = [c for c in self._partitions if c.state is State.NEEDS_OPERATOR]
            if len(stuck) == len(self._partitions):
                return self._stuck(stuck)
            time.sleep(TICK_SECONDS)
        self._drain()
        return STOPPED

    def _tick(self) -> None:
        for child in self._children:
            child.tick()
        if not self._managed and not self._stopping:
            self._manage()
        self._show()

    def _manage(self) -> None:
        """Start the pool manager, once it takes no processor time from the servers."""
        late = time.monotonic() - self._began > MANAGER_SECONDS
        if late or all(c.state is not State.STARTING for c in self._partitions):
            self._manager.start()
            self._managed = True

    def _let_go(self) -> None:
        """Stop the partition servers: the region is being purged."""
        for child in self._partitions:
            if child.state not in {State.STOPPING, State.STOPPED}:
                child.terminate()
        self._until(self._all_ended(self._partitions))

    def _purged(self) -> int:
        self._let_go()
        layout = self._settings.layout
        layout.purged.write_text(
            f"Region {self._settings.region.name} was removed from its vault: its "
            "tokens are re-initialised, its store is deleted.\n"
            "This directory may be removed.\n",
            encoding="utf-8",
        )
        report(Event.REGION_PURGED, directory=str(layout.directory))
        sys.stderr.write(
            f"hsmvault: region {self._settings.region.name} was purged: its tokens "
            "are re-initialised and its store is gone\n"
        )
        return STOPPED

    def _stuck(self, stuck: Sequence[Child]) -> int:
        self._drain()
        for problem in dict.fromkeys(child.last.problem for child in stuck):
            sys.stderr.write(f"hsmvault: {problem}\n")
        return NEEDS_OPERATOR

    def _drain(self) -> None:
        """End the servers first: their last calls may need the pool manager."""
        report(Event.PROCESS_DRAINING)
        for group in (self._partitions, [self._manager]):
            for child in group:
                child.terminate()
            self._until(self._all_ended(group))
        self._show()

    def _all_ended(self, group: Sequence[Child]) -> Callable[[], bool]:
        return lambda: not any(child.running for child in group)

    def _until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while not done() and time.monotonic() < deadline:
            self._tick()
            time.sleep(TICK_SECONDS)
        if not done():
            for child in self._children:
                if child.state is State.STOPPING:
                    report(Event.PROCESS_KILLED, name=child.name, pid=child.pid)
                    child.kill()
                    self._tick()

    def _record(self, changed: Sequence[Mapping[str, Any]]) -> None:
        """Record what became of processes; they are healed whether it can be or not."""
        for one in changed:
            facts = {
                name: one[name] for name in ("pid", "state", "restarts", "problem")
            }
            with suppress(AuditUnavailable):
                self._trail.note("process.changed", one["name"], **facts)

    def _show(self) -> None:
        """Keep status.json: at once when a state changed, else once a second."""
        shown = [child.shown() for child in self._children]
        states, known = list(map(_standing, shown)), list(map(_standing, self._shown))
        now = time.monotonic()
        if states == known and now - self._shown_at < STATUS_SECONDS:
            return
        self._record([c for c in shown if _standing(c) not in known])
        self._shown, self._shown_at = shown, now
        status = {
            "region": self._settings.region.name,
            "pid": os.getpid(),
            "endpoint": self._settings.endpoint,
            "processes": shown,
        }
        path = self._settings.layout.status
        fresh = path.with_suffix(".new")
        # A full disk is no reason to stop serving.
        with suppress(OSError):
            fresh.write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")
            fresh.replace(path)


def _standing(shown: Mapping[str, Any]) -> tuple[str, int, str]:
    return shown["name"], shown["pid"], shown["state"]


def _core(number: int) -> int | None:
    cores = sorted(os.sched_getaffinity(0))
    return cores[number] if len(cores) >= CORES_MIN else None


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1])))
