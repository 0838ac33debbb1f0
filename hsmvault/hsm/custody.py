"""One token in the hands of its security officer, and of its user, in turns.

A key that is to be TRUSTED is made while the officer is logged in, as a public object
of one session; it survives the change of login, and the user copies it into the token
as a private object. So one process and one session do both, and neither PIN is ever
tried twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep
from typing import Final, TypeVar

from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import labels
from hsmvault.hsm.attributes import Template
from hsmvault.hsm.cryptoki import PIN_REFUSALS, Cryptoki, Refused, TokenInfo, Who
from hsmvault.hsm.templates import KEY_BYTES, require_equal, searchable
from hsmvault.model.errors import (
    ForeignToken,
    IntegrityFailure,
    NotFound,
    PartitionLost,
    PinRejected,
    TemplateViolated,
)

T = TypeVar("T")

_GENERAL_ERROR: Final = 0x05
_OPENINGS: Final = 5
_PAUSE_SECONDS: Final = 0.05
# SoftHSM answers CKR_GENERAL_ERROR once when two processes open a token together.

_SET_BY_COPY: Final = (
    Attribute.TOKEN,
    Attribute.PRIVATE,
    Attribute.DESTROYABLE,
    Attribute.MODIFIABLE,
)


class Custody:
    """A token that both PINs are known for. Not for use by several threads."""

    def __init__(
        self,
        cryptoki: Cryptoki,
        *,
        label: str,
        serial: str = "",
        so_pin: bytes = b"",
        user_pin: bytes = b"",
    ) -> None:
        """Hold the PINs; nothing is opened or tried yet."""
        self.cryptoki: Final = cryptoki
        self.label: Final = label
        self.serial: Final = serial
        self._pins: Final = {Who.OFFICER: so_pin, Who.USER: user_pin}
        self._rejected: Final[set[Who]] = set()
        self._session: int | None = None

    def token(self) -> TokenInfo:
        """Return our token, or raise ForeignToken naming what is there instead."""
        ours = self._ours()
        for _ in range(_OPENINGS):
            if ours or self._session is not None:
                break
            # SoftHSM rewrites the token's own file at every login, and a module that
            # was initialised in that moment misses the token until it is started anew.
            sleep(_PAUSE_SECONDS)
            self.cryptoki.restart()
            ours = self._ours()
        if len(ours) != 1:
            shown = [t for t in self.cryptoki.tokens() if t.initialized]
            found = ", ".join(f"{t.label} ({t.serial})" for t in shown)
            raise ForeignToken(
                "expected one token {expected}, found {found}; correct token_label, "
                "token_serial or the module's configuration",
                expected=f"{self.label} ({self.serial or 'any serial'})",
                found=found or "none",
            )
        return ours[0]

    def _ours(self) -> list[TokenInfo]:
        return [
            t
            for t in self.cryptoki.tokens()
            if t.initialized and t.label == self.label and self.serial in {"", t.serial}
        ]

    @contextmanager
    def officer(self) -> Iterator[int]:
        """Log the security officer in for a while; yields the session."""
        with self._login(Who.OFFICER) as session:
            yield session

    @contextmanager
    def user(self) -> Iterator[int]:
        """Log the user in for a while; yields the session."""
        with self._login(Who.USER) as session:
            yield session

    @contextmanager
    def _login(self, who: Who) -> Iterator[int]:
        session = self._open()
        with self.trying(who):
            self.cryptoki.login(session, who, self.pin(who))
        try:
            yield session
        finally:
            self.cryptoki.logout(session)

    def pin(self, who: Who) -> bytes:
        """Return a PIN that the token has not refused yet."""
        if who in self._rejected:
            raise PinRejected(_refusal(self.label, who, "refused before"))
        return self._pins[who]

    @contextmanager
    def trying(self, who: Who) -> Iterator[None]:
        """Turn a refused PIN into PinRejected, and never try it again."""
        try:
            yield
        except Refused as error:
            if error.rv not in PIN_REFUSALS:
                raise
            self._rejected.add(who)
            raise PinRejected(_refusal(self.label, who, str(error))) from error

    def _open(self) -> int:
        if self._session is None:
            self._session = patiently(lambda: self.cryptoki.open(self.token().slot))
        return self._session

    def close(self) -> None:
        """End the session and every session object in it."""
        if self._session is not None:
            session, self._session = self._session, None
            self.cryptoki.close(session)

    def select(self, session: int, label: str, template: Template) -> int:
        """Find the one object that is all that `template` says, arrays included."""
        found = self._matching(session, label, template)
        if not found:
            raise NotFound(
                "{label} is not in token {token}; make or install it in a ceremony",
                label=label,
                token=self.label,
            )
        if len(found) > 1:
            raise IntegrityFailure(
                "{count} objects in token {token} pass for {label}; "
                "somebody with the user PIN copied it, and must be found",
                count=len(found),
                token=self.label,
                label=label,
            )
        return found[0]

    def _matching(self, session: int, label: str, template: Template) -> list[int]:
        found = self.cryptoki.find(session, searchable(template, label))
        return [key for key in found if self.is_one(session, key, label, template)]

    def is_one(self, session: int, key: int, label: str, template: Template) -> bool:
        """Tell whether this object is all that `template` says."""
        wanted = {**template, **searchable(template, label)}
        shown = self.cryptoki.attributes(session, key, wanted)
        try:
            require_equal(shown, wanted, label=label)
        except TemplateViolated:
            return False
        return True

    def labelled(self, session: int, label: str, template: Template) -> list[int]:
        """Find whatever calls itself so, of the template's class, real or not."""
        return self.cryptoki.find(
            session,
            {
                Attribute.CLASS: template[Attribute.CLASS],
                Attribute.TOKEN: True,
                Attribute.LABEL: label,
            },
        )

    def present(self, session: int, label: str, template: Template) -> bool:
        """Tell whether it is there; anything else of that name is refused."""
        if not self.labelled(session, label, template):
            return False
        if not self._matching(session, label, template):
            raise TemplateViolated(
                "{label} in token {token} is not as specified, and is not replaced; "
                "wipe the token, or restore it",
                label=label,
                token=self.label,
            )
        self.select(session, label, template)
        return True

    def destroy_all(self, label: str, template: Template) -> int:
        """Destroy whatever calls itself so; returns how many there were."""
        with self.user() as session:
            found = self.labelled(session, label, template)
            for key in found:
                try:
                    self.cryptoki.destroy(session, key)
                except Refused as error:
                    raise IntegrityFailure(
                        "{label} in token {token} cannot be destroyed: "
                        "no ceremony made it; wipe the token",
                        label=label,
                        token=self.label,
                    ) from error
        return len(found)

    def make(self, label: str, template: Template, mechanism: Mechanism) -> bytes:
        """Generate an infrastructure key; returns its digest."""
        with self.officer() as session:
            asked = {Attribute.VALUE_LEN: KEY_BYTES, **unsettled(template)}
            made = self.cryptoki.generate(session, mechanism, asked)
        return self.settle(made, label, template)

    def settle(self, made: int, label: str, template: Template) -> bytes:
        """Turn the officer's session object into what `template` says; its digest."""
        cryptoki = self.cryptoki
        with self.user() as session:
            try:
                # Checked before it is copied: what settles cannot be destroyed again.
                expected = unsettled(template)
                shown = cryptoki.attributes(session, made, expected)
                require_equal(shown, expected, label=label)
                digest = cryptoki.digest_key(session, made)
                settled = cryptoki.copy(
                    session,
                    made,
                    {
                        Attribute.TOKEN: True,
                        Attribute.PRIVATE: True,
                        Attribute.LABEL: label,
                        Attribute.ID: labels.object_id(label),
                        Attribute.DESTROYABLE: template[Attribute.DESTROYABLE],
                        # Last: it makes the copy read-only.
                        Attribute.MODIFIABLE: False,
                    },
                )
            finally:
                cryptoki.destroy(session, made)
            shown = cryptoki.attributes(session, settled, template)
            require_equal(shown, template, label=label)
        return digest


def patiently(action: Callable[[], T]) -> T:
    """Repeat the opening of a token that another process opens at the same moment."""
    for _ in range(_OPENINGS - 1):
        try:
            return action()
        except Refused as error:
            if error.rv != _GENERAL_ERROR:
                raise
        sleep(_PAUSE_SECONDS)
    return action()


def unsettled(template: Template) -> dict[Attribute, object]:
    """Return the table for the public session object that comes before the copy."""
    return {
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        **{a: v for a, v in template.items() if a not in _SET_BY_COPY},
    }


def lost(error: Refused) -> PartitionLost:
    """Turn an answer that nobody expected into the error for it."""
    return PartitionLost(
        "the token failed in a ceremony: {answer}; repeat the ceremony",
        answer=str(error),
    )


def _refusal(label: str, who: Who, answer: str) -> str:
    name = "security officer PIN" if who is Who.OFFICER else "user PIN"
    return (
        f"the {name} of token {label} was not accepted ({answer}); it is tried once "
        "only, because tokens lock; correct it and start again"
    )
