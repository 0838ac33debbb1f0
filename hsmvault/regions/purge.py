"""A region ends itself: on the author's signed entry and an administrator's signature.

Neither alone suffices, and no peer's word: both are verified by the region's own copy
of the regions, the role assignments and the callers' CA. Purging is final.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from hsmvault.model.access import BUILT_IN, Permission, RoleDefinition
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.errors import (
    AccessDenied,
    ConfigurationError,
    IntegrityFailure,
    InvalidRequest,
    RegionNotReady,
)
from hsmvault.model.grants import allowed
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Entry, Epoch, Head, Kind, Position, SignedHead, chain
from hsmvault.model.orders import ORDER_MS, RemovalOrder
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions import revocation
from hsmvault.regions.ports import Officers, Purging, Workers
from hsmvault.regions.registry import Registry
from hsmvault.regions.signatures import signed_by, signed_by_certificate
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock

_PAGE: Final = 1000
_SPIFFE: Final = re.compile(r"spiffe://\S{1,2000}")


def order_facts(
    order: RemovalOrder, *, entry: Entry, previous: bytes, signed: SignedHead
) -> dict[str, object]:
    """Write the order as it travels: what an administrator signed, and the entry."""
    return {
        "region": order.region,
        "time_ms": order.time_ms,
        "certificate": order.certificate,
        "signature": _text(order.signature),
        "entry": {
            "epoch": entry.position.epoch.number,
            "author": entry.position.epoch.region,
            "index": entry.position.index,
            "time_ms": entry.time_ms,
            "record": _text(entry.record),
        },
        "previous": _text(previous),
        "head": {
            "chain": _text(signed.head.chain),
            "partition": signed.partition,
            "signature": _text(signed.signature),
        },
    }


def require_administrator(
    order: RemovalOrder, registry: Registry, *, now_ms: int
) -> str:
    """Return the principal that ordered it, if by our own copy they may; or raise."""
    vault = registry.vault()
    if vault is None:
        raise RegionNotReady("this region has no copy of the roles yet")
    if abs(now_ms - order.time_ms) > ORDER_MS:
        raise AccessDenied(
            "the order to remove {region} was signed more than 10 minutes from now by "
            "this region's clock; sign it again: hsmvault region remove",
            region=order.region,
        )
    certificate = _issued(order.certificate, vault.client_ca, now_ms=now_ms)
    if not signed_by_certificate(
        certificate,
        statement=order.statement(registry.vault_id),
        signature=order.signature,
    ):
        raise AccessDenied(
            "the order to remove {region} is not signed by the certificate that it "
            "shows, or is for another region or vault",
            region=order.region,
        )
    principal = _principal(certificate)
    revocation.require_unrevoked(
        vault.client_crl,
        issuer=certificate.issuer.rfc4514_string(),
        serial=certificate.serial_number,
        principal=principal,
    )
    # The order was given to the primary: that is where its giver must hold the right.
    primary = registry.primary()
    if not allowed(
        (record.assignment for record in _assignments(registry)),
        _definitions(registry),
        principal=principal,
        permission=Permission.REGIONS_DELETE,
        resource=f"/regions/{order.region}",
        regions={primary.id} if primary else (),
    ):
        raise AccessDenied(
            "{principal} may not remove regions, by this region's copy of the roles",
            principal=principal,
        )
    return principal


class SelfPurge:
    """Verifies the order, then ends the tokens, the store, and the process."""

    def __init__(
        self,
        *,
        registry: Registry,
        workers: Workers,
        officers: Officers,
        purging: Purging,
        clock: Clock,
        region: str,
        partitions: Sequence[str],
    ) -> None:
        self._registry = registry
        self._workers = workers
        self._officers = officers
        self._purging = purging
        self._clock = clock
        self._region = region
        self._partitions = partitions
        self._stuck = ""

    def verify(self, facts: Mapping[str, object]) -> None:
        """Raise unless the order is for this region, and both signatures are good."""
        order, entry, previous, signed = _read(facts, self._region)
        if order.region != self._region:
            raise AccessDenied("the order is to remove another region")
        self._require_author(entry, previous, signed)
        principal = require_administrator(order, self._registry, now_ms=self._clock())
        report(Event.REGION_PURGED, subject=self._region, by=principal, step="ordered")
        self._registry.audit.note(
            "region.purge_ordered", f"/regions/{self._region}", principal=principal
        )

    def require_officers(self) -> None:
        """Raise RegionNotReady, with the pair keys destroyed, where nobody can wipe."""
        if self._stuck:
            raise RegionNotReady("{problem}", problem=self._stuck)
        if self._officers.present():
            return
        # What the user PIN can: from here on nothing that arrives can be opened.
        for region in self._registry.records():
            if region != self._region:
                self._workers.drop_pair_keys(region)
        raise RegionNotReady(
            "the tokens can only be wiped by officers: run hsmvault ceremony with the "
            "directory of region {region}, then remove it again. Its pair keys are "
            "destroyed already",
            region=self._region,
        )

    def end(self) -> None:
        """Wipe the tokens, then delete the store. There is no way back."""
        self._purging.stop_partitions()
        try:
            for partition in self._partitions:
                label = f"hsmvault-{self._region}-{partition}"
                self._officers.ask(partition, {"task": "wipe", "label": label})
        except ConfigurationError as error:
            # The primary repeats its order; a wrong PIN is not to be repeated.
            self._stuck = f"{error}; put it right, and start region {self._region}"
            raise
        finally:
            self._officers.dismiss()
        self._purging.destroy_store()
        self._registry.audit.note("region.purged", f"/regions/{self._region}")
        report(Event.REGION_PURGED, subject=self._region, step="done")

    def leave(self) -> None:
        """End the process, saying why."""
        self._purging.purged()

    def _require_author(
        self, entry: Entry, previous: bytes, signed: SignedHead
    ) -> None:
        head, store = signed.head, self._registry.store
        primary = self._registry.primary()
        if primary is None:
            raise RegionNotReady("this region has no copy of the log yet")
        if (
            head.position.epoch != store.epoch()
            or head.position.epoch.region != primary.id
            or chain(previous, entry) != head.chain
            or not signed_by(
                primary,
                partition=signed.partition,
                statement=head.statement(self._registry.vault_id),
                signature=signed.signature,
            )
        ):
            raise IntegrityFailure(
                "the entry that removes this region is not signed by the primary"
            )
        record = RegionRecord.from_bytes(entry.record)
        if record.id != self._region or record.state is not RegionState.DELETING:
            raise IntegrityFailure("the entry in the order does not remove this region")
        ours = store.head()
        reached = ours is not None and ours.position.index >= head.position.index
        if reached and store.head_at(head.position.index) != head:
            raise IntegrityFailure("the entry in the order is not in this region's log")


def _assignments(registry: Registry) -> list[AssignmentRecord]:
    rows = _every(registry, Kind.ROLE_ASSIGNMENT)
    records = [AssignmentRecord.from_bytes(row.record) for row in rows]
    return [record for record in records if not record.removed]


def _definitions(registry: Registry) -> dict[str, RoleDefinition]:
    rows = _every(registry, Kind.ROLE_DEFINITION)
    records = [RoleDefinitionRecord.from_bytes(row.record) for row in rows]
    return {**{r.name: r.definition for r in records if not r.removed}, **BUILT_IN}


def _every(registry: Registry, kind: Kind) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    while True:
        after = found[-1].resource if found else ""
        rows = registry.store.states(kind, after=after, limit=_PAGE)
        found += registry.checked(rows)
        if len(rows) < _PAGE:
            return found


def _issued(pem: str, authorities: str, *, now_ms: int) -> x509.Certificate:
    """The caller's certificate, if the vault's CA issued it and it is in its time."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        known = x509.load_pem_x509_certificates(authorities.encode())
    except ValueError as error:
        raise AccessDenied("the order shows no certificate") from error
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    issued = any(_issued_by(certificate, authority) for authority in known)
    if not issued or not (
        certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    ):
        raise AccessDenied(
            "the order's certificate is expired, or not of this vault's callers' CA"
        )
    return certificate


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _principal(certificate: x509.Certificate) -> str:
    """Who this is: the one SPIFFE id, else the subject's common name."""
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        names = []
    if len(names) == 1 and _SPIFFE.fullmatch(names[0]):
        return names[0]
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if names or len(common) != 1:
        raise AccessDenied("the order's certificate names nobody, or more than one")
    return f"CN={common[0].value!s}"


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _read(
    facts: Mapping[str, Any], region: str
) -> tuple[RemovalOrder, Entry, bytes, SignedHead]:
    try:
        told, head = facts["entry"], facts["head"]
        order = RemovalOrder(
            region=str(facts["region"]),
            time_ms=int(facts["time_ms"]),
            certificate=str(facts["certificate"]),
            signature=base64.b64decode(facts["signature"], validate=True),
        )
        position = Position(
            Epoch(int(told["epoch"]), str(told["author"])), int(told["index"])
        )
        entry = Entry(
            position,
            int(told["time_ms"]),
            Kind.REGION,
            f"regions/{region}",
            base64.b64decode(told["record"], validate=True),
        )
        signed = SignedHead(
            Head(position, base64.b64decode(head["chain"], validate=True)),
            str(head["partition"]),
            base64.b64decode(head["signature"], validate=True),
        )
        return order, entry, base64.b64decode(facts["previous"], validate=True), signed
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest("the order to remove a region does not read") from error
