"""How the objects in a partition are called. A label finds nothing by itself.

Objects are selected by all their attributes, of which the label is one: anybody with
the user PIN can give any label to an object of their own.
"""

import hashlib
import re
from typing import Final

from hsmvault.model.errors import InvalidRequest

_REGION: Final = r"[a-z][a-z0-9-]{0,23}"
_PAIR: Final = re.compile(rf"hsmvault:pair:({_REGION}):({_REGION})")

ANCHOR: Final = "hsmvault:head"
"""The data object in which a partition remembers the newest head of the log."""
GENERATION: Final = "hsmvault:invocations"
"""The same for how far the region's counters have come."""


def token_label(region: str, partition: str) -> str:
    """Name the token of a region's partition."""
    return f"hsmvault-{region}-{partition}"


def region_key(region: str) -> str:
    """Name the key that wraps what rests in `region`."""
    return f"hsmvault:region-key:{region}"


def integrity_key(region: str) -> str:
    """Name the key that MACs the store of `region`."""
    return f"hsmvault:integrity:{region}"


def identity_key(region: str, partition: str) -> str:
    """Name the key that speaks for one partition."""
    return f"hsmvault:identity:{region}:{partition}"


def pair_key(sender: str, receiver: str) -> str:
    """Name the key that wraps what travels from `sender` to `receiver`."""
    return f"hsmvault:pair:{sender}:{receiver}"


def pair_of(label: str) -> tuple[str, str]:
    """Return sender and receiver of a pair key, or raise InvalidRequest."""
    match = _PAIR.fullmatch(label)
    if match is None:
        raise InvalidRequest("{label!r} does not name a pair key", label=label[:100])
    return match[1], match[2]


def object_id(label: str) -> bytes:
    """Return the CKA_ID that goes with a label."""
    return hashlib.sha256(label.encode()).digest()[:16]
