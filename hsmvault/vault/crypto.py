"""The use of keys: the hot path.

Whether and how is decided in `plans`; here is what is then done, and what is answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hsmvault.model.algorithms import GCM, Algorithm, KeyType, Operation
from hsmvault.model.errors import CiphertextInvalid, InvalidRequest, WrappedKeyInvalid
from hsmvault.model.names import KeyName
from hsmvault.vault.invocations import Invocations
from hsmvault.vault.plan import (
    DATA_MAX,
    IV_BYTES,
    TAG_BYTES,
    WRAP_MAX,
    Plan,
    require_aad,
    require_fits,
    require_sealed,
    require_wrappable,
    signable,
    wrapping_aad,
)
from hsmvault.vault.plans import Plans
from hsmvault.vault.ports import Hsm, Sealed

SIGNATURE_MAX: Final = 1024
"""An RSA-4096 signature has 512 bytes."""
RANDOM_MAX: Final = 128
"""Azure Managed HSM's limit."""
DATA_KEY_BYTES: Final = (16, 512)
DATA_KEY_DEFAULT: Final = 32
_NO_CONTEXT: Final[Mapping[str, str]] = MappingProxyType({})
_NOTHING: Final = "the ciphertext does not decrypt with {name}"
_NO_KEY: Final = "the wrapped key does not unwrap with {name}"


@dataclass(frozen=True, slots=True)
class Source:
    """A ciphertext, and what opens it."""

    name: KeyName
    version: str | None
    algorithm: str
    sealed: Sealed
    aad: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What a plaintext is to be encrypted by."""

    name: KeyName
    version: str | None
    algorithm: str
    aad: bytes


@dataclass(frozen=True, slots=True)
class Crypto:
    """Uses keys that are enabled, within their dates, for what they are meant for."""

    hsm: Hsm
    plans: Plans
    invocations: Invocations

    def sign(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        digest: bytes,
        *,
        data: bytes = b"",
    ) -> tuple[str, bytes]:
        """Sign a digest, or by HS* MAC `data`. Returns the version's name and it."""
        plan = self.plans.plan(name, version, algorithm, Operation.SIGN)
        if data or not digest or len(digest) != plan.use.digest:
            digest = signable(plan, digest, data)
        signature = self.hsm.sign(plan.material, plan.algorithm, digest)
        if plan.use.curve is not None and self.plans.memory.vault.ecdsa_fault_guard:
            self._require_good(plan, digest, signature)
        return plan.name, signature

    def _require_good(self, plan: Plan, digest: bytes, signature: bytes) -> None:
        """Raise rather than give out an ECDSA signature that does not verify.

        A fault in one can give the key away, as in RSA's, which a partition checks
        always.
        """
        if not self.hsm.verify(plan.material, plan.algorithm, digest, signature):
            self.hsm.forget([plan.material.version])
            raise WrappedKeyInvalid(
                "the partition made a signature by {name} that does not verify; it was "
                "not given out",
                name=plan.name,
            )

    def verify(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        digest: bytes,
        signature: bytes,
        *,
        data: bytes = b"",
    ) -> tuple[str, bool]:
        """Verify a signature; one of the wrong size is not valid either."""
        plan = self.plans.plan(name, version, algorithm, Operation.VERIFY)
        digest = signable(plan, digest, data)
        if not 0 < len(signature) <= SIGNATURE_MAX:
            return plan.name, False
        valid = self.hsm.verify(plan.material, plan.algorithm, digest, signature)
        return plan.name, valid

    def encrypt(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        plaintext: bytes,
        aad: bytes,
    ) -> tuple[str, Sealed]:
        """Encrypt. The HSM makes the iv."""
        plan = self.plans.plan(name, version, algorithm, Operation.ENCRYPT)
        require_aad(plan, aad)
        require_fits(plan, plaintext, most=DATA_MAX)
        if plan.algorithm in GCM:
            self.invocations.count(plan)
        return plan.name, self.hsm.encrypt(
            plan.material, plan.algorithm, plaintext, aad
        )

    def decrypt(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        sealed: Sealed,
        aad: bytes,
    ) -> tuple[str, bytes]:
        """Decrypt, or raise CiphertextInvalid: the same for whatever is wrong."""
        plan = self.plans.plan(name, version, algorithm, Operation.DECRYPT)
        require_aad(plan, aad)
        require_sealed(plan, sealed, _NOTHING)
        try:
            opened = self.hsm.decrypt(plan.material, plan.algorithm, sealed, aad)
        except CiphertextInvalid as error:
            # In the same words, whoever found it.
            raise CiphertextInvalid(_NOTHING, name=plan.name) from error
        return plan.name, opened

    def reencrypt(self, source: Source, target: Target) -> tuple[str, str, Sealed]:
        """Decrypt by one key and encrypt by another; nobody sees what is between.

        Returns the names of the versions that decrypted and that encrypted.
        """
        # First what cannot work for any plaintext: nothing is decrypted for nothing.
        plan = self.plans.plan(
            target.name, target.version, target.algorithm, Operation.ENCRYPT
        )
        require_aad(plan, target.aad)
        opened_by, plaintext = self.decrypt(
            source.name, source.version, source.algorithm, source.sealed, source.aad
        )
        sealed_by, sealed = self.encrypt(
            target.name, target.version, target.algorithm, plaintext, target.aad
        )
        return opened_by, sealed_by, sealed

    def wrap(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        plaintext: bytes,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
    ) -> tuple[str, bytes]:
        """Wrap the caller's key; by A*GCM bound to the context."""
        plan = self.plans.plan(name, version, algorithm, Operation.WRAP_KEY)
        aad = wrapping_aad(plan, context)
        require_wrappable(plan, plaintext)
        return plan.name, self._wrapped(plan, plaintext, aad)

    def _wrapped(self, plan: Plan, plaintext: bytes, aad: bytes) -> bytes:
        if plan.algorithm not in GCM:
            return self.hsm.wrap(plan.material, plan.algorithm, plaintext)
        self.invocations.count(plan)
        sealed = self.hsm.encrypt(plan.material, plan.algorithm, plaintext, aad)
        return sealed.iv + sealed.ciphertext + sealed.tag

    def unwrap(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        wrapped: bytes,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
    ) -> tuple[str, bytes]:
        """Unwrap the caller's key, or raise CiphertextInvalid."""
        plan = self.plans.plan(name, version, algorithm, Operation.UNWRAP_KEY)
        aad = wrapping_aad(plan, context)
        length = len(wrapped)
        if plan.material.spec.type is KeyType.RSA:
            fits = length * 8 == plan.material.spec.bits
        elif plan.algorithm in GCM:
            fits = 0 < length - IV_BYTES - TAG_BYTES <= WRAP_MAX
        else:
            fits = length % 8 == 0 and 24 <= length <= WRAP_MAX + 8  # noqa: PLR2004
        if not fits:
            raise CiphertextInvalid(_NO_KEY, name=plan.name)
        try:
            opened = self._unwrapped(plan, wrapped, aad)
        except CiphertextInvalid as error:
            raise CiphertextInvalid(_NO_KEY, name=plan.name) from error
        return plan.name, opened

    def _unwrapped(self, plan: Plan, wrapped: bytes, aad: bytes) -> bytes:
        if plan.algorithm not in GCM:
            return self.hsm.unwrap(plan.material, plan.algorithm, wrapped)
        sealed = Sealed(
            wrapped[:IV_BYTES], wrapped[IV_BYTES:-TAG_BYTES], wrapped[-TAG_BYTES:]
        )
        return self.hsm.decrypt(plan.material, plan.algorithm, sealed, aad)

    def data_key(
        self,
        name: KeyName,
        version: str | None,
        algorithm: str,
        count: int,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
    ) -> tuple[str, Algorithm, bytes, bytes]:
        """Make a data key. Returns it in clear and wrapped, by A*GCM bound to context.

        Without an algorithm, one that fits the key and, if there is one, the context.
        """
        least, most = DATA_KEY_BYTES
        count = count or DATA_KEY_DEFAULT
        if not least <= count <= most:
            raise InvalidRequest(
                "a data key has {least} to {most} bytes, not {given}",
                least=least,
                most=most,
                given=count,
            )
        algorithm = algorithm or self._wrapping(name, context)
        plan = self.plans.plan(name, version, algorithm, Operation.WRAP_KEY)
        aad = wrapping_aad(plan, context)
        # Checked before anything is drawn: RSA keys wrap little.
        require_wrappable(plan, bytes(count))
        plaintext = self.hsm.random(count)
        return plan.name, plan.algorithm, plaintext, self._wrapped(plan, plaintext, aad)

    def random(self, count: int) -> bytes:
        """Bytes from the HSM's generator."""
        if not 1 <= count <= RANDOM_MAX:
            raise InvalidRequest(
                "count is 1 to {most}, not {given}", most=RANDOM_MAX, given=count
            )
        return self.hsm.random(count)

    def _wrapping(self, name: KeyName, context: Mapping[str, str]) -> str:
        spec = self.plans.held(name).key.record.spec
        if spec.type is KeyType.OCT:
            return f"A{spec.bits}{'GCM' if context else 'KW'}"
        # What cannot wrap is refused by the plan, which names what can.
        return Algorithm.RSA_OAEP_256
