"""Resource names as values: parsed once at the edge, values everywhere below it.

Formats follow AIP-122. A key's name follows Azure Managed HSM's rule: 1 to 127
letters, digits and dashes, unique without regard to case.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Self

from hsmvault.model.errors import MalformedName

_KEY: Final = r"[0-9a-zA-Z-]{1,127}"
_VERSION: Final = r"[0-9a-f]{32}"
# No dots: a position is written epoch.region.index.
_REGION: Final = r"[a-z](?:[a-z0-9-]{0,22}[a-z0-9])?"
_ID: Final = r"[0-9a-zA-Z-]{1,63}"


def _match(pattern: str, text: str, what: str, shape: str) -> re.Match[str]:
    match = re.fullmatch(pattern, text)
    if match is None:
        raise MalformedName(
            "malformed {what} name {name!r}; expected {shape}",
            what=what,
            # A name is echoed back; cut it so that an answer stays small.
            name=text[:200],
            shape=shape,
        )
    return match


@dataclass(frozen=True, slots=True, order=True)
class KeyName:
    """`keys/{key}`."""

    key: str
    resource: str = field(init=False, repr=False, compare=False)
    """What it is stored by: without regard to case, as uniqueness is decided."""

    def __post_init__(self) -> None:
        # Once, as usual names are remembered: each use of a key looks it up by this.
        object.__setattr__(self, "resource", f"keys/{self.folded}")

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `keys/{key}`, or raise MalformedName."""
        match = _match(
            rf"keys/(?P<key>{_KEY})",
            name,
            "key",
            "keys/{key} with 1 to 127 letters, digits and dashes",
        )
        return cls(match["key"])

    @classmethod
    def of_id(cls, key_id: str) -> Self:
        """Take the bare id of a key, or raise MalformedName."""
        return cls.parse(f"keys/{key_id}")

    @property
    def folded(self) -> str:
        """The name by which uniqueness is decided: without regard to case."""
        return self.key.lower()

    def version(self, version: str) -> "VersionName":
        """Name one version of this key."""
        return VersionName(self, version)

    def __str__(self) -> str:
        return f"keys/{self.key}"


@dataclass(frozen=True, slots=True, order=True)
class VersionName:
    """`keys/{key}/versions/{version}`, the version a random 128-bit id in hex."""

    key: KeyName
    version: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `keys/{key}/versions/{version}`, or raise MalformedName."""
        match = _match(
            rf"keys/(?P<key>{_KEY})/versions/(?P<version>{_VERSION})",
            name,
            "key version",
            "keys/{key}/versions/{32 hex digits}",
        )
        return cls(KeyName(match["key"]), match["version"])

    def __str__(self) -> str:
        return f"{self.key}/versions/{self.version}"


def parse_key_or_version(name: str) -> tuple[KeyName, str | None]:
    """Parse the name of a key, or of one of its versions (None: the current one)."""
    if "/versions/" in name:
        version = VersionName.parse(name)
        return version.key, version.version
    return KeyName.parse(name), None


def parse_rotation_policy(name: str) -> KeyName:
    """Parse `keys/{key}/rotationPolicy`, or raise MalformedName; the key's name."""
    match = _match(
        rf"keys/(?P<key>{_KEY})/rotationPolicy",
        name,
        "rotation policy",
        "keys/{key}/rotationPolicy",
    )
    return KeyName(match["key"])


@dataclass(frozen=True, slots=True, order=True)
class ImportName:
    """`imports/{import}`, a random 128-bit id in hex."""

    id: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `imports/{import}`, or raise MalformedName."""
        match = _match(
            rf"imports/(?P<id>{_VERSION})", name, "import", "imports/{32 hex digits}"
        )
        return cls(match["id"])

    def __str__(self) -> str:
        return f"imports/{self.id}"


@dataclass(frozen=True, slots=True, order=True)
class RegionName:
    """`regions/{region}`."""

    region: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `regions/{region}`, or raise MalformedName."""
        match = _match(
            rf"regions/(?P<region>{_REGION})",
            name,
            "region",
            "regions/{region} with 1 to 24 lower-case letters, digits and dashes",
        )
        return cls(match["region"])

    @classmethod
    def of_id(cls, region: str) -> Self:
        """Take the bare id of a region, or raise MalformedName."""
        return cls.parse(f"regions/{region}")

    def __str__(self) -> str:
        return f"regions/{self.region}"


@dataclass(frozen=True, slots=True, order=True)
class RoleDefinitionName:
    """`roleDefinitions/{role_definition}`, its id in lower case however it came."""

    role_definition: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `roleDefinitions/{role_definition}`, or raise MalformedName."""
        match = _match(
            rf"roleDefinitions/(?P<id>{_ID})",
            name,
            "role definition",
            "roleDefinitions/{role_definition}",
        )
        # Once, here: what is compared later is this form, and no other.
        return cls(match["id"].lower())

    def __str__(self) -> str:
        return f"roleDefinitions/{self.role_definition}"


@dataclass(frozen=True, slots=True, order=True)
class RoleAssignmentName:
    """`roleAssignments/{role_assignment}`."""

    role_assignment: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse `roleAssignments/{role_assignment}`, or raise MalformedName."""
        match = _match(
            rf"roleAssignments/(?P<id>{_ID})",
            name,
            "role assignment",
            "roleAssignments/{role_assignment}",
        )
        return cls(match["id"])

    def __str__(self) -> str:
        return f"roleAssignments/{self.role_assignment}"
