"""Regions: adding, removing, and how far each has come."""

import time
from collections.abc import Iterator
from typing import Final, Unpack

from google.protobuf.duration_pb2 import Duration

from hsmvault.client import methods
from hsmvault.client.caller import Caller, Options, WriteOptions
from hsmvault.model.errors import NotFound, RegionNotReady
from hsmvault.v1 import region_service_pb2 as messages
from hsmvault.v1.resources_pb2 import Region

_POLL: Final = 0.2
"""Seconds between two looks at a region that is on its way."""

_MARGIN: Final = 2.0
"""What the call gets beyond the time that the server waits, so that it can answer."""


def region_name(name: str) -> str:
    """Return the full name of a region."""
    return name if name.startswith("regions/") else f"regions/{name}"


class Regions:
    """`vault.regions`: list, add, remove, and follow what they are doing."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, *, purged: bool = False, **options: Unpack[Options]) -> list[Region]:
        """Return the regions, also those that were removed if asked for."""
        request = messages.ListRegionsRequest(show_purged=purged)
        answer = self._caller.call(methods.LIST_REGIONS, request, **options)
        return list(answer.regions)

    def add(
        self, card: Region, fingerprint: str, **options: Unpack[WriteOptions]
    ) -> Region:
        """Start adding a region, described by its card; `watch` follows it."""
        request = messages.AddRegionRequest(region=card, fingerprint=fingerprint)
        return self._caller.call(methods.ADD_REGION, request, **options)

    def remove(
        self,
        name: str,
        authorization: messages.RemoveRegionRequest.Authorization,
        *,
        force: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Region:
        """Start removing an extended region, on an administrator's signature."""
        request = messages.RemoveRegionRequest(
            name=region_name(name), force=force, authorization=authorization
        )
        return self._caller.call(methods.REMOVE_REGION, request, **options)

    def audit_heads(
        self, of: str = "", **options: Unpack[Options]
    ) -> messages.ListAuditHeadsResponse:
        """Return how far the trails of a region, or of all, were when last signed."""
        name = region_name(of) if of else ""
        request = messages.ListAuditHeadsRequest(region=name)
        return self._caller.call(methods.LIST_AUDIT_HEADS, request, **options)

    def status(self, **options: Unpack[Options]) -> messages.ReplicationStatus:
        """Return how far every region has come, as the answering region knows it."""
        request = messages.GetReplicationStatusRequest()
        return self._caller.call(methods.GET_REPLICATION_STATUS, request, **options)

    def topology(self, **options: Unpack[Options]) -> messages.Topology:
        """Return where to connect."""
        request = messages.GetTopologyRequest()
        return self._caller.call(methods.GET_TOPOLOGY, request, **options)

    def wait(
        self, position: str, *, seconds: float = 10.0, **options: Unpack[Options]
    ) -> str:
        """Wait until the region has reached a position; return what it has reached."""
        request = messages.WaitForPositionRequest(position=position)
        timeout = Duration()
        timeout.FromNanoseconds(int(seconds * 1e9))
        request.timeout.CopyFrom(timeout)
        options.setdefault("timeout", seconds + _MARGIN)
        return self._caller.call(methods.WAIT_FOR_POSITION, request, **options).position

    def watch(
        self, name: str, *, seconds: float = 600.0, **options: Unpack[Options]
    ) -> Iterator[tuple[Region, int]]:
        """Yield a region and its percentage until it has arrived somewhere.

        Ends with SUCCEEDED or PURGED; raises RegionNotReady if it failed, or if the
        time is over, and NotFound if there is none of that name.
        """
        wanted = region_name(name)
        ends = time.monotonic() + seconds
        while True:
            region = self._find(wanted, **options)
            yield region, self._percent(wanted, **options)
            if region.state in {Region.SUCCEEDED, Region.PURGED}:
                return
            if region.state == Region.FAILED:
                raise RegionNotReady(
                    "{region} failed: {problem}", region=wanted, problem=region.problem
                )
            if time.monotonic() > ends:
                raise RegionNotReady(
                    "{region} is still {state}: {problem}",
                    region=wanted,
                    state=Region.State.Name(region.state),
                    problem=region.problem or "see `hsmvault region status`",
                )
            time.sleep(_POLL)

    def _find(self, name: str, **options: Unpack[Options]) -> Region:
        for region in self.list(purged=True, **options):
            if region.name == name:
                return region
        raise NotFound("there is no {region}; see `hsmvault region list`", region=name)

    def _percent(self, name: str, **options: Unpack[Options]) -> int:
        for status in self.status(**options).regions:
            if region_name(status.region) == name:
                return status.migration_percent
        return 0
