"""The life of a key and of a region. Every move is in a table; others raise WrongState.

ACTIVE ── delete ──▶ DELETED ── purge ──▶ PURGED (a tombstone)
  ▲                     │
  └────── recover ──────┘   exactly as it was: `enabled` is a field of its own

PREPROVISIONING ─▶ AWAITING_CEREMONY ─▶ PROVISIONING ─▶ SUCCEEDED ─▶ DELETING ─▶ PURGED
│                       │                    │                          ▲
└───────────────────────┴────────────────────┴──▶ FAILED ───────────────┘
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hsmvault.model.algorithms import Operation
from hsmvault.model.errors import KeyNotEnabled, WrongState


class KeyState(StrEnum):
    """Where a key stands in its life."""

    ACTIVE = "ACTIVE"
    """Usable while enabled and within its dates."""
    DELETED = "DELETED"
    """Soft-deleted: unusable, its name taken, recoverable until purge_time."""
    PURGED = "PURGED"
    """Gone. Only a tombstone in the log remembers it."""


class Step(StrEnum):
    """What moves a key."""

    DELETE = "delete"
    RECOVER = "recover"
    PURGE = "purge"


NEXT: Final[Mapping[tuple[KeyState, Step], KeyState]] = MappingProxyType(
    {
        (KeyState.ACTIVE, Step.DELETE): KeyState.DELETED,
        # `enabled` is untouched: what someone disabled comes back disabled.
        (KeyState.DELETED, Step.RECOVER): KeyState.ACTIVE,
        (KeyState.DELETED, Step.PURGE): KeyState.PURGED,
    }
)
"""Every move a key can make. A pair that is missing is forbidden."""

_WAY_OUT: Final[Mapping[tuple[KeyState, Step], str]] = MappingProxyType(
    {
        (KeyState.ACTIVE, Step.RECOVER): "it is not deleted",
        (KeyState.ACTIVE, Step.PURGE): "delete it first: hsmvault key delete",
        (KeyState.DELETED, Step.DELETE): "it is deleted already; hsmvault key recover "
        "brings it back, hsmvault key purge ends it",
    }
)


def after(state: KeyState, step: Step, *, name: object) -> KeyState:
    """Return the state that `step` leads to, or raise WrongState saying what to do."""
    moved = NEXT.get((state, step))
    if moved is None:
        raise WrongState(
            "{name} is {state}, so it cannot be {stepped}: {way_out}",
            name=name,
            state=state,
            stepped=f"{step.removesuffix('e')}ed",
            way_out=_WAY_OUT.get((state, step), "it is gone"),
        )
    return moved


class Standing(StrEnum):
    """How a key stands before a caller who names it."""

    ABSENT = "there is none of this name"
    ACTIVE = "active, enabled, within its dates"
    DISABLED = "active, but not enabled"
    VERSION_DISABLED = "active, but its current version is not enabled"
    EARLY = "active, before its not_before_time"
    EXPIRED = "active, at or after its expire_time"
    DELETED = "soft-deleted"
    PURGED = "purged; only a tombstone is left"


OK: Final = "OK"

_GONE: Final = dict.fromkeys((Standing.ABSENT, Standing.PURGED), "NOT_FOUND")
_TAKEN: Final = dict.fromkeys(Standing, "ALREADY_EXISTS") | dict.fromkeys(_GONE, OK)
_SEEN: Final = dict.fromkeys(Standing, OK) | _GONE | {Standing.DELETED: "NOT_FOUND"}
_PAST: Final = _SEEN | dict.fromkeys(
    (Standing.DISABLED, Standing.VERSION_DISABLED, Standing.DELETED), "KEY_NOT_ENABLED"
)
_USED: Final = _PAST | dict.fromkeys(
    (Standing.EARLY, Standing.EXPIRED), "KEY_NOT_ENABLED"
)
_ENDED: Final = dict.fromkeys(Standing, "WRONG_STATE") | _GONE | {Standing.DELETED: OK}

ANSWERS: Final[Mapping[str, Mapping[Standing, str]]] = MappingProxyType(
    {
        "CreateKey": _TAKEN,
        "ImportKey": _TAKEN,
        "BeginImport": _TAKEN,
        "GetKey": _SEEN,
        "BackupKey": _SEEN,
        "ListKeyVersions": _SEEN,
        "GetPublicKey": _SEEN,
        "UpdateKey": _SEEN,
        "UpdateKeyVersion": _SEEN,
        "RotateKey": _SEEN | {Standing.DISABLED: "KEY_NOT_ENABLED"},
        "ActivateKeyVersion": dict.fromkeys(Standing, "WRONG_STATE")
        | _GONE
        | {Standing.DELETED: "NOT_FOUND"},
        "GetRotationPolicy": _SEEN,
        "UpdateRotationPolicy": _SEEN,
        "GetDeletedKey": dict.fromkeys(Standing, "NOT_FOUND") | {Standing.DELETED: OK},
        "DeleteKey": _SEEN | {Standing.DELETED: "WRONG_STATE"},
        "RecoverKey": _ENDED,
        "PurgeKey": _ENDED,
        "Sign": _USED,
        "Encrypt": _USED,
        "WrapKey": _USED,
        "GenerateDataKey": _USED,
        "Verify": _PAST,
        "Decrypt": _PAST,
        "UnwrapKey": _PAST,
        "ReEncrypt": _PAST,
    }
)
"""What each RPC that names a key answers, by how the key stands: OK, or the reason.

ReEncrypt by its source; its target stands as for Encrypt. Permission is decided
before any of this. DeletionProtected and PurgeTooEarly are further settings, not
standings.
"""


class VersionState(StrEnum):
    """Where a key version stands."""

    PENDING = "PENDING"
    """Made, but not yet held by every region that it is wrapped for."""
    ACTIVE = "ACTIVE"
    """Held everywhere; the key's current version is one of these."""


class RegionState(StrEnum):
    """Where a region stands: Azure's provisioning states, and the ceremony's."""

    PREPROVISIONING = "PREPROVISIONING"
    AWAITING_CEREMONY = "AWAITING_CEREMONY"
    PROVISIONING = "PROVISIONING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DELETING = "DELETING"
    PURGED = "PURGED"


REGION_NEXT: Final[Mapping[RegionState, frozenset[RegionState]]] = MappingProxyType(
    {
        RegionState.PREPROVISIONING: frozenset(
            {RegionState.AWAITING_CEREMONY, RegionState.FAILED}
        ),
        RegionState.AWAITING_CEREMONY: frozenset(
            {RegionState.PROVISIONING, RegionState.FAILED, RegionState.DELETING}
        ),
        RegionState.PROVISIONING: frozenset(
            {RegionState.SUCCEEDED, RegionState.FAILED, RegionState.DELETING}
        ),
        RegionState.SUCCEEDED: frozenset({RegionState.DELETING}),
        RegionState.FAILED: frozenset(
            {RegionState.PREPROVISIONING, RegionState.DELETING}
        ),
        RegionState.DELETING: frozenset({RegionState.PURGED}),
        RegionState.PURGED: frozenset(),
    }
)

RECEIVING: Final = frozenset({RegionState.PROVISIONING, RegionState.SUCCEEDED})
"""A region in one of these states has pair keys: new versions are wrapped for it."""

_PAST_USES: Final = frozenset(
    {Operation.DECRYPT, Operation.UNWRAP_KEY, Operation.VERIFY}
)


def require_within_dates(
    operation: Operation,
    *,
    now_ms: int,
    not_before_ms: int,
    expire_ms: int,
    name: object,
) -> None:
    """Azure's date rule: outside [nbf, exp) only decrypt, unwrap and verify work.

    Zero means that the date is not set. Raises KeyNotEnabled.
    """
    if operation in _PAST_USES:
        return
    if not_before_ms and now_ms < not_before_ms:
        raise KeyNotEnabled(
            "{name} may not {operation} before {date_ms} (Unix ms)",
            name=name,
            operation=operation,
            date_ms=not_before_ms,
        )
    if expire_ms and now_ms >= expire_ms:
        raise KeyNotEnabled(
            "{name} expired at {date_ms} (Unix ms) and may not {operation}; "
            "rotate it: hsmvault key rotate",
            name=name,
            operation=operation,
            date_ms=expire_ms,
        )
