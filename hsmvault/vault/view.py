"""What decides about a request, as of one position: an immutable value.

A request takes one view at its start and decides everything by it; a write names it in
what it expects of the store.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from hsmvault.model.access import BUILT_IN, Permission, RoleDefinition
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.errors import AccessDenied, NotPrimary
from hsmvault.model.grants import RoleAssignment, Scope, allowed, permissions_of
from hsmvault.model.lifecycle import RECEIVING
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.vault_records import EpochRecord, RegionRecord, VaultRecord
from hsmvault.vault.checked import Found

DECISIONS_MAX: Final = 16_384
"""Remembered decisions: some 4 MiB at most. Beyond it all are forgotten at once."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what the request needs that they may."""

    principal: str
    permission: Permission
    resource: str
    """A path with a leading slash, key names folded."""
    via_region: str = ""
    """The region on whose word the principal is; empty: they came themselves."""
    itself: bool = False
    """The vault's own work, which no assignment allows and no call can claim."""


class Access:
    """Who may do what. Immutable, but for decisions that it remembers."""

    __slots__ = (
        "_decisions",
        "_of",
        "assignments",
        "custom",
        "definitions",
        "index",
        "region",
    )

    def __init__(
        self,
        assignments: Iterable[Found[AssignmentRecord]],
        custom: Iterable[Found[RoleDefinitionRecord]] = (),
        *,
        index: int,
        region: str,
    ) -> None:
        self.assignments = MappingProxyType(
            {f.record.name: f for f in assignments if not f.record.removed}
        )
        """Those in force, by name; defunct ones included."""
        self.custom = MappingProxyType(
            {f.record.name: f for f in custom if not f.record.removed}
        )
        """The vault's own role definitions, by name."""
        self.definitions: Mapping[str, RoleDefinition] = MappingProxyType(
            # Whatever a record says, a built-in role is what it is.
            {
                **{name: f.record.definition for name, f in self.custom.items()},
                **BUILT_IN,
            }
        )
        self.index = index
        """Index of the last entry that changed access."""
        self.region = region
        """Where a caller is who comes themselves."""
        of: dict[str, list[RoleAssignment]] = {}
        for found in self.assignments.values():
            of.setdefault(found.record.principal, []).append(found.record.assignment)
        self._of = of
        self._decisions: dict[tuple[str, Permission, str, str], bool] = {}

    def after(
        self,
        assignments: Mapping[str, Found[AssignmentRecord]],
        custom: Mapping[str, Found[RoleDefinitionRecord]],
        *,
        index: int,
    ) -> "Access":
        """Return what these changes make of it."""
        return Access(
            {**self.assignments, **assignments}.values(),
            {**self.custom, **custom}.values(),
            index=index,
            region=self.region,
        )

    def of(self, principal: str) -> Iterable[RoleAssignment]:
        """The assignments of one principal."""
        return self._of.get(principal, ())

    def permits(
        self,
        principal: str,
        permission: Permission,
        resource: str,
        via_region: str = "",
    ) -> bool:
        """Decide as model.grants does; decisions are remembered.

        The caller is in the region that they spoke to, which forwarded their call.
        """
        # A tuple: joined as text, two callers could be made to look like one.
        asked = (principal, permission, resource, via_region)
        known = self._decisions.get(asked)
        if known is None:
            known = self.holds(
                principal, permission, resource, {via_region or self.region}
            )
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            self._decisions[asked] = known
        return known

    def holds(
        self,
        principal: str,
        permission: Permission,
        resource: str,
        regions: Collection[str],
    ) -> bool:
        """Decide for all of these regions; none named: for every one, now and later."""
        return allowed(
            self.of(principal),
            self.definitions,
            principal=principal,
            permission=permission,
            resource=resource,
            regions=regions,
        )

    def require(self, caller: Caller) -> None:
        """Raise AccessDenied unless the caller may."""
        who, permission, resource = caller.principal, caller.permission, caller.resource
        if self.permits(who, permission, resource, caller.via_region):
            return
        where = sorted(
            region
            for a in self.of(who)
            if permission in permissions_of(a, self.definitions)
            and a.scope.covers(resource)
            for region in a.regions
        )
        if where:
            raise AccessDenied(
                "{principal} holds {permission} at {scope} in {regions} only, and this "
                "was asked in {region}; connect there",
                principal=who,
                permission=permission,
                scope=resource,
                regions=", ".join(where),
                region=caller.via_region or self.region,
            )
        raise AccessDenied(
            "{principal} lacks {permission} at {scope}; an Administrator can grant it: "
            "hsmvault role assign {principal} ROLE --scope {scope}",
            principal=who,
            permission=permission,
            scope=resource,
        )

    def defunct(self, assignment: AssignmentRecord) -> bool:
        """Tell whether its role was deleted."""
        return assignment.role_definition not in self.definitions

    def scope_of(self, name: str) -> str:
        """The scope of an assignment; "/" if there is none of that name.

        Who may not see an assignment thus learns nothing of whether it exists.
        """
        found = self.assignments.get(name)
        return found.record.scope if found else "/"

    def at(self, scope: Scope) -> list[Found[AssignmentRecord]]:
        """The assignments at exactly this scope."""
        return [f for f in self.assignments.values() if f.record.scope == scope.path]


@dataclass(frozen=True, slots=True)
class View:
    """The vault as this region knows it at `head`."""

    region: str
    head: Head
    vault: VaultRecord
    lineage: tuple[EpochRecord, ...]
    regions: Mapping[str, Found[RegionRecord]]
    """By id, those that were removed included."""
    regions_index: int
    access: Access
    served: str = field(default="")
    """The position as text: it goes into every answer."""

    @classmethod
    def of(
        cls,
        *,
        region: str,
        head: Head,
        vault: VaultRecord,
        lineage: tuple[EpochRecord, ...],
        regions: Mapping[str, Found[RegionRecord]],
        regions_index: int,
        access: Access,
    ) -> Self:
        """Make a view, with what is derived from it."""
        return cls(
            region=region,
            head=head,
            vault=vault,
            lineage=lineage,
            regions=regions,
            regions_index=regions_index,
            access=access,
            served=str(head.position),
        )

    @property
    def position(self) -> Position:
        """What this region has reached."""
        return self.head.position

    @property
    def epoch(self) -> Epoch:
        """The present reign."""
        return self.head.position.epoch

    @property
    def is_primary(self) -> bool:
        """Whether this region takes writes."""
        return self.head.position.epoch.region == self.region

    @property
    def receiving(self) -> tuple[str, ...]:
        """The regions that new versions are wrapped for; the own one comes first."""
        others = [
            id_
            for id_, found in sorted(self.regions.items())
            if found.record.state in RECEIVING and id_ != self.region
        ]
        return (self.region, *others)

    def require_primary(self) -> None:
        """Raise NotPrimary, naming the primary and its address."""
        if self.is_primary:
            return
        primary = self.regions.get(self.epoch.region)
        raise NotPrimary(
            "region {region} is extended and does not take this; the primary is "
            "{primary} at {endpoint}",
            region=self.region,
            primary=self.epoch.region,
            endpoint=primary.record.endpoint if primary else "",
        )
