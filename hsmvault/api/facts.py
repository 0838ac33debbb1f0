"""What is told of an RPC's request besides who asked and how it ended: by white list.

What is not listed is not told, and a field of bytes cannot be listed. Names, tags and
encryption contexts are no secrets, by the contract of the API.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from hsmvault.audit.line import encode

_CONTEXT: Final = ("algorithm", "encryption_context")
_GRANT: Final = ("principal", "role_definition", "scope", "regions")
_ROLE: Final = tuple(
    f"role_definition.{name}" for name in ("title", "data_actions", "not_data_actions")
)
_POLICY: Final = ("rotate_after_create", "rotate_before_expire", "expire_after")
_SETTINGS: Final = ("enabled", "operations", "tags", "deletion_protection")

FACTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "KeyService/CreateKey": (
            "key.spec.type",
            "key.spec.bits",
            "key.spec.curve",
            *(f"key.{name}" for name in _SETTINGS),
        ),
        "KeyService/ImportKey": (
            "key_id",
            "import_name",
            "key.spec.type",
            "key.spec.bits",
            "key.spec.curve",
            *(f"key.{name}" for name in _SETTINGS),
        ),
        "KeyService/BeginImport": ("key_id", "bits"),
        "KeyService/BackupKey": (),
        "KeyService/RestoreKey": (),
        "KeyService/GetKey": ("show_deleted",),
        "KeyService/ListKeys": ("show_deleted",),
        "KeyService/ListKeyVersions": (),
        "KeyService/UpdateKey": (
            "update_mask",
            *(f"key.{name}" for name in _SETTINGS),
        ),
        "KeyService/UpdateKeyVersion": ("update_mask", "key_version.enabled"),
        "KeyService/RotateKey": (),
        "KeyService/ActivateKeyVersion": ("force",),
        "KeyService/GetRotationPolicy": (),
        "KeyService/UpdateRotationPolicy": (
            "update_mask",
            *(f"rotation_policy.{name}" for name in _POLICY),
        ),
        "KeyService/GetDeletedKey": (),
        "KeyService/ListDeletedKeys": (),
        "KeyService/DeleteKey": (),
        "KeyService/RecoverKey": (),
        "KeyService/PurgeKey": (),
        "KeyService/GetPublicKey": (),
        "CryptoService/Sign": ("algorithm",),
        "CryptoService/Verify": ("algorithm",),
        "CryptoService/Encrypt": _CONTEXT,
        "CryptoService/Decrypt": _CONTEXT,
        "CryptoService/ReEncrypt": (
            *_CONTEXT,
            "target_name",
            "target_algorithm",
            "target_encryption_context",
        ),
        "CryptoService/WrapKey": ("algorithm",),
        "CryptoService/UnwrapKey": ("algorithm",),
        "CryptoService/GenerateDataKey": ("algorithm", "without_plaintext"),
        "CryptoService/Batch": (),
        "CryptoService/GetRandomBytes": ("count",),
        "AccessService/GetRoleDefinition": ("name",),
        "AccessService/ListRoleDefinitions": (),
        "AccessService/CreateRoleDefinition": ("role_definition_id", *_ROLE),
        "AccessService/UpdateRoleDefinition": (
            "role_definition.name",
            "update_mask",
            *_ROLE,
        ),
        "AccessService/DeleteRoleDefinition": ("name",),
        "AccessService/GetRoleAssignment": ("name",),
        "AccessService/ListRoleAssignments": (
            "principal",
            "scope",
            "at_scope",
            "below_scope",
        ),
        "AccessService/CreateRoleAssignment": (
            "role_assignment_id",
            *(f"role_assignment.{name}" for name in _GRANT),
        ),
        "AccessService/DeleteRoleAssignment": ("name",),
        "AccessService/TestPermissions": ("scope", "permissions"),
        "RegionService/AddRegion": (
            "region.name",
            "region.endpoint",
            "region.private_endpoint",
            "fingerprint",
        ),
        "RegionService/RemoveRegion": ("name", "force"),
        "RegionService/ListRegions": ("show_purged",),
        "RegionService/GetReplicationStatus": (),
        "RegionService/WaitForPosition": ("position",),
        "RegionService/ListAuditHeads": ("region",),
        "RegionService/GetTopology": (),
        "VaultService/GetVault": (),
        "VaultService/Watch": ("position", "scope", "kinds"),
        "VaultService/UpdateVault": (
            "update_mask",
            "allow_lock_out",
            "vault.purge_protection",
            "vault.primary_down_writes",
            "vault.region_limit",
            "vault.legacy_algorithms",
            "vault.role_escalation",
            "vault.ecdsa_fault_guard",
            "vault.key_limit",
            "vault.version_limit",
            "vault.allowed_networks",
            "vault.rate_limit",
        ),
    }
)
"""By RPC, the fields of its request that are told. Tests hold it complete."""

TEXT_MAX: Final = 256
"""Characters of a text that are told, and of a name that no vault has."""
PARTS_MAX: Final = 64
"""Members of a list or map that are told: as many as an encryption context may have."""
BRIEF_MAX: Final = 1024
"""Bytes of a fact that is told of a call that was refused. Nobody held its request
against anything: long ones would let who may do nothing fill the trail's disk."""

_VERSIONS: Final = "/versions/"


class Telling:
    """Reads what is told out of one RPC's requests and responses."""

    def __init__(self, method: str, request: Descriptor, response: Descriptor) -> None:
        """Raise TypeError for a field that must not be told: nothing is served then."""
        # Hot: fields that most RPCs lack are not even looked for.
        self._readers = [
            (path.rpartition(".")[2], _reader(request, path))
            for path in FACTS[method.removeprefix("/hsmvault.v1.")]
        ]
        if "validate_only" in request.fields_by_name:
            self._readers.append(("validate_only", _reader(request, "validate_only")))
        self.has_id = "request_id" in request.fields_by_name
        """Whether a request names the id under which it may be repeated."""
        self._named = _first(request, "name", "parent")
        self._made = _first(response, "current_version", "name")

    def facts(self, request: Message) -> dict[str, object]:
        """What is told of a request; what it leaves out is left out."""
        facts: dict[str, object] = {}
        for name, read in self._readers:
            value = read(request)
            if value is not None:
                facts[name] = value
        return facts

    def named(self, request: Message) -> str:
        """The version that a request names, if it names one."""
        name = self._named(request)
        return name[:TEXT_MAX] if _VERSIONS in name else ""

    def made(self, response: Message) -> str:
        """The version that a response names: used, made, or current."""
        name = self._made(response)
        return name if _VERSIONS in name else ""


def brief(facts: Mapping[str, object]) -> dict[str, object]:
    """What is told of a refused call: its facts, and of long ones their names."""
    told = {n: fact for n, fact in facts.items() if len(encode(fact)) <= BRIEF_MAX}
    left = [name for name in facts if name not in told]
    return {**told, "left_out": left} if left else told


def _first(message: Descriptor, *names: str) -> Callable[[Any], str]:
    known = (name for name in names if name in message.fields_by_name)
    name = next(known, None)
    return _nothing if name is None else attrgetter(name)


def _nothing(_message: object) -> str:
    return ""


def _itself(message: Any) -> Any:
    return message


def _reader(message: Descriptor, path: str) -> Callable[[Any], object]:
    get = attrgetter(path)
    field = _field(message, path)
    kind = field.message_type
    if kind is not None:
        return _message_reader(kind, path)
    _require_plain(field, path)
    if field.is_repeated:
        return lambda request: _listed(get(request))
    if field.has_presence:
        holder, _, name = path.rpartition(".")
        held = attrgetter(holder) if holder else _itself
        return lambda request: get(request) if held(request).HasField(name) else None
    if field.type == FieldDescriptor.TYPE_STRING:
        return lambda request: get(request)[:TEXT_MAX] or None
    return lambda request: get(request) or None


def _message_reader(kind: Descriptor, path: str) -> Callable[[Any], object]:
    get = attrgetter(path)
    if kind.GetOptions().map_entry:
        _require_plain(kind.fields_by_name["value"], path)
        return lambda request: _mapped(get(request))
    if kind.full_name == "google.protobuf.FieldMask":
        return lambda request: _listed(get(request).paths)
    if kind.full_name != "google.protobuf.Duration":
        _refuse(path)
    return lambda request: get(request).seconds or None


def _field(message: Descriptor, path: str) -> FieldDescriptor:
    name, _, rest = path.partition(".")
    field = message.fields_by_name[name]
    if not rest:
        return field
    assert field.message_type is not None
    return _field(field.message_type, rest)


def _require_plain(field: FieldDescriptor, path: str) -> None:
    if field.type in {FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}:
        _refuse(path)


def _refuse(path: str) -> NoReturn:
    message = f"{path} may hold a secret, and is not told"
    raise TypeError(message)


def _listed(texts: Iterable[str]) -> list[str] | None:
    return [str(text)[:TEXT_MAX] for text in [*texts][:PARTS_MAX]] or None


def _mapped(texts: Mapping[str, str]) -> dict[str, str] | None:
    if not texts:
        return None
    pairs = sorted(texts.items())[:PARTS_MAX]
    return {name[:TEXT_MAX]: text[:TEXT_MAX] for name, text in pairs}
