"""Deciding whether, and how, a key is used: once, and kept until the key changes.

What can be decided for a key, a version and an algorithm is kept as a plan beside the
key in the ring; it goes when the key or the vault's settings change. Dates are looked
at each time, and so is whether a legacy algorithm is still allowed.
"""

from dataclasses import dataclass
from typing import Final

from hsmvault.model.algorithms import (
    CBC,
    CBC_PAD,
    LEGACY,
    Algorithm,
    Operation,
    parse_algorithm,
    require_suits,
)
from hsmvault.model.errors import (
    AlgorithmLegacy,
    InvalidRequest,
    KeyNotEnabled,
    NotFound,
    OperationNotPermitted,
    RegionBehind,
    VersionMoved,
)
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.lifecycle import KeyState, require_within_dates
from hsmvault.model.names import KeyName, VersionName
from hsmvault.vault.memory import Memory
from hsmvault.vault.plan import Plan
from hsmvault.vault.ports import Clock
from hsmvault.vault.ring import Held

_CHAINED: Final = CBC | CBC_PAD
_WRAPS: Final = frozenset({Operation.WRAP_KEY, Operation.UNWRAP_KEY})


@dataclass(frozen=True, slots=True)
class Plans:
    """What each use of a key comes down to, or why it is refused."""

    memory: Memory
    clock: Clock

    def plan(
        self, name: KeyName, version: str | None, algorithm: str, operation: Operation
    ) -> Plan:
        """Return what using this version by this algorithm takes, or raise why not."""
        held = self.held(name)
        plan: Plan | None = held.plans.get((version, algorithm, operation))
        if plan is None:
            plan = self._decide(held, name, version, algorithm, operation)
            held.plans[version, algorithm, operation] = plan
        if plan.legacy:
            self._require_allowed(plan.algorithm)
        if plan.not_before_ms or plan.expire_ms:
            require_within_dates(
                operation,
                now_ms=self.clock(),
                not_before_ms=plan.not_before_ms,
                expire_ms=plan.expire_ms,
                name=name,
            )
        return plan

    def expected(
        self, name: KeyName, version: str | None, expected: VersionName
    ) -> str:
        """Return the version that is expected, or raise VersionMoved: it is another.

        It is used by its id from here on, so that none can take its place meanwhile.
        """
        if version is not None or expected.key.folded != name.folded:
            raise InvalidRequest(
                "expected_version is a version of the key that name names, not of "
                "{name}",
                name=name.version(version) if version else name,
            )
        key = self.held(name).key.record
        if key.current != expected.version:
            raise VersionMoved(
                "{expected} is not current, {current} is; read the key again, or name "
                "the version that you want: hsmvault key versions",
                expected=expected,
                current=f"{key.name}/versions/{key.current}",
            )
        return expected.version

    def held(self, name: KeyName) -> Held:
        """Return the key, or raise NotFound."""
        held = self.memory.key(name.resource)
        if held is None:
            raise NotFound("there is no {name}", name=name)
        return held

    def _decide(
        self,
        held: Held,
        name: KeyName,
        version: str | None,
        algorithm: str,
        operation: Operation,
    ) -> Plan:
        key = held.key.record
        if key.state is not KeyState.ACTIVE:
            raise KeyNotEnabled(
                "{name} is deleted; bring it back first: hsmvault key recover",
                name=key.name,
            )
        if not key.enabled:
            raise KeyNotEnabled(
                "{name} is disabled; enable it first: hsmvault key update --enable",
                name=key.name,
            )
        known = parse_algorithm(algorithm)
        use = require_suits(known, key.spec, operation)
        _require_permitted(key, known, operation)
        found = self.memory.version(held, version or key.current)
        if found is None:
            raise NotFound(
                "there is no {name}", name=name.version(version or key.current)
            )
        record = found.found.record
        full = f"{key.name}/versions/{record.version}"
        if not record.enabled:
            raise KeyNotEnabled(
                "{name} is disabled; enable it first: hsmvault version update --enable",
                name=full,
            )
        if found.material is None:
            raise RegionBehind(
                "region {region} does not hold the material of {name} yet; ask again, "
                "or ask another region",
                region=self.memory.region,
                name=full,
            )
        return Plan(
            full,
            found.material,
            known,
            operation,
            use,
            key.not_before_ms,
            key.expire_ms,
            record.create_ms,
            known in LEGACY,
        )

    def _require_allowed(self, algorithm: Algorithm) -> None:
        # Not part of the plan: one that is made while the settings change would be
        # kept, and be by the old ones.
        if algorithm not in self.memory.vault.legacy_algorithms:
            raise AlgorithmLegacy(
                "{algorithm} is a legacy algorithm, and this vault does not allow it; "
                "an Administrator can: hsmvault vault set --legacy-algorithm "
                "+{algorithm}",
                algorithm=algorithm,
            )


def _require_permitted(
    key: KeyRecord, algorithm: Algorithm, operation: Operation
) -> None:
    """Raise OperationNotPermitted unless the key's own operations let it."""
    if operation not in key.operations:
        raise OperationNotPermitted(
            "{name} may not {operation}; its operations are {operations}",
            name=key.name,
            operation=operation,
            operations=", ".join(sorted(key.operations)),
        )
    if algorithm in _CHAINED and key.operations & _WRAPS:
        raise OperationNotPermitted(
            "{algorithm} decrypts block by block, and so would open all that {name} "
            "has wrapped; use a key whose operations are encrypt and decrypt alone",
            algorithm=algorithm,
            name=key.name,
        )
