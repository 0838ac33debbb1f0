"""What an administrator may change about the vault, and within which bounds."""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

from hsmvault.model.algorithms import LEGACY
from hsmvault.model.errors import (
    InvalidRequest,
    NotSupported,
    PurgeProtectionIrreversible,
)
from hsmvault.model.networks import require_networks
from hsmvault.model.vault_records import VaultRecord

REGIONS_MAX: Final = 16
KEYS_MAX: Final = 100_000_000
VERSIONS_MAX: Final = 1000
"""A tombstone lists every version, and a deletion closes them all at once."""
RATE_MAX: Final = 1_000_000
DOWN_WRITES: Final = frozenset({"manual", "deny"})


@dataclass(frozen=True, slots=True)
class VaultPatch:
    """What an update changes; None: left as it is."""

    purge_protection: bool | None = None
    primary_down_writes: str | None = None
    region_limit: int | None = None
    client_crl: str | None = None
    legacy_algorithms: tuple[str, ...] | None = None
    role_escalation: bool | None = None
    ecdsa_fault_guard: bool | None = None
    key_limit: int | None = None
    version_limit: int | None = None
    allowed_networks: tuple[str, ...] | None = None
    rate_limit: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for what no vault can be set to."""
        _require_between("region_limit", self.region_limit, 0, REGIONS_MAX)
        _require_between("key_limit", self.key_limit, 0, KEYS_MAX)
        _require_between("version_limit", self.version_limit, 1, VERSIONS_MAX)
        _require_between("rate_limit", self.rate_limit, 0, RATE_MAX)
        if self.legacy_algorithms is not None:
            _require_legacy(self.legacy_algorithms)
        if self.primary_down_writes is not None:
            _require_down_writes(self.primary_down_writes)

    def applied(self, vault: VaultRecord) -> VaultRecord:
        """Return the next revision of the vault's record.

        Raises PurgeProtectionIrreversible, and InvalidRequest for networks that are
        none.
        """
        if vault.purge_protection and self.purge_protection is False:
            raise PurgeProtectionIrreversible(
                "purge protection is on since it was chosen, and cannot be taken off: "
                "deleted keys stay recoverable for {days} days, whoever asks",
                days=vault.retention_days,
            )
        changes: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) is not None
        }
        if self.legacy_algorithms is not None:
            changes["legacy_algorithms"] = tuple(sorted(set(self.legacy_algorithms)))
        if self.allowed_networks is not None:
            changes["allowed_networks"] = require_networks(self.allowed_networks)
        return replace(vault, revision=vault.revision + 1, **changes)


def _require_between(name: str, given: int | None, least: int, most: int) -> None:
    if given is not None and not least <= given <= most:
        raise InvalidRequest(
            "{setting} is {least} to {most}, not {given}",
            setting=name,
            least=least,
            most=most,
            given=given,
        )


def _require_legacy(names: tuple[str, ...]) -> None:
    odd = sorted(set(names) - LEGACY)
    if odd:
        raise InvalidRequest(
            "{odd} is no legacy algorithm; those that a vault may allow are {known}",
            odd=", ".join(odd)[:200],
            known=", ".join(sorted(LEGACY)),
        )


def _require_down_writes(policy: str) -> None:
    if policy in DOWN_WRITES:
        return
    if policy.partition(":")[0] == "after":
        raise NotSupported(
            "primary_down_writes {given!r} needs a region that promotes itself, which "
            "this release does not; choose manual or deny",
            given=policy[:64],
        )
    raise InvalidRequest(
        "primary_down_writes is manual or deny, not {given!r}", given=policy[:64]
    )
