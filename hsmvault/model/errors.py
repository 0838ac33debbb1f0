"""Everything that can go wrong, grouped by what the caller should do next.

VaultError
├── InvalidRequest     fix the request
├── Unauthenticated    present a client certificate we know
├── AccessDenied       ask for a role assignment
├── NotFound           it is not there, and you are allowed to know that
├── AlreadyExists      choose another name
├── WrongState         move the resource to another state first
├── Conflict           read again, then retry the whole change
├── Overloaded         back off, then retry
├── Unavailable        try again; another partition or region may answer
├── IntegrityFailure   stop and call an operator
└── NotSupported       this token or release cannot do it; nothing to retry

Anything that is not a VaultError is a bug: callers see INTERNAL and an incident id.
"""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar


class VaultError(Exception):
    """A failure we expected and can name."""

    reason: ClassVar[str] = "VAULT_ERROR"

    def __init_subclass__(cls) -> None:
        """Name the reason after the class, as google.rpc.ErrorInfo wants it."""
        cls.reason = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    def __init__(self, message: str, **facts: object) -> None:
        """Fill `message` with `facts`, which programs read as metadata."""
        super().__init__(message.format_map(facts))
        self.facts = {name: str(value) for name, value in facts.items()}
        """What the message mentions, for callers that are programs."""


class InvalidRequest(VaultError):
    """The request cannot succeed as it is, whatever the state of the vault."""


class MalformedName(InvalidRequest):
    """A resource name does not follow its pattern."""


class AlgorithmUnsupported(InvalidRequest):
    """The algorithm is unknown, or not one for this type and size of key."""


class DigestInvalid(InvalidRequest):
    """The digest is not as long as the algorithm's hash makes it."""


class ChecksumMismatch(InvalidRequest):
    """A field is not what the CRC32C beside it says. Nothing was done with it."""


class CiphertextInvalid(InvalidRequest):
    """Decryption or unwrapping failed. Deliberately says no more than that."""


class KeyMaterialInvalid(InvalidRequest):
    """The key to bring in is weak, inconsistent, or not what it is said to be."""


class BackupInvalid(InvalidRequest):
    """The backup is not one that this vault made, or does not open here."""


class TooLarge(InvalidRequest):
    """A field or message is longer than the vault takes."""


class OperationNotPermitted(InvalidRequest):
    """The key's own operations (key_ops) do not include this one."""


class Unauthenticated(VaultError):
    """The caller showed no identity that the vault knows, or more than one."""


class CertificateRevoked(Unauthenticated):
    """The vault's revocation list names the caller's certificate."""


class AccessDenied(VaultError):
    """The caller holds no assignment that allows this. Checked before existence."""


class NetworkNotAllowed(AccessDenied):
    """The caller's address lies in none of the networks that the vault allows."""


class NotFound(VaultError):
    """The named resource does not exist."""


class AlreadyExists(VaultError):
    """The name is taken, by a live or by a deleted resource."""


class WrongState(VaultError):
    """The resource, or the vault, is not in the state that this needs."""


class KeyNotEnabled(WrongState):
    """The key or version is disabled, deleted, or outside its dates."""


class AlgorithmLegacy(WrongState):
    """The vault's settings do not name this algorithm among the legacy ones."""


class InvocationsExhausted(WrongState):
    """The version encrypted as often by GCM as one key may. Rotate the key."""


class PurgeTooEarly(WrongState):
    """Purge protection holds until the retention has ended."""


class ClockUntrusted(WrongState):
    """The wall clock may not decide about the end of a retention now."""


class NotDue(WrongState):
    """What happens by itself at a date need not happen, or no longer."""


class VersionsPending(WrongState):
    """Regions that the version is wrapped for do not hold it yet."""


class VersionMoved(WrongState):
    """Another version is current than the one that the request expects."""


class DeletionProtected(WrongState):
    """The key's deletion protection is on."""


class NotPrimary(WrongState):
    """Only the primary takes this; its address is in the facts."""


class PrimaryUnavailable(WrongState):
    """The primary cannot be reached and policy lets nobody else write."""


class LastAdministrator(WrongState):
    """The vault would be left without an Administrator at its root."""


class ImportSpent(WrongState):
    """The wrapping key was used, has expired, or ended with its partition."""


class LimitReached(WrongState):
    """There are as many as there may be. Remove one first."""


class PurgeProtectionIrreversible(WrongState):
    """Purge protection is on, and stays on for as long as the vault exists."""


class LockOut(WrongState):
    """The change would keep its own author from ever calling again."""


class RegionBusy(WrongState):
    """Another operation on regions is in flight."""


class RegionNotReady(WrongState):
    """The region is not, or no longer, one that this can be done with."""


class Conflict(VaultError):
    """Somebody changed it first. Read again, and retry the whole change."""


class EtagMismatch(Conflict):
    """The etag in the request is not the resource's current one."""


class ChangedMeanwhile(Conflict):
    """What a write was decided on changed before it was committed."""


class StaleEpoch(Conflict):
    """The message comes from, or is for, an older reign."""


class PositionLost(Conflict):
    """The position lies on a lineage that was cut."""


class PositionCompacted(Conflict):
    """What was changed after the position is not kept any more."""


class Overloaded(VaultError):
    """The vault is at a limit of its own."""


class RateLimited(Overloaded):
    """The caller makes more calls than the vault's rate limit lets it."""


class NoFreeSession(Overloaded):
    """All sessions of the partition stayed leased until the deadline."""


class Unavailable(VaultError):
    """Not now, or not here."""


class PartitionLost(Unavailable):
    """The HSM partition failed under the operation."""


class PrimaryUnknown(Unavailable):
    """This region does not know, or cannot reach, the primary."""


class RegionBehind(Unavailable):
    """This region has not reached the asked position in time."""


class NotServing(Unavailable):
    """The server is starting, draining, or without its HSM."""


class StoreUnavailable(Unavailable):
    """The store cannot be read or written: disk full, read-only, or failing."""


class IssuerUnavailable(Unavailable):
    """The keys of a token's issuer are not known now. Nobody is let in without."""


class AuditUnavailable(Unavailable):
    """The audit trail cannot be written, so nothing is answered."""


class LogCompacted(Unavailable):
    """The asked part of the log is not here; a snapshot took its place."""


class IntegrityFailure(VaultError):
    """Something stored or sent is not what its author made."""


class WrappedKeyInvalid(IntegrityFailure):
    """A stored wrapped key does not open as what its record says."""


class TemplateViolated(IntegrityFailure):
    """A key in the token has other attributes than its template."""


class TwoHistories(IntegrityFailure):
    """Two logs disagree about the same place."""


class StoreBehind(IntegrityFailure):
    """The store is older than the head that the token remembers."""


class ForeignToken(IntegrityFailure):
    """The token is not the one that this region was set up with."""


class NotSupported(VaultError):
    """The token or this release cannot do it."""


class ConfigurationError(Exception):
    """The region cannot start as configured. Says what is wrong and what to do."""


class PinRejected(ConfigurationError):
    """The token refused the PIN. It was tried once and must not be tried again."""


def by_reason(reason: str) -> type[VaultError] | None:
    """Return the class whose reason this is; None: this release knows no such."""
    return next((kind for kind in _tree(VaultError) if kind.reason == reason), None)


def rebuilt(reason: str, message: str, facts: Mapping[str, str]) -> VaultError | None:
    """Return an error as it was in another process; None: its reason is unknown."""
    kind = by_reason(reason)
    return None if kind is None else complete(kind, message, facts)


def complete(
    kind: type[VaultError], message: str, facts: Mapping[str, str]
) -> VaultError:
    """Make an error whose message is filled in: braces in it are only braces."""
    error = kind(message.replace("{", "{{").replace("}", "}}"))
    error.facts = dict(facts)
    return error


def _tree(root: type[VaultError]) -> Iterator[type[VaultError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)
