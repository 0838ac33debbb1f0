"""How every write is made: decide, MAC, then one transaction that decides again.

The decision is made on one view. The transaction names what that view was, so a
revocation, a new region, another reign or another write that came first makes it fail
instead of being overtaken; then the whole decision is made again on a newer view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hsmvault.model.errors import (
    AlreadyExists,
    ChangedMeanwhile,
    EtagMismatch,
    LogCompacted,
    StaleEpoch,
)
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.log import Position, RequestMark
from hsmvault.model.record import Record
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.vault.checked import KINDS, Found
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Change, Clock, Expect, Hsm, Store
from hsmvault.vault.quotas import require_room
from hsmvault.vault.view import Caller, View

R = TypeVar("R", bound=Record)

ATTEMPTS: Final = 4
"""The first, and three more when what it was decided on changed meanwhile."""
ENTRIES_MAX: Final = 4
"""More than any one write appends."""


@dataclass(frozen=True, slots=True)
class Request:
    """A mutation: who asks for it, and the id under which it may be repeated."""

    caller: Caller
    method: str
    digest: bytes = b""
    """SHA-256 of the request."""
    request_id: str = ""
    validate_only: bool = False
    """Decide, answer what would be, and leave no trace (AIP-163)."""


@dataclass(frozen=True, slots=True)
class Draft(Generic[R]):
    """What a write wants to be: records in the order of their entries."""

    records: Sequence[Record]
    answer: R
    """The record that is answered; one of `records`."""
    wrapped: Sequence[tuple[WrappedKey, bytes]] = ()
    """Goes with the first record. Each with its MAC."""
    regions_matter: bool = False
    """Decided on the set of regions."""
    settings_matter: bool = False
    """Decided on a setting of the vault that may be taken back."""
    unchanged: Found[KeyRecord] | None = None
    """A key that must still be as it was read, and is not among `records`."""


@dataclass(frozen=True, slots=True)
class Writer:
    """The one way to the store's `commit`."""

    store: Store
    hsm: Hsm
    memory: Memory
    clock: Clock

    def write(
        self, request: Request, answer: type[R], decide: Callable[[View], Draft[R]]
    ) -> Found[R]:
        """Have `decide` draft the change, and commit it or nothing.

        A request id that was used before gives the answer of that time. Raises
        InvalidRequest when it was used for another request. What is only to be
        validated is decided on, and not committed.
        """
        for left in reversed(range(ATTEMPTS)):
            view = self.memory.refresh()
            view.require_primary()
            if not request.caller.itself:
                view.access.require(request.caller)
            repeated = self._repeated(request, answer, view)
            if repeated is not None:
                return repeated
            draft = decide(view)
            require_room(self.store, view.vault, draft.records)
            if draft.settings_matter:
                settings = self.store.state(view.vault.resource)
                if settings is None or settings.revision != view.vault.revision:
                    raise ChangedMeanwhile("the vault's settings changed meanwhile")
            if request.validate_only:
                return Found(draft.answer, draft.answer.to_bytes(), view.position)
            try:
                return self._commit(request, draft, view)
            except (ChangedMeanwhile, StaleEpoch, AlreadyExists):
                # AlreadyExists: perhaps this very request came first, repeated.
                if not left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _repeated(
        self, request: Request, answer: type[R], view: View
    ) -> Found[R] | None:
        if not request.request_id or request.validate_only:
            return None
        mark = self.store.request(
            request.caller.principal, request.method, request.request_id
        )
        if mark is None:
            return None
        mark.require_repeated(request.digest)
        record = answer.from_bytes(mark.answer)
        position = self._position_of(mark, record.resource) or view.position
        return Found(record, mark.answer, position)

    def _position_of(self, mark: RequestMark, resource: str) -> Position | None:
        """Where a request was committed, unless its resource changed since.

        Its last entry, which has the mark, is at or soon after the resource's.
        """
        stored = self.store.state(resource)
        if stored is None or stored.record != mark.answer:
            return None
        try:
            entries = self.store.entries(stored.index - 1, limit=ENTRIES_MAX)
        except LogCompacted:
            return None
        return next((e.position for e in entries if e.request == mark), None)

    def _commit(self, request: Request, draft: Draft[R], view: View) -> Found[R]:
        rows = [_row(record) for record in draft.records]
        vault_id = view.vault.vault_id
        macs = self.hsm.mac([row.statement(vault_id) for row in rows])
        changes = [
            Change(
                StoredRecord(row.kind, row.resource, row.revision, row.record, mac),
                tuple(draft.wrapped) if number == 0 else (),
            )
            for number, (row, mac) in enumerate(zip(rows, macs, strict=True))
        ]
        answer = rows[list(draft.records).index(draft.answer)].record
        position = self.store.commit(
            changes,
            expect=Expect(
                view.epoch,
                access_index=view.access.index,
                regions_index=view.regions_index if draft.regions_matter else None,
            ),
            time_ms=self.clock(),
            request=RequestMark(
                request.caller.principal,
                request.method,
                request.request_id,
                request.digest,
                answer,
            )
            if request.request_id
            else None,
            guard=self._standing(draft, view),
        )
        return Found(draft.answer, answer, position)

    def _standing(self, draft: Draft[R], view: View) -> Callable[[], None]:
        """Return what is checked again inside the transaction, beside revisions."""
        key = draft.unchanged

        def guard() -> None:
            require_room(self.store, view.vault, draft.records)
            if draft.settings_matter:
                settings = self.store.state(view.vault.resource)
                if settings is None or settings.revision != view.vault.revision:
                    raise ChangedMeanwhile("the vault's settings changed meanwhile")
            if key is None:
                return
            stored = self.store.state(key.record.resource)
            if stored is None or stored.record != key.raw:
                raise ChangedMeanwhile("{name} changed meanwhile", name=key.record.name)

        return guard


def _row(record: Record) -> StoredRecord:
    revision = getattr(record, "revision", 0)
    return StoredRecord(
        KINDS[type(record)], record.resource, revision, record.to_bytes()
    )


def require_etag(found: Found[Record], given: str) -> None:
    """Raise EtagMismatch unless `given` is empty or the record's present etag."""
    if given and given != found.etag:
        raise EtagMismatch(
            "{name} has changed since etag {given} was read; read it again and retry",
            name=found.record.resource,
            given=given[:64],
        )
