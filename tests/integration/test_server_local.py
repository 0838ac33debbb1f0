"""Work between the processes of a region, over real sockets, with partitions in Python.

`FakeHsm` keeps the promises of a real partition (tests/contract), so what matters here
is the way there and back: which partition is asked, and what an error becomes.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest

from hsmvault import metrics
from hsmvault.local import partition_service, sockets
from hsmvault.local.partition_client import (
    EXECUTE_SECONDS,
    PartitionClients,
    SiblingWitness,
)
from hsmvault.metrics import Sample
from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.model.errors import NotDue, RegionNotReady, Unavailable, WrappedKeyInvalid
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.material import Material
from hsmvault.model.names import KeyName
from hsmvault.regions.layout import PARTITIONS, Layout
from hsmvault.regions.ports import Arrived, Executed
from hsmvault.vault.ports import PartitionState
from hsmvault.vault.upkeep import Chore
from tests.support.fakes import FakeHsm

VAULT = "5f" * 16
OCT = KeySpec(KeyType.OCT, 256)


@dataclass
class Duties:
    hsm: FakeHsm
    vault_id: str = VAULT
    executed: list[tuple[str, bytes, str, str, float]] = field(default_factory=list)
    proofs: list[bytes] = field(default_factory=list)
    kept: list[tuple[Chore, str, str]] = field(default_factory=list)
    due: bool = True

    def state(self) -> PartitionState:
        return PartitionState(self.hsm.name, serving=True, position="1.north.7")

    def samples(self) -> list[Sample]:
        return [
            Sample(metrics.OPEN_KEYS, value=3),
            Sample(metrics.HSM_SECONDS, ("using",), 0.5, (1, *[0] * 14, 2)),
        ]

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
        self.proofs.append(proof)
        self.executed.append((method, request, principal, via_region, timeout))
        return Executed(b"made", b"", "1.north.8")

    def upkeep(self, chore: Chore, name: KeyName, *, incarnation: str) -> Position:
        if not self.due:
            raise NotDue("{name} need not {chore} now", name=name, chore=chore)
        self.kept.append((chore, str(name), incarnation))
        return Position(Epoch(1, "north"), 9)


@dataclass
class Region:
    layout: Layout
    duties: dict[str, Duties]
    servers: dict[str, grpc.Server]
    workers: PartitionClients

    def end(self, *names: str) -> None:
        for name in names:
            self.servers[name].stop(None).wait()


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    layout = Layout(tmp_path)
    layout.run.mkdir(mode=0o700)
    shared: dict[str, bytes] = {}
    duties = {
        name: Duties(FakeHsm(name, "north", shared, vault_id=VAULT))
        for name in PARTITIONS
    }
    servers = {}
    with ExitStack() as stack:
        for name, one in duties.items():
            server = sockets.listen(layout.socket(name), threads=4)
            partition_service.add_to(server, one)
            server.start()
            stack.callback(lambda server=server: server.stop(None).wait())  # type: ignore[misc]
            servers[name] = server
        workers = stack.enter_context(PartitionClients(layout))
        yield Region(layout, duties, servers, workers)


def material(region: Region, version: str = "ab" * 16) -> Material:
    hsm = region.duties["p0"].hsm
    made = hsm.generate(version, OCT, regions=["north"]).wrapped[0]
    return Material(version, OCT, b"", made, hsm.mac([made.statement(VAULT)])[0])


def test_a_large_batch_is_spread_and_comes_back_in_order(region: Region) -> None:
    statements = [b"%d" % number for number in range(100)]

    macs = region.workers.mac(statements)

    assert macs == region.duties["p0"].hsm.mac(statements)


def test_work_goes_on_with_one_partition_left(region: Region) -> None:
    region.end("p0", "p2")

    macs = region.workers.mac([b"%d" % number for number in range(30)])
    partition, signature = region.workers.sign(b"head")

    assert len(macs) == 30
    assert partition == "p1"
    assert len(signature) == 64


def test_what_partitions_measure_is_gathered_from_those_that_answer(
    region: Region,
) -> None:
    region.end("p1")

    gathered = region.workers.samples()

    measured = region.duties["p0"].samples()
    assert gathered == {"p0": measured, "p1": [], "p2": measured}


def test_without_partitions_work_is_refused_as_unavailable(region: Region) -> None:
    region.end(*PARTITIONS)

    with pytest.raises(Unavailable, match="no partition of this region"):
        region.workers.mac([b"statement"])
    with pytest.raises(Unavailable, match="no partition of this region"):
        region.workers.execute("/a/B", b"", principal="CN=alice", via_region="south")
    with pytest.raises(Unavailable):
        region.workers.write_anchor(Head(Position(Epoch(1, "north"), 7), bytes(32)))


def test_a_chore_is_done_by_one_partition_and_not_where_it_is_not_due(
    region: Region,
) -> None:
    position = region.workers.upkeep(Chore.PURGE, "keys/a", incarnation="1")
    for one in region.duties.values():
        one.due = False
    with pytest.raises(NotDue):
        region.workers.upkeep(Chore.ROTATE, "keys/a", incarnation="1")

    assert str(position) == "1.north.9"
    kept = [done for one in region.duties.values() for done in one.kept]
    assert kept == [(Chore.PURGE, "keys/a", "1")]


def test_what_is_sealed_is_macked_and_arrives_rewrapped(region: Region) -> None:
    for one in region.duties.values():
        one.hsm.add_pair("south")
    sent = material(region)

    ((sealed, mac),) = region.workers.seal([sent], "south")

    assert (sealed.region, sealed.wrapping_key) == ("south", "pair/north/south")
    region.duties["p1"].hsm.check_macs([(sealed.statement(VAULT), mac)])
    # And what comes from the south opens here.
    hsm = region.duties["p2"].hsm
    south = FakeHsm("p0", "south", hsm.keys, vault_id=VAULT)
    arrived = south.generate(sent.version, OCT, regions=["north"]).wrapped[0]
    ((own, own_mac),) = region.workers.rewrap(
        [Arrived(replace(sent, wrapped=arrived, mac=b""))]
    )
    assert own.wrapping_key == "region/north"
    hsm.check_macs([(own.statement(VAULT), own_mac)])


def test_an_error_arrives_as_what_it_was(region: Region) -> None:
    with pytest.raises(RegionNotReady, match="no pair key towards region west") as seen:
        region.workers.seal([material(region)], "west")

    assert seen.value.facts["region"] == "west"


def test_pair_keys_are_asked_of_every_partition(region: Region) -> None:
    region.duties["p0"].hsm.add_pair("south")

    assert region.workers.pair_keys("south") == dict.fromkeys(PARTITIONS, True)
    region.workers.drop_pair_keys("south")
    assert region.workers.pair_keys("south") == dict.fromkeys(PARTITIONS, False)
    region.end("p1")
    with pytest.raises(Unavailable, match="partition p1"):
        region.workers.pair_keys("south")


def test_every_partition_remembers_an_anchor(region: Region) -> None:
    head = Head(Position(Epoch(1, "north"), 7), b"\7" * 32)

    region.workers.write_anchor(head)

    assert [one.hsm.anchor for one in region.duties.values()] == [head] * 3


def test_a_forwarded_call_runs_once_on_its_callers_behalf(region: Region) -> None:
    done = region.workers.execute(
        "/a/B", b"request", principal="CN=alice", via_region="south"
    )

    assert done == Executed(b"made", b"", "1.north.8")
    executed = [call for one in region.duties.values() for call in one.executed]
    assert executed == [("/a/B", b"request", "CN=alice", "south", EXECUTE_SECONDS)]


def test_a_witness_is_a_sibling_and_never_oneself(region: Region) -> None:
    fresh = material(region)
    with_siblings = SiblingWitness(region.layout, own="p0")

    assert with_siblings.self_test(fresh)
    assert not region.duties["p0"].hsm.opened
    region.end("p1", "p2")
    assert not with_siblings.self_test(fresh)
    with_siblings.close()


def test_a_witness_that_cannot_use_the_key_says_so(region: Region) -> None:
    """CreateKey must not answer with a key that only its maker could open."""
    fresh = material(region)
    spoilt = bytearray(fresh.wrapped.wrapped)
    spoilt[-1] ^= 1
    wrapped = replace(fresh.wrapped, wrapped=bytes(spoilt))
    mac = region.duties["p0"].hsm.mac([wrapped.statement(VAULT)])[0]
    witness = SiblingWitness(region.layout, own="p0")

    with pytest.raises(WrappedKeyInvalid):
        witness.self_test(replace(fresh, wrapped=wrapped, mac=mac))

    witness.close()


def test_sockets_are_for_their_user_alone(region: Region) -> None:
    for name in PARTITIONS:
        assert region.layout.socket(name).stat().st_mode & 0o077 == 0
