"""What every operation of a partition goes through: lease, open, and explain failures.

A failure is settled by whose fault it is. Bad input and a sick device can answer alike,
so then a canary decides: an operation of our own on the same partition, whose outcome
we know. Nobody can make a partition look sick by what they send.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pkcs11 import PKCS11Error
from pkcs11.constants import ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import installed, labels, module
from hsmvault.hsm.attributes import mapper
from hsmvault.hsm.enforcement import Profile, require_profile
from hsmvault.hsm.errors import Fault, fault
from hsmvault.hsm.mechanisms import MAC_BYTES
from hsmvault.hsm.opened import destroy
from hsmvault.hsm.session import CALL_SECONDS, Doing, Session, Sessions, gone
from hsmvault.hsm.templates import (
    IDENTITY_KEY,
    INTEGRITY_KEY,
    KWP_MECHANISM,
    PAIR_IN,
    PAIR_OUT,
    REGION_KEY,
    Purpose,
    asked,
    user_key,
)
from hsmvault.metrics import HSM_ERRORS, HSM_SECONDS, count
from hsmvault.model.algorithms import Algorithm, KeySpec, KeyType
from hsmvault.model.errors import (
    CiphertextInvalid,
    ConfigurationError,
    InvalidRequest,
    KeyMaterialInvalid,
    NotSupported,
    Overloaded,
    PartitionLost,
    RegionNotReady,
    VaultError,
    WrappedKeyInvalid,
)
from hsmvault.tracing import took

T = TypeVar("T")

_MEANT: Final[Mapping[Doing, tuple[type[VaultError], str]]] = MappingProxyType(
    {
        Doing.OPENING: (WrappedKeyInvalid, "a stored wrapped key does not open"),
        Doing.DECRYPTING: (CiphertextInvalid, "the ciphertext does not decrypt"),
        # Which of the steps failed is for nobody to know.
        Doing.IMPORTING: (
            KeyMaterialInvalid,
            "the key is damaged, or not what it is said to be: it does not open",
        ),
    }
)
"""What it means that a token refuses, by what it was at."""

_CANARY: Final = b"hsmvault/canary/v1"
_CANARY_SPEC: Final = KeySpec(KeyType.OCT, 256)
_CANARY_TEMPLATE: Final = asked(user_key(_CANARY_SPEC, Purpose.NOTHING))


@dataclass(frozen=True, slots=True)
class PartitionConfig:
    """One partition: whose it is, its token, and its limits."""

    name: str
    region: str
    token: module.TokenAddress
    sessions: int = 4
    open_keys: int = 1000
    """How many user keys may be open at a time, in all sessions together."""
    patience: float = 5.0
    """Seconds to wait for a session before NoFreeSession."""
    profile: str = "hardened"
    """Serve with no weaker token than this."""

    def __post_init__(self) -> None:
        if not 1 <= self.sessions <= 64:  # noqa: PLR2004
            message = f"sessions = {self.sessions}; choose 1 to 64"
            raise ConfigurationError(message)
        if self.open_keys < 1:
            message = f"open_keys = {self.open_keys}; choose at least 1"
            raise ConfigurationError(message)


class Core:
    """A token, logged in, its installed keys checked, its sessions ready to lease."""

    def __init__(
        self, config: PartitionConfig, *, on_lost: Callable[[str], None]
    ) -> None:
        """Log in once and check everything, or raise; see `Partition.open`."""
        self.config: Final = config
        self.vault_id = ""
        """Under whose name MACs are made; empty until the region has a vault."""
        self._canary_mac = b""
        self._canary_key = b""
        self.not_native: Final = set[Algorithm]()
        """What this token turned out not to offer by itself, and we do around it."""
        self._on_lost: Final = on_lost
        self.cryptoki: Final = module.load(config.token.module).cryptoki
        self.token, self._login = module.log_in(config.token)
        try:
            self.profile: Final = self._require_profile()
            self.sessions: Final = self._open_sessions()
            self._check()
        except PKCS11Error as error:
            message = (
                f"token {config.token.label!r} logs in and then fails ({error!r}); "
                "check `sessions` in region.toml against what it allows, and its log"
            )
            raise ConfigurationError(message) from error

    def _open_sessions(self) -> Sessions:
        config = self.config
        return Sessions(
            # One after another: a token's trouble shows at the first.
            [Session(module.patiently(self.fresh)) for _ in range(config.sessions)],
            open_keys=config.open_keys,
            patience=config.patience,
        )

    def _check(self) -> None:
        session = self.sessions.take()
        try:
            for installed_key in (
                self.region_key,
                self.integrity_key,
                self.identity_key,
            ):
                installed_key(session)
            self._canary_mac = self.mac(session, _CANARY)
            self._canary_key = self._make_canary(session)
            if not self._sings(session):
                message = (
                    f"token {self.config.token.label!r} wraps a test key and does not "
                    "open it again; it cannot serve"
                )
                raise ConfigurationError(message)
        finally:
            self.sessions.give(session)

    def _require_profile(self) -> Profile:
        trial = module.patiently(self.fresh)
        try:
            return require_profile(
                trial, self.config.profile, token=self.config.token.label
            )
        finally:
            trial.close()

    def fresh(self) -> Any:
        """Open one more session with the token, for the caller to close."""
        # Without a PIN: the login is the process's, and `_login` keeps it.
        return self.token.open(rw=True, attribute_mapper=mapper())

    # --- installed keys ------------------------------------------------------

    def region_key(self, session: Session) -> Any:
        """Return the key that wraps what rests here."""
        return self._installed(
            session, labels.region_key(self.config.region), REGION_KEY
        )

    def integrity_key(self, session: Session) -> Any:
        """Return the key that MACs this region's store."""
        return self._installed(
            session, labels.integrity_key(self.config.region), INTEGRITY_KEY
        )

    def identity_key(self, session: Session) -> Any:
        """Return the key that speaks for this partition."""
        label = labels.identity_key(self.config.region, self.config.name)
        return self._installed(session, label, IDENTITY_KEY)

    def _installed(self, session: Session, label: str, template: Any) -> Any:
        key = session.keys.get(label)
        if key is None:
            key = installed.find(session.raw, self.cryptoki, label, template)
            if key is None:
                message = (
                    f"token {self.config.token.label!r} has no key {label}; repeat the "
                    "ceremony that installs it"
                )
                raise ConfigurationError(message)
            session.keys[label] = key
        return key

    def pair_key(self, session: Session, sender: str, receiver: str) -> Any | None:
        """Return a pair key, or None. One that was just installed is seen at once."""
        label = labels.pair_key(sender, receiver)
        key = session.keys.get(label)
        if key is None:
            template = PAIR_OUT if sender == self.config.region else PAIR_IN
            key = installed.find(session.raw, self.cryptoki, label, template)
            if key is not None:
                session.keys[label] = key
        return key

    def require_pair_key(self, session: Session, sender: str, receiver: str) -> Any:
        """Return a pair key, or raise RegionNotReady."""
        key = self.pair_key(session, sender, receiver)
        if key is None:
            raise RegionNotReady(
                "partition {partition} has no pair key from {sender} to {receiver}; "
                "the ceremony between these regions has not happened, or was undone",
                partition=self.config.name,
                sender=sender,
                receiver=receiver,
            )
        return key

    # --- the canary ----------------------------------------------------------

    def mac(self, session: Session, data: bytes) -> bytes:
        """MAC with the region's integrity key."""
        key = self.integrity_key(session)
        return bytes(
            key.sign(data, mechanism=Mechanism.SHA256_HMAC, buffer_size=MAC_BYTES)
        )

    def _make_canary(self, session: Session) -> bytes:
        key = session.raw.generate_key(
            CkKeyType.AES, _CANARY_SPEC.bits, template=_CANARY_TEMPLATE
        )
        try:
            return bytes(
                self.region_key(session).wrap_key(key, mechanism=KWP_MECHANISM)
            )
        finally:
            destroy(key)

    def _sings(self, session: Session) -> bool:
        """Tell whether this session does what it certainly should."""
        try:
            if self.mac(session, _CANARY) != self._canary_mac:
                return False
            key = self.region_key(session).unwrap_key(
                ObjectClass.SECRET_KEY,
                CkKeyType.AES,
                self._canary_key,
                mechanism=KWP_MECHANISM,
                template=_CANARY_TEMPLATE,
            )
            destroy(key)
        except (PKCS11Error, VaultError, ConfigurationError):
            return False
        return True

    # --- running and explaining ----------------------------------------------

    def run(
        self,
        work: Callable[[Session], T],
        *,
        doing: Doing = Doing.USING,
        limit: float = CALL_SECONDS,
    ) -> T:
        """Do `work` in a leased session, once more where the session was at fault.

        Every Cryptoki error comes out as a VaultError.
        """
        sessions = self.sessions
        session = sessions.take(limit)
        failed = True
        try:
            done = self._done(session, work, doing)
            failed = False
        except ConfigurationError as error:
            # An installed key was there when we started, and is not any more.
            raise self._end(error) from error
        except VaultError as error:
            count(HSM_ERRORS, error.reason)
            raise
        finally:
            # Hot: by the clock that the lease was begun by.
            seconds = time.monotonic() - session.since
            took(HSM_SECONDS, seconds, doing, failed=failed)
            sessions.give(session)
        return done

    def _done(self, session: Session, work: Callable[[Session], T], doing: Doing) -> T:
        session.doing = doing
        try:
            return work(session)
        except PKCS11Error as error:
            self._settle(session, error)
        session.doing = doing
        try:
            return work(session)
        except PKCS11Error as error:
            raise self._explain(session, error) from error

    def _settle(self, session: Session, error: PKCS11Error) -> None:
        """Return when a second try in this session makes sense; else raise."""
        kind = fault(error)
        if kind in {Fault.CALLER, Fault.UNSUPPORTED}:
            raise self._explain(session, error) from error
        if kind is Fault.AMBIGUOUS and session.doing is not Doing.USING:
            # With the session's open keys kept: bad input must not empty the cache.
            if self._sings(session):
                raise self._explain(session, error) from error
        elif kind in {Fault.DEVICE, Fault.PIN}:
            raise self._end(error) from error
        self._renew(session, error)
        if kind is Fault.CAPACITY:
            raise Overloaded(
                "the token is out of memory or sessions ({error}); retry, or try "
                "another partition",
                error=type(error).__name__,
            ) from error

    def _renew(self, session: Session, error: PKCS11Error) -> None:
        try:
            session.renew(self.fresh())
        except PKCS11Error as again:
            raise self._end(again) from error
        if not self._sings(session):
            raise self._end(error) from error

    def _explain(self, session: Session, error: PKCS11Error) -> VaultError:
        """Say what an error means, knowing that the partition is well."""
        kind, named = fault(error), type(error).__name__
        if kind is Fault.UNSUPPORTED:
            return NotSupported("the token does not offer this ({error})", error=named)
        meant = _MEANT.get(session.doing)
        if meant is not None:
            return meant[0](meant[1])
        if kind is Fault.CALLER:
            return InvalidRequest("the token refuses this input ({error})", error=named)
        if kind is Fault.AMBIGUOUS:
            return PartitionLost(
                "partition {name} failed ({error}) and is well otherwise; another may "
                "do it",
                name=self.config.name,
                error=named,
            )
        return self._end(error)

    def _end(self, error: PKCS11Error | ConfigurationError) -> PartitionLost:
        """Give the partition up: the process is to end, and to be started again."""
        problem = (
            f"the HSM of partition {self.config.name} is gone "
            f"({type(error).__name__} {error})".rstrip()
        )
        if not self.sessions.lost:
            self.sessions.lost = problem
            self._on_lost(problem)
        return gone()
