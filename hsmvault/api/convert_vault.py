"""The vault's settings: message ↔ model, both ways, nothing else."""

from dataclasses import fields
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.api.convert import paths, timestamp
from hsmvault.model.errors import MalformedName
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1 import resources_pb2 as pb
from hsmvault.vault.checked import Found
from hsmvault.vault.vault_settings import VaultPatch

NAME: Final = "vault"


def require_name(name: str) -> None:
    """Raise MalformedName unless it names the one vault, or nothing."""
    if name not in {"", NAME}:
        raise MalformedName(
            "there is one vault, and its name is {wanted}, not {name!r}",
            wanted=NAME,
            name=name[:64],
        )


def vault(found: Found[VaultRecord]) -> pb.Vault:
    """Write the vault."""
    record = found.record
    return pb.Vault(
        name=NAME,
        vault_id=record.vault_id,
        retention_days=record.retention_days,
        purge_protection=record.purge_protection,
        primary_down_writes=record.primary_down_writes,
        region_limit=record.region_limit,
        client_ca=record.client_ca,
        client_crl=record.client_crl,
        legacy_algorithms=record.legacy_algorithms,
        role_escalation=record.role_escalation,
        ecdsa_fault_guard=record.ecdsa_fault_guard,
        key_limit=record.key_limit,
        version_limit=record.version_limit,
        allowed_networks=record.allowed_networks,
        rate_limit=record.rate_limit,
        create_time=timestamp(record.create_ms),
        etag=found.etag,
        position=str(found.position),
    )


_SETTINGS: Final = tuple(field.name for field in fields(VaultPatch))


def patch(message: pb.Vault, mask: FieldMask) -> VaultPatch:
    """Read what an update changes, or raise InvalidRequest."""
    names = paths(message, mask, known=_SETTINGS)
    return VaultPatch(**{name: _plain(getattr(message, name)) for name in names})


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | str) else tuple(value)
