"""What the process around a node lends it."""

from dataclasses import dataclass

from hsmvault.regions.ports import LogStore, Officers, Purging, Workers
from hsmvault.replication.follower import Timings
from hsmvault.vault.lasting import Boot
from hsmvault.vault.ports import Clock


@dataclass(frozen=True, slots=True)
class Means:
    """What the process around lends us."""

    store: LogStore
    workers: Workers
    officers: Officers
    purging: Purging
    clock: Clock
    boot: Boot
    timings: Timings
