"""Regions as their pool managers see them: real stores, real links, pretend partitions.

Each `TestRegion` has a real SQLite store, a private identity, a real private listener
with mTLS on loopback, and three `FakeHsm`s whose keys never leave their own dictionary
but by the pretend ceremony. What is tested is everything between them.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import AuditUnavailable, Unavailable, WrappedKeyInvalid
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import RECEIVING, RegionState, VersionState
from hsmvault.model.log import Head, Kind, Position
from hsmvault.model.material import Material
from hsmvault.model.orders import PLAIN, RemovalOrder, Terms
from hsmvault.model.record import Record
from hsmvault.model.stored import StoredRecord, WrappedKey, pair_key_name
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.card import Card, CardPartition
from hsmvault.regions.certificates import Authority, Certified, private_identity
from hsmvault.regions.genesis import VaultPlan, found
from hsmvault.regions.ports import Arrived, Executed
from hsmvault.replication.follower import Timings
from hsmvault.replication.node import Identity, Node
from hsmvault.store.store import Store
from hsmvault.vault.ports import Change, Expect
from hsmvault.vault.upkeep import Chore
from tests.support.fakes import FakeHsm

VAULT = "0123456789abcdef0123456789abcdef"
ADMIN = "admin"

QUICK = Timings(
    heartbeat=0.05,
    backoff_max=0.2,
    after_alarm=600.0,
    retry=0.05,
    anchor=0.2,
    shown=0.1,
)
"""Everything soon; what sounded an alarm is left alone for the test to look at."""

_NOWHERE = itertools.count(1)

P256 = KeySpec.of("EC")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class FakeWorkers:
    """regions.ports.Workers over fake partitions; any may be `away`."""

    def __init__(self, region: str, hsms: Sequence[FakeHsm]) -> None:
        self.region = region
        self.hsms = {hsm.name: hsm for hsm in hsms}
        self.away = False
        self.executed: list[tuple[str, bytes, str, str]] = []
        self.proofs: list[bytes] = []
        self.rewrapped = 0
        self.turn = 0
        self.before_seal: Callable[[], None] = lambda: None

    def _one(self) -> FakeHsm:
        if self.away:
            raise Unavailable("no partition of this region answers")
        self.turn += 1
        return list(self.hsms.values())[self.turn % len(self.hsms)]

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        return self._one().mac(statements)

    def _with_mac(self, wrapped: WrappedKey) -> tuple[WrappedKey, bytes]:
        (mac,) = self._one().mac([wrapped.statement(VAULT)])
        return wrapped, mac

    def rewrap(self, arrived: Sequence[Arrived]) -> list[tuple[WrappedKey, bytes]]:
        self.rewrapped += len(arrived)
        return [
            self._with_mac(
                self._one().rewrap(
                    a.material.spec, a.material.public_key, a.material.wrapped
                )
            )
            for a in arrived
        ]

    def seal(
        self, materials: Sequence[Material], region: str
    ) -> list[tuple[WrappedKey, bytes]]:
        self.before_seal()
        return [self._with_mac(self._one().seal(m, region)) for m in materials]

    def sign(self, statement: bytes) -> tuple[str, bytes]:
        hsm = self._one()
        return hsm.name, hsm.sign_statement(statement)

    def pair_keys(self, region: str) -> Mapping[str, bool]:
        self._one()
        return {name: hsm.has_pair_keys(region) for name, hsm in self.hsms.items()}

    def drop_pair_keys(self, region: str) -> None:
        self._one()
        for hsm in self.hsms.values():
            hsm.drop_pair_keys(region)

    def write_anchor(self, head: Head) -> None:
        self._one()
        for hsm in self.hsms.values():
            hsm.write_anchor(head)

    def execute(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        via_region: str,
        proof: bytes = b"",
    ) -> Executed:
        self.proofs.append(proof)
        self.executed.append((method, request, principal, via_region))
        return Executed(b"done:" + request, b"", "1.north.1")

    def upkeep(self, chore: Chore, name: str, *, incarnation: str) -> Position:
        raise Unavailable(f"no partition does {chore} {name} {incarnation}")


class FakeNotes:
    """regions.ports.AuditTrail: keeps what was noted, or cannot."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.full = False

    def require(self) -> None:
        if self.full:
            raise AuditUnavailable("the disk is full")

    def note(self, event: str, resource: str = "", **facts: object) -> None:
        self.require()
        self.events.append(f"{event} {resource} {facts}")


class FakeOfficers:
    """regions.ports.Officers: carries pair keys as hsm/officer.py does, in clear.

    It checks what an officer checks of a peer: that the identity it was given is the
    one whose partition speaks.
    """

    def __init__(self, region: "TestRegion") -> None:
        self.region = region
        self.here = True
        self.asked: list[tuple[str, str]] = []
        self.fails: Callable[[str, Mapping[str, object]], None] = lambda _p, _t: None
        self.lock = threading.Lock()

    def present(self) -> bool:
        return self.here

    def dismiss(self) -> None:
        return

    def ask(self, partition: str, task: Mapping[str, object]) -> Mapping[str, object]:
        with self.lock:
            name = str(task["task"])
            self.asked.append((partition, name))
            self.fails(partition, task)
            hsm = self.region.hsms[partition]
            work = getattr(self, f"_{name}")
            result: Mapping[str, object] = json.loads(json.dumps(work(hsm, task)))
            return result

    def _birth_pair(self, hsm: FakeHsm, task: Mapping[str, str]) -> object:
        assert task["sender"] == hsm.region
        hsm.keys[pair_key_name(hsm.region, task["receiver"])] = secrets.token_bytes(32)
        return {}

    def _offer(self, hsm: FakeHsm, task: Mapping[str, dict[str, str]]) -> object:
        context = task["context"] | {"nonce": secrets.token_hex(16)}
        return {"context": context, "public_key": "", "signature": _spki(hsm)}

    def _answer(self, hsm: FakeHsm, task: Mapping[str, dict[str, object]]) -> object:
        offer = task["offer"]
        if offer["signature"] != task["peer_identity"]:
            raise WrappedKeyInvalid("the offer is not signed by that partition")
        context = offer["context"]
        assert isinstance(context, dict)
        _, _, sender, receiver = str(context["label"]).split(":")
        key = hsm.keys[pair_key_name(sender, receiver)]
        return {"context": context, "wrapped": key.hex(), "signature": _spki(hsm)}

    def _install(self, hsm: FakeHsm, task: Mapping[str, dict[str, object]]) -> object:
        answer = task["answer"]
        if answer["signature"] != task["peer_identity"]:
            raise WrappedKeyInvalid("the answer is not signed by that partition")
        context = answer["context"]
        assert isinstance(context, dict)
        _, _, sender, receiver = str(context["label"]).split(":")
        wrapped = bytes.fromhex(str(answer["wrapped"]))
        hsm.keys[pair_key_name(sender, receiver)] = wrapped
        return {"installed": True}

    def _wipe(self, hsm: FakeHsm, task: Mapping[str, str]) -> object:
        assert task["label"] == f"hsmvault-{hsm.region}-{hsm.name}"
        hsm.keys.clear()
        return {}


def _spki(hsm: FakeHsm) -> str:
    return hsm.identity_public_key.hex()


class FakePurging:
    """regions.ports.Purging: notes the order of things, and closes the store."""

    def __init__(self, region: "TestRegion") -> None:
        self.region = region
        self.steps: list[str] = []
        self.left = threading.Event()

    def stop_partitions(self) -> None:
        self.steps.append("stop")

    def destroy_store(self) -> None:
        self.steps.append("destroy")
        self.region.store.close()
        for path in self.region.directory.glob("vault.db*"):
            path.unlink()

    def purged(self) -> None:
        self.steps.append("leave")
        self.left.set()


class TestRegion:
    """One region. `node()` starts its manager; what it holds outlives the node."""

    __test__ = False

    def __init__(
        self, directory: Path, name: str, *, zone: str = "default", joined: Card | None
    ) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.name = name
        first = FakeHsm("p0", name, vault_id=VAULT)
        self.hsms = {"p0": first}
        for partition in ("p1", "p2"):
            self.hsms[partition] = FakeHsm(
                partition, name, dict(first.keys), vault_id=VAULT
            )
        self.workers = FakeWorkers(name, list(self.hsms.values()))
        self.officers = FakeOfficers(self)
        self.purging = FakePurging(self)
        self.private: Certified = private_identity(name)
        self.joined = joined
        self.zone = zone
        self.port = 0
        # Until it listens: an address of its own that nobody has.
        self.nowhere = next(_NOWHERE)
        self.clock = now_ms
        self.notes = FakeNotes()
        self.store = self.open_store()

    def open_store(self) -> Store:
        return Store.open("sqlite:///vault.db", region=self.name, home=self.directory)

    @property
    def card(self) -> Card:
        return Card(
            region=self.name,
            vault_id=VAULT,
            zone=self.zone,
            endpoint=f"{self.name}.example:443",
            private_endpoint=f"127.0.0.1:{self.port or self.nowhere}",
            partitions=tuple(
                CardPartition(n, f"{self.name}-{n}.example:443", h.identity_public_key)
                for n, h in self.hsms.items()
            ),
            certificate=self.private.certificate.decode(),
        )

    @contextmanager
    def node(self, timings: Timings = QUICK) -> Iterator[Node]:
        node = Node(
            Identity(
                self.card,
                VAULT,
                self.private.certificate,
                self.private.key,
                joined=self.joined,
            ),
            store=self.store,
            workers=self.workers,
            officers=self.officers,
            purging=self.purging,
            clock=self.clock,
            audit=self.notes,
            directory=self.directory / "run",
            listen=f"127.0.0.1:{self.port}",
            timings=timings,
        )
        try:
            node.start()
            self.port = node.port
            yield node
        finally:
            node.stop(grace=0.1)

    # --- what the vault would write ------------------------------------------

    @property
    def index(self) -> int:
        head = self.store.head()
        return head.position.index if head else 0

    def change(self, kind: Kind, record: Record, revision: int) -> Change:
        stored = StoredRecord(kind, record.resource, revision, record.to_bytes())
        (mac,) = self.hsms["p0"].mac([stored.statement(VAULT)])
        return Change(dataclasses.replace(stored, mac=mac))

    def commit(self, *changes: Change) -> Position:
        epoch = self.store.epoch()
        assert epoch is not None
        return self.store.commit(
            changes, expect=Expect(epoch), time_ms=now_ms(), request=None
        )

    def receivers(self) -> list[str]:
        rows = self.store.states(Kind.REGION)
        records = [RegionRecord.from_bytes(row.record) for row in rows]
        return [r.id for r in records if r.primary or r.state in RECEIVING]

    def create(self, key: str, spec: KeySpec = P256) -> VersionRecord:
        """Make a key as the vault does: wrapped for every region that receives."""
        version = self.version(key, spec, VersionState.ACTIVE, secrets.token_hex(16))
        record = KeyRecord(
            name=f"keys/{key}",
            incarnation=version[0].incarnation,
            revision=1,
            spec=spec,
            operations=spec.default_operations,
            create_ms=now_ms(),
            update_ms=now_ms(),
            current=version[0].version,
        )
        self.commit(self.change(Kind.KEY, record, 1), version[1])
        return version[0]

    def rotate(self, key: str) -> VersionRecord:
        record = self.key(key)
        version, change = self.version(
            key, record.spec, VersionState.PENDING, record.incarnation
        )
        self.commit(change)
        return version

    def version(
        self, key: str, spec: KeySpec, state: VersionState, incarnation: str
    ) -> tuple[VersionRecord, Change]:
        hsm, regions = self.hsms["p0"], self.receivers()
        made = hsm.generate(secrets.token_hex(16), spec, regions=regions)
        record = VersionRecord(
            key=f"keys/{key}",
            incarnation=incarnation,
            version=made.wrapped[0].version,
            revision=1,
            spec=spec,
            public_key=made.public_key,
            regions=tuple(regions),
            create_ms=now_ms(),
            update_ms=now_ms(),
            state=state,
        )
        macs = hsm.mac([w.statement(VAULT) for w in made.wrapped])
        change = self.change(Kind.KEY_VERSION, record, 1)
        pairs = tuple(zip(made.wrapped, macs, strict=True))
        return record, dataclasses.replace(change, wrapped=pairs)

    def key(self, key: str) -> KeyRecord:
        row = self.store.state(f"keys/{key}")
        assert row is not None
        return KeyRecord.from_bytes(row.record)

    # --- what a caller would see ---------------------------------------------

    def usable(self, record: VersionRecord) -> bool:
        """Open the version here and prove its public half, as a partition would."""
        held = self.store.wrapped(record.version, self.name)
        if held is None:
            return False
        material = Material(record.version, record.spec, record.public_key, *held)
        for hsm in self.hsms.values():
            hsm.opened.clear()
            hsm.self_test(material)
        return True

    def record(self, region: str) -> RegionRecord:
        row = self.store.state(f"regions/{region}")
        assert row is not None
        return RegionRecord.from_bytes(row.record)

    def state_of(self, region: str) -> RegionState | None:
        row = self.store.state(f"regions/{region}")
        return None if row is None else RegionRecord.from_bytes(row.record).state


class TestVault:
    """A primary, its administrator, and the regions that were made for it."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.make(directory / "ca", name="test")
        self.admin = self.authority.caller(ADMIN)
        self.regions: list[TestRegion] = []
        self.north = TestRegion(directory / "north", "north", joined=None)
        self.regions.append(self.north)
        found(
            VaultPlan(VAULT, f"CN={ADMIN}", self.authority.certificate.decode()),
            self.north.card,
            store=self.north.store,
            mac=self.north.workers.mac,
            time_ms=now_ms(),
        )

    def region(self, name: str, *, zone: str = "default") -> TestRegion:
        """Make an extended region for this vault; `north` must be listening."""
        region = TestRegion(
            self.directory / name, name, zone=zone, joined=self.north.card
        )
        self.regions.append(region)
        return region

    def close(self) -> None:
        for region in self.regions:
            region.store.close()

    def order(
        self,
        region: str,
        *,
        time_ms: int | None = None,
        caller: Certified | None = None,
        vault: str = VAULT,
    ) -> RemovalOrder:
        """Sign an order to remove a region, as the CLI does."""
        signer = caller or self.admin
        when = now_ms() if time_ms is None else time_ms
        order = RemovalOrder(region, when, signer.certificate.decode(), b"")
        key = load_pem_private_key(signer.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = key.sign(order.statement(vault), ec.ECDSA(hashes.SHA256()))
        return dataclasses.replace(order, signature=signature)


def added(node: Node, region: TestRegion, terms: Terms = PLAIN) -> RegionRecord:
    """Ask the primary to add a region, as AddRegion does."""
    record = region.card.record(
        state=RegionState.PREPROVISIONING, primary=False, time_ms=now_ms()
    )
    raw, _ = node.add_region(record.to_bytes(), principal=f"CN={ADMIN}", terms=terms)
    return RegionRecord.from_bytes(raw)


def until(holds: Callable[[], object], *, within: float = 30.0) -> None:
    """Wait until it holds. Only a bound for what hangs: nothing is timed."""
    end = time.monotonic() + within
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def digest(store: Store) -> str:
    """All of a store that a replica must have equal: the log's end and the state."""
    head = store.head()
    rows = [
        (row.kind, row.resource, row.revision, row.record, row.index)
        for kind in Kind
        for row in store.states(kind)
    ]
    return hashlib.sha256(repr((head, rows)).encode()).hexdigest()


class Cable:
    """A TCP connection to a port of this machine that can be cut, and mended."""

    def __init__(self, port: Callable[[], int]) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._whole = threading.Event()
        self._whole.set()
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection; new ones break too, until `mend`."""
        self._whole.clear()
        self._break()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._whole.clear()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._break()
        for thread in self._threads:
            thread.join(5)

    def _break(self) -> None:
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._ends.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._port()))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(
                    target=_pump, args=(source, sink), daemon=True
                )
                self._threads.append(thread)
                thread.start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def two_regions(vault: TestVault) -> Iterator[tuple[Node, "TestRegion", Node]]:
    """`north` and a `south` that is in step, both managed; the stores stay open."""
    with vault.north.node() as primary:
        south = vault.region("south")
        with south.node() as extended:
            added(primary, south)
            until(lambda: vault.north.state_of("south") is RegionState.SUCCEEDED)
            until(lambda: south.index == vault.north.index)
            yield primary, south, extended
