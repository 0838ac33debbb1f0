"""The primary's word moves pair keys, and nothing else that lies in our tokens.

The attacker is a primary's manager that sends whatever it likes down the link.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from hsmvault.regions.registry import Registry
from hsmvault.replication.commands import Commands
from hsmvault.replication.node import Identity
from hsmvault.replication.trust import Trust
from hsmvault.replication.v1 import replication_service_pb2 as pb
from tests.support.nodes import VAULT, FakeNotes, TestRegion, TestVault, now_ms

Facts = dict[str, Any]


class Told:
    """Officers that note what they are asked, and say yes."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, Facts]] = []

    def present(self) -> bool:
        return True

    def dismiss(self) -> None:
        return

    def ask(self, partition: str, task: Mapping[str, object]) -> Facts:
        self.tasks.append((partition, dict(task)))
        return {"done": True}


class Scene:
    """`south`, before it has any log: it knows `north` by the joined card alone."""

    def __init__(self, vault: TestVault) -> None:
        self.north = vault.north
        self.south: TestRegion = vault.region("south")
        self.officers = Told()
        self.purges: list[Mapping[str, object]] = []
        south = self.south
        identity = Identity(
            south.card,
            VAULT,
            south.private.certificate,
            south.private.key,
            joined=vault.north.card,
        )
        registry = Registry(
            south.store, south.workers, vault_id=VAULT, clock=now_ms, audit=FakeNotes()
        )
        self.commands = Commands(
            trust=Trust(identity, registry),
            officers=self.officers,
            purge=self.purges.append,
        )

    def ask(self, kind: str, body: object, *, partition: str = "p1") -> Facts:
        command = pb.Command(
            id=7, kind=kind, partition=partition, body=json.dumps(body).encode()
        )
        reply = self.commands.execute(command)
        assert reply.id == 7
        told: Facts = json.loads(reply.body)
        return told

    def ceremony(self, body: object, *, partition: str = "p1") -> Facts:
        return self.ask("ceremony", body, partition=partition)


@pytest.fixture
def scene(vault: TestVault) -> Scene:
    return Scene(vault)


def context(**changed: object) -> Facts:
    """To carry the key from north to south into south's p1."""
    return {
        "vault": VAULT,
        "from_region": "north",
        "from_partition": "p0",
        "to_region": "south",
        "to_partition": "p1",
        "purpose": "pair-in",
        "label": "hsmvault:pair:north:south",
        "epoch": 1,
        **changed,
    }


def test_pair_keys_of_ours_are_carried_both_ways(scene: Scene) -> None:
    coming = context()
    going = context(
        from_region="south",
        from_partition="p1",
        to_region="north",
        label="hsmvault:pair:south:north",
    )
    north = scene.north.card.partitions

    assert scene.ceremony({"task": "offer", "context": coming})["ok"]
    assert scene.ceremony({"task": "install", "answer": {"context": coming}})["ok"]
    assert scene.ceremony({"task": "answer", "offer": {"context": going}})["ok"]
    assert scene.ceremony(
        {"task": "birth_pair", "sender": "south", "receiver": "north"}
    )["ok"]

    given = {t["task"]: t.get("peer_identity") for _, t in scene.officers.tasks}
    assert given["install"] == north[0].identity.hex()
    assert given["answer"] == north[1].identity.hex()


def test_identities_come_from_our_own_copy_whatever_the_primary_says(
    scene: Scene,
) -> None:
    """A software key in the place of a partition would get the pair key in clear."""
    scene.ceremony(
        {
            "task": "install",
            "answer": {"context": context()},
            "peer_identity": "00" * 91,
        }
    )

    ((_, task),) = scene.officers.tasks
    assert task["peer_identity"] == scene.north.card.partitions[0].identity.hex()


GOING = {
    "from_region": "south",
    "from_partition": "p1",
    "to_region": "north",
    "to_partition": "p0",
}


@pytest.mark.parametrize(
    "task",
    [
        {"task": "wipe", "label": "hsmvault-south-p1"},
        {"task": "init_token", "label": "x"},
        {"task": "birth_region", "region": "south"},
        {"task": "birth_identity", "region": "south", "partition": "p1"},
        {"task": "inspect"},
        {"task": "birth_pair", "sender": "north", "receiver": "south"},
        {"task": "birth_pair", "sender": "north", "receiver": "north"},
        {"task": "birth_pair", "sender": "south", "receiver": "nowhere"},
        {"task": "birth_pair", "sender": "south", "receiver": 7},
        {"task": "offer", "context": None},
        {"task": "offer", "context": context(vault="f" * 32)},
        {"task": "offer", "context": context(to_partition="p2")},
        {"task": "offer", "context": context(from_region="east")},
        {"task": "offer", "context": context(purpose="region-key")},
        {"task": "offer", "context": context(label="hsmvault:region-key:south")},
        {"task": "offer", "context": context(label="hsmvault:pair:east:west")},
        # The region key under the guise of a pair key, and the reverse.
        {
            "task": "answer",
            "offer": {"context": context(**GOING, label="hsmvault:region-key:south")},
        },
        {
            "task": "answer",
            "offer": {
                "context": context(
                    **GOING,
                    label="hsmvault:pair:south:north",
                    purpose="region-key",
                )
            },
        },
        {
            "task": "answer",
            "offer": {"context": context(**GOING, label="hsmvault:integrity:south")},
        },
        # The key from north, handed on to somebody else.
        {
            "task": "answer",
            "offer": {"context": context(**GOING, label="hsmvault:pair:north:south")},
        },
        {
            "task": "answer",
            "offer": {
                "context": context(
                    from_region="south",
                    from_partition="p1",
                    to_region="nowhere",
                    label="hsmvault:pair:south:nowhere",
                )
            },
        },
        # An outbound copy is for the sender's own partitions.
        {
            "task": "answer",
            "offer": {
                "context": context(
                    **GOING, label="hsmvault:pair:south:north", purpose="pair-out"
                )
            },
        },
        {"task": "install", "answer": {"context": context(from_partition="p9")}},
        {"task": "install", "answer": 7},
        {},
    ],
    ids=str,
)
def test_nothing_else_reaches_an_officer(scene: Scene, task: Facts) -> None:
    told = scene.ceremony(task)

    assert told["ok"] is False
    assert scene.officers.tasks == []


def test_unknown_commands_and_partitions_are_refused(scene: Scene) -> None:
    assert scene.ask("drop_pair_keys", {})["ok"] is False
    assert scene.ask("purge", [])["ok"] is False
    assert scene.ceremony({"task": "offer"}, partition="../p1")["ok"] is False
    assert scene.purges == []
    assert scene.officers.tasks == []
