"""How often one key may encrypt by GCM, and each region's share of that.

IVs are random, so two of them may be equal by chance; NIST SP 800-38D, 8.3, allows one
key 2^32 of them, over all places that use it.
"""

from dataclasses import dataclass, field
from typing import Final

from hsmvault.model.log import packed

INVOCATIONS_MAX: Final = 1 << 32
BLOCK_MOST: Final = 1 << 16
BLOCK_LEAST: Final = 1 << 8
"""A process takes invocations in blocks, small ones at first: what it does not use of
its last block is lost, and it may know many keys and use few of them much."""


def share(ordinal: int) -> int:
    """Return how often the region that joined as this one may encrypt by one key.

    Half, a sixth, a twelfth, and so on: the shares of all regions that will ever join
    add up to no more than the whole, so none is ever taken back or used twice.
    """
    return INVOCATIONS_MAX // ((ordinal + 1) * (ordinal + 2))


def next_block(ordinal: int, former: int) -> int:
    """Return how many invocations to take, having taken `former` the last time."""
    most = max(1, min(BLOCK_MOST, share(ordinal) >> 6))
    return min(most, former * 2 if former else BLOCK_LEAST)


@dataclass(frozen=True, slots=True)
class Count:
    """What a region has counted of one version."""

    taken: int
    times: int
    """In how many blocks it was taken."""
    mac: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reckoning:
    """How the counters of a region add up: all `times` and `missing` make `generation`.

    A row that is deleted or put back makes the sum too small; whoever makes
    `generation` as small is noticed by the token, which remembers it.
    """

    generation: int
    missing: int
    """What the rows that are there do not account for, with good reason."""
    mac: bytes = field(repr=False)
    """Over `missing`, which only grows."""


SINCE: Final = 1 << 40
"""Generations of counters that add up begin here. Those that an earlier release wrote
are smaller, so a token that remembers this does not take them for ours."""


def statement(
    vault_id: str, region: str, version: str, taken: int, times: int
) -> bytes:
    """Return what a region MACs of a count: its purpose, and all that it is about."""
    return packed("hsmvault/invocations/v2", vault_id, region, version, taken, times)


def former_statement(vault_id: str, region: str, version: str, taken: int) -> bytes:
    """Return what an earlier release had MACed of a count."""
    return packed("hsmvault/invocations/v1", vault_id, region, version, taken)


def missing_statement(vault_id: str, region: str, missing: int) -> bytes:
    """Return what a region MACs of what its counts do not account for."""
    return packed("hsmvault/invocations/missing/v1", vault_id, region, missing)
