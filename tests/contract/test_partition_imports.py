"""What a partition promises of keys that come from outside: SoftHSM2 and the fake."""

import dataclasses
import secrets
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.model.errors import ImportSpent, KeyMaterialInvalid, LimitReached
from hsmvault.model.material import Blob, Generated
from tests.support.incoming import (
    blob,
    in_the_clear,
    outside,
    public_of,
    secret_of,
    wrapped,
)
from tests.support.partitions import SPECS, Pooled, Pools, at_rest

FAR = 1 << 50
REGIONS = ("north", "south")
P256 = KeySpec.of("EC")
P384 = KeySpec.of("EC", curve="P-384")
RSA = KeySpec.of("RSA", bits=2048)
AES = KeySpec.of("oct", bits=256)
HMAC = KeySpec.of("oct", bits=512)


def _proved_everywhere(pools: Pools, spec: KeySpec, made: Generated) -> None:
    """What was brought in works in a sibling, and travels like any other."""
    own, other = made.wrapped
    pools.sibling.self_test(at_rest(pools.north, spec, made.public_key, own))
    arrived = pools.south.rewrap(spec, made.public_key, other)
    pools.south.self_test(at_rest(pools.south, spec, made.public_key, arrived))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_key_in_the_clear_is_brought_in(pools: Pools, spec: KeySpec) -> None:
    key = outside(spec)

    made = pools.north.bring(
        secrets.token_hex(16), in_the_clear(spec, key), regions=REGIONS
    )

    assert made.public_key == public_of(key)
    _proved_everywhere(pools, spec, made)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_key_under_a_wrapping_key_is_brought_in(pools: Pools, spec: KeySpec) -> None:
    key, import_id = outside(spec), secrets.token_hex(16)
    wrapping_key = pools.north.begin_import(import_id, 2048, expire_ms=FAR)
    came = blob(wrapping_key, spec, key)
    if spec.type is KeyType.RSA:
        came = dataclasses.replace(came, public_key=b"")

    made = pools.north.finish_import(
        import_id, secrets.token_hex(16), came, regions=REGIONS
    )

    assert made.public_key == public_of(key)
    _proved_everywhere(pools, spec, made)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_a_wrapping_key_has_the_size_asked_for(pools: Pools, bits: int) -> None:
    key, import_id = outside(AES), secrets.token_hex(16)
    wrapping_key = pools.north.begin_import(import_id, bits, expire_ms=FAR)

    made = pools.north.finish_import(
        import_id,
        secrets.token_hex(16),
        blob(wrapping_key, AES, key),
        regions=["north"],
    )

    assert [w.region for w in made.wrapped] == ["north"]


def _tried(hsm: Pooled, spec: KeySpec, came: bytes, public_key: bytes = b"") -> str:
    """Bring `came` in as a key of this type; the reason why it is refused."""
    return _sent(hsm, spec, lambda key: wrapped(key, came), public_key)


def _sent(
    hsm: Pooled,
    spec: KeySpec,
    made: Callable[[bytes], bytes],
    public_key: bytes = b"",
) -> str:
    import_id = secrets.token_hex(16)
    wrapping_key = hsm.begin_import(import_id, 2048, expire_ms=FAR)
    came = Blob(spec, public_key, made(wrapping_key))
    with pytest.raises(KeyMaterialInvalid) as refused:
        hsm.finish_import(import_id, secrets.token_hex(16), came, regions=["north"])
    assert not hsm.holds_import(import_id)
    return str(refused.value)


def test_cr_08_a_key_of_another_type_than_it_is_said_to_be_is_refused(
    pools: Pools,
) -> None:
    hsm = pools.north
    rsa_key, ec_key, larger = outside(RSA), outside(P256), outside(P384)
    edwards = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    half = public_of(ec_key)

    _tried(hsm, P256, secret_of(rsa_key), half)
    _tried(hsm, RSA, secret_of(ec_key))
    _tried(hsm, P256, secret_of(larger), half)
    _tried(hsm, P256, secret_of(larger), public_of(larger))
    _tried(hsm, P256, secrets.token_bytes(32), half)
    _tried(hsm, RSA, secrets.token_bytes(200))
    _tried(hsm, P256, edwards, half)
    _tried(hsm, RSA, edwards)
    _tried(hsm, RSA, secret_of(outside(KeySpec.of("RSA", bits=3072))))


@pytest.mark.parametrize("spec", [AES, HMAC], ids=str)
@pytest.mark.parametrize("short", [1, 7, 8, 16])
def test_cr_08_an_oct_key_of_another_size_is_refused(
    pools: Pools, spec: KeySpec, short: int
) -> None:
    # KWP wraps 31 bytes as long as 32, and no token says how long a key is.
    _tried(pools.north, spec, secrets.token_bytes(spec.bits // 8 - short))
    _tried(pools.north, spec, secrets.token_bytes(spec.bits // 8 + short))


def test_cr_06_weak_rsa_keys_are_refused_by_what_the_token_shows(pools: Pools) -> None:
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
    cube = rsa.generate_private_key(3, 2048)

    _tried(pools.north, KeySpec(KeyType.RSA, 1024), secret_of(small))
    _tried(pools.north, RSA, secret_of(cube))


def test_a_key_that_does_not_belong_to_its_public_half_is_refused(
    pools: Pools,
) -> None:
    for spec in (P256, RSA):
        _tried(pools.north, spec, secret_of(outside(spec)), public_of(outside(spec, 1)))


def test_cr_10_what_is_cut_turned_or_empty_is_refused_and_the_partition_stays_well(
    pools: Pools,
) -> None:
    secret = secret_of(outside(RSA))
    hsm = pools.north

    def turned(place: int) -> Callable[[bytes], bytes]:
        def made(wrapping_key: bytes) -> bytes:
            came = bytearray(wrapped(wrapping_key, secret))
            came[place] ^= 1
            return bytes(came)

        return made

    for place in (0, 255, 256, -1):
        _sent(hsm, RSA, turned(place))
    for size in (0, 1, 255, 256, 264, 300):
        _sent(hsm, RSA, lambda key, size=size: wrapped(key, secret)[:size])  # type: ignore[misc]
    _sent(hsm, RSA, lambda key: wrapped(key, secret) + bytes(8))
    other = hsm.begin_import("f" * 32, 2048, expire_ms=FAR)
    _sent(hsm, RSA, lambda _: wrapped(other, secret))
    hsm.end_imports(["f" * 32], now_ms=0)
    hsm.bring(secrets.token_hex(16), in_the_clear(P256, outside(P256)), regions=REGIONS)


def test_cr_11_a_wrapping_key_opens_one_blob_once(pools: Pools) -> None:
    key, import_id = outside(AES), secrets.token_hex(16)
    came = blob(pools.north.begin_import(import_id, 2048, expire_ms=FAR), AES, key)
    version = secrets.token_hex(16)
    pools.north.finish_import(import_id, version, came, regions=["north"])

    with pytest.raises(ImportSpent):
        pools.north.finish_import(import_id, version, came, regions=["north"])


def test_a_wrapping_key_is_in_the_process_that_made_it_and_nowhere_else(
    pools: Pools,
) -> None:
    import_id = secrets.token_hex(16)
    came = blob(
        pools.north.begin_import(import_id, 2048, expire_ms=FAR), AES, outside(AES)
    )

    assert pools.north.holds_import(import_id)
    assert not pools.sibling.holds_import(import_id)
    with pytest.raises(ImportSpent):
        pools.sibling.finish_import(import_id, "0" * 32, came, regions=["north"])
    pools.north.end_imports([import_id], now_ms=0)


def test_wrapping_keys_end_when_they_expire(pools: Pools) -> None:
    early, late = secrets.token_hex(16), secrets.token_hex(16)
    pools.north.begin_import(early, 2048, expire_ms=1000)
    pools.north.begin_import(late, 2048, expire_ms=1001)

    pools.north.end_imports([], now_ms=1000)

    assert not pools.north.holds_import(early)
    assert pools.north.holds_import(late)
    pools.north.end_imports([late], now_ms=1000)


def test_no_more_imports_wait_than_the_partition_has_room_for(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsmvault.hsm.importing.IMPORTS_MAX", 2)
    monkeypatch.setattr("tests.support.fakes.IMPORTS_MAX", 2)
    ids = [secrets.token_hex(16) for _ in range(2)]
    for import_id in ids:
        pools.north.begin_import(import_id, 2048, expire_ms=FAR)

    with pytest.raises(LimitReached):
        pools.north.begin_import("e" * 32, 2048, expire_ms=FAR)

    pools.north.end_imports(ids, now_ms=0)
