"""One HSM partition: makes, opens and uses keys. The vault's `Hsm` and `PoolHsm`.

Nothing leaves it but public keys, wrapped keys, and results. Every method is safe to
call from any thread; what a method needs of the token runs in one leased session.
"""

from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from hsmvault.hsm import cbc, ciphers, generating, public
from hsmvault.hsm.core import Core, PartitionConfig
from hsmvault.hsm.importing import Imports
from hsmvault.hsm.mechanisms import KW, MACS, OAEP, RSA, SIGNING, Signing
from hsmvault.hsm.opened import destroy
from hsmvault.hsm.opening import check, open_material, opened
from hsmvault.hsm.pooling import Pooling
from hsmvault.hsm.proving import sign, works
from hsmvault.hsm.session import GENERATION_SECONDS, Doing, Session
from hsmvault.hsm.templates import Purpose, first_purpose
from hsmvault.model.algorithms import CBC, CBC_PAD, GCM, Algorithm, KeySpec, KeyType
from hsmvault.model.errors import (
    AlgorithmUnsupported,
    CiphertextInvalid,
    DigestInvalid,
    InvalidRequest,
    WrappedKeyInvalid,
)
from hsmvault.model.material import Blob, Generated, Material, Plain, Sealed

_RANDOM_MOST: Final = 1 << 20
# C_GenerateRandom takes what it is asked for; a slip must not ask for gigabytes.
_CHAINED: Final = CBC | CBC_PAD


class Partition(Pooling):
    """An open partition. One per process: a token and its login are the process's."""

    def __init__(self, core: Core, *, vault_id: str = "") -> None:
        super().__init__(core)
        core.vault_id = vault_id
        self._imports: Final = Imports(core)

    @classmethod
    def open(
        cls,
        config: PartitionConfig,
        *,
        vault_id: str = "",
        on_lost: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Load the module, log in, and check every installed key, or raise.

        ConfigurationError: module, token or key is missing. PinRejected: the PIN was
        wrong, and tried once. ForeignToken: another token. TemplateViolated: a key in
        the token is not as its ceremony made it. `on_lost` is called once, with the
        problem, when the device fails later on: the process is to end itself.
        """
        return cls(Core(config, on_lost=on_lost), vault_id=vault_id)

    @property
    def name(self) -> str:
        return self._core.config.name

    @property
    def vault_id(self) -> str:
        """Under whose name MACs are made. Set it once the region has a vault."""
        return self._core.vault_id

    @vault_id.setter
    def vault_id(self, vault_id: str) -> None:
        self._core.vault_id = vault_id

    @property
    def profile(self) -> str:
        """What the token enforces: hardened, officer-trusted or basic."""
        return self._core.profile.named

    @property
    def open_keys(self) -> int:
        """How many user keys are open now."""
        return self._core.sessions.open_keys

    @property
    def sessions(self) -> int:
        """How many sessions it has with the token."""
        return len(self._core.sessions)

    @property
    def idle_sessions(self) -> int:
        """How many of them do nothing now."""
        return self._core.sessions.idle

    def oldest_call(self) -> float:
        """Age in seconds of the oldest HSM call in flight; 0.0 when there is none."""
        return self._core.sessions.oldest_call()

    def overdue(self) -> bool:
        """Tell whether a call in flight has outlived its limit: the HSM hangs."""
        return self._core.sessions.overdue()

    # --- making --------------------------------------------------------------

    def generate(
        self, version: str, spec: KeySpec, *, regions: Sequence[str]
    ) -> Generated:
        limit = GENERATION_SECONDS
        return self._core.run(
            lambda session: generating.generate(
                self._core, session, version, spec, regions
            ),
            limit=limit,
        )

    def self_test(self, material: Material) -> None:
        def work(session: Session) -> None:
            key = open_material(
                self._core, session, material, first_purpose(material.spec)
            )
            session.doing = Doing.OPENING
            try:
                if not works(session, key, material.spec, material.public_key):
                    raise WrappedKeyInvalid(
                        "a stored wrapped key opens, and does not work"
                    )
            finally:
                destroy(key)

        self._core.run(work, doing=Doing.OPENING)

    # --- bringing in ---------------------------------------------------------

    def bring(self, version: str, plain: Plain, *, regions: Sequence[str]) -> Generated:
        return self._imports.bring(version, plain, regions=regions)

    def begin_import(self, import_id: str, bits: int, *, expire_ms: int) -> bytes:
        return self._imports.begin(import_id, bits, expire_ms=expire_ms)

    def holds_import(self, import_id: str) -> bool:
        return self._imports.holds(import_id)

    def finish_import(
        self, import_id: str, version: str, blob: Blob, *, regions: Sequence[str]
    ) -> Generated:
        return self._imports.finish(import_id, version, blob, regions=regions)

    def end_imports(self, import_ids: Sequence[str], *, now_ms: int) -> None:
        self._imports.end(import_ids, now_ms=now_ms)

    # --- signing -------------------------------------------------------------

    def sign(self, material: Material, algorithm: Algorithm, digest: bytes) -> bytes:
        if algorithm in MACS:
            return self._mac(material, algorithm, digest)
        how = _signing(algorithm, digest)

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.SIGN)
            signature = sign(key.key, how, digest)
            half = key.public
            # A fault in the CRT of one RSA signature gives the key away.
            if half is not None and not public.verify(half, how, digest, signature):
                session.opened.drop(material.version)
                raise WrappedKeyInvalid(
                    "the partition made a signature that does not verify; it was "
                    "not given out"
                )
            return signature

        return self._core.run(work)

    def verify(
        self, material: Material, algorithm: Algorithm, digest: bytes, signature: bytes
    ) -> bool:
        if algorithm in MACS:
            made = self._mac(material, algorithm, digest)
            # Here, not by C_Verify: tokens do not promise to compare in constant time.
            return compare_digest(made, signature)
        how = _signing(algorithm, digest)
        if not material.public_key:
            raise AlgorithmUnsupported("an oct key has no public half to verify with")
        return public.verify(public.load(material.public_key), how, digest, signature)

    def _mac(self, material: Material, algorithm: Algorithm, data: bytes) -> bytes:
        if material.spec.type is not KeyType.OCT:
            raise AlgorithmUnsupported(
                "{algorithm} needs an oct key", algorithm=algorithm
            )

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.SIGN)
            return ciphers.mac(key.key, algorithm, data)

        return self._core.run(work)

    # --- encrypting ----------------------------------------------------------

    def encrypt(
        self, material: Material, algorithm: Algorithm, plaintext: bytes, aad: bytes
    ) -> Sealed:
        if algorithm in RSA:
            return Sealed(b"", self._encrypt_rsa(material, algorithm, plaintext), b"")
        if algorithm in _CHAINED:
            return self._encrypt_cbc(material, algorithm, plaintext)
        _require(algorithm, algorithm in GCM, "encrypt")

        def work(session: Session) -> Sealed:
            key = opened(self._core, session, material, Purpose.CIPHER)
            return ciphers.encrypt_gcm(session, key.key, plaintext, aad)

        return self._core.run(work)

    def _encrypt_cbc(
        self, material: Material, algorithm: Algorithm, plaintext: bytes
    ) -> Sealed:
        cbc.require_blocks(algorithm, plaintext)

        def work(session: Session) -> Sealed:
            key = opened(self._core, session, material, Purpose.CBC)
            return cbc.encrypt(session, key.key, algorithm, plaintext)

        return self._core.run(work)

    def decrypt(
        self, material: Material, algorithm: Algorithm, sealed: Sealed, aad: bytes
    ) -> bytes:
        if algorithm in RSA:
            return self._decrypt_rsa(material, algorithm, sealed.ciphertext)
        if algorithm in _CHAINED:
            return self._decrypt_cbc(material, algorithm, sealed)
        _require(algorithm, algorithm in GCM, "decrypt")
        ciphers.require_gcm(sealed)

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.CIPHER)
            return ciphers.decrypt_gcm(key.key, sealed, aad)

        return self._core.run(work, doing=Doing.DECRYPTING)

    def _decrypt_cbc(
        self, material: Material, algorithm: Algorithm, sealed: Sealed
    ) -> bytes:
        cbc.require_sealed(sealed)

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.CBC)
            return cbc.decrypt(key.key, algorithm, sealed)

        return self._core.run(work, doing=Doing.DECRYPTING)

    def wrap(self, material: Material, algorithm: Algorithm, plaintext: bytes) -> bytes:
        if algorithm in RSA:
            return self._encrypt_rsa(material, algorithm, plaintext)
        _require(algorithm, algorithm in KW, "wrap")
        ciphers.require_kw(plaintext)

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.WRAP)
            return ciphers.wrap_kw(session, key.key, plaintext)

        return self._core.run(work)

    def unwrap(self, material: Material, algorithm: Algorithm, wrapped: bytes) -> bytes:
        if algorithm in RSA:
            return self._decrypt_rsa(material, algorithm, wrapped)
        _require(algorithm, algorithm in KW, "unwrap")
        ciphers.require_kw_wrapped(wrapped)

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.WRAP)
            return ciphers.unwrap_kw(key.key, wrapped)

        return self._core.run(work, doing=Doing.DECRYPTING)

    def _encrypt_rsa(
        self, material: Material, algorithm: Algorithm, plaintext: bytes
    ) -> bytes:
        half = _rsa_half(material, algorithm)
        hashed = OAEP[algorithm].known if algorithm in OAEP else None
        return public.encrypt(half, hashed, plaintext)

    def _decrypt_rsa(
        self, material: Material, algorithm: Algorithm, ciphertext: bytes
    ) -> bytes:
        half = _rsa_half(material, algorithm)
        below = int.from_bytes(ciphertext, "big") < half.public_numbers().n
        # Anybody can tell this of a ciphertext, so it says nothing (RFC 8017, 5.1.2).
        if len(ciphertext) * 8 != half.key_size or not below:
            raise CiphertextInvalid("the ciphertext does not decrypt")

        def work(session: Session) -> bytes:
            key = opened(self._core, session, material, Purpose.CIPHER)
            if algorithm is Algorithm.RSA1_5:
                return ciphers.decrypt_pkcs1(key, ciphertext, material.public_key)
            return ciphers.decrypt_oaep(self._core, key.key, algorithm, ciphertext)

        return self._core.run(work, doing=Doing.DECRYPTING)

    # --- the rest ------------------------------------------------------------

    def random(self, count: int) -> bytes:
        if not 1 <= count <= _RANDOM_MOST:
            raise InvalidRequest(
                "{count} random bytes; ask for 1 to {most}",
                count=count,
                most=_RANDOM_MOST,
            )
        return self._core.run(lambda s: bytes(s.raw.generate_random(count * 8)))

    def forget(self, versions: Sequence[str]) -> None:
        self._core.sessions.forget(versions)

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        return self._core.run(
            lambda session: [self._core.mac(session, s) for s in statements]
        )

    def check_macs(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self._core.run(lambda session: check(self._core, session, pairs))


def _signing(algorithm: Algorithm, digest: bytes) -> Signing:
    how = SIGNING.get(algorithm)
    if how is None:
        raise AlgorithmUnsupported("{algorithm} does not sign", algorithm=algorithm)
    if len(digest) != how.digest:
        raise DigestInvalid(
            "{algorithm} signs a digest of {wanted} bytes, not {given}",
            algorithm=algorithm,
            wanted=how.digest,
            given=len(digest),
        )
    return how


def _require(algorithm: Algorithm, suits: bool, operation: str) -> None:  # noqa: FBT001
    if not suits:
        raise AlgorithmUnsupported(
            "{algorithm} does not {operation}",
            algorithm=algorithm,
            operation=operation,
        )


def _rsa_half(material: Material, algorithm: Algorithm) -> RSAPublicKey:
    half = public.load(material.public_key) if material.public_key else None
    if not isinstance(half, RSAPublicKey):
        raise AlgorithmUnsupported("{algorithm} needs an RSA key", algorithm=algorithm)
    return half
