"""Looking at the whole store again and again: what nobody asks for is checked, too.

Whoever can write the store can clear a date that no MAC is over, and no sweeper would
ever see the key; can delete a row that nobody will read; can take the mark of a request
out of a log that was verified at the start. So, page by page, in every region:

1. Each row is read, held against the log, and its MAC checked.
2. The columns that queries go by are held against the record, and derived anew where
   they differ: the record is vouched for, they are not. That is reported as an
   integrity failure, and recorded as a repair.
3. The log's chain is verified, and whatever it made must have its row.

What else is wrong sounds an alarm, until a whole pass has found nothing.
"""

from collections.abc import Sequence
from typing import Final

from hsmvault.model.errors import (
    IntegrityFailure,
    LogCompacted,
    Overloaded,
    Unavailable,
)
from hsmvault.model.log import Head
from hsmvault.model.stored import Row, StoredRecord
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.ports import LogStore
from hsmvault.regions.registry import Registry
from hsmvault.telemetry import Event, report
from hsmvault.vault.lasting import Boot

ROWS: Final = 200
"""A page is some 40 ms of work, so a million rows are a pass of seven hours."""
ENTRIES: Final = 1000
REST_SECONDS: Final = 600.0
"""Between two passes, so that a small vault is not read all the time."""
PATIENCE: Final = 60
"""How often a page cannot be read before an alarm says so: some five minutes."""
_NAMED: Final = 5
_SUBJECT: Final = "store"
_UNREAD: Final = "store unread"


class Inspection:
    """Passes over the store, a page with each `step`."""

    def __init__(
        self, store: LogStore, registry: Registry, *, boot: Boot, alarms: Alarms
    ) -> None:
        self._store = store
        self._registry = registry
        self._boot = boot
        self._alarms = alarms
        self._rest_until = 0.0
        self._place = ""
        self._rows_left = True
        self._verified: Head | None = None
        self._found: list[str] = []
        self._failures = 0

    def step(self) -> None:
        """Look at the next page, unless it is time to rest."""
        if self._boot() < self._rest_until:
            return
        try:
            if self._rows_left:
                self._look_at_rows()
            else:
                self._look_at_log()
        except (Unavailable, Overloaded) as error:
            # The same page again. That partitions or the disk are away is told where it
            # is seen first; a page that stays unread is told here.
            self._failures += 1
            if self._failures >= PATIENCE:
                self._alarms.sound(_UNREAD, f"not all of it can be read: {error}")
        else:
            self._failures = 0
            self._alarms.clear(_UNREAD)

    # --- the state -----------------------------------------------------------

    def _look_at_rows(self) -> None:
        try:
            page = self._store.rows(after=self._place, limit=ROWS)
        except IntegrityFailure as error:
            self._tell(f"rows after {self._place!r}", str(error))
            page = []
        foreign = self._foreign([row.stored for row in page if row.stored])
        for row in page:
            if row.stored is None:
                self._tell(row.place, row.problem)
            elif row.place in foreign:
                self._tell(row.place, "its record does not bear this region's MAC")
            elif row.misfiled:
                self._repair(row, row.stored)
        self._place = page[-1].place if page else ""
        self._rows_left = bool(page)

    def _foreign(self, rows: Sequence[StoredRecord]) -> set[str]:
        """Resources of the rows whose MAC is not this region's."""
        pairs = [(row.statement(self._registry.vault_id), row.mac) for row in rows]
        try:
            self._registry.require(pairs)
        except IntegrityFailure:
            if len(rows) == 1:
                return {rows[0].resource}
            half = len(rows) // 2
            return self._foreign(rows[:half]) | self._foreign(rows[half:])
        return set()

    def _repair(self, row: Row, stored: StoredRecord) -> None:
        columns = ", ".join(row.misfiled)
        self._registry.audit.require()
        if self._store.file_again(stored):
            self._registry.audit.note(
                "state.filed_again", f"/{row.place}", columns=list(row.misfiled)
            )
            self._tell(row.place, f"it was filed wrongly ({columns}); it is mended")
        else:
            self._tell(row.place, f"it is filed wrongly ({columns})")

    # --- the log -------------------------------------------------------------

    def _look_at_log(self) -> None:
        end = self._store.head()
        before = self._verified or self._store.base()
        try:
            self._verified = self._store.verify_chain(self._verified, limit=ENTRIES)
        except LogCompacted:
            # A snapshot took its place meanwhile.
            self._verified = None
            return
        except IntegrityFailure as error:
            self._tell("log", str(error))
            self._finish()
            return
        after = self._verified
        if after is not None:
            start = before.position.index if before else 0
            for resource in self._store.gone(start, after.position.index):
                self._tell(resource, "it is in the log, but its state is gone")
        if end is None or after is None or after.position.index >= end.position.index:
            self._finish()

    # --- what was found ------------------------------------------------------

    def _tell(self, place: str, problem: str) -> None:
        self._found.append(place)
        report(Event.INTEGRITY_FAILED, subject=place, problem=problem)
        some = ", ".join(self._found[:_NAMED])
        self._alarms.sound(
            _SUBJECT,
            "somebody changed the store itself; not as this region wrote it: "
            f"{len(self._found)} in this pass ({some}), at last {place}: {problem}",
        )

    def _finish(self) -> None:
        if not self._found:
            self._alarms.clear(_SUBJECT)
        self._found.clear()
        self._verified, self._rows_left = None, True
        self._rest_until = self._boot() + REST_SECONDS
