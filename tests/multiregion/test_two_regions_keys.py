"""Keys in two regions that run: real tokens, processes, links and databases.

What is made, changed or ended in `north` is so in `south`, and `south` never holds
anything that another region's keys, or nobody's, would open.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Final

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.model.log import Position
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Durability, Key, KeyVersion
from tests.support import outside
from tests.support.callers import (
    HASHES,
    SECONDS,
    Callers,
    create,
    key,
    populated_vault,
    reached,
    refusals,
    sign,
    verifies,
)
from tests.support.cut import cut_off
from tests.support.regions import LiveRegion
from tests.support.served import refusal

pytestmark = pytest.mark.softhsm

KINDS: Final[Mapping[str, tuple[str, int, str]]] = MappingProxyType(
    {
        "rsa-4096": ("RSA", 4096, ""),
        "rsa-3072": ("RSA", 3072, ""),
        "rsa-2048": ("RSA", 2048, ""),
        "p-256": ("EC", 0, "P-256"),
        "p-384": ("EC", 0, "P-384"),
        "p-521": ("EC", 0, "P-521"),
        "p-256k": ("EC", 0, "P-256K"),
        "oct-128": ("oct", 128, ""),
        "oct-192": ("oct", 192, ""),
        "oct-256": ("oct", 256, ""),
    }
)
"""Every type and size of key. The longest to make comes first."""

SIGNING: Final = [
    *(("rsa-2048", f"{how}{bits}") for how in ("RS", "PS") for bits in (256, 384, 512)),
    ("rsa-3072", "PS384"),
    ("rsa-4096", "RS512"),
    ("p-256", "ES256"),
    ("p-384", "ES384"),
    ("p-521", "ES512"),
    ("p-256k", "ES256K"),
]
CIPHERS: Final = [
    *((f"oct-{bits}", f"A{bits}GCM") for bits in (128, 192, 256)),
    *((f"rsa-{bits}", "RSA-OAEP-256") for bits in (2048, 3072, 4096)),
    ("rsa-2048", "RSA-OAEP"),
]
WRAPPING: Final = [
    *((f"oct-{bits}", f"A{bits}KW") for bits in (128, 192, 256)),
    ("rsa-2048", "RSA-OAEP-256"),
]
PLAIN: Final = b"no copy of this sentence may rest in any region's database"

REFUSED: Final = (grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_ENABLED")
ABSENT: Final = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("keys"), "south") as callers:
        yield callers


@pytest.fixture
def north(call: Callers) -> LiveRegion:
    return call.vault.north


@pytest.fixture
def south(call: Callers) -> LiveRegion:
    return call.vault.region("south")


@pytest.fixture(scope="module")
def made(call: Callers) -> Mapping[str, Key]:
    """A key of each kind, made in `north`, all at a time."""

    def make(kind: str) -> Key:
        type_, bits, curve = KINDS[kind]
        return create(call(), kind, type_, bits=bits, curve=curve)

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(KINDS, pool.map(make, KINDS), strict=True))


# --- every kind of key, in both regions -------------------------------------------


@pytest.mark.parametrize(("kind", "algorithm"), SIGNING)
def test_a_key_of_north_signs_in_south_as_at_home(
    call: Callers, made: Mapping[str, Key], kind: str, algorithm: str
) -> None:
    digest = bytes(range(HASHES[algorithm.removesuffix("K")[-3:]].digest_size))
    name, at = made[kind].name, made[kind].position
    public = call().keys.GetPublicKey(
        keys.GetPublicKeyRequest(name=name), timeout=SECONDS
    )

    there = sign(call(region="south"), name, algorithm, digest, at=at)
    here = sign(call(), name, algorithm, digest)

    assert (there.served.region, here.served.region) == ("south", "north")
    assert there.name == here.name == made[kind].current_version
    assert verifies(public.der, algorithm, digest, there.signature)
    assert verifies(public.der, algorithm, digest, here.signature)
    for signed, region in ((there, "north"), (here, "south")):
        verified = call(region=region).crypto.Verify(
            crypto.VerifyRequest(
                name=name,
                algorithm=algorithm,
                digest=digest,
                signature=signed.signature,
            ),
            timeout=SECONDS,
        )
        assert verified.valid


@pytest.mark.parametrize(("kind", "algorithm"), CIPHERS)
@pytest.mark.parametrize("direction", [("north", "south"), ("south", "north")])
def test_what_one_region_encrypts_the_other_decrypts(
    call: Callers,
    made: Mapping[str, Key],
    kind: str,
    algorithm: str,
    direction: tuple[str, str],
) -> None:
    there, here = (call(region=region) for region in direction)
    aad = b"about it" if algorithm.endswith("GCM") else b""

    sealed = there.crypto.Encrypt(
        crypto.EncryptRequest(
            name=made[kind].name,
            algorithm=algorithm,
            plaintext=PLAIN,
            additional_authenticated_data=aad,
        ),
        timeout=SECONDS,
        metadata=reached(made[kind].position),
    )
    opened = here.crypto.Decrypt(
        crypto.DecryptRequest(
            name=sealed.name,
            algorithm=algorithm,
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
            additional_authenticated_data=aad,
        ),
        timeout=SECONDS,
        metadata=reached(made[kind].position),
    )

    assert opened.plaintext == PLAIN
    assert (sealed.served.region, opened.served.region) == direction


@pytest.mark.parametrize(("kind", "algorithm"), WRAPPING)
def test_a_data_key_of_north_is_unwrapped_in_south(
    call: Callers, made: Mapping[str, Key], kind: str, algorithm: str
) -> None:
    data = call().crypto.GenerateDataKey(
        crypto.GenerateDataKeyRequest(name=made[kind].name, algorithm=algorithm),
        timeout=SECONDS,
    )

    opened = call(region="south").crypto.UnwrapKey(
        crypto.UnwrapKeyRequest(
            name=data.name, algorithm=data.algorithm, wrapped=data.wrapped
        ),
        timeout=SECONDS,
        metadata=reached(made[kind].position),
    )

    assert opened.plaintext == data.plaintext
    assert len(data.plaintext) == 32


# --- what rests in the databases --------------------------------------------------


def test_what_rests_in_south_is_wrapped_by_its_own_key_alone(
    call: Callers, made: Mapping[str, Key], north: LiveRegion, south: LiveRegion
) -> None:
    late = create(call(), "rests", durability=Durability(all_regions=True))

    resting = outside.wrapped_rows(south)
    sent = [row for row in outside.wrapped_rows(north) if row.region == "south"]
    own = [row for row in outside.wrapped_rows(north) if row.region != "south"]

    assert {(row.region, row.wrapping_key) for row in resting} == {
        ("south", "region/south")
    }
    assert {row.wrapping_key for row in sent} == {"pair/north/south"}
    assert {(row.region, row.wrapping_key) for row in own} == {
        ("north", "region/north")
    }
    # All that north has, south has, and each of them wrapped anew.
    ids = {row.version for row in resting}
    assert ids == {row.version for row in own} == {row.version for row in sent}
    for one in (*made.values(), late):
        assert one.current_version.rpartition("/")[2] in ids
    assert not {row.wrapped for row in resting} & {row.wrapped for row in sent}


@pytest.mark.parametrize("where", ["north", "south"])
def test_no_database_holds_key_material_in_the_clear(
    call: Callers, made: Mapping[str, Key], where: str
) -> None:
    """Not as PKCS#8, and not as bare bytes: each window of bytes is tried as a key."""
    region = call.vault.region(where)
    at = reached(max((one.position for one in made.values()), key=Position.parse))
    half = call(region=where).keys.GetPublicKey(
        keys.GetPublicKeyRequest(name=made["rsa-2048"].name),
        timeout=SECONDS,
        metadata=at,
    )
    sealed = call(region=where).crypto.Encrypt(
        crypto.EncryptRequest(
            name=made["oct-256"].name, algorithm="A256GCM", plaintext=PLAIN
        ),
        timeout=SECONDS,
        metadata=at,
    )
    data = call(region=where).crypto.GenerateDataKey(
        crypto.GenerateDataKeyRequest(name=made["oct-128"].name),
        timeout=SECONDS,
        metadata=at,
    )

    raw = outside.bytes_at_rest(region)

    assert made["rsa-2048"].name.encode() in raw
    assert outside.private_keys_in(raw) == []
    pins = [region.layout.pin(p).read_bytes().strip() for p in PARTITIONS]
    for secret in (data.plaintext, PLAIN, *pins):
        assert not outside.spellings_in(raw, secret)
    assert not outside.anywhere(
        region, lambda value: outside.prime_factor_in(value, half.der)
    )
    assert not outside.anywhere(
        region,
        lambda value: outside.gcm_key_in(
            value, bits=256, iv=sealed.iv, plain=PLAIN, sealed=sealed.ciphertext
        ),
    )


def test_the_search_for_key_material_finds_it_where_it_is() -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    prime = private.private_numbers().q.to_bytes(128)
    written = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    assert outside.private_keys_in(b"before" + written) == ["an RSA key in PKCS#8"]
    assert outside.prime_factor_in(b"before" + written, public)
    assert outside.prime_factor_in(b"before" + prime + b"after", public)
    assert not outside.prime_factor_in(b"before" + public + b"after" * 50, public)
    # NIST's vector for AES-256-GCM of zeros under a key of zeros.
    known = bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18")
    zeros = bytes(16)
    found = outside.gcm_key_in(
        b"before" + bytes(32) + b"after",
        bits=256,
        iv=bytes(12),
        plain=zeros,
        sealed=known,
    )
    assert found


# --- the life of keys -------------------------------------------------------------


def test_a_key_that_was_disabled_is_refused_at_once_on_every_partition(
    call: Callers,
) -> None:
    name = create(call(), "disabled").name
    for caller in call.everywhere():
        assert sign(caller, name).signature

    off = enable(call, name, enabled=False)

    # Whoever had it open, and wherever it is asked: the first request is refused.
    for told in refusals(call.everywhere(), lambda caller: sign(caller, name)):
        assert told[:2] == REFUSED
        assert "hsmvault key update --enable" in told[2]
    for told in refusals(
        call.everywhere(region="south"),
        lambda caller: sign(caller, name, at=off.position),
    ):
        assert told[:2] == REFUSED

    on = enable(call, name, enabled=True)
    for region in ("north", "south"):
        for caller in call.everywhere(region=region):
            assert sign(caller, name, at=on.position).signature


def test_one_version_that_was_disabled_is_refused_in_both_regions(
    call: Callers,
) -> None:
    first = create(call(), "half-off").current_version
    second = rotate(call, "keys/half-off").name

    off = call().keys.UpdateKeyVersion(
        keys.UpdateKeyVersionRequest(
            key_version=KeyVersion(name=first, enabled=False),
            update_mask=FieldMask(paths=["enabled"]),
        ),
        timeout=SECONDS,
    )

    for region in ("north", "south"):
        callers = call.everywhere(region=region)
        for told in refusals(callers, lambda c: sign(c, first, at=off.position)):
            assert told[:2] == REFUSED
        for caller in callers:
            assert sign(caller, second, at=off.position).name == second


def test_a_version_that_south_lacks_is_made_current_by_force(
    call: Callers, south: LiveRegion
) -> None:
    first = create(call(), "forced", durability=Durability(all_regions=True))
    with cut_off(south):
        second = call().keys.RotateKey(
            keys.RotateKeyRequest(name=first.name), timeout=SECONDS
        )
        request = keys.ActivateKeyVersionRequest(name=second.name)
        told = refusal(lambda: call().keys.ActivateKeyVersion(request, timeout=SECONDS))
        request.force = True
        done = call().keys.ActivateKeyVersion(request, timeout=SECONDS)

        assert (told[1], list(done.lacking_regions)) == (
            "VERSIONS_PENDING",
            ["regions/south"],
        )
        assert sign(call(), first.name).name == second.name
        assert sign(call(region="south"), first.name).name == first.current_version

    # South has the version before it hears that it is current: one log.
    assert key(call(region="south"), first.name, at=done.position).current_version == (
        second.name
    )
    assert sign(call(region="south"), first.name).name == second.name


def test_a_new_version_is_pending_until_south_holds_it(
    call: Callers, south: LiveRegion
) -> None:
    first = create(call(), "rotated", durability=Durability(all_regions=True))
    with cut_off(south):
        second = call().keys.RotateKey(
            keys.RotateKeyRequest(name=first.name), timeout=SECONDS
        )

        assert second.state == KeyVersion.PENDING
        assert not second.current
        assert sorted(second.regions) == ["regions/north", "regions/south"]
        # The former version stays current; the new one is there for who names it.
        assert key(call(), first.name).current_version == first.current_version
        assert sign(call(), first.name).name == first.current_version
        assert sign(call(), second.name).name == second.name
        assert sign(call(region="south"), first.name).name == first.current_version

    until_current(call, second.name)
    for region in ("north", "south"):
        caller = call(region=region)
        at = key(call(), first.name).position
        assert key(caller, first.name, at=at).current_version == second.name
        assert sign(caller, first.name).name == second.name
        assert sign(caller, first.current_version).name == first.current_version
        versions = caller.keys.ListKeyVersions(
            keys.ListKeyVersionsRequest(parent=first.name), timeout=SECONDS
        ).key_versions
        assert [v.name for v in versions] == [first.current_version, second.name]
        assert {v.state for v in versions} == {KeyVersion.ACTIVE}


def test_what_a_former_version_encrypted_is_decrypted_after_rotation(
    call: Callers,
) -> None:
    made = create(call(), "rotated-cipher", "oct", bits=256)
    sealed = call().crypto.Encrypt(
        crypto.EncryptRequest(name=made.name, algorithm="A256GCM", plaintext=PLAIN),
        timeout=SECONDS,
    )

    rotate(call, made.name)

    at = key(call(), made.name).position
    for region in ("north", "south"):
        opened = call(region=region).crypto.Decrypt(
            crypto.DecryptRequest(
                name=sealed.name,
                algorithm="A256GCM",
                ciphertext=sealed.ciphertext,
                iv=sealed.iv,
                tag=sealed.tag,
            ),
            timeout=SECONDS,
            metadata=reached(at),
        )
        assert opened.plaintext == PLAIN


def test_a_deleted_key_is_refused_in_both_regions_and_comes_back_in_both(
    call: Callers,
) -> None:
    made = create(call(), "comes-back")
    before = key(call(), made.name)
    gone = call().keys.DeleteKey(keys.DeleteKeyRequest(name=made.name), timeout=SECONDS)

    assert gone.state == Key.DELETED
    for region in ("north", "south"):
        callers = call.everywhere(region=region)
        for told in refusals(callers, lambda c: sign(c, made.name, at=gone.position)):
            assert told[:2] == REFUSED
            assert "hsmvault key recover" in told[2]
        for told in refusals(callers, lambda c: key(c, made.name)):
            assert told[:2] == ABSENT
    told = refusal(lambda: create(call(), "comes-back"))
    assert told[:2] == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")

    back = call("olga").keys.RecoverKey(
        keys.RecoverKeyRequest(name=made.name), timeout=SECONDS
    )
    for region in ("north", "south"):
        found = key(call(region=region), made.name, at=back.position)
        assert (found.incarnation, found.current_version, found.enabled) == (
            before.incarnation,
            before.current_version,
            before.enabled,
        )
        assert sign(call(region=region), made.name).name == made.current_version


def test_a_purged_key_is_gone_from_both_regions_and_its_name_is_free(
    call: Callers, north: LiveRegion, south: LiveRegion
) -> None:
    made = create(call(), "ends", durability=Durability(all_regions=True))
    second = rotate(call, made.name)
    ids = {name.rpartition("/")[2] for name in (made.current_version, second.name)}
    for region in (north, south):
        assert ids <= {row.version for row in outside.wrapped_rows(region)}
    old = [
        row.wrapped
        for region in (north, south)
        for row in outside.wrapped_rows(region)
        if row.version in ids
    ]
    call().keys.DeleteKey(keys.DeleteKeyRequest(name=made.name), timeout=SECONDS)

    end = call("olga").keys.PurgeKey(
        keys.PurgeKeyRequest(name=made.name, durability=Durability(all_regions=True)),
        timeout=SECONDS,
    )

    for region in (north, south):
        assert not ids & {row.version for row in outside.wrapped_rows(region)}
        # Nor in a free page, nor in the write-ahead log.
        raw = outside.bytes_at_rest(region)
        assert not any(wrapped in raw for wrapped in old)
        callers = call.everywhere(region=region.name)
        for name in (made.name, made.current_version):
            for told in refusals(callers, partial(sign, name=name, at=end.position)):
                assert told[:2] == ABSENT

    again = create(call(), "Ends")
    assert again.incarnation != made.incarnation
    for caller in (call(), call(region="south")):
        signed = sign(caller, "keys/ends", at=again.position)
        assert signed.name == again.current_version
        told = refusal(partial(sign, caller, made.current_version))
        assert told[:2] == ABSENT


def enable(call: Callers, name: str, *, enabled: bool) -> Key:
    return call().keys.UpdateKey(
        keys.UpdateKeyRequest(
            key=Key(name=name, enabled=enabled),
            update_mask=FieldMask(paths=["enabled"]),
        ),
        timeout=SECONDS,
    )


def rotate(call: Callers, name: str) -> KeyVersion:
    """Rotate a key, and wait until the new version is current in `north`."""
    made = call().keys.RotateKey(keys.RotateKeyRequest(name=name), timeout=SECONDS)
    until_current(call, made.name)
    return made


def until_current(call: Callers, version: str) -> None:
    name = version.partition("/versions/")[0]
    call.vault.north.wait_until(
        lambda: key(call(), name).current_version == version,
        what=f"{version} to be current",
    )
