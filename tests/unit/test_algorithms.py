"""Every algorithm, with every key, for every operation: allowed or refused by table."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.algorithms import (
    CURVE_BITS,
    LEGACY,
    OPERATIONS,
    SIZES,
    USES,
    Algorithm,
    Curve,
    KeySpec,
    KeyType,
    Operation,
    parse_algorithm,
    require_digest,
    require_one_role,
    require_suits,
)
from hsmvault.model.errors import AlgorithmUnsupported, DigestInvalid, InvalidRequest
from tests.unit import strategies as some

_RSA = {"RSA-2048", "RSA-3072", "RSA-4096"}
_SIGN = {Operation.SIGN, Operation.VERIFY}
_CRYPT = {Operation.ENCRYPT, Operation.DECRYPT}
_WRAP = {Operation.WRAP_KEY, Operation.UNWRAP_KEY}

ALLOWED: dict[str, tuple[set[str], set[Operation]]] = {
    **dict.fromkeys(
        ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), (_RSA, _SIGN)
    ),
    **dict.fromkeys(("RSA-OAEP", "RSA-OAEP-256"), (_RSA, _CRYPT | _WRAP)),
    "ES256": ({"P-256"}, _SIGN),
    "ES384": ({"P-384"}, _SIGN),
    "ES512": ({"P-521"}, _SIGN),
    "ES256K": ({"P-256K"}, _SIGN),
    "A128GCM": ({"oct-128"}, _CRYPT | _WRAP),
    "A192GCM": ({"oct-192"}, _CRYPT | _WRAP),
    "A256GCM": ({"oct-256"}, _CRYPT | _WRAP),
    "A128CBC": ({"oct-128"}, _CRYPT),
    "A192CBC": ({"oct-192"}, _CRYPT),
    "A256CBC": ({"oct-256"}, _CRYPT),
    "A128CBCPAD": ({"oct-128"}, _CRYPT),
    "A192CBCPAD": ({"oct-192"}, _CRYPT),
    "A256CBCPAD": ({"oct-256"}, _CRYPT),
    "RSA1_5": (_RSA, _CRYPT | _WRAP),
    "HS256": ({"oct-256"}, _SIGN),
    "HS384": ({"oct-384"}, _SIGN),
    "HS512": ({"oct-512"}, _SIGN),
    "A128KW": ({"oct-128"}, _WRAP),
    "A192KW": ({"oct-192"}, _WRAP),
    "A256KW": ({"oct-256"}, _WRAP),
}
"""RFC 7518, RFC 8812 and Azure's names, with the sizes that the vault makes."""


@pytest.mark.parametrize("algorithm", Algorithm, ids=str)
def test_an_algorithm_works_with_its_keys_for_its_operations_alone(
    algorithm: Algorithm,
) -> None:
    specs, operations = ALLOWED[algorithm.value]
    for spec, operation in product(some.SPECS, Operation):
        if str(spec) in specs and operation in operations:
            assert require_suits(algorithm, spec, operation) is USES[algorithm]
        else:
            with pytest.raises(AlgorithmUnsupported):
                require_suits(algorithm, spec, operation)


def test_every_algorithm_is_in_both_tables() -> None:
    assert USES.keys() == set(Algorithm)
    assert ALLOWED.keys() == {a.value for a in Algorithm}


@given(some.specs, some.operations)
def test_whatever_a_key_can_do_some_algorithm_does(
    spec: KeySpec, operation: Operation
) -> None:
    suiting = [a for a in Algorithm if _suits(a, spec, operation)]

    assert bool(suiting) == (operation in spec.operations)


@given(some.algorithms, some.specs, some.operations)
def test_a_refusal_names_exactly_what_would_suit(
    algorithm: Algorithm, spec: KeySpec, operation: Operation
) -> None:
    try:
        require_suits(algorithm, spec, operation)
    except AlgorithmUnsupported as refused:
        suiting = [
            a for a in Algorithm if _suits(a, spec, operation) and a not in LEGACY
        ]
        assert refused.facts["offered"] == (", ".join(suiting) or "another key")


def _suits(algorithm: Algorithm, spec: KeySpec, operation: Operation) -> bool:
    try:
        require_suits(algorithm, spec, operation)
    except AlgorithmUnsupported:
        return False
    return True


@given(some.text)
def test_an_unknown_algorithm_is_refused_with_those_we_offer(name: str) -> None:
    try:
        assert parse_algorithm(name) == name
    except AlgorithmUnsupported as refused:
        assert "ES256" in refused.facts["known"]
        assert "RSA1_5" not in refused.facts["known"]


@pytest.mark.parametrize(
    "name", ["es256", "ES256 ", "hs256", "none", "RSA1-5", "A128CBC-HS256"]
)
def test_algorithms_are_known_by_their_exact_names(name: str) -> None:
    with pytest.raises(AlgorithmUnsupported):
        parse_algorithm(name)


@given(
    st.sampled_from([a for a in Algorithm if USES[a].digest]),
    st.sampled_from([0, 20, 31, 32, 33, 47, 48, 49, 63, 64, 65, 128]).map(bytes),
)
def test_a_digest_is_as_long_as_its_hash(algorithm: Algorithm, digest: bytes) -> None:
    wanted = {"256": 32, "384": 48, "512": 64}[algorithm.removesuffix("K")[-3:]]
    if len(digest) == wanted:
        require_digest(algorithm, USES[algorithm], digest)
    else:
        with pytest.raises(DigestInvalid):
            require_digest(algorithm, USES[algorithm], digest)


def test_the_vault_makes_exactly_the_keys_it_promises() -> None:
    assert {str(spec) for spec in some.SPECS} == {
        "RSA-2048",
        "RSA-3072",
        "RSA-4096",
        "P-256",
        "P-384",
        "P-521",
        "P-256K",
        "oct-128",
        "oct-192",
        "oct-256",
        "oct-384",
        "oct-512",
    }


@given(some.specs, st.sets(some.operations).map(frozenset))
def test_no_oct_key_both_macs_and_does_aes(
    spec: KeySpec, operations: frozenset[Operation]
) -> None:
    mixed = bool(operations & _SIGN) and bool(operations - _SIGN)
    if spec.type is KeyType.OCT and mixed:
        with pytest.raises(InvalidRequest, match="never both"):
            require_one_role(spec, operations)
    else:
        require_one_role(spec, operations)


@pytest.mark.parametrize("spec", some.SPECS, ids=str)
def test_what_a_key_does_by_default_it_may_do(spec: KeySpec) -> None:
    assert spec.default_operations
    assert spec.default_operations <= spec.operations
    require_one_role(spec, spec.default_operations)


def test_an_oct_key_that_fits_aes_is_an_aes_key_by_default() -> None:
    for bits in (128, 192, 256):
        assert KeySpec.of("oct", bits=bits).default_operations == _CRYPT | _WRAP
    for bits in (384, 512):
        assert KeySpec.of("oct", bits=bits).default_operations == _SIGN


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("RSA", "RSA-3072"), ("EC", "P-256"), ("oct", "oct-256")],
)
def test_size_and_curve_have_defaults(kind: str, spec: str) -> None:
    assert str(KeySpec.of(kind)) == spec


@given(some.specs)
def test_every_spec_can_be_asked_for(spec: KeySpec) -> None:
    assert KeySpec.of(spec.type, bits=spec.bits, curve=spec.curve or "") == spec


@given(
    st.sampled_from(["RSA", "EC", "oct", "rsa", "DSA", ""]),
    st.sampled_from([0, 1, 128, 256, 384, 512, 521, 1024, 2048, 3073, 8192, -1]),
    st.sampled_from(["", "P-256", "P-256K", "P-521", "P-192", "secp256k1"]),
)
def test_no_other_key_can_be_asked_for(kind: str, bits: int, curve: str) -> None:
    try:
        spec = KeySpec.of(kind, bits=bits, curve=curve)
    except InvalidRequest:
        return
    assert spec in some.SPECS
    assert spec.type == kind
    assert bits in {0, spec.bits}
    assert curve in {"", spec.curve}


def test_sizes_agree_with_curves() -> None:
    assert CURVE_BITS.keys() == set(Curve)
    assert set(CURVE_BITS.values()) == set(SIZES[KeyType.EC])
    assert OPERATIONS.keys() == SIZES.keys() == set(KeyType)
