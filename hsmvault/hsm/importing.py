"""Keys that come from outside, unwrapped inside the token in two steps.

RSA-OAEP opens the carrier, an AES key, and the carrier opens the key (AES-KWP): what
CKM_RSA_AES_KEY_WRAP means, and tokens without it can do. Keys that came in the clear
take the same way, under a wrapping key of this process.

Whoever holds the user PIN can send a token any call, and no template stops them from
having a carrier open what it carries into an object without fences. So a wrapping key
is never stored, nor put into a token: it is an object of one session, which only this
process reaches, and ends when it was used, when it expires, or with the process.
"""

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pkcs11 import PKCS11Error, exceptions
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import public
from hsmvault.hsm.core import Core
from hsmvault.hsm.generating import EXPONENT, wrap, wrapping_key
from hsmvault.hsm.import_templates import CARRIER, IMPORT_KEY
from hsmvault.hsm.mechanisms import OAEP
from hsmvault.hsm.opened import destroy
from hsmvault.hsm.proving import works
from hsmvault.hsm.session import GENERATION_SECONDS, Doing, Session
from hsmvault.hsm.templates import (
    KWP_MECHANISM,
    PUBLIC_HALF,
    asked,
    first_purpose,
    kind,
    require,
    require_equal,
    user_key,
)
from hsmvault.model.algorithms import Algorithm, KeySpec, KeyType
from hsmvault.model.errors import (
    ImportSpent,
    IntegrityFailure,
    KeyMaterialInvalid,
    LimitReached,
    VaultError,
)
from hsmvault.model.material import Blob, Generated, Plain, require_length
from hsmvault.model.weakness import require_strong_rsa

IMPORTS_MAX: Final = 64
"""Wrapping keys that wait for their import in one partition. Each has a session."""
_OWN_BITS: Final = 2048
_OWN_SECONDS: Final = 3600.0
_OAEP: Final = OAEP[Algorithm.RSA_OAEP]


@dataclass(frozen=True, slots=True)
class _Held:
    """A wrapping key, alone in a session that is closed with it."""

    session: Any
    private: Any
    public_key: bytes
    bits: int

    def close(self) -> None:
        destroy(self.private)
        try:
            self.session.close()
        except PKCS11Error:
            # It is gone already, and the key with it.
            return


class Imports:
    """The wrapping keys of one partition's process. Safe to call from any thread."""

    def __init__(self, core: Core) -> None:
        self._core: Final = core
        self._held: Final[dict[str, tuple[_Held, int]]] = {}
        self._holding: Final = threading.Lock()
        self._own: tuple[_Held, float] | None = None
        self._carrying: Final = threading.Lock()

    def begin(self, import_id: str, bits: int, *, expire_ms: int) -> bytes:
        """Make a wrapping key; returns its public half, SubjectPublicKeyInfo."""
        if len(self._held) >= IMPORTS_MAX:
            raise LimitReached(
                "{most} imports wait in this partition; finish one, or wait until one "
                "has expired",
                most=IMPORTS_MAX,
            )
        made = self._core.run(
            lambda _: self._make(bits),
            # Watched by the leased session, made in one of its own.
            limit=GENERATION_SECONDS,
        )
        with self._holding:
            self._held[import_id] = made, expire_ms
        return made.public_key

    def holds(self, import_id: str) -> bool:
        """Tell whether the wrapping key is here."""
        return import_id in self._held

    def finish(
        self, import_id: str, version: str, blob: Blob, *, regions: Sequence[str]
    ) -> Generated:
        """Open what came under a wrapping key, once: it is gone in every case."""
        with self._holding:
            held, _ = self._held.pop(import_id, (None, 0))
        if held is None:
            raise ImportSpent(
                "the wrapping key of imports/{import_id} is not in this partition; it "
                "ends with the partition's process. Begin again: hsmvault key "
                "begin-import",
                import_id=import_id,
            )
        try:
            return self._core.run(
                lambda session: self._open(session, held, version, blob, regions),
                doing=Doing.IMPORTING,
            )
        finally:
            held.close()

    def end(self, import_ids: Sequence[str], *, now_ms: int) -> None:
        """Destroy these wrapping keys, and all that have expired."""
        with self._holding:
            ending = set(import_ids)
            ending |= {
                i for i, (_, expire_ms) in self._held.items() if expire_ms <= now_ms
            }
            ended = [self._held.pop(i) for i in ending if i in self._held]
        for held, _ in ended:
            held.close()

    def bring(self, version: str, plain: Plain, *, regions: Sequence[str]) -> Generated:
        """Bring in what came in the clear, as if it had come under a wrapping key."""

        def work(session: Session) -> Generated:
            held = self._transport()
            try:
                blob = Blob(plain.spec, plain.public_key, _sealed(held, plain.secret))
                return self._open(session, held, version, blob, regions)
            except PKCS11Error:
                # Perhaps its session is what failed: the next one has another.
                self._drop_transport()
                raise

        with self._carrying:
            return self._core.run(work, doing=Doing.IMPORTING, limit=GENERATION_SECONDS)

    def _transport(self) -> _Held:
        own, now = self._own, time.monotonic()
        if own is not None and now - own[1] < _OWN_SECONDS:
            return own[0]
        self._drop_transport()
        made = self._make(_OWN_BITS)
        self._own = made, now
        return made

    def _drop_transport(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own[0].close()

    def _make(self, bits: int) -> _Held:
        session = self._core.fresh()
        try:
            half, private = session.generate_keypair(
                CkKeyType.RSA,
                bits,
                public_template={**PUBLIC_HALF, Attribute.PUBLIC_EXPONENT: EXPONENT},
                private_template=asked(IMPORT_KEY),
            )
            shown = self._core.cryptoki.attributes(
                session.handle, private.handle, IMPORT_KEY
            )
            require_equal(shown, IMPORT_KEY, label="an import's wrapping key")
            public_key = public.of_rsa(
                half[Attribute.MODULUS], half[Attribute.PUBLIC_EXPONENT]
            )
            destroy(half)
        except (PKCS11Error, VaultError):
            session.close()
            raise
        return _Held(session, private, public_key, bits)

    def _open(
        self,
        session: Session,
        held: _Held,
        version: str,
        blob: Blob,
        regions: Sequence[str],
    ) -> Generated:
        spec, size = blob.spec, held.bits // 8
        # Looked up first: without one, nothing is opened.
        wrapping = {r: wrapping_key(self._core, session, r) for r in regions}
        require_length(blob, held.bits)
        secret = self._unwrap(held, blob, size)
        try:
            require(secret, user_key(spec, first_purpose(spec)), label="a new key")
            public_key = _public_half(secret, blob)
            _require_works(session, secret, spec, public_key)
            wrapped = tuple(
                wrap(key, secret, version=version, region=region, name=name)
                for region, (name, key) in wrapping.items()
            )
        finally:
            destroy(secret)
        return Generated(wrapped, public_key)

    def _unwrap(self, held: _Held, blob: Blob, size: int) -> Any:
        carrier = held.private.unwrap_key(
            ObjectClass.SECRET_KEY,
            CkKeyType.AES,
            blob.wrapped[:size],
            mechanism=Mechanism.RSA_PKCS_OAEP,
            mechanism_param=_OAEP.parameter,
            template=asked(CARRIER),
        )
        try:
            shown = self._core.cryptoki.attributes(
                held.session.handle, carrier.handle, CARRIER
            )
            require_equal(shown, CARRIER, label="the carrier of a new key")
            purpose = first_purpose(blob.spec)
            object_class, key_type = kind(blob.spec, purpose)
            return carrier.unwrap_key(
                object_class,
                key_type,
                blob.wrapped[size:],
                mechanism=KWP_MECHANISM,
                template=asked(user_key(blob.spec, purpose)),
            )
        finally:
            destroy(carrier)


def _require_works(session: Session, secret: Any, spec: KeySpec, half: bytes) -> None:
    try:
        if works(session, secret, spec, half):
            return
    except (exceptions.MechanismInvalid, exceptions.KeySizeRange) as error:
        # SoftHSM, to an AES key of 31 bytes, which KWP wraps as long as one of 32.
        raise KeyMaterialInvalid(
            "the key is not one of type {spec}: its size is another", spec=spec
        ) from error
    raise KeyMaterialInvalid(
        "the key does not belong to the public key that came with it"
    )


def _public_half(secret: Any, blob: Blob) -> bytes:
    """Return what the key's public half is, or is said to be where no token tells."""
    if blob.spec.type is KeyType.OCT:
        return b""
    if blob.spec.type is KeyType.EC:
        try:
            public.require_spec(blob.public_key, blob.spec)
        except IntegrityFailure as error:
            raise KeyMaterialInvalid(
                "the public key that came with it is not one of type {spec}",
                spec=blob.spec,
            ) from error
        return blob.public_key
    modulus, exponent = secret[Attribute.MODULUS], secret[Attribute.PUBLIC_EXPONENT]
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    require_strong_rsa(n, e)
    if n.bit_length() != blob.spec.bits:
        raise KeyMaterialInvalid(
            "the blob holds an RSA key of {given} bits, not {spec}",
            given=n.bit_length(),
            spec=blob.spec,
        )
    shown = public.of_rsa(modulus, exponent)
    if blob.public_key not in {b"", shown}:
        raise KeyMaterialInvalid(
            "the key does not belong to the public key that came with it"
        )
    return shown


def _sealed(held: _Held, secret: bytes) -> bytes:
    half = public.load(held.public_key)
    if not isinstance(half, RSAPublicKey):
        raise IntegrityFailure("a wrapping key is not RSA")
    carrier = secrets.token_bytes(32)
    return public.encrypt(half, _OAEP.known, carrier) + (
        keywrap.aes_key_wrap_with_padding(carrier, secret)
    )
