"""The extended regions that are linked to this primary, and what each has durably."""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Final

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import (
    ConfigurationError,
    RegionNotReady,
    Unavailable,
    VaultError,
    complete,
    rebuilt,
)
from hsmvault.model.log import Head, Position
from hsmvault.regions.ports import Greeting, Officers
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.vault.ports import Clock, FollowerState

TASK_SECONDS: Final = 120.0
"""A ceremony's longest task generates an RSA-3072 key on a busy token: seconds."""


_TEXT_MAX: Final = 500
_FACTS_MAX: Final = 20
"""What a region says of its failures is cut to what somebody may read."""


@dataclass(slots=True)
class FollowerLink:
    """One connection of one region. Replaced when the region dials again."""

    region: str
    greeting: Greeting
    sent: int = 0
    """Index of the last entry that was sent. Invariant: acked <= sent."""
    acked: Head | None = None
    closed: str = ""
    """Why it is over; empty while it is not."""
    wants_snapshot: bool = False
    commands: list[pb.Command] = field(default_factory=list)
    replies: dict[int, "Future[dict[str, object]]"] = field(default_factory=dict)

    @property
    def acked_index(self) -> int:
        """Index of the last entry that is durable there."""
        return self.acked.position.index if self.acked else 0


class Links:
    """All links, the watermarks, and the commands that travel down. Is Peers."""

    def __init__(
        self,
        *,
        nudge: Callable[[], None],
        trust_changed: Callable[[], None],
        linked: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._nudge = nudge
        self._clock = clock
        self._trust_changed = trust_changed
        self._linked = linked
        self._changed = threading.Condition()
        self._links: dict[str, FollowerLink] = {}
        self._watermarks: dict[str, Position] = {}
        self._synced_ms: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._next_command = 0

    # --- for the sender ------------------------------------------------------

    def attach(self, link: FollowerLink) -> None:
        """Take a new link; a former one of the same region is over."""
        with self._changed:
            former = self._links.get(link.region)
            if former is not None:
                former.closed = "the region has dialled again"
                _abandon(former)
            self._links[link.region] = link
            self._watermarks.pop(link.region, None)
            self._times.pop(link.region, None)
            if link.acked is not None:
                self._watermarks[link.region] = link.acked.position
            self._changed.notify_all()
        self._nudge()
        self._linked()

    def detach(self, link: FollowerLink, reason: str) -> None:
        """End a link; whoever waits for its replies hears so."""
        with self._changed:
            link.closed = link.closed or reason
            if self._links.get(link.region) is link:
                del self._links[link.region]
                self._times.pop(link.region, None)
            _abandon(link)
            self._changed.notify_all()
        self._nudge()

    def acknowledged(
        self, link: FollowerLink, head: Head, *, newest: Head | None
    ) -> None:
        """Take the region's word for what it has; acknowledgements never go back."""
        with self._changed:
            link.acked = head
            link.sent = max(link.sent, head.position.index)
            self._watermarks[link.region] = head.position
            if newest is None or head.position.index >= newest.position.index:
                self._synced_ms[link.region] = self._clock()
            self._changed.notify_all()
        self._nudge()

    def told_time(self, link: FollowerLink, time_ms: int) -> None:
        """Take what the region's clock says; nothing, from a former release."""
        with self._changed:
            if time_ms and self._links.get(link.region) is link:
                self._times[link.region] = time_ms

    def take_commands(self, link: FollowerLink) -> list[pb.Command]:
        """Return the commands to send now."""
        with self._changed:
            taken, link.commands = link.commands, []
        return taken

    def replied(self, link: FollowerLink, reply: pb.CommandReply) -> None:
        """Hand a reply to whoever waits for it."""
        with self._changed:
            future = link.replies.pop(reply.id, None)
        if future is None:
            return
        try:
            body = from_json(reply.body)
        except ValueError:
            body = None
        if isinstance(body, dict):
            future.set_result(body)
        else:
            future.set_exception(Unavailable("the region's reply does not read"))

    # --- Peers ---------------------------------------------------------------

    def connected(self, region: str) -> bool:
        """Tell whether the region is linked now."""
        with self._changed:
            return region in self._links

    def greeting(self, region: str) -> Greeting | None:
        """What a linked region said of itself."""
        with self._changed:
            link = self._links.get(region)
            return link.greeting if link else None

    def watermark(self, region: str) -> Position | None:
        """What the region last acknowledged as durable."""
        with self._changed:
            return self._watermarks.get(region)

    def times(self) -> list[int]:
        """What the clocks of the linked regions said last, in Unix ms."""
        with self._changed:
            return list(self._times.values())

    def officers(self, region: str) -> Officers:
        """The officers of a linked region, reached over its link."""
        return RemoteOfficers(self, region)

    def order_purge(self, region: str, order: Mapping[str, object]) -> None:
        """Hand the region the order to purge itself; returns once it has."""
        self.command(region, "purge", body=order)

    def trust_changed(self) -> None:
        """Take certificates from the state again, and let each link look at it."""
        self._trust_changed()
        self._nudge()

    # --- for the node --------------------------------------------------------

    def command(
        self,
        region: str,
        kind: str,
        *,
        partition: str = "",
        body: Mapping[str, object],
        timeout: float = TASK_SECONDS,
    ) -> Mapping[str, object]:
        """Send a command down the link and wait for its reply; raises what it says."""
        future: Future[dict[str, object]] = Future()
        with self._changed:
            link = self._links.get(region)
            if link is None:
                raise Unavailable("region {region} is not linked", region=region)
            self._next_command += 1
            number = self._next_command
            link.replies[number] = future
            link.commands.append(
                pb.Command(
                    id=number,
                    kind=kind,
                    partition=partition,
                    body=json.dumps(body).encode(),
                )
            )
        self._nudge()
        try:
            reply = future.result(timeout)
        except FutureTimeout as error:
            raise Unavailable(
                "region {region} did not answer within {seconds} s",
                region=region,
                seconds=timeout,
            ) from error
        finally:
            with self._changed:
                link.replies.pop(number, None)
        return outcome(reply)

    def await_watermark(
        self,
        position: Position,
        *,
        among: list[str],
        regions: int,
        timeout: float,
    ) -> tuple[bool, list[str]]:
        """Wait until so many regions (-1: all) have it; who is behind at the end."""

        def behind() -> list[str]:
            return [
                region
                for region in among
                if (mark := self._watermarks.get(region)) is None
                or mark.index < position.index
            ]

        wanted = len(among) if regions < 0 else regions
        with self._changed:
            reached = self._changed.wait_for(
                lambda: len(among) - len(behind()) >= wanted, timeout
            )
            return reached, behind()

    def state(self, region: str, head: Head | None, *, percent: int) -> FollowerState:
        """How far a region has come, measured against the newest head."""
        now = self._clock()
        with self._changed:
            mark = self._watermarks.get(region)
            synced = self._synced_ms.get(region, 0)
            linked = region in self._links
        end = head.position.index if head else 0
        lag = max(0, end - (mark.index if mark else 0))
        return FollowerState(
            region=region,
            connected=linked,
            watermark=str(mark) if mark else "",
            lag_entries=lag,
            lag_ms=now - synced if lag and synced else 0,
            last_sync_ms=synced,
            migration_percent=percent,
        )

    def close(self, reason: str) -> None:
        """End all links: this region stops, or is no longer primary."""
        with self._changed:
            for link in self._links.values():
                link.closed = link.closed or reason
                _abandon(link)
            self._changed.notify_all()
        self._nudge()


class RemoteOfficers:
    """The officers of another region: each task travels down its link."""

    def __init__(self, links: Links, region: str) -> None:
        self._links = links
        self._region = region

    def present(self) -> bool:
        """Ask the region whether officers can work there now."""
        reply = self._links.command(self._region, "officers", body={}, timeout=10.0)
        return reply.get("present") is True

    def ask(self, partition: str, task: Mapping[str, object]) -> Mapping[str, object]:
        """Have the officer of one of its partitions do a task."""
        return self._links.command(
            self._region, "ceremony", partition=partition, body=task
        )

    def dismiss(self) -> None:
        """Have its officer processes end."""
        self._links.command(self._region, "dismiss", body={}, timeout=10.0)


def outcome(reply: Mapping[str, object]) -> Mapping[str, object]:
    """Return a reply's facts, or raise the error that it tells of."""
    if reply.get("ok") is True:
        return {name: value for name, value in reply.items() if name != "ok"}
    facts = reply.get("facts")
    message = str(reply.get("message", "the region refused, without saying why"))
    # It may go into the region's record, which every region and caller is sent.
    message = message[:_TEXT_MAX]
    told = list(facts.items())[:_FACTS_MAX] if isinstance(facts, dict) else []
    known = rebuilt(
        str(reply.get("error", "")),
        message,
        {str(k)[:_TEXT_MAX]: str(v)[:_TEXT_MAX] for k, v in told},
    )
    raise known or complete(RegionNotReady, message, {})


def failure(error: VaultError | ConfigurationError) -> dict[str, object]:
    """Write an error as a reply."""
    if isinstance(error, ConfigurationError):
        # A wrong PIN, say: an operator's matter there, not to be tried again by us.
        return {"ok": False, "error": RegionNotReady.reason, "message": str(error)}
    return {
        "ok": False,
        "error": error.reason,
        "message": str(error),
        "facts": error.facts,
    }


def _abandon(link: FollowerLink) -> None:
    for future in link.replies.values():
        if not future.done():
            future.set_exception(Unavailable("the link ended"))
    link.replies.clear()
