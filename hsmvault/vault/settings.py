"""What a caller may say about a key: when it is made, and by update mask later."""

from dataclasses import dataclass, replace
from typing import Final, TypeVar

from hsmvault.model.algorithms import KeySpec, Operation, require_one_role
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.key_records import KeyRecord

T = TypeVar("T")

TAGS_MAX: Final = 15
TAG_CHARACTERS_MAX: Final = 256
"""Azure Managed HSM's limits."""


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Everything about a new key but its name and its material."""

    operations: frozenset[Operation] = frozenset()
    """Empty: all that its type does by default."""
    enabled: bool = True
    not_before_ms: int = 0
    expire_ms: int = 0
    tags: tuple[tuple[str, str], ...] = ()
    deletion_protection: bool = False

    def require_valid(self, spec: KeySpec) -> None:
        """Raise InvalidRequest for what no key of this type can have."""
        _require_operations(spec, self.operations)
        _require_dates(self.not_before_ms, self.expire_ms)
        _require_tags(self.tags)


@dataclass(frozen=True, slots=True)
class KeyPatch:
    """What an update changes; None: left as it is."""

    enabled: bool | None = None
    not_before_ms: int | None = None
    """0 takes the date away; so with expire_ms."""
    expire_ms: int | None = None
    tags: tuple[tuple[str, str], ...] | None = None
    operations: frozenset[Operation] | None = None
    deletion_protection: bool | None = None

    def applied(self, key: KeyRecord, *, now_ms: int) -> KeyRecord:
        """Return the next revision of the key, or raise InvalidRequest."""
        patched = replace(
            key,
            revision=key.revision + 1,
            update_ms=now_ms,
            enabled=_or(self.enabled, key.enabled),
            not_before_ms=_or(self.not_before_ms, key.not_before_ms),
            expire_ms=_or(self.expire_ms, key.expire_ms),
            tags=_or(self.tags, key.tags),
            operations=_or(self.operations, key.operations),
            deletion_protection=_or(self.deletion_protection, key.deletion_protection),
        )
        if not patched.operations:
            raise InvalidRequest(
                "operations may not be empty; to make a key unusable, disable it: "
                "hsmvault key update --disable"
            )
        # With those that it has: an AES key does not become an HMAC key either.
        _require_operations(key.spec, patched.operations)
        require_one_role(key.spec, patched.operations | key.operations)
        _require_dates(patched.not_before_ms, patched.expire_ms)
        _require_tags(patched.tags)
        return patched


def _or(patch: T | None, present: T) -> T:
    return present if patch is None else patch


def _require_operations(spec: KeySpec, operations: frozenset[Operation]) -> None:
    odd = operations - spec.operations
    if odd:
        raise InvalidRequest(
            "a key of type {spec} cannot {odd}; it can {known}",
            spec=spec,
            odd=", ".join(sorted(odd)),
            known=", ".join(sorted(spec.operations)),
        )
    require_one_role(spec, operations)


def _require_dates(not_before_ms: int, expire_ms: int) -> None:
    if expire_ms and expire_ms <= not_before_ms:
        raise InvalidRequest(
            "expire_time must be later than not_before_time; "
            "the key would never be usable"
        )


def _require_tags(tags: tuple[tuple[str, str], ...]) -> None:
    if len(tags) > TAGS_MAX:
        raise InvalidRequest(
            "{given} tags are more than the {most} a key can have",
            given=len(tags),
            most=TAGS_MAX,
        )
    for name, value in tags:
        if not name or max(len(name), len(value)) > TAG_CHARACTERS_MAX:
            raise InvalidRequest(
                "the name of a tag has 1 to {most} characters, its value at most "
                "{most}; shorten tag {name!r}",
                most=TAG_CHARACTERS_MAX,
                name=name[:64],
            )
