"""Making pair keys: which officer does what, on which partition, in which order.

For each direction S→R the key is born in S's first partition, then carried to S's other
partitions (where it wraps) and to R's (where it unwraps). Every step is authenticated
by the partitions' identity keys, so whoever carries the messages can forge none. What
failed is begun again: a birth replaces what an earlier attempt left.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from hsmvault.model.vault_records import PartitionCard, RegionRecord
from hsmvault.regions.ports import Officers
from hsmvault.telemetry import Event, report


@dataclass(frozen=True, slots=True)
class Party:
    """A region with its officers: local ones, or at the other end of a link."""

    region: RegionRecord
    officers: Officers


@dataclass(frozen=True, slots=True)
class _Place:
    party: Party
    partition: PartitionCard

    def ask(self, task: Mapping[str, object]) -> dict[str, object]:
        return dict(self.party.officers.ask(self.partition.name, task))

    @property
    def identity(self) -> str:
        return self.partition.identity.hex()


def make_pair_keys(one: Party, other: Party, *, vault_id: str, epoch: int) -> None:
    """Make the pair keys of both directions, in all partitions of both regions.

    One direction after the other: a token's officer is never asked to wrap one key
    while it waits to install another.
    """
    try:
        for sender, receiver in ((one, other), (other, one)):
            _Direction(sender, receiver, vault_id=vault_id, epoch=epoch).run()
    finally:
        for party in (one, other):
            party.officers.dismiss()


class _Direction:
    """One pair key, from its birth to its last copy."""

    def __init__(
        self, sender: Party, receiver: Party, *, vault_id: str, epoch: int
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._vault_id = vault_id
        self._epoch = epoch
        self._names = sender.region.id, receiver.region.id
        self._source = _Place(sender, sender.region.partitions[0])
        self._answering = Lock()

    def run(self) -> None:
        """Make the key, and carry it everywhere at once."""
        sender, receiver = self._names
        self._source.ask({"task": "birth_pair", "sender": sender, "receiver": receiver})
        copies = [
            (_Place(self._sender, partition), "pair-out")
            for partition in self._sender.region.partitions[1:]
        ] + [
            (_Place(self._receiver, partition), "pair-in")
            for partition in self._receiver.region.partitions
        ]
        # Transport keys are RSA: made at the same time on all the partitions.
        with ThreadPoolExecutor(len(copies), thread_name_prefix="ceremony") as pool:
            for _ in pool.map(lambda copy: self._carry(*copy), copies):
                pass

    def _carry(self, place: _Place, purpose: str) -> None:
        sender, receiver = self._names
        context = {
            "vault": self._vault_id,
            "from_region": sender,
            "from_partition": self._source.partition.name,
            "to_region": place.party.region.id,
            "to_partition": place.partition.name,
            "purpose": purpose,
            "label": f"hsmvault:pair:{sender}:{receiver}",
            "epoch": self._epoch,
        }
        offer = place.ask({"task": "offer", "context": context})
        with self._answering:
            answer = self._source.ask(
                {
                    "task": "answer",
                    "offer": offer,
                    "peer_identity": place.identity,
                    # The offer is the other region's word, and rightly signed: without
                    # this it could ask our officer for our own region key.
                    "context": context,
                }
            )
        place.ask(
            {
                "task": "install",
                "answer": answer,
                "peer_identity": self._source.identity,
            }
        )
        report(
            Event.CEREMONY_STEP,
            subject=f"{sender} to {receiver}",
            partition=f"{place.party.region.id}/{place.partition.name}",
        )
