"""Adding a region: what must hold before anything changes, and its first record."""

import dataclasses
from collections.abc import Mapping

from hsmvault.model.errors import AlreadyExists, InvalidRequest, RegionBusy, WrongState
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.names import RegionName
from hsmvault.model.vault_records import RegionRecord, VaultRecord
from hsmvault.regions.ports import Greeting

IN_FLIGHT = frozenset(
    {
        RegionState.PREPROVISIONING,
        RegionState.AWAITING_CEREMONY,
        RegionState.PROVISIONING,
        RegionState.DELETING,
    }
)
"""A region in one of these states is being worked on; one at a time."""

_GONE = frozenset({RegionState.PURGED, RegionState.FAILED})
"""A name in one of these states may be added again."""


def addable(
    asked: RegionRecord,
    *,
    regions: Mapping[str, RegionRecord],
    vault: VaultRecord,
    own: str,
    now_ms: int,
) -> RegionRecord:
    """Return the record to log for a region that may be added, or say why not."""
    RegionName.parse(asked.name)
    known = regions.get(asked.id)
    if asked.id == own:
        raise InvalidRequest(
            "regions/{region} is the primary itself; add another region", region=own
        )
    if known is not None and known.state not in _GONE:
        raise AlreadyExists(
            "regions/{region} exists, and is {state}",
            region=asked.id,
            state=known.state,
        )
    _require_sound(asked)
    _require_distinct(asked, regions)
    primary = regions[own]
    if asked.zone != primary.zone:
        raise WrongState(
            "regions/{region} is in zone {zone}, and this vault's keys never leave "
            "zone {own_zone}; make the region anew with that zone if it is in it",
            region=asked.id,
            zone=asked.zone,
            own_zone=primary.zone,
        )
    _require_room(regions, vault)
    return dataclasses.replace(
        asked,
        revision=known.revision + 1 if known else 1,
        state=RegionState.PREPROVISIONING,
        primary=False,
        create_ms=now_ms,
        update_ms=now_ms,
        problem="",
        ordinal=1 + max(region.ordinal for region in regions.values()),
    )


def require_idle(regions: Mapping[str, RegionRecord]) -> None:
    """Raise RegionBusy while a region is being added or removed."""
    for region in regions.values():
        if region.state in IN_FLIGHT:
            raise RegionBusy(
                "regions/{region} is {state}; one region at a time: wait until it is "
                "done (hsmvault region list), or remove it",
                region=region.id,
                state=region.state,
            )


def unfit(greeting: Greeting, *, vault_id: str) -> str:
    """Why a region that linked cannot be added; empty if it can."""
    if greeting.vault_id != vault_id:
        return f"it was made for vault {greeting.vault_id or 'none'}"
    if greeting.head is not None:
        return (
            f"it is not empty: its store is at {greeting.head.position}. Make it anew "
            "(hsmvault region init), and add that"
        )
    return ""


def _require_room(regions: Mapping[str, RegionRecord], vault: VaultRecord) -> None:
    require_idle(regions)
    extended = [
        r.id for r in regions.values() if not r.primary and r.state not in _GONE
    ]
    if len(extended) >= vault.region_limit:
        raise WrongState(
            "the vault has {count} extended regions ({names}), and its limit is "
            "{limit}; remove one first",
            count=len(extended),
            names=", ".join(sorted(extended)),
            limit=vault.region_limit,
        )


def _require_sound(asked: RegionRecord) -> None:
    names = {p.name for p in asked.partitions}
    if (
        not asked.partitions
        or len(names) != len(asked.partitions)
        or len(asked.partition_endpoints) != len(asked.partitions)
        or not all(p.identity for p in asked.partitions)
        or not asked.certificate.strip()
        or not asked.endpoint
        or not asked.private_endpoint
    ):
        raise InvalidRequest(
            "regions/{region} is not complete: take all of its card.json",
            region=asked.id,
        )


def _require_distinct(asked: RegionRecord, regions: Mapping[str, RegionRecord]) -> None:
    """No key and no address of it may be another region's."""
    for other in regions.values():
        if other.id == asked.id or other.state is RegionState.PURGED:
            continue
        identities = {p.identity for p in other.partitions}
        if (
            other.certificate.strip() == asked.certificate.strip()
            or identities & {p.identity for p in asked.partitions}
            or other.private_endpoint == asked.private_endpoint
        ):
            raise AlreadyExists(
                "regions/{region} has a certificate, an identity key or a private "
                "address of regions/{other}; a region has its own",
                region=asked.id,
                other=other.id,
            )
