"""What the primary may ask of an extended region over its link, and nothing else.

A primary's word moves no key that is not a pair key, names no identity (those come from
this region's own log or card), and destroys nothing without an administrator's order.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import (
    AccessDenied,
    ConfigurationError,
    InvalidRequest,
    RegionNotReady,
    VaultError,
)
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.ports import Officers
from hsmvault.replication.links import failure
from hsmvault.replication.trust import LINKABLE, Trust
from hsmvault.replication.v1 import replication_service_pb2 as pb

_LABEL: Final = re.compile(
    r"hsmvault:pair:([a-z][a-z0-9-]{0,23}):([a-z][a-z0-9-]{0,23})"
)

Facts = Mapping[str, object]


class Commands:
    """Executes the primary's commands with this region's own officers."""

    def __init__(
        self, *, trust: Trust, officers: Officers, purge: Callable[[Facts], None]
    ) -> None:
        self._trust = trust
        self._officers = officers
        self._purge = purge
        self._region = trust.identity.region

    def execute(self, command: pb.Command) -> pb.CommandReply:
        """Do what is asked, or say why not; never raises a VaultError."""
        try:
            body = {"ok": True, **self._execute(command)}
        except (VaultError, ConfigurationError) as error:
            body = failure(error)
        return pb.CommandReply(id=command.id, body=json.dumps(body).encode())

    def _execute(self, command: pb.Command) -> Facts:
        try:
            body = from_json(command.body)
        except ValueError as error:
            raise InvalidRequest("a command does not read") from error
        if not isinstance(body, dict):
            raise InvalidRequest("a command does not read")
        match command.kind:
            case "officers":
                return {"present": self._officers.present()}
            case "ceremony":
                return self._ceremony(command.partition, body)
            case "dismiss":
                self._officers.dismiss()
                return {}
            case "purge":
                self._purge(body)
                return {}
            case _:
                raise InvalidRequest("unknown command {kind!r}", kind=command.kind[:50])

    def _ceremony(self, partition: str, task: dict[str, object]) -> Facts:
        own = {p.name for p in self._trust.identity.card.partitions}
        if partition not in own:
            raise InvalidRequest("unknown partition {name!r}", name=partition[:50])
        match task.get("task"):
            case "birth_pair":
                self._require_sender(task.get("sender"), task.get("receiver"))
                asked = {k: task[k] for k in ("task", "sender", "receiver")}
            case "offer":
                self._require_context(task.get("context"), partition, here="to")
                asked = {"task": "offer", "context": task["context"]}
            case "answer":
                offer = task.get("offer")
                context = offer.get("context") if isinstance(offer, dict) else None
                there = self._require_context(context, partition, here="from")
                asked = {
                    "task": "answer",
                    "offer": offer,
                    "peer_identity": self._identity(*there),
                }
            case "install":
                answer = task.get("answer")
                context = answer.get("context") if isinstance(answer, dict) else None
                there = self._require_context(context, partition, here="to")
                asked = {
                    "task": "install",
                    "answer": answer,
                    "peer_identity": self._identity(*there),
                }
            case other:
                raise AccessDenied(
                    "the primary may not ask an officer here to {task!r}",
                    task=str(other)[:50],
                )
        return self._officers.ask(partition, asked)

    def _require_sender(self, sender: object, receiver: object) -> None:
        if sender != self._region or not isinstance(receiver, str):
            raise AccessDenied("a pair key is born in its own sender's region only")
        self._known(receiver)

    def _require_context(
        self, context: object, partition: str, *, here: str
    ) -> tuple[str, str]:
        """Check that a transcript moves a pair key of ours; region and partition there.

        Whatever else lies in the token, the region key above all, is never moved on
        another region's word.
        """
        if not isinstance(context, dict):
            raise InvalidRequest("a ceremony's task has no context")
        there = "from" if here == "to" else "to"
        match = _LABEL.fullmatch(str(context.get("label", "")))
        sender, receiver = (match[1], match[2]) if match else ("", "")
        other = str(context.get(f"{there}_region", ""))
        if (
            context.get("vault") != self._trust.identity.vault_id
            or context.get(f"{here}_region") != self._region
            or context.get(f"{here}_partition") != partition
            or context.get("from_region") != sender
            or (context.get("purpose"), context.get("to_region"))
            not in {("pair-in", receiver), ("pair-out", sender)}
            or self._region not in {sender, receiver}
        ):
            raise AccessDenied(
                "the primary may have pair keys of this region moved, and nothing else"
            )
        return other, str(context.get(f"{there}_partition", ""))

    def _identity(self, region: str, partition: str) -> str:
        if region == self._region:
            cards = self._trust.identity.card.partitions
            identities = {p.name: p.identity for p in cards}
        else:
            known = self._known(region)
            identities = {p.name: p.identity for p in known.partitions}
        if partition not in identities:
            raise InvalidRequest("unknown partition {name!r}", name=partition[:50])
        return identities[partition].hex()

    def _known(self, region: str) -> RegionRecord:
        record = self._trust.record(region)
        if record is None or record.state not in LINKABLE:
            raise RegionNotReady(
                "region {region} is not in this region's log yet", region=region[:50]
            )
        return record
