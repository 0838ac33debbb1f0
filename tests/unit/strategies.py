"""What values of the model look like, for Hypothesis."""

from hypothesis import strategies as st

from hsmvault.model.access import BUILT_IN, Permission
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.algorithms import (
    CURVE_BITS,
    SIZES,
    Algorithm,
    Curve,
    KeySpec,
    KeyType,
    Operation,
)
from hsmvault.model.audit_records import AuditHeadRecord
from hsmvault.model.import_records import ImportRecord
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState, RegionState, VersionState
from hsmvault.model.log import Entry, Epoch, Kind, Position, RequestMark
from hsmvault.model.names import KeyName
from hsmvault.model.record import Record
from hsmvault.model.rotation import Rotation
from hsmvault.model.vault_records import (
    EpochRecord,
    PartitionCard,
    RegionRecord,
    VaultRecord,
)

SPECS = [
    *(KeySpec(KeyType.RSA, bits) for bits in SIZES[KeyType.RSA]),
    *(KeySpec(KeyType.OCT, bits) for bits in SIZES[KeyType.OCT]),
    *(KeySpec(KeyType.EC, CURVE_BITS[curve], curve) for curve in Curve),
]
"""Every key that can be made."""

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

# Anything that UTF-8 can carry: surrogates cannot be written in a record.
text = st.text(st.characters(codec="utf-8"), max_size=30)
key_ids = st.text(_LETTERS, min_size=1, max_size=127)
key_paths = key_ids.map(lambda key: f"/keys/{key}")
key_names = key_ids.map(KeyName)
version_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
region_ids = st.from_regex(r"[a-z]([a-z0-9-]{0,22}[a-z0-9])?", fullmatch=True)
ids = st.uuids().map(str)
specs = st.sampled_from(SPECS)
algorithms = st.sampled_from(Algorithm)
operations = st.sampled_from(Operation)
times = st.integers(0, 2**53)
revisions = st.integers(1, 2**53)
epochs = st.builds(Epoch, st.integers(1, 999_999_999), region_ids)
positions = st.builds(Position, epochs, st.integers(1, 10**18 - 1))
request_marks = st.builds(
    RequestMark, text, text, text, st.binary(max_size=32), st.binary(max_size=50)
)
entries = st.builds(
    Entry,
    position=positions,
    time_ms=times,
    kind=st.sampled_from(Kind),
    resource=text,
    record=st.binary(max_size=60),
    request=st.none() | request_marks,
)

_keys = st.builds(
    KeyRecord,
    name=key_names.map(str),
    incarnation=version_ids,
    revision=revisions,
    spec=specs,
    operations=st.frozensets(operations),
    create_ms=times,
    update_ms=times,
    current=version_ids,
    enabled=st.booleans(),
    not_before_ms=times,
    expire_ms=times,
    tags=st.lists(st.tuples(text, text), max_size=3).map(tuple),
    deletion_protection=st.booleans(),
    state=st.sampled_from(KeyState),
    delete_ms=times,
    purge_ms=times,
    rotation=st.none() | st.builds(Rotation, times, times, times, times),
)
_versions = st.builds(
    VersionRecord,
    key=key_names.map(str),
    incarnation=version_ids,
    version=version_ids,
    revision=revisions,
    spec=specs,
    public_key=st.binary(max_size=100),
    regions=st.lists(region_ids, max_size=3).map(tuple),
    create_ms=times,
    update_ms=times,
    enabled=st.booleans(),
    state=st.sampled_from(VersionState),
)
_tombstones = st.builds(
    TombstoneRecord,
    name=key_names.map(str),
    incarnation=version_ids,
    revision=revisions,
    versions=st.lists(version_ids, max_size=3).map(tuple),
    purge_ms=times,
)
_actions = st.lists(st.sampled_from([*Permission, "keys/*"]), max_size=4).map(tuple)
_definitions = st.builds(
    RoleDefinitionRecord,
    name=ids.map(lambda i: f"roleDefinitions/{i}"),
    revision=revisions,
    title=text,
    description=text,
    data_actions=_actions,
    not_data_actions=_actions,
    permissions=_actions,
    create_ms=times,
    update_ms=times,
    author=text,
    removed=st.booleans(),
)
_imports = st.builds(
    ImportRecord,
    name=version_ids.map(lambda i: f"imports/{i}"),
    revision=revisions,
    key=key_names.map(str),
    bits=st.sampled_from(SIZES[KeyType.RSA]),
    public_key=st.binary(max_size=50),
    region=region_ids,
    partition=text,
    author=text,
    create_ms=times,
    expire_ms=times,
    used_ms=times,
)
_assignments = st.builds(
    AssignmentRecord,
    name=ids.map(lambda i: f"roleAssignments/{i}"),
    revision=revisions,
    principal=text,
    role_definition=st.sampled_from(sorted(BUILT_IN)),
    scope=st.sampled_from(["/", "/keys"]) | key_paths,
    create_ms=times,
    author=text,
    removed=st.booleans(),
    regions=st.lists(region_ids, max_size=3).map(tuple),
)
_regions = st.builds(
    RegionRecord,
    name=region_ids.map(lambda r: f"regions/{r}"),
    revision=revisions,
    state=st.sampled_from(RegionState),
    primary=st.booleans(),
    zone=text,
    endpoint=text,
    partition_endpoints=st.lists(text, max_size=3).map(tuple),
    private_endpoint=text,
    partitions=st.lists(
        st.builds(PartitionCard, text, st.binary(max_size=91)), max_size=3
    ).map(tuple),
    certificate=text,
    create_ms=times,
    update_ms=times,
    problem=text,
)
_vaults = st.builds(
    VaultRecord,
    vault_id=version_ids,
    revision=revisions,
    create_ms=times,
    retention_days=st.integers(7, 90),
    purge_protection=st.booleans(),
    region_limit=st.integers(0, 10),
    client_ca=text,
    client_crl=text,
    legacy_algorithms=st.lists(text, max_size=3).map(tuple),
    role_escalation=st.booleans(),
    ecdsa_fault_guard=st.booleans(),
    key_limit=st.integers(0, 2**53),
    version_limit=st.integers(0, 2**53),
    allowed_networks=st.lists(text, max_size=3).map(tuple),
    rate_limit=st.integers(0, 2**53),
    page_key=st.binary(min_size=32, max_size=32),
)
_audit_heads = st.builds(
    AuditHeadRecord,
    name=ids.map(lambda i: f"auditHeads/{i}.p0"),
    revision=revisions,
    region=region_ids,
    process=text,
    segment=revisions,
    sequence=revisions,
    chain=st.binary(min_size=32, max_size=32),
    time_ms=times,
    partition=text,
    signature=st.binary(max_size=64),
)
_epochs = st.builds(
    EpochRecord,
    number=st.integers(1, 999_999_999),
    region=region_ids,
    revision=revisions,
    fork_index=st.integers(0, 2**53),
    fork_chain=st.binary(min_size=32, max_size=32),
)

RECORDS: dict[Kind, st.SearchStrategy[Record]] = {
    Kind.EPOCH: _epochs,
    Kind.VAULT: _vaults,
    Kind.REGION: _regions,
    Kind.ROLE_DEFINITION: _definitions,
    Kind.ROLE_ASSIGNMENT: _assignments,
    Kind.KEY: _keys,
    Kind.KEY_VERSION: _versions,
    Kind.IMPORT: _imports,
    Kind.AUDIT_HEAD: _audit_heads,
    Kind.TOMBSTONE: _tombstones,
}
"""Records of each kind that the log carries."""

records = st.one_of([st.tuples(st.just(kind), made) for kind, made in RECORDS.items()])
