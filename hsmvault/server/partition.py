"""A partition server's process: one HSM partition, and the whole public API on it.

`python -m hsmvault.server.partition DIR p0`, under the supervisor. Crash-only: where
its HSM or its store fails, the process ends, and is started again.
"""

import gc
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from hsmvault import config
from hsmvault.api import services
from hsmvault.api.callers import Callers
from hsmvault.api.measuring import measured
from hsmvault.audit.trail import Trail
from hsmvault.config import RegionConfig
from hsmvault.hsm.partition import Partition
from hsmvault.local import partition_service, sockets
from hsmvault.local.manager_client import ManagerClient
from hsmvault.local.partition_client import PartitionClients, SiblingWitness
from hsmvault.metrics import SERVING_SECONDS, Sample, collected, count
from hsmvault.model.errors import IntegrityFailure, NotServing, Overloaded, Unavailable
from hsmvault.model.log import Position
from hsmvault.model.names import KeyName
from hsmvault.regions.card import Card
from hsmvault.regions.ports import Executed
from hsmvault.server.anchoring import Anchoring, require_not_behind
from hsmvault.server.beat import Beat, Heart
from hsmvault.server.child import Role, Stop, begin, guarded
from hsmvault.server.gauges import of_partition
from hsmvault.server.heads import Heads
from hsmvault.server.listeners import Listeners
from hsmvault.server.opening import open_counters, open_partition, open_store
from hsmvault.server.recounts import Recounts
from hsmvault.server.trails import open_trail
from hsmvault.store.store import Store
from hsmvault.telemetry import Event, identify, report
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import PartitionState
from hsmvault.vault.upkeep import Chore

if TYPE_CHECKING:
    from hsmvault.server.traces import Tracer

START_SECONDS: Final = 30.0
"""To log in and check every key. A module that takes longer hangs."""
WATCH_SECONDS: Final = 0.1
ANCHOR_SECONDS: Final = 30.0
LOST_GRACE_SECONDS: Final = 0.5
"""For the calls that met the fault to be answered."""
_LOCAL_THREADS: Final = 16
"""Work for the manager, and forwarded writes, which wait."""


class PartitionServer:
    """The process, from its first beat to its last."""

    def __init__(self, role: Role, settings: RegionConfig) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._name = role.name
        self._stop = Stop()
        self._started = time.monotonic()
        self._hsm: Partition | None = None
        self._store: Store | None = None
        self._trail: Trail | None = None
        self._serving = False
        self._problem = "starting"
        self._lost = ""
        self._position = ""
        self._public: services.Services | None = None
        self.heart = Heart(role.beat_fd, self._beat)

    def run(self) -> str:
        """Serve until SIGTERM; or until the HSM is lost, and answer why."""
        self.heart.start()
        settings, layout = self._settings, self._settings.layout
        card = Card.parse(layout.card.read_text(encoding="utf-8"))
        self._hsm = hsm = open_partition(
            settings, self._name, vault_id=card.vault_id, on_lost=self._on_lost
        )
        self._store = store = open_store(settings)
        require_not_behind(hsm, store)
        self._trail = trail = open_trail(settings, self._name)
        counters, remembering = open_counters(settings, hsm, services.now_ms, card)
        report(Event.PARTITION_OPENED)

        memory = Memory(store, hsm, region=settings.region.name)
        manager = ManagerClient(layout)
        tracer = _tracer(settings, self._name)
        self._public = public = services.build(
            region=settings.region.name,
            partition=self._name,
            store=store,
            counters=counters,
            hsm=hsm,
            witness=SiblingWitness(layout, own=self._name),
            manager=manager,
            partitions=PartitionClients(layout),
            trail=trail,
            memory=memory,
            callers=Callers(settings.issuers),
            limits=_limits(settings),
            observers=(measured,) if tracer is None else (measured, tracer),
            traces=tracer,
        )
        local = sockets.listen(layout.socket(self._name), threads=_LOCAL_THREADS)
        partition_service.add_to(local, _Duties(self, hsm, public, card.vault_id))
        listeners = Listeners(settings, self._name, public)
        # What is here now stays as long as the process: not worth looking at again.
        gc.freeze()
        local.start()
        listeners.start()

        anchoring = Anchoring(hsm, store, remembering, services.now_ms)
        heads = self._vouching(trail, hsm, manager, vault_id=card.vault_id)
        with Recounts(remembering, services.now_ms):
            self._serve(memory, public, anchoring, hsm)
        self._leave(public)
        if self._lost:
            listeners.stop(grace=LOST_GRACE_SECONDS)
            return self._lost
        listeners.stop()
        # Siblings' heads may need the MAC of this partition, as its own may of theirs.
        heads.stop(last=True)
        local.stop(1.0).wait(2.0)
        if tracer is not None:
            tracer.close()
        anchoring.write()
        trail.close()
        store.close()
        counters.close()
        return ""

    def _leave(self, public: services.Services) -> None:
        """Say everywhere that no more calls are welcome."""
        report(Event.PROCESS_DRAINING, problem=self._lost)
        self._serving, self._problem = False, self._lost or "draining"
        public.set_serving(serving=False)
        public.drain()

    def _vouching(
        self, trail: Trail, hsm: Partition, manager: ManagerClient, *, vault_id: str
    ) -> Heads:
        heads = Heads(
            (trail,),
            vault_id=vault_id,
            region=self._settings.region.name,
            sign=lambda statement: (self._name, hsm.sign_statement(statement)),
            append=manager.append_audit_head,
            seconds=self._settings.audit.head_seconds,
        )
        heads.start()
        return heads

    def _serve(
        self,
        memory: Memory,
        public: services.Services,
        anchoring: Anchoring,
        hsm: Partition,
    ) -> None:
        """Watch over the copy of the log until the process is to end."""
        anchored = looked = time.monotonic()
        while not self._stop.wait(WATCH_SECONDS):
            try:
                self._position = memory.refresh().served
                problem = self._unaudited()
            except NotServing as error:
                problem = str(error)
            except Unavailable as error:
                problem = f"the store cannot be read: {error}"
            except IntegrityFailure as error:
                problem = f"the store is not to be trusted: {error}"
                if problem != self._problem:
                    report(Event.INTEGRITY_FAILED, problem=problem)
            serving = not problem
            now = time.monotonic()
            if self._serving:
                count(SERVING_SECONDS, by=now - looked)
            looked = now
            if serving is not self._serving:
                public.set_serving(serving=serving)
                if serving:
                    report(Event.PROCESS_READY, position=self._position)
            self._serving, self._problem = serving, problem
            if now - anchored > ANCHOR_SECONDS:
                hsm.end_imports((), now_ms=services.now_ms())
                # Busy: the token remembers the head the next time.
                with suppress(Overloaded):
                    anchoring.write()
                anchored = time.monotonic()

    def _unaudited(self) -> str:
        problem = self._trail.problem if self._trail else ""
        return f"the audit trail cannot be written: {problem}" if problem else ""

    def state(self) -> PartitionState:
        """How this partition is, for its siblings and the manager."""
        hsm = self._hsm
        return PartitionState(
            name=self._name,
            serving=self._serving,
            problem=self._problem,
            position=self._position,
            open_keys=hsm.open_keys if hsm else 0,
        )

    def samples(self) -> list[Sample]:
        """Everything that this process measures."""
        hsm, public, trail = self._hsm, self._public, self._trail
        if hsm is None or public is None or trail is None:
            return collected()
        return of_partition(
            hsm, public, trail, serving=self._serving, position=self._position
        )

    def _on_lost(self, problem: str) -> None:
        report(Event.PARTITION_LOST, problem=problem)
        self._lost = problem
        self._stop.set()

    def _beat(self) -> Beat | None:
        hsm = self._hsm
        if hsm is None:
            late = time.monotonic() - self._started > START_SECONDS
            return None if late else Beat(problem=self._problem)
        # A call that hangs: the process is of no use, and cannot end by itself.
        if hsm.overdue():
            return None
        return Beat(
            serving=self._serving,
            problem=self._problem,
            position=self._position,
            open_keys=hsm.open_keys,
        )


class _Duties:
    """local.ports.PartitionDuties."""

    def __init__(
        self,
        server: PartitionServer,
        hsm: Partition,
        public: services.Services,
        vault_id: str,
    ) -> None:
        self._server = server
        self._public = public
        self.hsm = hsm
        self.vault_id = vault_id

    def state(self) -> PartitionState:
        return self._server.state()

    def upkeep(self, chore: Chore, name: KeyName, *, incarnation: str) -> Position:
        return self._public.upkeep.run(chore, name, incarnation=incarnation)

    def samples(self) -> list[Sample]:
        return self._server.samples()

    def execute(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        via_region: str,
        proof: bytes = b"",
        timeout: float,
    ) -> Executed:
        return self._public.execute(
            method,
            request,
            principal=principal,
            via_region=via_region,
            proof=proof,
            seconds=timeout,
        )


def _tracer(settings: RegionConfig, process: str) -> "Tracer | None":
    """Return what traces our calls; None, at no cost, where the settings want none."""
    if settings.telemetry.traces is None:
        return None
    from hsmvault.server.traces import tracer_of

    return tracer_of(settings.telemetry, region=settings.region.name, process=process)


def _limits(settings: RegionConfig) -> services.Limits:
    limits = settings.limits
    return services.Limits(
        message_bytes=limits.message_bytes,
        metadata_bytes=limits.metadata_bytes,
        waiting_threads=limits.waiting_threads,
        waiting_max=limits.waiting_calls,
        watching_threads=limits.watching_threads,
    )


def main() -> None:
    """Run one partition server of a region."""
    role = begin(sys.argv[1:])
    settings = config.load(role.directory)
    identify(process=role.name, region=settings.region.name)
    server = PartitionServer(role, settings)
    guarded(server.heart, f"partition {role.name}", server.run)


if __name__ == "__main__":
    main()
