"""What a write hands to the store. The vault's own values satisfy these by shape.

The vault and the store stand on one floor and do not import each other; mypy sees
that both mean the same where they meet, in `server`.
"""

from typing import Protocol

from hsmvault.model.log import Epoch
from hsmvault.model.stored import StoredRecord, WrappedKey


class Change(Protocol):
    """One entry to append and the state that it leaves behind."""

    @property
    def stored(self) -> StoredRecord: ...

    @property
    def wrapped(self) -> tuple[tuple[WrappedKey, bytes], ...]: ...


class Expect(Protocol):
    """What a write was decided on, checked again inside its transaction."""

    @property
    def epoch(self) -> Epoch: ...

    @property
    def access_index(self) -> int | None: ...

    @property
    def regions_index(self) -> int | None: ...
