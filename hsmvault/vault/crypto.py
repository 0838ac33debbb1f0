"""The use of keys: the hot path.

What can be decided once for a key, a version and an algorithm is decided once and kept
as a plan beside the key in the ring; it goes when the key changes. Dates are looked at
each time.
"""

from dataclasses import dataclass
from typing import Final

from hsmvault.model.algorithms import (
    Algorithm,
    KeyType,
    Operation,
    parse_algorithm,
    require_suits,
)
from hsmvault.model.errors import (
    CiphertextInvalid,
    InvalidRequest,
    KeyNotEnabled,
    NotFound,
    OperationNotPermitted,
    RegionBehind,
    TooLarge,
)
from hsmvault.model.lifecycle import KeyState, require_within_dates
from hsmvault.model.names import KeyName
from hsmvault.vault.memory import Memory
from hsmvault.vault.plan import (
    DATA_MAX,
    WRAP_MAX,
    Plan,
    require_aad,
    require_fits,
    require_wrappable,
    signable,
)
from hsmvault.vault.ports import Clock, Hsm, Sealed
from hsmvault.vault.ring import Held

SIGNATURE_MAX: Final = 1024
"""An RSA-4096 signature has 512 bytes."""
RANDOM_MAX: Final = 128
"""Azure Managed HSM's limit."""
DATA_KEY_BYTES: Final = (16, 512)
DATA_KEY_DEFAULT: Final = 32
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
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
    memory: Memory
    clock: Clock

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
        plan = self._plan(name, version, algorithm, Operation.SIGN)
        if data or not digest or len(digest) != plan.use.digest:
            digest = signable(plan, digest, data)
        return plan.name, self.hsm.sign(plan.material, plan.algorithm, digest)

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
        plan = self._plan(name, version, algorithm, Operation.VERIFY)
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
        plan = self._plan(name, version, algorithm, Operation.ENCRYPT)
        require_aad(plan, aad)
        require_fits(plan, plaintext, most=DATA_MAX)
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
        plan = self._plan(name, version, algorithm, Operation.DECRYPT)
        require_aad(plan, aad)
        if len(sealed.ciphertext) > DATA_MAX:
            raise TooLarge(
                "a ciphertext of {given} bytes is more than {most}",
                given=len(sealed.ciphertext),
                most=DATA_MAX,
            )
        lengths = (len(sealed.iv), len(sealed.tag))
        rsa = plan.material.spec.type is KeyType.RSA
        if lengths != ((0, 0) if rsa else (IV_BYTES, TAG_BYTES)) or (
            rsa and len(sealed.ciphertext) * 8 != plan.material.spec.bits
        ):
            raise CiphertextInvalid(_NOTHING, name=plan.name)
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
        plan = self._plan(
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
        self, name: KeyName, version: str | None, algorithm: str, plaintext: bytes
    ) -> tuple[str, bytes]:
        """Wrap the caller's key."""
        plan = self._plan(name, version, algorithm, Operation.WRAP_KEY)
        require_wrappable(plan, plaintext)
        return plan.name, self.hsm.wrap(plan.material, plan.algorithm, plaintext)

    def unwrap(
        self, name: KeyName, version: str | None, algorithm: str, wrapped: bytes
    ) -> tuple[str, bytes]:
        """Unwrap the caller's key, or raise CiphertextInvalid."""
        plan = self._plan(name, version, algorithm, Operation.UNWRAP_KEY)
        length = len(wrapped)
        if plan.material.spec.type is KeyType.RSA:
            fits = length * 8 == plan.material.spec.bits
        else:
            fits = length % 8 == 0 and 24 <= length <= WRAP_MAX + 8  # noqa: PLR2004
        if not fits:
            raise CiphertextInvalid(_NO_KEY, name=plan.name)
        try:
            opened = self.hsm.unwrap(plan.material, plan.algorithm, wrapped)
        except CiphertextInvalid as error:
            raise CiphertextInvalid(_NO_KEY, name=plan.name) from error
        return plan.name, opened

    def data_key(
        self, name: KeyName, version: str | None, algorithm: str, count: int
    ) -> tuple[str, Algorithm, bytes, bytes]:
        """Make a data key. Returns it in clear and wrapped."""
        least, most = DATA_KEY_BYTES
        count = count or DATA_KEY_DEFAULT
        if not least <= count <= most:
            raise InvalidRequest(
                "a data key has {least} to {most} bytes, not {given}",
                least=least,
                most=most,
                given=count,
            )
        algorithm = algorithm or self._wrapping(name)
        plan = self._plan(name, version, algorithm, Operation.WRAP_KEY)
        if plan.material.spec.type is KeyType.OCT and count % 8:
            raise InvalidRequest(
                "{algorithm} wraps multiples of 8 bytes, not {given}",
                algorithm=plan.algorithm,
                given=count,
            )
        # Checked before anything is drawn: RSA keys wrap little.
        require_fits(plan, bytes(count), most=most)
        plaintext = self.hsm.random(count)
        wrapped = self.hsm.wrap(plan.material, plan.algorithm, plaintext)
        return plan.name, plan.algorithm, plaintext, wrapped

    def random(self, count: int) -> bytes:
        """Bytes from the HSM's generator."""
        if not 1 <= count <= RANDOM_MAX:
            raise InvalidRequest(
                "count is 1 to {most}, not {given}", most=RANDOM_MAX, given=count
            )
        return self.hsm.random(count)

    def _plan(
        self, name: KeyName, version: str | None, algorithm: str, operation: Operation
    ) -> Plan:
        held = self._held(name)
        plan: Plan | None = held.plans.get((version, algorithm, operation))
        if plan is None:
            plan = self._decide(held, name, version, algorithm, operation)
            held.plans[version, algorithm, operation] = plan
        if plan.not_before_ms or plan.expire_ms:
            require_within_dates(
                operation,
                now_ms=self.clock(),
                not_before_ms=plan.not_before_ms,
                expire_ms=plan.expire_ms,
                name=name,
            )
        return plan

    def _held(self, name: KeyName) -> Held:
        held = self.memory.key(f"keys/{name.folded}")
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
        if operation not in key.operations:
            raise OperationNotPermitted(
                "{name} may not {operation}; its operations are {operations}",
                name=key.name,
                operation=operation,
                operations=", ".join(sorted(key.operations)),
            )
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
        )

    def _wrapping(self, name: KeyName) -> str:
        spec = self._held(name).key.record.spec
        if spec.type is KeyType.OCT:
            return f"A{spec.bits}KW"
        # What cannot wrap is refused by the plan, which names what can.
        return Algorithm.RSA_OAEP_256
