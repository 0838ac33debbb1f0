"""A region's card: what others must know of it before they trust it with anything.

Cards travel as files between operators, who read out the fingerprint to each other.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Self

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import packed
from hsmvault.model.names import RegionName
from hsmvault.model.vault_records import PartitionCard, RegionRecord

CARD_BYTES_MAX: Final = 64 * 1024
"""Three partitions and a certificate take 2 KiB; nothing honest comes near this."""


@dataclass(frozen=True, slots=True)
class CardPartition:
    """One partition: where it listens, and the identity key that was born in it."""

    name: str
    endpoint: str
    identity: bytes
    """SubjectPublicKeyInfo, DER."""


@dataclass(frozen=True, slots=True)
class Card:
    """Everything public that makes a region the region it is."""

    region: str
    vault_id: str
    """Empty until the region belongs to a vault. Not part of the fingerprint."""
    zone: str
    endpoint: str
    private_endpoint: str
    partitions: tuple[CardPartition, ...]
    certificate: str
    """PEM of the private identity certificate."""
    token_endpoints: tuple[str, ...] = ()
    """Where callers with tokens connect: the shared port, then the partitions'."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex over all that the region is trusted by."""
        parts: list[bytes | str] = [
            "hsmvault/card/v1",
            self.region,
            self.zone,
            self.endpoint,
            self.private_endpoint,
            self.certificate,
        ]
        for partition in self.partitions:
            parts += [partition.name, partition.endpoint, partition.identity]
        parts += self.token_endpoints
        return hashlib.sha256(packed(*parts)).hexdigest()

    def to_json(self) -> str:
        """Write the card as the text of card.json, with its fingerprint."""
        return (
            json.dumps(
                {
                    "region": self.region,
                    "vault_id": self.vault_id,
                    "zone": self.zone,
                    "endpoint": self.endpoint,
                    "private_endpoint": self.private_endpoint,
                    "partitions": [
                        {
                            "name": p.name,
                            "endpoint": p.endpoint,
                            "identity": p.identity.hex(),
                        }
                        for p in self.partitions
                    ],
                    "certificate": self.certificate,
                    "token_endpoints": self.token_endpoints,
                    "fingerprint": self.fingerprint,
                },
                indent=2,
            )
            + "\n"
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a card back, or raise InvalidRequest: it is damaged, or not one."""
        if len(text) > CARD_BYTES_MAX:
            raise InvalidRequest("this is no region's card: it is too long")
        try:
            fields = from_json(text)
            card = cls._of_fields(fields)
            claimed = fields["fingerprint"]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidRequest(
                "this is no region's card; take card.json of the region's directory"
            ) from error
        if claimed != card.fingerprint:
            raise InvalidRequest(
                "the card of region {region} does not match its own fingerprint; "
                "copy card.json from the region's directory again",
                region=card.region,
            )
        return card

    @classmethod
    def _of_fields(cls, fields: dict[str, Any]) -> Self:
        return cls(
            region=RegionName.of_id(fields["region"]).region,
            vault_id=str(fields["vault_id"]),
            zone=str(fields["zone"]),
            endpoint=str(fields["endpoint"]),
            private_endpoint=str(fields["private_endpoint"]),
            partitions=tuple(
                CardPartition(
                    str(p["name"]), str(p["endpoint"]), bytes.fromhex(p["identity"])
                )
                for p in fields["partitions"]
            ),
            certificate=str(fields["certificate"]),
            token_endpoints=tuple(map(str, fields.get("token_endpoints", ()))),
        )

    @classmethod
    def of_record(cls, record: RegionRecord, *, vault_id: str = "") -> Self:
        """Return the card that a region's record tells of."""
        return cls(
            region=record.id,
            vault_id=vault_id,
            zone=record.zone,
            endpoint=record.endpoint,
            private_endpoint=record.private_endpoint,
            partitions=tuple(
                CardPartition(p.name, endpoint, p.identity)
                for p, endpoint in zip(
                    record.partitions, record.partition_endpoints, strict=True
                )
            ),
            certificate=record.certificate,
            token_endpoints=record.token_endpoints,
        )

    def record(
        self,
        *,
        state: RegionState,
        primary: bool,
        time_ms: int,
        revision: int = 1,
        problem: str = "",
    ) -> RegionRecord:
        """Return the record that brings this region into the log."""
        return RegionRecord(
            name=str(RegionName.of_id(self.region)),
            revision=revision,
            state=state,
            primary=primary,
            zone=self.zone,
            endpoint=self.endpoint,
            partition_endpoints=tuple(p.endpoint for p in self.partitions),
            private_endpoint=self.private_endpoint,
            partitions=tuple(
                PartitionCard(p.name, p.identity) for p in self.partitions
            ),
            certificate=self.certificate,
            create_ms=time_ms,
            update_ms=time_ms,
            problem=problem,
            token_endpoints=self.token_endpoints,
        )
