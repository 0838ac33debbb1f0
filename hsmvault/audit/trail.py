"""Writing a process's trail: every record before its answer, or no answer.

The order is what makes a crash harmless. 1. A record is written, in one `write`, before
what it is about is answered: a process that dies loses none. 2. Within a tenth of a
second it is on the disk. 3. Only what is on the disk is signed as a head. After a crash
the trail goes on from its last whole line; what was left of another one is cut off, and
the next record says so.
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hsmvault.audit.appending import SEGMENT_BYTES, Appender, Head, noted
from hsmvault.model.errors import AuditUnavailable
from hsmvault.telemetry import Event, report

PATIENCE_SECONDS: Final = 1.0
"""How long a call waits for the disk to take a record."""
SYNC_PATIENCE_SECONDS: Final = 10.0
"""How long the disk may take to keep what it took, before nothing more is answered."""
RESERVE_BYTES: Final = 1024 * 1024
"""What must be free before a write is begun, so that its record will fit, too."""
_SYNC_SECONDS: Final = 0.08
_RESUME_SECONDS: Final = 0.2
_STUCK: Final = "the disk does not take a record"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

Abandon = Callable[[], object]


class Trail:
    """One process's trail. Any thread may write to it."""

    def __init__(
        self,
        directory: Path,
        *,
        vault_id: str,
        region: str,
        process: str,
        segment_bytes: int = SEGMENT_BYTES,
        patience: float = PATIENCE_SECONDS,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Open nothing yet."""
        self.process = process
        self._files = Appender(
            directory,
            vault_id=vault_id,
            region=region,
            process=process,
            segment_bytes=segment_bytes,
            clock_ns=clock_ns,
        )
        self.directory = directory
        self._patience = patience
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._problem = "it is not open"
        self._aside = False
        self._refused = 0
        self._synced = 0
        self._writing: tuple[float, Abandon | None] | None = None
        """Since when, and for whom, a record is being written."""
        self._syncing_since = 0.0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"audit-{name}", daemon=True)
            for name, work in (("keep", self._keep), ("watch", self._watch))
        ]

    def open(self) -> None:
        """Go on where the trail ends, and keep it on the disk from now on.

        What cannot be written now is tried again, and `problem` says so. Raises
        IntegrityFailure when the trail does not end with a line of a trail.
        """
        self._begin("audit.started", {"pid": os.getpid()})
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Have the disk keep everything, and let go of the files."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._patience)
        self.sync()
        with self._alone():
            self._problem = "it was closed"
            self._files.close()

    @property
    def problem(self) -> str:
        """Why no record can be written now; "": they can."""
        if self._problem:
            return self._problem
        writing, now = self._writing, time.monotonic()
        if writing is not None and writing[0] < now - self._patience:
            return _STUCK
        if 0.0 < self._syncing_since < now - SYNC_PATIENCE_SECONDS:
            return "the disk does not keep what it took"
        return ""

    @property
    def records(self) -> int:
        """How many records it has, those of earlier processes included."""
        return self._files.head.sequence

    def require(self) -> None:
        """Raise AuditUnavailable unless records could be written a moment ago."""
        # Hot: what is not begun cannot be stuck.
        if not (self._problem or self._writing or self._syncing_since):
            return
        if problem := self.problem:
            raise self._unavailable(problem)

    def require_room(self) -> None:
        """Raise AuditUnavailable unless there is room for the records of some writes.

        Asked before a change is made, so that none is made and then not recorded.
        """
        self.require()
        try:
            free = shutil.disk_usage(self.directory).free
        except OSError as error:
            raise self._unavailable(str(error)) from error
        if free < RESERVE_BYTES:
            raise self._unavailable(f"only {free} bytes are free")

    def write(self, fragment: str, *, abandon: Abandon | None = None) -> None:
        """Append a record: members of a JSON object, in ASCII, without braces.

        Raises AuditUnavailable within a bounded time, and then nothing was appended.
        Where the disk keeps this very call waiting, `abandon` is called instead.
        """
        # Hot: without the context manager, which costs as much as the hash.
        if not self._lock.acquire(blocking=False):
            self._acquire()
        try:
            if self._problem:
                self._refused += 1
                raise self._unavailable(self._problem)
            self._writing = (time.monotonic(), abandon)
            try:
                self._files.append(fragment)
            except OSError as error:
                self._refused += 1
                self._set_aside(error)
                raise self._unavailable(self._problem) from error
            finally:
                self._writing = None
        finally:
            self._lock.release()

    def note(self, event: str, resource: str = "", **facts: object) -> None:
        """Record what happened without a caller. `facts`: no secrets, no bytes.

        Raises AuditUnavailable.
        """
        self.write(noted(event, resource, facts))

    def head(self) -> Head:
        """Have the disk keep everything so far, and return where that ends.

        Raises AuditUnavailable.
        """
        self.require()
        with self._alone():
            head = self._files.head
        self.sync()
        self.require()
        return head

    def sync(self) -> None:
        """Have the disk keep everything so far."""
        with self._syncing:
            sequence = self._files.head.sequence
            if sequence == self._synced:
                return
            self._syncing_since = time.monotonic()
            try:
                self._files.sync()
                self._synced = sequence
            except OSError as error:
                # What it could not write the kernel may have dropped. Said by `problem`
                # until another file was begun; what was lost is missed by `verify`.
                self._set_aside(error)
            finally:
                self._syncing_since = 0.0

    # --- inside ----------------------------------------------------------------

    def _acquire(self) -> None:
        if not self._lock.acquire(timeout=self._patience):
            raise self._unavailable(_STUCK)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _begin(self, event: str, facts: Mapping[str, object]) -> None:
        """Try to write again."""
        with self._alone():
            try:
                self._files.begin()
            except OSError as error:
                self._failed(error)
                return
            try:
                if self._aside:
                    self._files.begin_next()
                self._files.append(noted(event, "", facts))
            except OSError as error:
                self._set_aside(error)
            else:
                self._problem, self._refused, self._aside = "", 0, False

    def _set_aside(self, error: OSError) -> None:
        # A file that failed, rather than the disk being full, is not written to again.
        self._aside = self._aside or error.errno not in _FULL
        self._failed(error)

    def _failed(self, error: OSError) -> None:
        problem = error.strerror or str(error)
        if problem != self._problem:
            report(Event.AUDIT_FAILED, problem=problem, directory=self.directory)
        self._problem = problem

    def _unavailable(self, problem: str) -> AuditUnavailable:
        return AuditUnavailable(
            "the audit trail of {process} cannot be written: {problem}. Nothing is "
            "answered that is not recorded; make room in {directory}, or mend its disk",
            process=self.process,
            problem=problem,
            directory=self.directory,
        )

    def _keep(self) -> None:
        """Keep what was written on the disk, and resume when it can be written."""
        tried = time.monotonic()
        while not self._stop.wait(_SYNC_SECONDS):
            self.sync()
            if self._problem and time.monotonic() - tried > _RESUME_SECONDS:
                facts = {"problem": self._problem, "refused": self._refused}
                try:
                    self._begin("audit.resumed", facts)
                except AuditUnavailable:
                    continue
                finally:
                    tried = time.monotonic()
                if not self._problem:
                    report(Event.AUDIT_RESUMED, **facts)

    def _watch(self) -> None:
        """Free a caller whose own record the disk does not take."""
        freed = None
        while not self._stop.wait(_SYNC_SECONDS):
            writing = self._writing
            if writing is None or writing is freed:
                continue
            since, abandon = writing
            if since < time.monotonic() - self._patience:
                freed = writing
                report(Event.AUDIT_FAILED, problem=_STUCK, directory=self.directory)
                if abandon is not None:
                    abandon()
