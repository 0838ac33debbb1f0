"""A region that is being added asks for more than the pair key that it is due.

The attacker runs a region that the operators admitted: its identity keys are known to
the vault, and are software. They have no PIN, no store and no file of `north`; they
answer its ceremony as they like.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmvault.hsm import labels
from hsmvault.hsm.transcript import Context, Offer
from hsmvault.model.errors import IntegrityFailure, RegionNotReady, VaultError
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.vault_records import PartitionCard, RegionRecord
from hsmvault.regions.ceremony import Party, make_pair_keys
from hsmvault.replication.links import outcome
from tests.support.softhsm import VAULT, Officers, RegionTokens, clone

IDENTITY = ec.generate_private_key(ec.SECP256R1())
TRANSPORT = rsa.generate_private_key(public_exponent=65537, key_size=3072)
OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303


def _spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


class North:
    """regions.ports.Officers over the true officers of `north`."""

    def __init__(self, officers: Officers) -> None:
        self._officers = officers

    def present(self) -> bool:
        return True

    def dismiss(self) -> None:
        return

    def ask(self, partition: str, task: Mapping[str, object]) -> Mapping[str, object]:
        return self._officers["north", partition].ask(task)


class Greedy:
    """The attacker's officers: they ask for `wanted` instead of what was agreed."""

    def __init__(self, wanted: Mapping[str, object]) -> None:
        self._wanted = wanted
        self.loot: list[bytes] = []

    def present(self) -> bool:
        return True

    def dismiss(self) -> None:
        return

    def ask(self, _partition: str, task: Mapping[str, object]) -> Mapping[str, object]:
        if task["task"] == "offer":
            asked = task["context"]
            assert isinstance(asked, dict)
            context = Context.read({**asked, **self._wanted, "nonce": "00" * 16})
            bare = Offer(context, _spki(TRANSPORT))
            der = IDENTITY.sign(bare.statement(), ec.ECDSA(hashes.SHA256()))
            signature = b"".join(
                n.to_bytes(32) for n in utils.decode_dss_signature(der)
            )
            return Offer(context, bare.public_key, signature).wire()
        if task["task"] == "birth_pair":
            return {}
        answer = task["answer"]
        assert isinstance(answer, dict)
        self.loot.append(TRANSPORT.decrypt(bytes.fromhex(answer["wrapped"]), OAEP))
        return {"installed": True}


def _region(name: str, identities: Mapping[str, bytes]) -> RegionRecord:
    return RegionRecord(
        name=f"regions/{name}",
        revision=1,
        state=RegionState.AWAITING_CEREMONY,
        primary=name == "north",
        zone="eu",
        endpoint="",
        partition_endpoints=("", "", ""),
        private_endpoint="",
        partitions=tuple(PartitionCard(p, key) for p, key in identities.items()),
        certificate="",
        create_ms=1,
        update_ms=1,
    )


@pytest.mark.parametrize(
    ("purpose", "label"),
    [
        ("region-key", labels.region_key("north")),
        ("integrity", labels.integrity_key("north")),
    ],
)
def test_an_admitted_region_gets_no_key_that_never_leaves_its_region(
    born_regions: tuple[RegionTokens, RegionTokens],
    tmp_path: Path,
    purpose: str,
    label: str,
) -> None:
    born = clone(born_regions[0], tmp_path / "north")
    greedy = Greedy({"purpose": purpose, "label": label, "to_region": "north"})
    south = _region("south", {"p0": _spki(IDENTITY)})

    with Officers(born) as officers:
        one = Party(_region("north", born.identities), North(officers))

        with pytest.raises(IntegrityFailure, match="agreed"):
            make_pair_keys(one, Party(south, greedy), vault_id=VAULT, epoch=1)

    assert greedy.loot == []


@pytest.mark.parametrize("error", ["REGION_NOT_READY", "NO_SUCH_ERROR"])
def test_what_a_region_says_of_its_failures_is_cut_before_it_is_logged(
    error: str,
) -> None:
    """Its region's record is replicated, and part of every topology."""
    reply = {
        "ok": False,
        "error": error,
        "message": "{no} " * 1_000_000,
        "facts": {f"{n}": "x" * 1000 for n in range(1000)},
    }

    with pytest.raises(VaultError) as refused:
        outcome(reply)

    assert isinstance(refused.value, RegionNotReady)
    assert len(str(refused.value)) <= 500
    assert len(repr(refused.value.facts)) < 20_000
