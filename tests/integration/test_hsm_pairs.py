"""Pair keys come and go while a partition serves."""

import secrets

import pytest

from hsmvault.model.algorithms import Algorithm, KeySpec
from hsmvault.model.errors import RegionNotReady
from tests.support.partitions import Loaded, fresh

pytestmark = pytest.mark.softhsm

P256 = KeySpec.of("EC")


def test_a_new_pair_key_is_used_without_a_restart_and_a_dropped_one_is_not(
    loaded: Loaded,
) -> None:
    partition = loaded.open("north", "p0", sessions=2)
    material = fresh(partition, P256)
    with pytest.raises(RegionNotReady, match="east"):
        partition.seal(material, "east")

    with loaded.tokens["north", "p0"].officer() as officer:
        officer.ask({"task": "birth_pair", "sender": "north", "receiver": "east"})

    sealed = partition.seal(material, "east")
    assert sealed.wrapping_key == "pair/north/east"
    made = partition.generate(secrets.token_hex(16), P256, regions=["east", "north"])
    assert [w.region for w in made.wrapped] == ["east", "north"]
    assert not partition.has_pair_keys("east"), "one of two"

    assert partition.drop_pair_keys("east") == 1

    assert partition.drop_pair_keys("east") == 0
    with pytest.raises(RegionNotReady, match="east"):
        partition.seal(material, "east")
    partition.sign(material, Algorithm.ES256, bytes(32))


def test_a_pair_key_dropped_by_another_process_is_missed_and_no_fault(
    loaded: Loaded,
) -> None:
    lost: list[str] = []
    partition = loaded.open("north", "p1", sessions=1)
    partition._core._on_lost = lost.append  # type: ignore[misc]
    material = fresh(partition, P256)
    with loaded.tokens["north", "p1"].officer() as officer:
        officer.ask({"task": "birth_pair", "sender": "north", "receiver": "east"})
    partition.seal(material, "east")

    assert loaded.open("north", "p1", sessions=1).drop_pair_keys("east") == 1

    with pytest.raises(RegionNotReady, match="east"):
        partition.seal(material, "east")
    partition.sign(material, Algorithm.ES256, bytes(32))
    assert lost == []
