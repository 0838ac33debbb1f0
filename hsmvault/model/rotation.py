"""When a key rotates by itself: a policy, and the date that follows from it.

Azure Key Vault's rotation policy: one action, `Rotate`, with one trigger, and how long
versions are good for. Automatic rotation is never more frequent than every 28 days.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Self

from hsmvault.model.errors import InvalidRequest

DAY_MS: Final = 24 * 60 * 60 * 1000
INTERVAL_DAYS_MIN: Final = 28
"""Azure's least time between two automatic rotations, and least lifetime."""
INTERVAL_MS_MIN: Final = INTERVAL_DAYS_MIN * DAY_MS
DAYS_MAX: Final = 36_500
"""A century: every date that follows can still be written."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation policy. Durations in milliseconds; 0: not set."""

    after_create_ms: int = 0
    """Rotate so long after the newest version was made."""
    before_expire_ms: int = 0
    """Rotate so long before the key expires."""
    expire_after_ms: int = 0
    """Each rotation has the key expire so long afterwards."""
    since_ms: int = 0
    """When the newest version was made."""

    @classmethod
    def of(cls, fields: dict[str, Any] | None) -> Self | None:
        """Read it back from its serialised fields."""
        return None if fields is None else cls(**fields)

    @property
    def empty(self) -> bool:
        """Whether it asks for nothing: then the key has no policy."""
        return not (
            self.after_create_ms or self.before_expire_ms or self.expire_after_ms
        )

    def require_valid(self) -> None:
        """Raise InvalidRequest for a policy that Azure Key Vault would refuse."""
        for name, value in (
            ("rotate_after_create", self.after_create_ms),
            ("expire_after", self.expire_after_ms),
        ):
            if value and not INTERVAL_MS_MIN <= value <= DAYS_MAX * DAY_MS:
                raise InvalidRequest(
                    "{name} is {least} to {most} days; a key rotates at most every "
                    "{least} days",
                    name=name,
                    least=INTERVAL_DAYS_MIN,
                    most=DAYS_MAX,
                )
        if self.after_create_ms and self.before_expire_ms:
            raise InvalidRequest(
                "a policy has rotate_after_create or rotate_before_expire, not both"
            )
        if self.before_expire_ms:
            self._require_expiry()
        if self.expire_after_ms and self.after_create_ms >= self.expire_after_ms:
            raise InvalidRequest(
                "rotate_after_create must be less than expire_after; the key would "
                "expire before it rotates"
            )

    def _require_expiry(self) -> None:
        if not self.expire_after_ms:
            raise InvalidRequest(
                "rotate_before_expire needs expire_after; without it a rotated key "
                "would be as near its end as before"
            )
        if self.before_expire_ms < 0 or (
            self.expire_after_ms - self.before_expire_ms < INTERVAL_MS_MIN
        ):
            raise InvalidRequest(
                "rotate_before_expire leaves less than {least} days between rotations; "
                "make it shorter, or expire_after longer",
                least=INTERVAL_DAYS_MIN,
            )

    def due_ms(self, expire_ms: int) -> int:
        """When a key that expires at `expire_ms` (0: never) rotates; 0: never.

        Not before 28 days have passed since the newest version, however near somebody
        has set the expiry.
        """
        if self.after_create_ms:
            return self.since_ms + self.after_create_ms
        if not self.before_expire_ms:
            return 0
        expires = expire_ms or self.since_ms + self.expire_after_ms
        return max(expires - self.before_expire_ms, self.since_ms + INTERVAL_MS_MIN)

    def expires_ms(self, made_ms: int) -> int:
        """When a key whose new version was made then expires; 0: it does not say."""
        return made_ms + self.expire_after_ms if self.expire_after_ms else 0

    def begun(self, since_ms: int) -> Self:
        """Count from a new version on."""
        return replace(self, since_ms=since_ms)
