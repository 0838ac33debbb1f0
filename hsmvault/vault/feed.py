"""The log as it is told to those who watch: verified before a word of it is told.

What is kept could have been edited since it was followed. So a stretch of the log is
walked to its end first, where its chain must be the one that this process knows, and
then told page by page, each compared with the chain as it was on the walk. Memory does
not grow with the stretch, nor with how slowly it is told.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from hsmvault.model.errors import (
    LogCompacted,
    PositionCompacted,
    TwoHistories,
    VaultError,
)
from hsmvault.model.log import Entry, Epoch, Head, Position, chain
from hsmvault.vault.ports import Store
from hsmvault.vault.view import View

PAGE: Final = 100


class Feed:
    """The entries of one region's log after a position, in order and only once."""

    def __init__(self, store: Store, since: Position, *, region: str) -> None:
        """Begin after a position that the region has reached.

        Raises PositionLost where it lies on a lineage that was cut, PositionCompacted
        where what came after it is not kept any more.
        """
        self._store = store
        self._region = region
        store.reached(since)
        try:
            at = store.head_at(since.index)
        except LogCompacted as error:
            raise _compacted(since) from error
        if at is None or at.position != since:
            raise TwoHistories(
                "the log of region {region} is another one at {position}",
                region=region,
                position=since,
            )
        self._at = at

    @property
    def position(self) -> Position:
        """Up to where entries were given."""
        return self._at.position

    def pages(self, view: View) -> Iterator[Sequence[Entry]]:
        """Give what comes after, up to the end that a view knows."""
        if view.epoch != self._epoch:
            # Another reign: perhaps one that does not go on from here.
            self._store.reached(self.position)
        try:
            yield from self._verified(view.head)
        except LogCompacted as error:
            raise _compacted(self.position) from error

    @property
    def _epoch(self) -> Epoch:
        return self.position.epoch

    def _verified(self, end: Head) -> Iterator[Sequence[Entry]]:
        chains = [at.chain for at, _ in self._walk(end)]
        if not chains:
            return
        if chains[-1] != end.chain:
            raise self._torn(end.position)
        for known, (at, page) in zip(chains, self._walk(end), strict=True):
            if at.chain != known:
                raise self._torn(at.position)
            self._at = at
            yield page

    def _walk(self, end: Head) -> Iterator[tuple[Head, Sequence[Entry]]]:
        """Read page by page; the chain is that of what was read, not what is kept."""
        at = self._at
        while at.position.index < end.position.index:
            left = end.position.index - at.position.index
            page = self._store.entries(at.position.index, limit=min(PAGE, left))
            if not page:
                raise self._torn(at.position)
            for entry in page:
                if entry.position.index != at.position.index + 1:
                    raise self._torn(entry.position)
                at = Head(entry.position, chain(at.chain, entry))
            yield at, page

    def _torn(self, position: Position) -> VaultError:
        return TwoHistories(
            "the log of region {region} is not what it was at {position}; it is not "
            "told. Compare the region with another one",
            region=self._region,
            position=position,
        )


def _compacted(position: Position) -> PositionCompacted:
    return PositionCompacted(
        "what changed after {position} is not kept any more; list what there is, and "
        "watch from the position of that answer",
        position=position,
    )
