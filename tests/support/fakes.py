"""Stand-ins that keep the promises of the vault's ports, held to them by test.

`FakeHsm` is a partition in Python. `tests/contract` runs one suite against it and
against a real token, so what passes with the fake is worth something.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from hsmvault.model.algorithms import CBC, CBC_PAD, Algorithm, Curve, KeySpec, KeyType
from hsmvault.model.errors import (
    CiphertextInvalid,
    DigestInvalid,
    ImportSpent,
    IntegrityFailure,
    InvalidRequest,
    KeyMaterialInvalid,
    LimitReached,
    RegionNotReady,
    WrappedKeyInvalid,
)
from hsmvault.model.invocations import Count, Reckoning
from hsmvault.model.log import Head
from hsmvault.model.material import Blob, Generated, Material, Plain, Sealed
from hsmvault.model.stored import KWP, WrappedKey, pair_key_name, region_key_name
from hsmvault.model.weakness import require_strong_rsa

Secret: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes

CURVES: Final[Mapping[Curve, ec.EllipticCurve]] = MappingProxyType(
    {
        Curve.P256: ec.SECP256R1(),
        Curve.P384: ec.SECP384R1(),
        Curve.P521: ec.SECP521R1(),
        Curve.P256K: ec.SECP256K1(),
    }
)
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
)


IMPORTS_MAX: Final = 64
_OAEP_SHA1: Final = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303  # what CKM_RSA_AES_KEY_WRAP means


class FakeCounters:
    """The counters of a region in memory: a CounterStore."""

    def __init__(self) -> None:
        """Count from nothing."""
        self._rows: dict[str, Count] = {}
        self._reckoned = Reckoning(0, 0, b"")
        self._lost_ms = 0

    def taken(self, version: str) -> Count | None:
        """How many were taken, with the MAC over it."""
        return self._rows.get(version)

    def advance(self, version: str, seen: int, count: Count) -> bool:
        """Count up from `seen`."""
        row = self._rows.get(version)
        if (row.taken if row else 0) != seen:
            return False
        self._rows[version] = count
        self._reckoned = replace(self._reckoned, generation=self.generation() + 1)
        return True

    def generation(self) -> int:
        """How often it counted."""
        return self._reckoned.generation

    def lost_ms(self) -> int:
        """When counts were found missing."""
        return self._lost_ms

    def survey(self, see: Callable[[Sequence[tuple[str, Count]]], object]) -> Reckoning:
        """Show all counts, and how they add up."""
        see(list(self._rows.items()))
        return self._reckoned

    def former(self) -> list[tuple[str, int, bytes]]:
        """No earlier release kept any."""
        return []

    def settle(
        self,
        reckoning: Reckoning,
        *,
        seen: int,
        lost_ms: int = 0,
        drop: Sequence[str] = (),
        add: Sequence[tuple[str, Count]] = (),
    ) -> bool:
        """Go on from a reckoning."""
        if self.generation() != seen:
            return False
        self._rows = {v: c for v, c in self._rows.items() if v not in drop} | dict(add)
        self._reckoned = reckoning
        self._lost_ms = max(lost_ms, self._lost_ms)
        return True


class FakeHsm:
    """A partition without a token: Hsm and PoolHsm in Python.

    Siblings and other regions share `keys`: region, pair and integrity keys by name.
    """

    def __init__(
        self,
        name: str = "p0",
        region: str = "north",
        keys: MutableMapping[str, bytes] | None = None,
        *,
        vault_id: str = "",
    ) -> None:
        """Install the region's own keys where they are missing."""
        self.name = name
        self.region = region
        self.vault_id = vault_id
        self.keys = {} if keys is None else keys
        for own in (region_key_name(region), f"integrity/{region}"):
            self.keys.setdefault(own, secrets.token_bytes(32))
        born = self.keys.setdefault(
            f"identity/{region}/{name}", secrets.token_bytes(31)
        )
        self.identity = ec.derive_private_key(int.from_bytes(born), ec.SECP256R1())
        self.anchor: Head | None = None
        self.generation = 0
        self.opened: dict[str, Secret] = {}
        self.imports: dict[str, tuple[rsa.RSAPrivateKey, int]] = {}

    def add_pair(self, other: str) -> None:
        """Install the pair keys to and from `other`, as a ceremony would."""
        for pair in self._pair_names(other):
            self.keys.setdefault(pair, secrets.token_bytes(32))

    @property
    def identity_public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER, of the identity key."""
        return _spki(self.identity.public_key())

    @property
    def open_keys(self) -> int:
        """How many key versions are open."""
        return len(self.opened)

    def oldest_call(self) -> float:
        """A fake never hangs."""
        return 0.0

    def overdue(self) -> bool:
        """A fake never hangs."""
        return False

    @property
    def profile(self) -> str:
        """It enforces nothing at all."""
        return "basic"

    # --- Hsm -----------------------------------------------------------------

    def generate(
        self, version: str, spec: KeySpec, *, regions: Sequence[str]
    ) -> Generated:
        """Make material and wrap it for each region."""
        secret = _generate(spec)
        return Generated(
            tuple(self._wrap_for(version, region, secret) for region in regions),
            b"" if isinstance(secret, bytes) else _spki(secret.public_key()),
        )

    def bring(self, version: str, plain: Plain, *, regions: Sequence[str]) -> Generated:
        """Bring in what came in the clear."""
        return self._bring(
            version, plain.spec, plain.public_key, plain.secret, regions=regions
        )

    def begin_import(self, import_id: str, bits: int, *, expire_ms: int) -> bytes:
        """Make a wrapping key."""
        if len(self.imports) >= IMPORTS_MAX:
            raise LimitReached("{most} imports wait here", most=IMPORTS_MAX)
        key = rsa.generate_private_key(65537, bits)
        self.imports[import_id] = key, expire_ms
        return _spki(key.public_key())

    def holds_import(self, import_id: str) -> bool:
        """Tell whether it is here."""
        return import_id in self.imports

    def finish_import(
        self, import_id: str, version: str, blob: Blob, *, regions: Sequence[str]
    ) -> Generated:
        """Open what came under it, once."""
        key, _ = self.imports.pop(import_id, (None, 0))
        if key is None:
            raise ImportSpent("imports/{id} is not here", id=import_id)
        size = key.key_size // 8
        try:
            carrier = key.decrypt(blob.wrapped[:size], _OAEP_SHA1)
            secret = keywrap.aes_key_unwrap_with_padding(carrier, blob.wrapped[size:])
        except (ValueError, keywrap.InvalidUnwrap) as error:
            raise KeyMaterialInvalid("the key does not open") from error
        return self._bring(version, blob.spec, blob.public_key, secret, regions=regions)

    def end_imports(self, import_ids: Sequence[str], *, now_ms: int) -> None:
        """Forget these, and all that expired."""
        for id_, (_, expire_ms) in list(self.imports.items()):
            if id_ in import_ids or expire_ms <= now_ms:
                del self.imports[id_]

    def self_test(self, material: Material) -> None:
        """Open it anew; the public half must be its own."""
        self._open_anew(material)

    def sign(self, material: Material, algorithm: Algorithm, digest: bytes) -> bytes:
        """Sign a digest; ECDSA answers raw r||s."""
        secret = self._open(material)
        if algorithm.startswith("HS"):
            assert isinstance(secret, bytes)
            return hmac.digest(secret, digest, f"sha{algorithm[-3:]}")
        if len(digest) != _hash(algorithm).digest_size:
            raise DigestInvalid("not a digest of {how}", how=algorithm)
        known = Prehashed(_hash(algorithm))
        if isinstance(secret, rsa.RSAPrivateKey):
            return secret.sign(digest, _padding(algorithm), known)
        if not isinstance(secret, ec.EllipticCurvePrivateKey):
            raise InvalidRequest("an oct key does not sign")
        size = (secret.key_size + 7) // 8
        r, s = decode_dss_signature(secret.sign(digest, ec.ECDSA(known)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    def verify(
        self, material: Material, algorithm: Algorithm, digest: bytes, signature: bytes
    ) -> bool:
        """Verify with the public half; an HMAC by making it again."""
        if algorithm.startswith("HS"):
            return hmac.compare_digest(
                self.sign(material, algorithm, digest), signature
            )
        self._open(material)
        known = Prehashed(_hash(algorithm))
        key = load_der_public_key(material.public_key)
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, digest, _padding(algorithm), known)
                return True
            assert isinstance(key, ec.EllipticCurvePublicKey)
            size = (key.key_size + 7) // 8
            if len(signature) != 2 * size:
                return False
            r, s = (int.from_bytes(p) for p in (signature[:size], signature[size:]))
            key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(known))
        except InvalidSignature:
            return False
        return True

    def encrypt(
        self, material: Material, algorithm: Algorithm, plaintext: bytes, aad: bytes
    ) -> Sealed:
        """Encrypt. iv and tag are empty for RSA."""
        secret = self._open(material)
        if isinstance(secret, rsa.RSAPrivateKey):
            return Sealed(b"", _rsa_encrypt(secret, algorithm, plaintext), b"")
        assert isinstance(secret, bytes)
        if algorithm in CBC | CBC_PAD:
            return _encrypt_cbc(secret, algorithm, plaintext)
        iv = secrets.token_bytes(12)
        sealed = AESGCM(secret).encrypt(iv, plaintext, aad)
        return Sealed(iv, sealed[:-16], sealed[-16:])

    def decrypt(
        self, material: Material, algorithm: Algorithm, sealed: Sealed, aad: bytes
    ) -> bytes:
        """Decrypt, or raise CiphertextInvalid."""
        secret = self._open(material)
        try:
            if isinstance(secret, rsa.RSAPrivateKey):
                return secret.decrypt(sealed.ciphertext, _encryption(algorithm))
            assert isinstance(secret, bytes)
            if algorithm in CBC | CBC_PAD:
                return _decrypt_cbc(secret, algorithm, sealed)
            if (len(sealed.iv), len(sealed.tag)) != (12, 16):
                raise CiphertextInvalid("the ciphertext does not decrypt")
            return AESGCM(secret).decrypt(
                sealed.iv, sealed.ciphertext + sealed.tag, aad
            )
        except (ValueError, InvalidTag) as error:
            raise CiphertextInvalid("the ciphertext does not decrypt") from error

    def wrap(self, material: Material, algorithm: Algorithm, plaintext: bytes) -> bytes:
        """Wrap the caller's bytes."""
        secret = self._open(material)
        if isinstance(secret, rsa.RSAPrivateKey):
            return _rsa_encrypt(secret, algorithm, plaintext)
        assert isinstance(secret, bytes)
        try:
            return keywrap.aes_key_wrap(secret, plaintext)
        except ValueError as error:
            raise InvalidRequest("A*KW wraps 16 bytes or more, in eights") from error

    def unwrap(self, material: Material, algorithm: Algorithm, wrapped: bytes) -> bytes:
        """Unwrap the caller's bytes, or raise CiphertextInvalid."""
        secret = self._open(material)
        try:
            if isinstance(secret, rsa.RSAPrivateKey):
                return secret.decrypt(wrapped, _encryption(algorithm))
            assert isinstance(secret, bytes)
            return keywrap.aes_key_unwrap(secret, wrapped)
        except (ValueError, keywrap.InvalidUnwrap) as error:
            raise CiphertextInvalid("the ciphertext does not decrypt") from error

    def random(self, count: int) -> bytes:
        """Return random bytes."""
        return secrets.token_bytes(count)

    def forget(self, versions: Sequence[str]) -> None:
        """Drop what is open of these versions."""
        for version in versions:
            self.opened.pop(version, None)

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        """MAC each statement with the region's integrity key."""
        key = self.keys[f"integrity/{self.region}"]
        return [hmac.digest(key, statement, "sha256") for statement in statements]

    def check_macs(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Check (statement, mac) pairs, or raise IntegrityFailure."""
        for (_, mac), wanted in zip(
            pairs, self.mac([statement for statement, _ in pairs]), strict=True
        ):
            if not hmac.compare_digest(mac, wanted):
                raise IntegrityFailure("a MAC in the store is not this region's")

    # --- PoolHsm -------------------------------------------------------------

    def rewrap(
        self, spec: KeySpec, public_key: bytes, wrapped: WrappedKey
    ) -> WrappedKey:
        """Open what came under a pair key and wrap it under the own region key."""
        sender = wrapped.wrapping_key.split("/")[1]
        if wrapped.wrapping_key != pair_key_name(sender, self.region):
            raise WrappedKeyInvalid("not wrapped for this region")
        secret = self._unwrap(spec, public_key, wrapped)
        return self._wrap_for(wrapped.version, self.region, secret)

    def seal(self, material: Material, region: str) -> WrappedKey:
        """Wrap an existing version for another region."""
        return self._wrap_for(material.version, region, self._open(material))

    def sign_statement(self, statement: bytes) -> bytes:
        """Sign with the identity key: raw r||s."""
        r, s = decode_dss_signature(
            self.identity.sign(statement, ec.ECDSA(hashes.SHA256()))
        )
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def drop_pair_keys(self, region: str) -> int:
        """Forget the pair keys to and from `region`."""
        present = [name for name in self._pair_names(region) if name in self.keys]
        for name in present:
            del self.keys[name]
        return len(present)

    def has_pair_keys(self, region: str) -> bool:
        """Tell whether both pair keys with `region` are here."""
        return all(name in self.keys for name in self._pair_names(region))

    def write_anchor(self, head: Head) -> None:
        """Remember the newest head; never goes back."""
        if self.anchor is None or head.position > self.anchor.position:
            self.anchor = head

    def read_anchor(self) -> Head | None:
        """Return the newest head."""
        return self.anchor

    def read_generation(self) -> int:
        """Return how far the counters had come."""
        return self.generation

    def write_generation(self, generation: int) -> None:
        """Remember how far they have come; never goes back."""
        self.generation = max(self.generation, generation)

    # --- for tests -----------------------------------------------------------

    def wrap_known(self, version: str, raw: bytes) -> WrappedKey:
        """Wrap bytes of the test's own making under the region key."""
        return self._wrap_for(version, self.region, raw)

    # --- inside --------------------------------------------------------------

    def _bring(
        self,
        version: str,
        spec: KeySpec,
        public_key: bytes,
        raw: bytes,
        *,
        regions: Sequence[str],
    ) -> Generated:
        if spec.type is KeyType.OCT:
            if len(raw) * 8 != spec.bits:
                raise KeyMaterialInvalid("the key has another size")
            secret: Secret = raw
        else:
            secret = _brought(spec, raw)
            if public_key not in {_spki(secret.public_key())} | (
                {b""} if spec.type is KeyType.RSA else set()
            ):
                raise KeyMaterialInvalid("the key has another public half")
            public_key = _spki(secret.public_key())
        return Generated(
            tuple(self._wrap_for(version, region, secret) for region in regions),
            public_key,
        )

    def _pair_names(self, other: str) -> tuple[str, str]:
        return pair_key_name(self.region, other), pair_key_name(other, self.region)

    def _wrap_for(self, version: str, region: str, secret: Secret) -> WrappedKey:
        own = region == self.region
        name = region_key_name(region) if own else pair_key_name(self.region, region)
        if name not in self.keys:
            raise RegionNotReady(
                "partition {partition} has no pair key towards region {region}",
                partition=self.name,
                region=region,
            )
        raw = secret if isinstance(secret, bytes) else _pkcs8(secret)
        wrapped = keywrap.aes_key_wrap_with_padding(self.keys[name], raw)
        return WrappedKey(version, region, name, KWP, wrapped)

    def _open(self, material: Material) -> Secret:
        known = self.opened.get(material.version)
        if known is not None:
            return known
        secret = self._open_anew(material)
        self.opened[material.version] = secret
        return secret

    def _open_anew(self, material: Material) -> Secret:
        wrapped = material.wrapped
        if (wrapped.version, wrapped.region, wrapped.wrapping_key) != (
            material.version,
            self.region,
            region_key_name(self.region),
        ):
            raise WrappedKeyInvalid("the wrapped key is another's")
        self.check_macs([(wrapped.statement(self.vault_id), material.mac)])
        return self._unwrap(material.spec, material.public_key, wrapped)

    def _unwrap(self, spec: KeySpec, public_key: bytes, wrapped: WrappedKey) -> Secret:
        name = wrapped.wrapping_key
        if name not in self.keys:
            raise RegionNotReady("no key {name}", name=name)
        try:
            raw = keywrap.aes_key_unwrap_with_padding(self.keys[name], wrapped.wrapped)
            if spec.type is KeyType.OCT:
                if len(raw) * 8 != spec.bits:
                    raise WrappedKeyInvalid("the wrapped key has another size")
                return raw
            key = load_der_private_key(raw, None)
        except (ValueError, keywrap.InvalidUnwrap) as error:
            raise WrappedKeyInvalid("the wrapped key does not open") from error
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        if _spki(key.public_key()) != public_key:
            raise WrappedKeyInvalid("the wrapped key has another public half")
        return key


def _brought(
    spec: KeySpec, raw: bytes
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_der_private_key(raw, None)
    except ValueError as error:
        raise KeyMaterialInvalid("the key does not open as such") from error
    if isinstance(key, rsa.RSAPrivateKey) and spec.type is KeyType.RSA:
        numbers = key.public_key().public_numbers()
        require_strong_rsa(numbers.n, numbers.e)
        if key.key_size == spec.bits:
            return key
    if (
        isinstance(key, ec.EllipticCurvePrivateKey)
        and spec.curve is not None
        and key.curve.name == CURVES[spec.curve].name
    ):
        return key
    raise KeyMaterialInvalid("the key is not of type {spec}", spec=spec)


def _generate(spec: KeySpec) -> Secret:
    if spec.type is KeyType.RSA:
        return rsa.generate_private_key(65537, spec.bits)
    if spec.curve is not None:
        return ec.generate_private_key(CURVES[spec.curve])
    return secrets.token_bytes(spec.bits // 8)


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _hash(algorithm: Algorithm) -> hashes.HashAlgorithm:
    return _HASHES[algorithm.value.removesuffix("K")[2:]]


def _padding(algorithm: Algorithm) -> padding.PKCS1v15 | padding.PSS:
    known = _hash(algorithm)
    if algorithm.value.startswith("PS"):
        return padding.PSS(padding.MGF1(known), known.digest_size)
    return padding.PKCS1v15()


def _encryption(algorithm: Algorithm) -> padding.OAEP | padding.PKCS1v15:
    # OpenSSL answers bad PKCS #1 v1.5 by implicit rejection, as partitions do.
    if algorithm is Algorithm.RSA1_5:
        return padding.PKCS1v15()
    known: hashes.HashAlgorithm = (
        hashes.SHA256() if algorithm is Algorithm.RSA_OAEP_256 else hashes.SHA1()  # noqa: S303  # RFC 7518 4.3 fixes it for RSA-OAEP
    )
    return padding.OAEP(padding.MGF1(known), known, None)


def _encrypt_cbc(secret: bytes, algorithm: Algorithm, data: bytes) -> Sealed:
    if algorithm in CBC_PAD:
        padder = PKCS7(128).padder()
        data = padder.update(data) + padder.finalize()
    if not data or len(data) % 16:
        raise InvalidRequest("CBC encrypts whole blocks")
    iv = secrets.token_bytes(16)
    step = Cipher(AES(secret), modes.CBC(iv)).encryptor()
    return Sealed(iv, step.update(data) + step.finalize(), b"")


def _decrypt_cbc(secret: bytes, algorithm: Algorithm, sealed: Sealed) -> bytes:
    if sealed.tag or not sealed.ciphertext:
        raise CiphertextInvalid("the ciphertext does not decrypt")
    step = Cipher(AES(secret), modes.CBC(sealed.iv)).decryptor()
    data = step.update(sealed.ciphertext) + step.finalize()
    if algorithm in CBC_PAD:
        unpadder = PKCS7(128).unpadder()
        data = unpadder.update(data) + unpadder.finalize()
    return data


def _rsa_encrypt(
    secret: rsa.RSAPrivateKey, algorithm: Algorithm, plaintext: bytes
) -> bytes:
    try:
        return secret.public_key().encrypt(plaintext, _encryption(algorithm))
    except ValueError as error:
        raise InvalidRequest("the plaintext is too long for this key") from error
