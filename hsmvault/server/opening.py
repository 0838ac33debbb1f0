"""Opening what a region is made of, as its settings say."""

from collections.abc import Callable

from hsmvault.config import RegionConfig
from hsmvault.hsm.core import PartitionConfig
from hsmvault.hsm.module import TokenAddress
from hsmvault.hsm.partition import Partition
from hsmvault.regions.card import Card
from hsmvault.server.secrets import read_secret, require_module
from hsmvault.store.counters import Counters
from hsmvault.store.store import Store
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock
from hsmvault.vault.recounting import Remembering, TokenMemory


def open_partition(
    settings: RegionConfig,
    name: str,
    *,
    vault_id: str,
    on_lost: Callable[[str], None] = lambda _: None,
) -> Partition:
    """Log in to a partition's token, once in this process, and check its keys.

    The process's environment must be the one that the settings give for the partition
    from its start: modules read it when they are loaded.
    """
    one = settings.partitions[name]
    require_module(one.module)
    return Partition.open(
        PartitionConfig(
            name=name,
            region=settings.region.name,
            token=TokenAddress(
                module=str(one.module),
                label=one.token_label,
                serial=one.token_serial,
                user_pin=read_secret(one.user_pin_file),
            ),
            sessions=one.sessions,
            open_keys=one.open_keys,
            profile=one.profile,
        ),
        vault_id=vault_id,
        on_lost=on_lost,
    )


def open_counters(
    settings: RegionConfig, token: TokenMemory, clock: Clock, card: Card
) -> tuple[Counters, Remembering]:
    """Open what the region counts, made if it is not there yet.

    What the token remembers and the counters do not is lost, and kept as lost.
    """
    counters = Counters.open(settings.store.url, home=settings.layout.directory)
    remembering = Remembering(
        counters, token, vault_id=card.vault_id, region=card.region
    )
    if not remembering.compare(clock):
        report(Event.COUNTERS_LOST)
    return counters, remembering


def open_store(settings: RegionConfig) -> Store:
    """Open the region's store, made if it is not there yet."""
    return Store.open(
        settings.store.url,
        region=settings.region.name,
        home=settings.layout.directory,
    )
