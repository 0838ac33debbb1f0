"""Loading a PKCS#11 module for many threads, finding a token, and logging in: once.

A process has one module and one token, and stays logged in until it ends: C_Logout and
C_Finalize act on the whole process, and what they void cannot be had back.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pkcs11 import _pkcs11, exceptions
from pkcs11.constants import TokenFlag
from pkcs11.types import Session, Token

from hsmvault.hsm.attributes import mapper
from hsmvault.hsm.cryptoki import Cryptoki, Refused
from hsmvault.hsm.errors import FAULTS, Fault
from hsmvault.model.errors import ConfigurationError, ForeignToken, PinRejected

T = TypeVar("T")

_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.05
# Two processes that open one token at the same moment: one may get a GeneralError.
_LOOKS: Final = 5
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class TokenAddress:
    """Which token, in which module. Label and serial must both be as expected."""

    module: str
    label: str
    serial: str = ""
    """Empty: any token of this label will do, as before a region is set up."""
    user_pin: str = field(default="", repr=False)


class Library(_pkcs11.lib):
    """A PKCS#11 module that this process may use from any thread.

    python-pkcs11 initialises with NULL, which promises the module a single thread, and
    then releases the GIL in every call: SoftHSM turns its locks off and crashes.
    `initialize` is called by its constructor, so overriding it is enough.
    """

    def __init__(self, so: str) -> None:
        self.cryptoki: Final = Cryptoki(so)
        self.used = False
        """Whether anybody has logged in: sessions are open, and stay so."""
        super().__init__(so)

    def initialize(self) -> None:
        """Promise threads to the module: CKF_OS_LOCKING_OK."""
        self.cryptoki.initialize()


_loaded: Final[dict[str, Library]] = {}


def load(path: str) -> Library:
    """Load and initialise the module, once per process, or raise ConfigurationError."""
    if path not in _loaded:
        # First our own binding: it says more of a file that is missing or no module.
        Cryptoki(path)
        try:
            _loaded[path] = Library(path)
        except (exceptions.PKCS11Error, Refused) as error:
            message = (
                f"{path} does not start as a PKCS#11 module ({error!r}); "
                "check its own configuration (for SoftHSM: SOFTHSM2_CONF and the token "
                "directory that it names)"
            )
            raise ConfigurationError(message) from error
    return _loaded[path]


def find(address: TokenAddress) -> Token:
    """Return the one token that is meant, or say what is there instead."""
    tokens = _seen(address)
    meant = [t for t in tokens if t.label == address.label]
    if not meant:
        seen = ", ".join(sorted(t.label for t in tokens)) or "none"
        raise ForeignToken(
            "no token labelled {expected!r} in {module}; found: {found}. Correct "
            "`token_label` or the module's configuration, or run the region's init",
            expected=address.label,
            module=address.module,
            found=seen,
        )
    serials = [t.serial.decode("ascii", "replace") for t in meant]
    if address.serial:
        meant = [t for t, s in zip(meant, serials, strict=True) if s == address.serial]
    if len(meant) != 1:
        raise ForeignToken(
            "token {label!r} should have serial {expected}, and is there as {found}; "
            "this is not the token that the region was set up with",
            label=address.label,
            expected=address.serial or "(any, but only one)",
            found=", ".join(serials),
        )
    if not meant[0].flags & TokenFlag.USER_PIN_INITIALIZED:
        message = (
            f"token {address.label!r} has no user PIN: its initialisation was not "
            "finished. Run the region's init again"
        )
        raise ConfigurationError(message)
    return meant[0]


def _seen(address: TokenAddress) -> list[Token]:
    """Return all tokens, looking again where ours is not among them.

    SoftHSM rewrites the token's own file at every login, an officer's for one, and a
    module that was initialised in that moment misses the token until it starts anew.
    """
    library = load(address.module)
    tokens = patiently(lambda: _tokens(library))
    for _ in range(_LOOKS):
        # Once somebody has logged in, starting anew would void their sessions.
        if any(t.label == address.label for t in tokens) or library.used:
            break
        time.sleep(_LOOK_SECONDS)
        library.cryptoki.restart()
        tokens = patiently(lambda: _tokens(library))
    return tokens


def _tokens(library: Library) -> list[Token]:
    flag = TokenFlag.TOKEN_INITIALIZED
    return list(library.get_tokens(token_flags=flag))


def log_in(address: TokenAddress) -> tuple[Token, Session]:
    """Open the session that keeps this process logged in. Close it never.

    A PIN that the token refuses is tried exactly once: PinRejected.
    """
    token = find(address)
    load(address.module).used = True
    return token, patiently(lambda: _log_in(token, address.user_pin))


def _log_in(token: Token, pin: str) -> Session:
    try:
        return token.open(rw=True, user_pin=pin, attribute_mapper=mapper())
    except exceptions.UserAlreadyLoggedIn:
        # The login is the process's: an earlier session made it.
        return token.open(rw=True, attribute_mapper=mapper())
    except exceptions.PKCS11Error as error:
        if FAULTS.get(type(error)) is not Fault.PIN:
            raise
        message = (
            f"token {token.label!r} refused the user PIN ({type(error).__name__}). It "
            "was tried once and is not tried again, since a token locks itself after "
            "a few wrong ones; correct the PIN file, then start again"
        )
        raise PinRejected(message) from error


def patiently(opening: Callable[[], T]) -> T:
    """Repeat an opening that met another process's: GeneralError, and nothing else."""
    for attempt in range(_ATTEMPTS):
        try:
            return opening()
        except exceptions.GeneralError as error:
            if attempt == _ATTEMPTS - 1:
                message = (
                    f"the PKCS#11 module fails to open the token ({error!r}), "
                    f"{_ATTEMPTS} times; check that its files or its device can be "
                    "reached by this user"
                )
                raise ConfigurationError(message) from error
            time.sleep(_PAUSE_SECONDS * 2**attempt)
    raise AssertionError  # pragma: no cover  (the loop returns or raises)
