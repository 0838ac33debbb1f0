"""The audit trail of one of a region's processes, as its settings say."""

from hsmvault.audit.trail import Trail
from hsmvault.config import RegionConfig
from hsmvault.regions.card import Card


def open_trail(settings: RegionConfig, process: str) -> Trail:
    """Open the audit trail of one of the region's processes.

    Where it cannot be written it says so, and is tried again. Raises IntegrityFailure
    when it does not end as this process left it.
    """
    card = Card.parse(settings.layout.card.read_text(encoding="utf-8"))
    trail = Trail(
        settings.layout.audit,
        vault_id=card.vault_id,
        region=settings.region.name,
        process=process,
        segment_bytes=settings.audit.segment_bytes,
    )
    trail.open()
    return trail
