"""Watching: every change, once and in order, whoever tells it."""

from collections.abc import Iterator, Sequence
from typing import Final

from hsmvault.client.caller import Caller
from hsmvault.client.methods import Method, Repeat
from hsmvault.v1.vault_service_pb2 import Change, WatchRequest, WatchResponse

TIMEOUT: Final = 30.0
"""Seconds without any answer, from anybody, after which watching gives up."""

WATCH: Final[Method[WatchRequest, WatchResponse]] = Method(
    "/hsmvault.v1.VaultService/Watch",
    WatchRequest.SerializeToString,
    WatchResponse.FromString,
    Repeat.ALWAYS,
    TIMEOUT,
)
"""Apart from the other methods: it has no deadline, and no one answer."""


class Watch:
    """Changes from a position on: iterate over it, and close it when done.

    It goes on at another partition, or in another region, from where it broke off.
    Keep `position` to go on in another process.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        position: str = "",
        scope: str = "/",
        kinds: Sequence[str] = (),
        timeout: float = TIMEOUT,
    ) -> None:
        """Ask for nothing yet: that happens with the first `next`."""
        self.position = position
        """What it has come to; "" before anybody has answered."""
        self._scope = scope
        self._kinds = [Change.Kind.Value(kind.upper()) for kind in kinds]
        self._responses = caller.stream(WATCH, self._request, timeout=timeout)
        self._changes = self._all()

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        return next(self._changes)

    def close(self) -> None:
        """End it."""
        self._responses.close()

    def _request(self) -> WatchRequest:
        return WatchRequest(
            position=self.position, scope=self._scope, kinds=self._kinds
        )

    def _all(self) -> Iterator[Change]:
        for response in self._responses:
            for change in response.changes:
                # Not that of the response yet: the rest of it was not given.
                self.position = change.position
                yield change
            self.position = response.position
