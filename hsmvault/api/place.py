"""Where a call was served, as its answer says it: in a field, or beside the message."""

from typing import Any

from google.protobuf.message import Message

from hsmvault.v1.resources_pb2 import Served


class Place:
    """One partition of one region. For any thread."""

    def __init__(self, region: str, partition: str) -> None:
        self._region = region
        self._partition = partition
        self._fields: dict[type[Message], tuple[str, bytes]] = {}

    def metadata(self, position: str) -> tuple[tuple[str, str], ...]:
        """Return it as trailing metadata."""
        return (
            ("hsmvault-region", self._region),
            ("hsmvault-partition", self._partition),
            ("hsmvault-position", position),
        )

    def field(self, answer: type[Message], position: str) -> bytes:
        """Return it as the end of an encoded answer: its field `served`.

        Encodings that follow each other read as one message (protobuf's encoding guide,
        "last one wins"), and this part stays the same until the position moves. To make
        it anew costs as much as all the other fields together.
        """
        known, encoded = self._fields.get(answer, ("", b""))
        if known != position:
            served = Served(
                region=self._region, partition=self._partition, position=position
            )
            fields: dict[str, Any] = {"served": served}
            encoded = answer(**fields).SerializeToString()
            self._fields[answer] = (position, encoded)
        return encoded
