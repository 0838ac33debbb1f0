"""Writes that this region does not decide alone: forwarded, redirected, or awaited."""

from typing import Any

from google.rpc.status_pb2 import Status

from hsmvault.api.permissions import Write
from hsmvault.api.ports import Manager
from hsmvault.metrics import FORWARD_SECONDS
from hsmvault.model.errors import (
    InvalidRequest,
    PrimaryUnavailable,
    PrimaryUnknown,
    RegionBehind,
    RegionNotReady,
    Unavailable,
)
from hsmvault.model.log import Position
from hsmvault.regions.ports import Executed
from hsmvault.tracing import timed
from hsmvault.vault.memory import Memory
from hsmvault.vault.view import View


class Refused(Exception):
    """The primary, or the pool manager, refused; its own status goes to the caller."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def accepted(done: Executed) -> Executed:
    """Return how a call ended elsewhere, or raise Refused if it failed there."""
    if done.status:
        raise Refused(Status.FromString(done.status))
    return done


class Writes:
    """What the pool manager has a hand in."""

    def __init__(self, memory: Memory, manager: Manager) -> None:
        self._memory = memory
        self._manager = manager

    def elsewhere(
        self,
        method: str,
        write: Write,
        request: bytes,
        *,
        view: View,
        principal: str,
        proof: bytes = b"",
        seconds: float,
    ) -> tuple[bytes, str]:
        """Have the primary do it, or refuse, naming the primary.

        Answers once this region's own copy shows what was written. With the caller's
        own `proof` it need not take our word, so that every write may be forwarded.
        """
        if write is Write.REDIRECT and not proof:
            self._require_reachable(view)
            view.require_primary()
        try:
            with timed(FORWARD_SECONDS):
                forwarded = self._manager.forward(
                    method,
                    request,
                    principal=principal,
                    proof=proof,
                    seconds=seconds,
                )
            done = accepted(forwarded)
        except (PrimaryUnknown, PrimaryUnavailable) as error:
            raise _primary_unavailable(view) from error
        position = Position.parse(done.position)
        try:
            reached = self._memory.wait_for(position, seconds=seconds)
        except RegionBehind as error:
            raise RegionBehind(
                "the write stands in the primary at position {position}, but region "
                "{region} has not received it yet; do not repeat it, unless with the "
                "same request_id",
                position=position,
                region=view.region,
            ) from error
        return done.response, reached.served

    def _require_reachable(self, view: View) -> None:
        try:
            reachable = self._manager.replication().primary_reachable
        except Unavailable:
            # Nobody knows: then the address is the better answer.
            return
        if not reachable:
            raise _primary_unavailable(view)

    def require_durable(self, request: Any, view: View) -> None:
        """Raise, before anything is written, when so many regions do not exist."""
        wanted = _wanted(request)
        extended = len(view.receiving) - 1
        if wanted > extended:
            raise RegionNotReady(
                "durability asks for {wanted} extended regions, and there are "
                "{extended}; nothing was written",
                wanted=wanted,
                extended=extended,
            )

    def await_durable(self, request: Any, response: Any, seconds: float) -> None:
        """Wait until enough regions hold what was just written.

        Raises RegionBehind when they do not in time: the write stands all the same.
        """
        wanted = _wanted(request)
        if not wanted:
            return
        ended = self._manager.await_watermark(
            Position.parse(response.position), regions=wanted, seconds=seconds
        )
        if not ended.reached:
            raise RegionBehind(
                "the write stands at position {position}, but was not acknowledged in "
                "time by {behind}; wait with WaitForPosition there. Do not repeat the "
                "write, unless with the same request_id",
                position=response.position,
                behind=", ".join(ended.behind) or "enough regions",
            )


def _wanted(request: Any) -> int:
    """How many extended regions must hold a write; -1: all."""
    if "durability" not in request.DESCRIPTOR.fields_by_name:
        return 0
    durability = request.durability
    if durability.all_regions:
        return -1
    if durability.regions < 0:
        raise InvalidRequest(
            "durability.regions is 0 or more, not {given}", given=durability.regions
        )
    return int(durability.regions)


def _primary_unavailable(view: View) -> PrimaryUnavailable:
    return PrimaryUnavailable(
        "the primary, {primary}, cannot be reached from {region}, and the policy for "
        "writes while it is down is {policy}: reads and cryptography go on here, "
        "writes wait until the primary is back",
        primary=view.epoch.region,
        region=view.region,
        policy=view.vault.primary_down_writes,
    )
