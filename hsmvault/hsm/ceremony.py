"""How a token gets its keys: made by the officer, or carried from another token.

Every task can be repeated after a crash. Region, integrity and identity keys that are
there are kept, and never overwritten; pair keys are destroyed and made or carried anew.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import identity, labels
from hsmvault.hsm.attributes import Template
from hsmvault.hsm.carriage import Carriage
from hsmvault.hsm.cryptoki import Who
from hsmvault.hsm.custody import Custody
from hsmvault.hsm.templates import (
    IDENTITY_KEY,
    INTEGRITY_KEY,
    PAIR_IN,
    PAIR_OUT,
    REGION_KEY,
)
from hsmvault.hsm.transcript import Carried
from hsmvault.model.errors import ForeignToken, InvalidRequest, WrongState

_NAMING: Final = (Attribute.CLASS, Attribute.LABEL)
_KEYS: Final = (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY)
_KINDS: Final[Mapping[str, Mapping[str, Template]]] = MappingProxyType(
    {
        "region-key": {Carried.REGION_KEY: REGION_KEY},
        "integrity": {Carried.INTEGRITY: INTEGRITY_KEY},
        "identity": {"identity": IDENTITY_KEY},
        "pair": {Carried.PAIR_OUT: PAIR_OUT, Carried.PAIR_IN: PAIR_IN},
    }
)
"""What an object may be, by the second word of its label."""


class Ceremony:
    """The officer's tasks on one token."""

    def __init__(self, custody: Custody) -> None:
        """Take the token; nothing is opened or tried yet."""
        self._custody: Final = custody
        self._cryptoki: Final = custody.cryptoki
        self.carriage: Final = Carriage(custody)

    def init_token(
        self, label: str, *, reinitialise: bool = False, beside: bool = False
    ) -> str:
        """Make the token ours, with its user PIN; returns its serial.

        A token that is ours already is kept, or emptied with `reinitialise`. A token
        with another label is never touched, and refused unless `beside` says that the
        module has several. An officer who knows the serial makes no new token.
        """
        self._require_own(label)
        tokens = self._cryptoki.tokens()
        ours = [t for t in tokens if t.initialized and t.label == label]
        others = [t for t in tokens if t.initialized and t.label != label]
        if others and not beside:
            raise ForeignToken(
                "the module holds token {found}, not {expected}; nothing was changed; "
                "point its configuration at the right token, or at an empty place",
                found=", ".join(t.label for t in others),
                expected=label,
            )
        if not ours and self._custody.serial:
            # It was made before, so it is lost or hidden; a second one would not do.
            self._custody.token()
        elif not ours:
            free = [t for t in tokens if not t.initialized]
            if not free:
                raise WrongState("the module has no slot for a new token")
            self._erase(free[0].slot)
        elif reinitialise:
            self.wipe(label)
        if not self._custody.token().has_user_pin:
            with self._custody.officer() as session:
                self._cryptoki.init_pin(session, self._custody.pin(Who.USER))
        with self._custody.user():
            # Both PINs are known to work before anything rests on them.
            return self._custody.token().serial

    def wipe(self, label: str) -> None:
        """Destroy everything in the token. Its label stays, and is checked first."""
        self._require_own(label)
        slot = self._custody.token().slot
        self.close()
        self._erase(slot)

    def close(self) -> None:
        """Forget the offers and the transport key."""
        self.carriage.forget()
        self._custody.close()

    def _erase(self, slot: int) -> None:
        custody = self._custody
        with custody.trying(Who.OFFICER):
            self._cryptoki.init_token(slot, custody.pin(Who.OFFICER), custody.label)

    def _require_own(self, label: str) -> None:
        if label != self._custody.label:
            raise ForeignToken(
                "this officer holds token {expected}, and was asked about {found}",
                expected=self._custody.label,
                found=label,
            )

    def birth_identity(self, region: str, partition: str) -> bytes:
        """Make the partition's identity key, unless it is there; its public half."""
        with self._custody.user() as session:
            return identity.birth(self._custody, session, region, partition)

    def inspect(self) -> tuple[dict[str, str], list[str]]:
        """Return which of our keys are in the token, and names that are not ours.

        The first is a kind per label, the second labels of objects that only call
        themselves so. It tells whoever comes after a crash what is still to be done.
        """
        cryptoki, right, wrong = self._cryptoki, dict[str, str](), set[str]()
        with self._custody.user() as session:
            for key in cryptoki.find(session, {Attribute.TOKEN: True}):
                shown = cryptoki.attributes(session, key, _NAMING)
                label = str(shown.get(Attribute.LABEL, ""))
                kinds = _KINDS.get(label.split(":")[1]) if _ours(label) else None
                if kinds is None or shown[Attribute.CLASS] not in _KEYS:
                    continue
                for kind, template in kinds.items():
                    if self._custody.is_one(session, key, label, template):
                        right[label] = kind
                        break
                else:
                    wrong.add(label)
        return right, sorted(wrong)

    def birth_region(self, region: str) -> list[str]:
        """Make region key and integrity key, unless they are there; what was made."""
        made = []
        for label, template, mechanism in (
            (labels.region_key(region), REGION_KEY, Mechanism.AES_KEY_GEN),
            (
                labels.integrity_key(region),
                INTEGRITY_KEY,
                Mechanism.GENERIC_SECRET_KEY_GEN,
            ),
        ):
            with self._custody.user() as session:
                there = self._custody.present(session, label, template)
            if not there:
                self._custody.make(label, template, mechanism)
                made.append(label)
        return made

    def birth_pair(self, sender: str, receiver: str) -> None:
        """Make a fresh pair key in the sender's token; an old one is destroyed."""
        if sender == receiver:
            raise InvalidRequest("a region has no pair key with itself")
        label = labels.pair_key(sender, receiver)
        labels.pair_of(label)
        with self._custody.user() as session:
            # Proof that this token is the sender's.
            self._custody.select(session, labels.region_key(sender), REGION_KEY)
        self._custody.destroy_all(label, PAIR_OUT)
        self._custody.make(label, PAIR_OUT, Mechanism.AES_KEY_GEN)


def _ours(label: str) -> bool:
    return label.startswith("hsmvault:")
