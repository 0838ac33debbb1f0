"""Verifying the audit trails of a region on this machine, running or not."""

from collections.abc import Iterable
from pathlib import Path

from hsmvault import config
from hsmvault.audit.verify import Finding, Held, Verified, verify
from hsmvault.model.audit_records import AuditHeadRecord
from hsmvault.model.errors import ConfigurationError
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Kind
from hsmvault.regions.card import Card
from hsmvault.regions.signatures import signed_by
from hsmvault.store.store import Store


def verify_region(
    directory: Path,
    held: Iterable[Held] = (),
    *,
    archives: Iterable[Path] = (),
    archived: bool = False,
) -> list[Verified]:
    """Verify every trail of a region, by its own log's heads and by those `held`.

    `archives`: where its older files were moved to; `archived`: they are out of reach.
    Signatures are checked by the identity keys on the region's card: what is not signed
    by one of its partitions is a finding, and proves nothing.
    """
    settings = config.load(directory)
    layout = settings.layout
    card = Card.parse(layout.card.read_text(encoding="utf-8"))
    region = card.record(state=RegionState.SUCCEEDED, primary=False, time_ms=0)
    good: list[Held] = []
    bad: list[Held] = []
    for one in [*_own(settings), *held]:
        if one.head.region != card.region:
            continue
        signed = signed_by(
            region,
            partition=one.head.partition,
            statement=one.head.statement(card.vault_id),
            signature=one.head.signature,
        )
        (good if signed else bad).append(one)
    found = verify(
        layout.audit,
        vault_id=card.vault_id,
        region=card.region,
        heads=good,
        archives=archives,
        archived=archived,
    )
    for one in bad:
        what = f"the head that {one.where} holds is not signed by a partition of it"
        forged = Verified(one.head.process)
        forged.findings.append(Finding("", one.head.sequence, what))
        found.append(forged)
    return found


def _own(settings: config.RegionConfig) -> list[Held]:
    """The heads in the region's own log."""
    try:
        store = Store.open(
            settings.store.url,
            region=settings.region.name,
            home=settings.layout.directory,
            create=False,
        )
    except ConfigurationError:
        # Without a store there is still the chain, and what other regions hold.
        return []
    with store:
        rows = store.states(Kind.AUDIT_HEAD)
    heads = [AuditHeadRecord.from_bytes(row.record).head for row in rows]
    return [Held(head, "this region's log") for head in heads]
