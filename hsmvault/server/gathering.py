"""What the processes of a region measure, gathered by its pool manager."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

from hsmvault import metrics
from hsmvault.local.partition_client import PartitionClients
from hsmvault.metrics import Metric, Sample
from hsmvault.model.errors import VaultError
from hsmvault.regions.layout import PARTITIONS, Layout
from hsmvault.replication.node import Node
from hsmvault.server.gauges import of_position
from hsmvault.store.store import Store

MANAGER: Final = "manager"


class RegionSamples:
    """What a whole region measures, at the moment when it is asked."""

    def __init__(
        self, layout: Layout, store: Store, node: Node, workers: PartitionClients
    ) -> None:
        """Ask nobody yet."""
        self._layout = layout
        self._store = store
        self._node = node
        self._workers = workers

    def gathered(self) -> dict[str, list[Sample]]:
        """By process. One that does not answer is down, and says nothing else."""
        found = self._workers.samples()
        for name in PARTITIONS:
            if not any(one.metric is metrics.UP for one in found[name]):
                found[name].append(Sample(metrics.UP, value=0))
        found[MANAGER] = [
            Sample(metrics.UP, value=1),
            *metrics.collected(),
            *self._replication(),
            *self._stored(),
        ]
        for name, restarts in self._restarts().items():
            found.setdefault(name, []).append(Sample(metrics.RESTARTS, value=restarts))
        return found

    def _replication(self) -> Iterator[Sample]:
        state = self._node.replication()
        yield Sample(metrics.PRIMARY_REACHABLE, value=state.primary_reachable)
        yield Sample(metrics.ALARMS, value=len(state.alarms))
        for one in state.followers:
            values: tuple[tuple[Metric, float], ...] = (
                (metrics.LAG_ENTRIES, one.lag_entries),
                (metrics.LAG_SECONDS, one.lag_ms / 1000),
                (metrics.CONNECTED, one.connected),
            )
            for metric, value in values:
                yield Sample(metric, (one.region,), value)

    def _stored(self) -> Iterator[Sample]:
        try:
            head, keys = self._store.head(), self._store.key_counts()
        except VaultError:
            # Its absence says so; what is left is worth the more.
            return
        for state, number in keys.items():
            yield Sample(metrics.KEYS, (state,), number)
        if head is not None:
            yield from of_position(str(head.position))
            reigns = head.position.epoch.region == self._store.region
            yield Sample(metrics.REIGNS, value=reigns)

    def _restarts(self) -> Mapping[str, int]:
        try:
            status = json.loads(self._layout.status.read_text(encoding="utf-8"))
            return {one["name"]: one["restarts"] for one in status["processes"]}
        except (OSError, ValueError, KeyError):
            # Just being written by a supervisor that starts.
            return {}
