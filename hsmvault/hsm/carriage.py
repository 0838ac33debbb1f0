"""How a key goes from one token to another: offer, answer, install.

The destination offers the public half of a key that cannot leave it; the source's
officer trusts that half for one moment and wraps; the destination's officer unwraps.
Each end signs with its partition's identity key what it asks for and what it gives.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism

from hsmvault.hsm import identity, labels
from hsmvault.hsm.attributes import Template
from hsmvault.hsm.cryptoki import Refused
from hsmvault.hsm.custody import Custody, unsettled
from hsmvault.hsm.structures import OAEP_SHA1
from hsmvault.hsm.templates import (
    IDENTITY_KEY,
    INTEGRITY_KEY,
    PAIR_IN,
    PAIR_OUT,
    REGION_KEY,
)
from hsmvault.hsm.transcript import (
    TRANSPORT_BITS,
    Answer,
    Carried,
    Context,
    Offer,
    require_signed,
    rsa_numbers,
    rsa_spki,
)
from hsmvault.model.errors import (
    AlreadyExists,
    IntegrityFailure,
    WrappedKeyInvalid,
    WrongState,
)

_TRANSPORT: Final[Template] = MappingProxyType(
    {
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.UNWRAP: True,
        Attribute.DECRYPT: False,
        Attribute.SIGN: False,
        Attribute.DERIVE: False,
    }
)
"""The private half that receives a key: it only unwraps, and dies with its session."""

_INSTALLED_AS: Final[Mapping[Carried, Template]] = MappingProxyType(
    {
        Carried.REGION_KEY: REGION_KEY,
        Carried.INTEGRITY: INTEGRITY_KEY,
        Carried.PAIR_OUT: PAIR_OUT,
        Carried.PAIR_IN: PAIR_IN,
    }
)
_PENDING_MAX: Final = 100
# A region of three partitions and three peers needs 20 in one go.


class Carriage:
    """One token's end of it, within one session of its officer."""

    def __init__(self, custody: Custody) -> None:
        """Take the token; nothing is opened or tried yet."""
        self._custody: Final = custody
        self._cryptoki: Final = custody.cryptoki
        self._pending: Final[dict[str, Context]] = {}
        self._transport: tuple[int, bytes] | None = None

    def forget(self) -> None:
        """Forget the offers and the transport key, whose session is about to end."""
        self._pending.clear()
        self._transport = None

    def offer(self, context: Context) -> Offer:
        """Ask for a key, for a public key whose other half cannot leave this token."""
        if len(self._pending) >= _PENDING_MAX:
            raise WrongState("too many offers wait for answers; start the officer anew")
        context.require_lawful()
        _, public_key = self._transport_key()
        with self._custody.user() as session:
            nonce = self._cryptoki.random(session, 16).hex()
            offer = Offer(replace(context, nonce=nonce), public_key)
            label = labels.identity_key(context.to_region, context.to_partition)
            signature = identity.sign(self._custody, session, label, offer.statement())
        self._pending[nonce] = offer.context
        return replace(offer, signature=signature)

    def _transport_key(self) -> tuple[int, bytes]:
        # One per session of the officer: it dies with it, and each offer has a nonce.
        if self._transport is None:
            with self._custody.officer() as session:
                public, private = self._cryptoki.generate_pair(
                    session,
                    Mechanism.RSA_PKCS_KEY_PAIR_GEN,
                    public={
                        Attribute.TOKEN: False,
                        Attribute.PRIVATE: False,
                        Attribute.MODULUS_BITS: TRANSPORT_BITS,
                        Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01",
                    },
                    private=_TRANSPORT,
                )
                shown = self._cryptoki.attributes(
                    session, public, (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT)
                )
                self._cryptoki.destroy(session, public)
            modulus, exponent = shown.values()
            if not isinstance(modulus, bytes) or not isinstance(exponent, bytes):
                raise IntegrityFailure("the token does not show a public key")
            self._transport = private, rsa_spki(modulus, exponent)
        return self._transport

    def answer(
        self, offer: Offer, peer_identity: bytes, *, expected: Context | None = None
    ) -> Answer:
        """Wrap the key for the offer, if the destination's identity key signed it.

        With `expected`, only if the offer asks for exactly that, whatever its nonce.
        """
        context = offer.context
        context.require_lawful()
        if expected not in {None, replace(context, nonce="")}:
            raise IntegrityFailure("the offer asks for something else than was agreed")
        peer = f"{context.to_region}/{context.to_partition}"
        require_signed(offer.statement(), offer.signature, peer_identity, by=peer)
        modulus, exponent = rsa_numbers(offer.public_key)
        own = labels.identity_key(context.from_region, context.from_partition)
        with self._custody.user() as session:
            self._custody.select(session, own, IDENTITY_KEY)
        with self._custody.officer() as session:
            recipient = self._cryptoki.create(
                session,
                {
                    Attribute.CLASS: ObjectClass.PUBLIC_KEY,
                    Attribute.KEY_TYPE: KeyType.RSA,
                    Attribute.TOKEN: False,
                    Attribute.PRIVATE: False,
                    Attribute.WRAP: True,
                    Attribute.TRUSTED: True,
                    Attribute.MODULUS: modulus,
                    Attribute.PUBLIC_EXPONENT: exponent,
                },
            )
        with self._custody.user() as session:
            try:
                key = self._custody.select(session, context.label, _held_as(context))
                answer = Answer(
                    context,
                    self._cryptoki.wrap(
                        session,
                        Mechanism.RSA_PKCS_OAEP,
                        under=recipient,
                        key=key,
                        parameter=OAEP_SHA1,
                    ),
                    self._cryptoki.digest_key(session, key),
                )
            finally:
                self._cryptoki.destroy(session, recipient)
            statement = answer.statement(offer.public_key)
            return replace(
                answer, signature=identity.sign(self._custody, session, own, statement)
            )

    def install(self, answer: Answer, peer_identity: bytes) -> bool:
        """Install the key of an answer to our own offer; False: it was there already.

        The answer must be to an offer of this session, unchanged, and is good once.
        """
        context = answer.context
        if self._pending.get(context.nonce) != context:
            raise IntegrityFailure(
                "the answer is to no offer of this officer's session; "
                "a changed or repeated answer installs nothing"
            )
        private, public_key = self._transport_key()
        peer = f"{context.from_region}/{context.from_partition}"
        statement = answer.statement(public_key)
        require_signed(statement, answer.signature, peer_identity, by=peer)
        template = _INSTALLED_AS[context.purpose]
        if template[Attribute.DESTROYABLE]:
            self._custody.destroy_all(context.label, template)
        elif self._has(context.label, template, answer.digest):
            del self._pending[context.nonce]
            return False
        made = self._unwrap(private, answer, template)
        self._custody.settle(made, context.label, template)
        del self._pending[context.nonce]
        return True

    def _has(self, label: str, template: Template, digest: bytes) -> bool:
        with self._custody.user() as session:
            if not self._custody.present(session, label, template):
                return False
            key = self._custody.select(session, label, template)
            if self._cryptoki.digest_key(session, key) != digest:
                raise AlreadyExists(
                    "token {token} holds another {label}, which is never overwritten; "
                    "wipe the token first if it is to be replaced",
                    token=self._custody.label,
                    label=label,
                )
        return True

    def _unwrap(self, private: int, answer: Answer, template: Template) -> int:
        with self._custody.officer() as session:
            try:
                made = self._cryptoki.unwrap(
                    session,
                    Mechanism.RSA_PKCS_OAEP,
                    under=private,
                    wrapped=answer.wrapped,
                    template=unsettled(template),
                    parameter=OAEP_SHA1,
                )
            except Refused as error:
                raise WrappedKeyInvalid(
                    "the key in the answer does not open in this token"
                ) from error
            if self._cryptoki.digest_key(session, made) != answer.digest:
                self._cryptoki.destroy(session, made)
                raise WrappedKeyInvalid("the key in the answer is not the one promised")
        return made


def _held_as(context: Context) -> Template:
    """Return what the source holds it as: only a sender holds the wrapping half."""
    if context.purpose is Carried.PAIR_IN:
        sender, _ = labels.pair_of(context.label)
        return PAIR_OUT if context.from_region == sender else PAIR_IN
    return _INSTALLED_AS[context.purpose]
