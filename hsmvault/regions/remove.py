"""Removing a region, seen from the primary: order it, wait for it, forget it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    RegionBusy,
    Unavailable,
    VaultError,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import GENESIS, Head, Position
from hsmvault.model.orders import ORDER_MS, RemovalOrder, Terms
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.add import IN_FLIGHT
from hsmvault.regions.heads import HeadSigner
from hsmvault.regions.ports import LogStore, Peers, Workers
from hsmvault.regions.purge import order_facts, require_administrator
from hsmvault.regions.registry import Registry
from hsmvault.vault.ports import Clock


class Removal:
    """Takes one region through DELETING to PURGED. Each step may be repeated."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: LogStore,
        workers: Workers,
        peers: Peers,
        signer: HeadSigner,
        clock: Clock,
        directory: Path,
        forgotten: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._workers = workers
        self._peers = peers
        self._signer = signer
        self._clock = clock
        self._directory = directory
        self._forgotten = forgotten

    def begin(
        self, order: RemovalOrder, *, force: bool, principal: str, terms: Terms
    ) -> tuple[RegionRecord, Position]:
        """Log that the region is being removed, or renew the order if it is already."""
        repeated = self._registry.repeated(principal, terms)
        if repeated is not None:
            return repeated
        record = self._removable(order.region)
        signer = require_administrator(order, self._registry, now_ms=self._clock())
        if signer != principal:
            raise AccessDenied(
                "the order is signed by {signer}, and {principal} brought it",
                signer=signer,
                principal=principal,
            )
        if terms.validate_only:
            return record, self._registry.position()
        self._keep(order, force=force)
        if record.state is RegionState.PREPROVISIONING:
            # It has nothing of ours yet; its life has no other way out.
            self._registry.move(record.id, RegionState.FAILED, problem="removed")
        moved, position = self._registry.move(
            record.id,
            RegionState.DELETING,
            request=lambda moved: terms.mark(principal, moved.to_bytes()),
        )
        return moved, position or self._registry.position()

    def step(self, region: str) -> str:
        """Do what can be done now; what it waits for, or empty once it is purged."""
        kept = self._kept(region)
        if not kept.get("purged"):
            waiting = self._order(region, kept)
            if waiting:
                return waiting
            # From here the region is gone: a restart must not wait for it.
            self._write(region, {"purged": True})
        self._workers.drop_pair_keys(region)
        self._store.drop_wrapped(region)
        self._registry.move(region, RegionState.PURGED)
        self._peers.trust_changed()
        self._forgotten(region)
        self._path(region).unlink(missing_ok=True)
        return ""

    def _removable(self, region: str) -> RegionRecord:
        regions = self._registry.records()
        record = regions.get(region)
        if record is None or record.state is RegionState.PURGED:
            raise NotFound("regions/{region} does not exist", region=region)
        if record.primary:
            raise InvalidRequest(
                "regions/{region} is the primary; only extended regions can be removed",
                region=region,
            )
        for other in regions.values():
            if other.state in IN_FLIGHT and other.id != region:
                raise RegionBusy(
                    "regions/{other} is {state}; one region at a time: wait until it "
                    "is done (hsmvault region list), or remove it first",
                    other=other.id,
                    state=other.state,
                )
        return record

    def _order(self, region: str, kept: dict[str, Any]) -> str:
        """Have the region purge itself; empty once it has, or cannot be waited for."""
        force = kept.get("force") is True
        greeting = self._peers.greeting(region)
        if greeting is None:
            if force or self._has_nothing(region):
                return ""
            return "not linked; start it, or remove it with --force"
        mark = self._peers.watermark(region)
        if mark is None:
            # Nothing was ever sent: it has nothing to purge, nor can it verify orders.
            return ""
        row = self._store.state(f"regions/{region}")
        assert row is not None
        if mark.index < row.index and not force:
            return "has not everything yet; wait, or remove it with --force"
        order = self._valid(kept)
        if order is None:
            return "the order has expired; remove it again: hsmvault region remove"
        return self._send(order, row.index)

    def _has_nothing(self, region: str) -> bool:
        """Whether nothing was ever wrapped for it, nor could have been."""
        paired = self._workers.pair_keys(region).values()
        return not any(paired) and not self._store.count_wrapped(region)

    def _send(self, order: RemovalOrder, index: int) -> str:
        """Hand over the order with the entry at `index`; why it was refused, if so."""
        (entry,) = self._store.entries(index - 1, limit=1)
        before = self._store.head_at(index - 1)
        facts = order_facts(
            order,
            entry=entry,
            previous=before.chain if before else GENESIS,
            signed=self._signer.signed(Head(entry.position, entry.chain)),
        )
        try:
            self._peers.order_purge(order.region, facts)
        except Unavailable:
            raise
        except VaultError as error:
            return f"it refused: {error}"
        return ""

    def _valid(self, kept: dict[str, Any]) -> RemovalOrder | None:
        try:
            order = RemovalOrder(
                region=kept["region"],
                time_ms=kept["time_ms"],
                certificate=kept["certificate"],
                signature=bytes.fromhex(kept["signature"]),
            )
        except KeyError:
            return None
        return order if abs(self._clock() - order.time_ms) <= ORDER_MS else None

    # --- the order, kept for a restart ---------------------------------------

    def _path(self, region: str) -> Path:
        return self._directory / f"{region}.order"

    def _keep(self, order: RemovalOrder, *, force: bool) -> None:
        facts: dict[str, object] = {
            "region": order.region,
            "time_ms": order.time_ms,
            "certificate": order.certificate,
            "signature": order.signature.hex(),
            "force": force,
        }
        self._write(order.region, facts)

    def _write(self, region: str, facts: dict[str, object]) -> None:
        path = self._path(region)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(facts))
        beside.replace(path)

    def _kept(self, region: str) -> dict[str, Any]:
        try:
            facts = from_json(self._path(region).read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}
