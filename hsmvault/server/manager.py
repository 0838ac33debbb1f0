"""The pool manager's process: replication, and the work on regions. Holds no session.

`python -m hsmvault.server.manager DIR`, under the supervisor.
"""

import json
import sys
import time
from typing import TYPE_CHECKING, Final

from hsmvault import config
from hsmvault.audit.beside import Beside
from hsmvault.audit.trail import Trail
from hsmvault.config import RegionConfig
from hsmvault.local import manager_service, sockets
from hsmvault.local.officers import LocalOfficers, OfficerToken
from hsmvault.local.partition_client import PartitionClients
from hsmvault.model.errors import ConfigurationError, Unavailable
from hsmvault.regions.card import Card
from hsmvault.regions.layout import PARTITIONS, SUPERVISOR
from hsmvault.regions.listening import address
from hsmvault.replication.node import Identity, Node
from hsmvault.server.beat import Beat, Heart
from hsmvault.server.child import PURGED, Role, Stop, begin, end, guarded
from hsmvault.server.heads import Heads
from hsmvault.server.opening import open_store
from hsmvault.server.trails import open_trail
from hsmvault.store.store import Store
from hsmvault.telemetry import Event, identify, report

if TYPE_CHECKING:
    from hsmvault.server.scraping import Scraping

NAME: Final = "manager"
_THREADS: Final = 64
"""Calls to the manager wait: for other regions, for the primary, for an officer."""
_LETTING_GO_SECONDS: Final = 15.0
_GRACE_SECONDS: Final = 2.0


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Manager:
    """The process; also regions.ports.Purging."""

    def __init__(self, role: Role, settings: RegionConfig) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._layout = settings.layout
        self._stop = Stop()
        self._store: Store | None = None
        self._beat = Beat(problem="starting")
        self.heart = Heart(role.beat_fd, lambda: self._beat)

    def run(self) -> str:
        """Work until SIGTERM; never gives up by itself."""
        self.heart.start()
        self._store = store = open_store(self._settings)
        officers = LocalOfficers(officer_tokens(self._settings))
        listen = self._settings.listen
        identity = self._identity()
        trail = open_trail(self._settings, NAME)
        with PartitionClients(self._layout) as workers:
            node = Node(
                identity,
                store=store,
                workers=workers,
                officers=officers,
                purging=self,
                clock=now_ms,
                audit=trail,
                directory=self._layout.run,
                listen=address(listen.host, listen.private_port),
            )
            server = sockets.listen(self._layout.manager_socket, threads=_THREADS)
            manager_service.add_to(server, node, officers)
            node.start()
            server.start()
            scraping = self._scraping(store, node, workers)
            heads = self._heads(trail, workers, node)
            heads.start()
            self._beat = Beat(serving=True)
            self._stop.wait()
            report(Event.PROCESS_DRAINING)
            self._beat = Beat(problem="draining")
            if scraping is not None:
                scraping.stop()
            server.stop(_GRACE_SECONDS).wait(_GRACE_SECONDS + 1)
            # No partition is left to sign; the next start vouches for what came after.
            heads.stop(last=False)
            node.stop(_GRACE_SECONDS)
            officers.dismiss()
        trail.close()
        store.close()
        return ""

    def _scraping(
        self, store: Store, node: Node, workers: PartitionClients
    ) -> "Scraping | None":
        """Answer Prometheus, if the settings say where."""
        listener = self._settings.telemetry.listener()
        if listener is None:
            return None
        from hsmvault.server.exposition import exposition
        from hsmvault.server.gathering import RegionSamples
        from hsmvault.server.scraping import Scraping

        region = self._settings.region.name
        samples = RegionSamples(self._layout, store, node, workers)
        try:
            scraping = Scraping(
                *listener, self._layout, lambda: exposition(region, samples.gathered())
            )
        except ConfigurationError as error:
            # It was free when the region started. Replication matters more.
            report(Event.JOB_FAILED, error, job="metrics")
            return None
        scraping.start()
        return scraping

    def _heads(self, trail: Trail, workers: PartitionClients, node: Node) -> Heads:
        beside = Beside(self._layout.audit, SUPERVISOR)
        return Heads(
            (trail, beside),
            vault_id=self._identity().vault_id,
            region=self._settings.region.name,
            sign=workers.sign,
            append=node.append_audit_head,
            seconds=self._settings.audit.head_seconds,
        )

    def _identity(self) -> Identity:
        layout = self._layout
        card = Card.parse(layout.card.read_text(encoding="utf-8"))
        joined = None
        if layout.joined.exists():
            joined = Card.parse(layout.joined.read_text(encoding="utf-8"))
        return Identity(
            card=card,
            vault_id=card.vault_id,
            certificate=layout.private_certificate.read_bytes(),
            key=layout.private_key.read_bytes(),
            joined=joined,
        )

    def stop_partitions(self) -> None:
        """Have the supervisor end the partition servers, and see that it has."""
        self._beat = Beat(problem="the region is being purged", purging=True)
        deadline = time.monotonic() + _LETTING_GO_SECONDS
        while time.monotonic() < deadline:
            if self._partitions_ended():
                return
            time.sleep(0.1)
        raise Unavailable("the partition servers did not end; nothing was destroyed")

    def _partitions_ended(self) -> bool:
        try:
            status = json.loads(self._layout.status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        ended = [p for p in status["processes"] if p["pid"] is None]
        return {p["name"] for p in ended} >= set(PARTITIONS)

    def destroy_store(self) -> None:
        """Close the store and delete its files."""
        if self._store is not None:
            self._store.close()
        for path in self._layout.store_directory.iterdir():
            path.unlink(missing_ok=True)

    def purged(self) -> None:
        """Leave; the supervisor keeps the note of it, and ends too."""
        report(Event.REGION_PURGED)
        end(self.heart, PURGED, "the region was purged")


def officer_tokens(settings: RegionConfig) -> dict[str, OfficerToken]:
    """Return where each partition's officer finds its token, and perhaps its PIN."""
    directory = settings.officer.directory
    return {
        name: OfficerToken(
            module=one.module,
            label=one.token_label,
            serial=one.token_serial,
            user_pin_file=one.user_pin_file,
            environment=settings.environment(name),
            so_pin_file=directory / f"{name}.so-pin" if directory else None,
        )
        for name, one in settings.partitions.items()
    }


def main() -> None:
    """Run the pool manager of a region."""
    role = begin(sys.argv[1:], name=NAME)
    settings = config.load(role.directory)
    identify(process=NAME, region=settings.region.name)
    manager = Manager(role, settings)
    guarded(manager.heart, "the pool manager", manager.run)


if __name__ == "__main__":
    main()
